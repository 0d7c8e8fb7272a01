"""TIGR: a Gaussian mixture over the task's latent from the last transitions, learnt by prediction.

Bing, Knak, Robin, Huang and Knoll, "Meta-Reinforcement Learning in Broad and Non-Parametric
Environments", 2021.
"""

from typing import Any

import gin
import torch
from tensordict import TensorDictBase
from torch import Tensor

from algorithms.arguments import check_choice, check_not_negative
from algorithms.base import Metrics, Sizes
from algorithms.mixture_losses import Mixture, label_loss, separation, sparsity
from algorithms.window_learner import WindowLearner

WEIGHTINGS = ("inverse", "proportional", "fixed")
REDUCTIONS = ("mean", "sum")


@gin.configurable
class TIGR(WindowLearner):
    r"""The objective of TIGR; everything else is `WindowLearner`'s.

    A window is T + 1 transitions i - T ... i. The encoder reads the first T; one z, drawn from the
    mixture of N(mu_k, Sigma_k) with weights gamma = softmax(l), decodes the last T of them:

        L_s, L_r = squared errors of o' (mean over its numbers) and r, mean over the T transitions
        loss     = w_s L_s + w_r L_r + kl_weight sum_k KL(N(mu_k, Sigma_k) || p(z|k))
                   + sparsity_weight |z|_1 + separation_weight separation(mu, Sigma)
                   + label_weight CE(l, family of i)

    At validation V_s and V_r are the errors of transition i alone, and with (w_s, w_r) = (1/3, 1/3)
    at the start, v = V_s / (V_s + V_r + 1e-8),

        inverse:       w_s = 1 - v,   w_r = 1 - V_r / (V_s + V_r + 1e-8)
        proportional:  w_s = v,       w_r = V_r / (V_s + V_r + 1e-8)

    so that by "inverse", as published, the smaller error gets the larger weight.

    1. Padding is left out of L_s and L_r, unless `mask_padding` is off; the published decoder
       learns to map zeros to zeros.
    2. The loss is a mean over windows; the published one a sum, which Adam but for its epsilon does
       not see. `reduction`.
    3. The separation of a window is bounded, as it is of the order 1e8 where means coincide.
    4. The label loss is part of the published default, though the paper calls the objective
       unsupervised; there it turns itself off where a family's number is K or more, here that is
       refused. `label_weight = 0` learns without labels.
    5. Left out: gradient surgery between families, rollouts of the model (broken as published),
       curricula, early stopping; all of them off in the published runs.

    Args:
        sizes: As `WindowLearner`.
        kl_weight: The published alpha_kl_z.
        sparsity_weight: gamma_sparsity.
        separation_weight: beta_euclid.
        separation_bound: Most that the separation of a window counts; None for no bound.
        label_weight: regularization_lambda.
        mask_padding: See 1.
        weighting: "inverse", "proportional", or "fixed" for the weights at the start.
        reduction: "mean" or "sum".
        **inference: As `WindowLearner`.

    Raises:
        ValueError: naming the argument.
    """

    def __init__(
        self,
        sizes: Sizes,
        *,
        kl_weight: float = 1e-3,
        sparsity_weight: float = 1e-3,
        separation_weight: float = 5e-4,
        separation_bound: float | None = 1e3,
        label_weight: float = 0.1,
        mask_padding: bool = True,
        weighting: str = "inverse",
        reduction: str = "mean",
        **inference: Any,
    ) -> None:
        super().__init__(sizes, **inference)
        self.term_weights = {
            "kl": kl_weight,
            "sparsity": sparsity_weight,
            "separation": separation_weight,
            "label": label_weight,
        }
        named = {f"{name}_weight": weight for name, weight in self.term_weights.items()}
        check_not_negative("TIGR", **named)
        check_choice("TIGR", "weighting", weighting, WEIGHTINGS)
        check_choice("TIGR", "reduction", reduction, REDUCTIONS)
        if label_weight and self.encoder.num_components < sizes.num_tasks:
            raise ValueError(
                f"TIGR.label_weight = {label_weight} needs a component for each of the "
                f"{sizes.num_tasks} families, got {self.encoder.num_components}; raise "
                "NUM_COMPONENTS, or bind LABEL_WEIGHT to 0"
            )
        if separation_bound is not None and not separation_bound > 0.0:
            raise ValueError(
                f"TIGR.separation_bound must be positive or None, got {separation_bound}"
            )
        self.separation_bound, self.mask_padding = separation_bound, mask_padding
        self.weighting, self.reduction = weighting, reduction

    @property
    def labelled(self) -> bool:
        """With a label loss."""
        return self.term_weights["label"] > 0.0

    def start_weights(self) -> Tensor:
        """Return (1/3, 1/3)."""
        return torch.full((2,), 1.0 / 3.0)

    def objective(
        self, windows: TensorDictBase, mixture: Mixture, label: Tensor | None
    ) -> tuple[Tensor, Metrics]:
        """Return the loss and its terms, means over the windows."""
        latent = self.encoder.latent(mixture, sample=True)
        decoded = windows[:, 1:]
        mask = decoded["mask"] if self.mask_padding else torch.ones_like(decoded["mask"])
        count = mask.sum(1)  # the last transition is always there
        state, reward = (
            (error * mask).sum(1) / count
            for error in self.decoder.errors(decoded, latent.unsqueeze(1))
        )
        terms = {
            "kl": self.encoder.divergence(mixture).sum(-1),
            "sparsity": sparsity(latent),
            "separation": separation(mixture, self.separation_bound),
        }
        if label is not None and self.labelled:
            terms["label"] = label_loss(mixture.logits, label)
        loss = self.weights[0] * state + self.weights[1] * reward
        for name, term in terms.items():
            loss = loss + self.term_weights[name] * term
        terms |= {"state": state, "reward": reward}
        metrics = {f"loss/{name}": term.detach().mean() for name, term in terms.items()}
        return (loss.mean() if self.reduction == "mean" else loss.sum()), metrics

    def judge(
        self, mixture: Mixture, label: Tensor | None, state: Tensor, reward: Tensor
    ) -> Metrics:
        """Take over the weights that follow from V_s and V_r."""
        total = self.weights[0] * state + self.weights[1] * reward
        total = total + self.term_weights["kl"] * self.encoder.divergence(mixture).sum(-1).mean()
        if label is not None and self.labelled:
            total = total + self.term_weights["label"] * label_loss(mixture.logits, label).mean()
        if self.weighting != "fixed":
            errors = torch.stack((state, reward))
            shares = errors / (errors.sum() + 1e-8)
            self.weights.copy_(1.0 - shares if self.weighting == "inverse" else shares)
        return {"validation/loss": total}
