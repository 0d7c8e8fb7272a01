"""One fused optimizer step must equal one plain step, for every network.

Fused optimizers of PyTorch on the CPU ignore the memory layout of a gradient. `backward` lays
gradients out like their parameters; those of `torch.autograd.grad` must be made contiguous.
"""

import copy
from functools import partial

import pytest
import torch
from tensordict import TensorDict

from networks.actor import Actor
from networks.care import CareEncoder
from networks.critic import Critic
from networks.dendritic import DendriticMLP
from networks.mask_generator import MaskGenerator
from networks.masked import MaskedMLP
from networks.mlp import MLP
from networks.multi_head import MultiHeadMLP
from networks.projected import ProjectedMLP
from networks.small_soft_modular import SmallSoftModularMLP
from networks.soft_modular import SoftModularMLP
from networks.task_encoder import TaskEncoder
from networks.trajectory_encoder import TrajectoryEncoder

T, B = 3, 5
IDS = torch.arange(T)[:, None].expand(T, B)
SMALL = {kind.__name__: partial(kind, hidden=(9, 7)) for kind in (MLP, MultiHeadMLP, MaskedMLP)}
SMALL["neurons"] = partial(MaskedMLP, hidden=(9, 7), granularity="neuron")
SMALL["dendritic"] = partial(DendriticMLP, hidden=(9, 7))
SMALL["projected"] = partial(ProjectedMLP, hidden=(9, 9), rank=2)
SMALL["independent"] = partial(
    ProjectedMLP, hidden=(9, 7), rank=2, projection="independent", residual="project"
)
SMALL["soft_modular"] = partial(
    SoftModularMLP, embedding_width=9, gating_width=7, module_width=5, num_layers=3
)
SMALL["small_soft_modular"] = partial(SmallSoftModularMLP, features=2, width=7)
CARE = partial(CareEncoder, 4, tuple("abc"), width=6)
CODE = partial(TaskEncoder, kind="learned", code_dim=6, hidden=5)
ENCODER = partial(TrajectoryEncoder, width=6, pretrain_passes=1)
GENERATOR = partial(MaskGenerator, ((9, 7), (7, 9)), T, 4, hidden=8, encoder=ENCODER, rank=2)


def grouped():
    td = {"observation": torch.randn(T, B, 4), "action": torch.randn(T, B, 2), "task_id": IDS}
    return TensorDict(td, [T, B])


def trunk_loss(network):
    return network(torch.randn(T, B, 4), IDS).sub(1).square().sum()


def actor_loss(network):
    td = network(grouped())
    return (td["action_log_prob"] + td["action"].sum(-1)).sum()


def critic_loss(network):
    return network(grouped())["state_action_value"].sub(1).square().sum()


def care_loss(network):
    return network(torch.randn(T, B, 4), network.code(IDS)).sub(1).square().sum()


def trajectories():
    mask = torch.ones(T, 6, dtype=torch.bool)
    return TensorDict({"observation": torch.randn(T, 6, 4), "mask": mask}, mask.shape)


def generator_loss(network):
    masks = network.masks(network.scores(trajectories()))
    weight = torch.randn(9, 7)
    x = torch.randn(T, B, 7)
    first = torch.bmm(x, (weight * masks[0]).transpose(1, 2))
    return torch.bmm(first, (torch.randn(7, 9) * masks[1]).transpose(1, 2)).square().sum()


def encoder_loss(network):
    td = trajectories()
    draws = torch.Generator().manual_seed(0)
    return network.pretrain_loss(td["observation"], td["mask"], draws)


CASES = {name: (lambda make=make: make(4, 2, T), trunk_loss) for name, make in SMALL.items()}
for name, make in SMALL.items():
    CASES[f"actor-{name}"] = (lambda make=make: Actor(4, 2, T, trunk=make), actor_loss)
    CASES[f"critic-{name}"] = (lambda make=make: Critic(4, 2, T, trunk=make), critic_loss)
for head in ("low_rank", "dense"):
    CASES[f"generator-{head}"] = (partial(GENERATOR, score_head=head), generator_loss)
CASES["similarity"] = (GENERATOR, lambda network: network.similarity_loss(trajectories()))
for form in ("context_mlp", "dot_product"):
    CASES[f"care-{form}"] = (partial(CARE, task_encoder=CODE, attention=form), care_loss)
CASES["encoder"] = (partial(ENCODER, 4), encoder_loss)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("way", ["backward", "grad"])
@pytest.mark.parametrize("optimizer", [torch.optim.Adam, torch.optim.SGD])
def test_fused_step_equals_plain_step(case, way, optimizer):
    make, loss_of = CASES[case]
    network = make()
    if hasattr(network, "commit") and "Mask" in case:
        shapes = [mask.shape for mask in network.committed()]
        network.commit([torch.rand(shape) < 0.7 for shape in shapes])
    results = []
    for fused in (True, False):
        torch.manual_seed(0)
        twin = copy.deepcopy(network)
        loss, parameters = loss_of(twin), [p for p in twin.parameters() if p.requires_grad]
        if way == "backward":
            loss.backward()
        else:
            gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
            for parameter, gradient in zip(parameters, gradients, strict=True):
                parameter.grad = None if gradient is None else gradient.contiguous()
        optimizer(parameters, lr=0.1, fused=fused).step()
        results.append(parameters)
    for fast, plain in zip(*results, strict=True):
        torch.testing.assert_close(fast, plain, atol=1e-5, rtol=1e-4)
    assert any(
        not torch.equal(new, old)
        for new, old in zip(results[0], network.parameters(), strict=False)
    )
