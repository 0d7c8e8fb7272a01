"""MUST: multi-task SAC in which every task trains and acts through its own sub-network.

There is no paper; the method is known from its code. Where this learner differs most from that
code is said in `MaskedSAC`, the rest in docs/methods/must.md.
"""

from collections.abc import Callable
from typing import Any, Protocol

import gin
import torch
from tensordict import TensorDict
from torch import Tensor, nn

from algorithms.arguments import check_choice, check_positive
from algorithms.base import Metrics, Sizes
from algorithms.masks import Masks, as_extra, mean_of_others, replaced, shared, statistics
from algorithms.sac import SAC


class Maskable(Protocol):
    """What MUST asks of the policy and of the stacked critics."""

    mask_shapes: tuple[tuple[int, ...], ...]

    def committed(self) -> Masks:
        """The boolean masks in use."""

    def commit(self, masks: Masks) -> None:
        """Use these boolean masks from now on."""


@gin.configurable
class MaskedSAC(SAC):
    """SAC through binary masks that a generator gives each task (MUST).

    A generator per network turns the task's one-hot, and optionally an encoding of a recent
    trajectory, into a score for every weight; the highest-scored share is kept. The masks in use
    change only at a *commit*, for learner, targets, actors and evaluation together.
    Iterations divisible by `update_interval` are generator phases: (1) supervised steps make the
    overlap of two tasks' masks follow the similarity of their trajectories; (2) the losses of SAC
    reach the generators through straight-through masks, those of `generator_phase`; (3) new masks
    are committed.

    Deviations from the reference code: 1. masks are deterministic, and but for generator phases one
    set serves everybody, where the reference draws new noise at each forward pass and always acts
    with other masks than it trains; 2. a network keeps one optimizer for the whole run and a
    generator one for each of its losses (the reference trains its second critic with the first
    one's on most iterations); 3. the policy's loss moves neither critics nor their generators; 4.
    RL and supervised learning of the generator have a rate each; 5. a commit exchanges a bounded
    share of a mask, since large exchanges cost success.

    Args:
        sizes: Sizes of observation and action, and the number of tasks.
        generator: Factory of a mask generator, called with the network's mask shapes, the number
            of tasks and the observation's size.
        update_interval: Iterations from one generator phase to the next; the first is phase 0.
        freeze_after: Iteration from which masks and generators stand still; None: never. With 0
            the masks keep their first values.
        rl_generator_lr: Learning rate of the generators under the losses of SAC.
        sl_generator_lr: Learning rate of the generators under the supervised loss.
        sl_steps: Supervised steps at the start of a generator phase.
        use_supervised_loss: Take those steps.
        shared_target: In them every generator follows the trajectories as the policy's generator
            encodes them, as in the reference; else as it does itself.
        initial_masks: `"generator"`, `"random"` (independent of tasks and layers) or `"dense"`.
        commit: `"top_k"` commits what scores highest, within `MaskGenerator.max_swap` and
            `.hysteresis`; `"resample"`, unbounded, is the reference: noisy masks, in supervised
            steps too, drawn again for the learner alone in every iteration; those of a generator
            phase's last update are committed.
        generator_phase: What a generator phase trains. `"joint"`: the networks and the generators,
            under the masks that score highest now, of which a bounded commit takes over only a
            part; `"committed"`: both, but under the masks in use, which pass the gradient on to the
            scores; `"generators"`: as `"joint"`, with the networks standing still.
        update_gate: Replace a task's masks only once it has succeeded, in training or in an
            evaluation, and while the mean success of its last three evaluations is below 0.66.
        **sac: Arguments of `SAC`.

    Raises:
        ValueError: Naming the argument: a value out of range, or networks that do not fit.
    """

    masked = True
    grouped = True  # masks of a task for all its rows, trajectories of a task beside them
    actor: Any  # a `Maskable`; so are critics, their masks with a leading critic dimension
    generators: Any
    _targets: Tensor
    _success: Tensor
    _ever: Tensor

    def __init__(
        self,
        sizes: Sizes,
        *,
        generator: Callable[..., nn.Module] = gin.REQUIRED,
        update_interval: int = 50,
        freeze_after: int | None = None,
        rl_generator_lr: float = 3e-5,
        sl_generator_lr: float = 1e-4,
        sl_steps: int = 5,
        use_supervised_loss: bool = True,
        shared_target: bool = False,
        initial_masks: str = "generator",
        commit: str = "top_k",
        generator_phase: str = "joint",
        update_gate: bool = False,
        **sac: Any,
    ) -> None:
        super().__init__(sizes, **sac)
        if update_interval < 1:
            raise ValueError(f"MaskedSAC.update_interval must be at least 1, got {update_interval}")
        for option, number in (("sl_steps", sl_steps), ("freeze_after", freeze_after)):
            if number is not None and number < 0:
                raise ValueError(f"MaskedSAC.{option} must be at least 0, got {number}")
        rates = {"rl_generator_lr": rl_generator_lr, "sl_generator_lr": sl_generator_lr}
        check_positive("MaskedSAC", **rates)
        for option, value, values in (
            ("initial_masks", initial_masks, ("generator", "random", "dense")),
            ("commit", commit, ("top_k", "resample")),
            ("generator_phase", generator_phase, ("joint", "committed", "generators")),
        ):
            check_choice("MaskedSAC", option, value, values)
        self.update_interval, self.freeze_after = update_interval, freeze_after
        self.sl_steps, self.use_supervised_loss = sl_steps, use_supervised_loss
        self.shared_target = shared_target
        self.resample, self.update_gate = commit == "resample", update_gate
        self.generator_phase = generator_phase
        num_critics = int(self.critic.num_critics)
        self.names = ("actor", *(f"critic_{k}" for k in range(num_critics)))
        networks = [self.actor, *[self.critic] * num_critics]
        try:
            shapes = [network.mask_shapes for network in networks]
        except TypeError as error:
            raise ValueError(
                f"MaskedSAC needs networks that take masks ({error}): "
                "include 'gin/networks/masked.gin', or learn with SAC"
            ) from error
        with torch.random.fork_rng(devices=()):  # as in `_random`
            self.generators = nn.ModuleList(
                generator(shape, sizes.num_tasks, sizes.observation_dim) for shape in shapes
            )
            self._stream = torch.Generator().manual_seed(int(torch.randint(2**62, ())))
        for name, module in zip(self.names, self.generators, strict=True):
            self._add_group(f"generator/{name}", module.parameters(), rl_generator_lr)
            self._add_group(f"supervised/{name}", module.parameters(), sl_generator_lr)
        self.iteration = 0
        self.generating = False
        self._drawn: list[Masks] | None = None  # what the learner drew last under "resample"
        pairs = sizes.num_tasks, sizes.num_tasks
        self.register_buffer("_targets", torch.zeros(len(self.names), *pairs))
        self.register_buffer("_success", torch.full((3, sizes.num_tasks), -1.0))
        self.register_buffer("_ever", torch.zeros(sizes.num_tasks, dtype=torch.bool))
        if initial_masks == "generator":
            self._write(
                [g.hard(s) for g, s in zip(self.generators, self._scores(None), strict=True)]
            )
        elif initial_masks == "random":
            noise = [
                [torch.rand(s.shape, generator=self._stream) for s in scores]
                for scores in self._scores(None)
            ]
            self._write([g.hard(s) for g, s in zip(self.generators, noise, strict=True)])

    @property
    def commits(self) -> bool:
        """Whether the coming `end_phase` commits new masks."""
        return self._open and self.iteration % self.update_interval == 0

    @property
    def _open(self) -> bool:
        """Whether masks and generators still change."""
        return self.freeze_after is None or self.iteration < self.freeze_after

    def check_trajectories(self, kept: bool) -> None:
        """ValueError if the masks depend on trajectories, and the loop has not `kept` any."""
        wanted = self.use_supervised_loss or any(g.use_trajectory_info for g in self.generators)
        if not kept and wanted and self.freeze_after != 0:
            raise ValueError(
                "MaskedSAC needs trajectories: bind OffPolicyLoop.trajectories = @TrajectoryStore, "
                "or turn off MaskedSAC.use_supervised_loss and MaskGenerator.use_trajectory_info"
            )

    def begin_phase(self, context: TensorDict | None) -> Metrics:
        """Train the encoders and take the supervised steps, if due, on the recent trajectories.

        Raises:
            ValueError: If trajectories are needed and there are none.
        """
        self.check_trajectories(context is not None)
        self.generating = self.commits
        if self.resample and self._open and not self.generating:
            with torch.no_grad():
                self._drawn = self._noisy(self._draw(context))
        if not self.generating or self.iteration == 0 or context is None:
            return {}
        for g in self.generators:
            g.pretrain(self._seen(context), self._random())
        if not self.use_supervised_loss or self.sl_steps == 0 or self.num_tasks == 1:
            return {}
        if not context["mask"].flatten(1).any(1).all():
            return {}  # a task without a trajectory has no similarity to the others
        return self._supervise(context)

    def update(self, batch: TensorDict) -> Metrics:
        """A step of SAC; in a generator phase it moves the generators as well."""
        if not self.generating:
            return self._step(batch, *(as_extra(self._drawn) if self._drawn else ()))
        scores = self._scores(self._draw(batch.get("context", None)))
        in_use = self._committed() if self.generator_phase == "committed" else [None] * len(scores)
        masks = [
            g.masks(s, noise=self._random(), committed=c)
            for g, s, c in zip(self.generators, scores, in_use, strict=True)
        ]
        first, *others = [f"generator/{name}" for name in self.names]
        actor_groups, critic_groups = [first], others
        if self.generator_phase != "generators":
            actor_groups, critic_groups = ["actor", first], ["critic", *others]
        metrics = self._step(batch, *as_extra(masks), actor_groups, critic_groups)
        if self.resample and self.generator_phase != "committed":
            self._drawn = [[m.detach() for m in layers] for layers in masks]
        self._follow_encoders()
        return metrics

    def end_phase(self, context: TensorDict | None) -> Metrics:
        """Commit new masks after a generator phase; and as `SAC`."""
        metrics = super().end_phase(context)
        if self.generating:
            metrics |= self._commit(context)
        self.iteration += 1
        self.generating, self._drawn = False, None
        return metrics

    def evaluated(self, success: Tensor) -> None:
        """Remember the last three evaluations of each task, `[tasks]` in [0, 1]."""
        success = success.to(self._success)
        self._success.copy_(torch.cat((self._success[1:], success[None])))
        self._ever |= success > 0.0

    @torch.no_grad()
    def similarities(self) -> dict[str, Tensor]:
        """Both similarity matrices `[tasks, tasks]` of each network.

        Returns:
            `overlap/<network>`: of what the one task's mask keeps, the share that the other's keeps
            too. `target/<network>`: how alike their trajectories were at the last commit, which the
            overlap is to follow; 0 before there was one.
        """
        told: dict[str, Tensor] = {}
        masks = self._committed()
        for name, own, target in zip(self.names, masks, self._targets.clone(), strict=True):
            told |= {f"overlap/{name}": shared(own), f"target/{name}": target}
        return told

    def _supervise(self, context: TensorDict) -> Metrics:
        """Move each generator so that masks overlap as trajectories resemble each other."""
        names = [f"supervised/{name}" for name in self.names]
        noise = self._random() if self.resample else None
        refused = []
        for _ in range(self.sl_steps):
            drawn = self._draw(context)
            losses = [
                g.similarity_loss(drawn, self._target(g, drawn), noise=noise)
                for g in self.generators
            ]
            loss = torch.stack(losses).sum()
            step = self.groups.move(loss, *names)
            refused.append(step.refused)
            self._follow_encoders()
        return {
            "loss/similarity": loss.detach() / len(names),
            "health/nonfinite": torch.stack(refused).amax(),
            **step.norms,
        }

    @torch.no_grad()
    def _commit(self, context: TensorDict | None) -> Metrics:
        """Replace the committed masks; report how much of them stayed and what it changed."""
        drawn, old = self._draw(context), self._committed()
        before = self._mean_action(context)
        if self.resample:
            new = [[m.bool() for m in masks] for masks in self._drawn or self._noisy(drawn)]
        else:
            scores = self._scores(drawn)
            new = [g.commit(m, s) for g, m, s in zip(self.generators, old, scores, strict=True)]
        if self.update_gate:
            if context is not None:
                self._ever |= context["succeeded"].any(1)
            known = self._success >= 0.0  # -1 stands for an evaluation that has not been
            mean = (self._success * known).sum(0) / known.sum(0).clamp(min=1)
            replace = self._ever & (mean < 0.66)
            new = [replaced(a, b, replace) for a, b in zip(old, new, strict=True)]
        self._write(new)
        change = (self._mean_action(context) - before).abs().mean(-1)
        real = torch.ones_like(change) if context is None else context["mask"].flatten(1, 2)
        metrics = {"mask/action_change": (change * real).sum() / real.sum().clamp(min=1)}
        parts = zip(self.names, self.generators, self._targets, old, new, strict=True)
        for name, g, kept, a, b in parts:
            metrics |= statistics(name, a, b)
            if drawn is not None and self.num_tasks > 1:
                target = kept.copy_(self._target(g, drawn))
                metrics[f"mask/target_of_task/{name}"] = mean_of_others(target)
        return metrics

    def _target(self, generator: Any, drawn: TensorDict) -> Tensor:
        """The similarity that a generator's masks should have, `[tasks, tasks]`."""
        source = self.generators[0] if self.shared_target else generator
        target: Tensor = source.target_similarity(drawn)
        return target

    def _mean_action(self, context: TensorDict | None) -> Tensor:
        """`tanh(mu)` on the recent trajectories' states `[tasks, rows, action_dim]`."""
        if context is None:
            return torch.zeros(1, device=self.log_alpha.device)
        observation = context["observation"].flatten(1, 2)
        task = torch.arange(self.num_tasks, device=observation.device)
        td = {"observation": observation, "task_id": task[:, None].expand(observation.shape[:2])}
        action: Tensor = self.act(TensorDict(td, observation.shape[:2]), explore=False)["action"]
        return action

    def _draw(self, context: TensorDict | None) -> TensorDict | None:
        """One trajectory of each task `[tasks, length]`, by the store's probabilities."""
        if context is None:
            return None
        probability = context["probability"]
        probability = probability + (probability.sum(1, keepdim=True) == 0.0)  # nothing stored
        index = torch.multinomial(probability, 1, generator=self._random()).squeeze(1)
        rows = torch.arange(self.num_tasks, device=index.device)
        observation, mask = context["observation"][rows, index], context["mask"][rows, index]
        drawn = TensorDict({"observation": observation, "mask": mask}, mask.shape)
        return self._seen(drawn)

    def _random(self) -> torch.Generator:
        """The random numbers of all that MUST adds to SAC, on the learner's device.

        They are apart from those of actions and updates, so that with nothing pruned a run is
        MT-SAC's of the same seed.
        """
        if self._stream.device != self.log_alpha.device:
            seed = self._stream.initial_seed()
            self._stream = torch.Generator(self.log_alpha.device).manual_seed(seed)
        return self._stream

    def _seen(self, trajectories: TensorDict) -> TensorDict:
        """Trajectories as the encoders see them."""
        observation = self._normalised(trajectories["observation"])
        return trajectories.copy().set("observation", observation)

    def _scores(self, drawn: TensorDict | None) -> list[Masks]:
        return [g.scores(drawn) for g in self.generators]

    def _noisy(self, drawn: TensorDict | None) -> list[Masks]:
        pairs = zip(self.generators, self._scores(drawn), strict=True)
        return [[m.detach() for m in g.masks(s, noise=self._random())] for g, s in pairs]

    def _committed(self) -> list[Masks]:
        """Masks of the policy and of each critic."""
        stacked = self.critic.committed()
        critics = [[layer[k] for layer in stacked] for k in range(len(self.generators) - 1)]
        return [[layer.clone() for layer in m] for m in (self.actor.committed(), *critics)]

    def _write(self, masks: list[Masks]) -> None:
        """Give new masks to policy, critics and targets alike."""
        actor, critics = as_extra(masks)
        self.actor.commit(actor["masks"])
        for critic in (self.critic, self.target):
            critic.commit(critics["masks"])

    def _follow_encoders(self) -> None:
        for g in self.generators:
            g.follow()

    def get_extra_state(self) -> dict[str, Any]:
        """Optimizers, and where in the interval between two commits the learner stands."""
        place = {"iteration": self.iteration, "generating": self.generating}
        stream = self._random()
        random = {"random": (stream.device.type, stream.get_state())}
        return {**super().get_extra_state(), **place, **random, "drawn": self._drawn}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Take back what `get_extra_state` gave."""
        super().set_extra_state(state)
        self.iteration, self.generating = state["iteration"], state["generating"]
        drawn, device = state["drawn"], self.log_alpha.device
        kind, numbers = state["random"]
        if kind == device.type:  # a GPU's numbers cannot be continued on a CPU
            self._random().set_state(numbers.cpu())
        self._drawn = drawn and [[m.to(device) for m in masks] for masks in drawn]
