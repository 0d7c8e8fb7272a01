"""CEMRL: a categorical choice and a Gaussian for each class, learnt by a bound on the evidence.

Bing, Lerch, Huang and Knoll, "Meta-Reinforcement Learning in Non-Stationary and Dynamic
Environments", 2022.
"""

from typing import Any

import gin
import torch
from tensordict import TensorDict, TensorDictBase
from torch import Tensor

from algorithms.arguments import check_not_negative
from algorithms.base import Metrics, Sizes
from algorithms.mixture_losses import Mixture, evidence_bound
from algorithms.window_learner import WindowLearner


@gin.configurable
class CEMRL(WindowLearner):
    r"""The objective of CEMRL, and its early stopping; everything else is `WindowLearner`'s.

    The encoder reads T transitions x; a z_k drawn from each class k decodes the one after them:

        nll_k = w_s |o' - F(o, a, z_k)|^2 + w_r (r - G(o, a, z_k))^2      D numbers of o'
        ELBO  = sum_k q(k|x) (-nll_k - kl_weight KL(q(z|x, k) || p(z|k)))
                - class_weight KL(q(k|x) || uniform)
        loss  = -mean ELBO

    With `per_step` a transition t of the window has classes of its own: the three terms, with
    q(k|x_t) and q(z|x_t, k), are summed over t, while the nll_k are those of a z_k drawn from the
    merge of class k over all t, whatever class each of them picks when it acts. Where the encoder
    masks padding, the sum leaves it out.

    Weights start at (1, D) / (1 + D). Validation decodes z as it is when acting, the mean of the
    likeliest class. With the mean errors V of windows for training,

        w_s = V_s / (V_s + D V_r),   w_r = D V_r / (V_s + D V_r)

    the larger error gets the larger weight. Between `begin_phase` and `end_phase` the encoder and
    the decoder of the least sum of both errors of windows for validation are kept, and put back in
    the end. `stale` is the number of validations since; the caller may stop by it.

    1. z of the policy's batches is computed with the batch. The published code stores one for each
       transition once per epoch, after the inference steps: the same numbers, as neither encoder
       nor statistics move until the next.
    2. Left out: the variant with true classes in place of q(k|x), off in all published runs.

    Args:
        sizes: As `WindowLearner`.
        kl_weight: The published alpha.
        class_weight: beta.
        per_step: See above ("transitionIndividualY").
        reweigh: Whether validation changes the weights.
        **inference: As `WindowLearner`.

    Raises:
        ValueError: naming the argument.
    """

    samples = False
    stale: Tensor
    least: Tensor

    def __init__(
        self,
        sizes: Sizes,
        *,
        kl_weight: float = 1e-2,
        class_weight: float = 1e-2,
        per_step: bool = False,
        reweigh: bool = True,
        **inference: Any,
    ) -> None:
        super().__init__(sizes, **inference)
        check_not_negative("CEMRL", kl_weight=kl_weight, class_weight=class_weight)
        if getattr(self.decoder, "state_error", "sum") != "sum":
            raise ValueError(
                "CEMRL's weights are for the sum of squared errors over an observation, not their "
                "mean; bind TransitionDecoder.state_error = 'sum'"
            )
        self.kl_weight, self.class_weight = kl_weight, class_weight
        self.per_step, self.reweigh = per_step, reweigh
        if per_step:
            self._check_steps()
        self.register_buffer("stale", torch.zeros(()))
        self.register_buffer("least", torch.full((), torch.inf))
        self._best: list[Tensor] = []

    @property
    def compares(self) -> bool:
        """Whether `validate` is given windows for training too, to re-weigh the errors by them."""
        return self.reweigh

    def start_weights(self) -> Tensor:
        """Return (1, D) / (1 + D)."""
        start = torch.tensor([1.0, self.decoder.kept.numel()])
        return start / start.sum()

    def objective(
        self, windows: TensorDictBase, mixture: Mixture, label: Tensor | None
    ) -> tuple[Tensor, Metrics]:
        """Return minus the bound, and its terms."""
        parts, components = self.encoder.divergence(mixture), mixture.components
        if self.per_step:
            steps, components = self.encoder.steps(windows[:, :-1])
            parts = self.encoder.divergence(steps)
        each = self.decoder.errors(windows[:, -1:], components.sample())
        weights, rates = mixture.weights(), {"alpha": self.kl_weight, "beta": self.class_weight}
        nll = self.weights[0] * each[0] + self.weights[1] * each[1]
        if self.per_step:
            repeated = nll.unsqueeze(1).expand_as(parts)
            bound = evidence_bound(repeated, parts, steps.logits, **rates)
            mask = torch.ones_like(bound)
            if getattr(self.encoder, "mask_padding", False):
                mask = windows[:, :-1]["mask"].to(bound.dtype)
            bound = (bound * mask).sum(1)
            divergence = (steps.weights() * parts).sum(-1) * mask
            divergence = divergence.sum() / mask.sum().clamp(min=1.0)
        else:
            bound = evidence_bound(nll, parts, mixture.logits, **rates)
            divergence = (weights * parts).sum(-1).mean()
        state, reward = ((weights * x).sum(-1).mean().detach() for x in each)
        metrics = {"loss/state": state, "loss/reward": reward, "loss/kl": divergence.detach()}
        return -bound.mean(), metrics

    @torch.no_grad()
    def validate(self, batch: TensorDict, seen: TensorDict | None = None) -> Metrics:
        """As `WindowLearner`'s, after the re-weighing by windows for training."""
        if seen is not None and self.reweigh:
            _, state, reward = self._predicted(seen)
            scaled = torch.stack((state, self.decoder.kept.numel() * reward))
            self.weights.copy_(scaled / (scaled.sum() + 1e-8))
        return super().validate(batch)

    def judge(
        self, mixture: Mixture, label: Tensor | None, state: Tensor, reward: Tensor
    ) -> Metrics:
        """Keep encoder and decoder if they are the best."""
        total = state + reward
        better = total < self.least
        self.least.copy_(total.where(better, self.least))
        self.stale.copy_((self.stale + 1).masked_fill(better, 0.0))
        for kept, parameter in zip(self._best, self._learnt(), strict=bool(self._best)):
            kept.copy_(parameter.where(better, kept))
        return {"validation/loss": total, "validation/stale": self.stale.clone()}

    @torch.no_grad()
    def begin_phase(self, context: TensorDict | None) -> Metrics:
        """Begin to look for the best encoder and decoder."""
        self._best = [parameter.clone() for parameter in self._learnt()]
        self.least.fill_(torch.inf)
        self.stale.zero_()
        return {}

    @torch.no_grad()
    def end_phase(self, context: TensorDict | None) -> Metrics:
        """Put back the best encoder and decoder; the newest stay if none was validated."""
        found = self.least.isfinite()
        for kept, parameter in zip(self._best, self._learnt(), strict=bool(self._best)):
            parameter.copy_(kept.where(found, parameter))
        self._best = []
        return {}

    def get_extra_state(self) -> dict[str, Any]:
        """The optimizers, and the best encoder and decoder of a phase that is not over."""
        return {**super().get_extra_state(), "best": [kept.clone() for kept in self._best]}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Take back what `get_extra_state` gave."""
        super().set_extra_state(state)
        device = self.weights.device
        self._best = [kept.to(device, copy=True) for kept in state["best"]]

    def _learnt(self) -> list[Tensor]:
        """What `infer` moves."""
        return [p for group in self.groups.values() for p in group.parameters]

    def _check_steps(self) -> None:
        backbone = getattr(self.encoder, "backbone", None)
        if backbone is not None and not backbone.per_step:
            raise ValueError(
                f"CEMRL.per_step needs an encoder that keeps the steps apart, got the backbone "
                f"{type(backbone).__name__}; bind GRUMixtureEncoder.backbone = @PerceptronBackbone"
            )
