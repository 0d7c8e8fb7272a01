"""The terms of TIGR's and CEMRL's objectives that depend on the encoder alone, one per window.

See `algorithms.tigr` and `algorithms.cemrl` for the papers. None is reduced over the batch: that is
the learner's.
"""

import math
from typing import Any, Protocol

import torch
from torch import Tensor


class Mixture(Protocol):
    """K Gaussians N(mean_k, diag(variance_k)) with weights softmax(logits)."""

    @property
    def mean(self) -> Tensor:
        """`[*, K, latent_dim]`."""

    @property
    def variance(self) -> Tensor:
        """`[*, K, latent_dim]`."""

    @property
    def logits(self) -> Tensor:
        """`[*, K]`."""

    @property
    def components(self) -> Any:
        """The Gaussians, with `sample()`, which draws z_k `[*, K, latent_dim]`."""

    def weights(self) -> Tensor:
        """Return softmax(logits), `[*, K]`."""

    def component(self) -> Tensor:
        """Return the component of the largest weight, `[*]` int64."""


def sparsity(latent: Tensor) -> Tensor:
    """Return |z|_1 = sum_d |z_d|: latent [*, latent_dim] -> [*]."""
    return latent.abs().sum(-1)


def separation(mixture: Mixture, bound: float | None = None) -> Tensor:
    """Return how little the components are apart, [*]; zero for a single one.

    1/2 sum_k sum_d sigma_kd / (sum_j (mu_kd - mu_jd)^2 + 1e-8),   sigma = sqrt(variance)

    Args:
        mixture: fields [*, K, latent_dim].
        bound: largest value of a window, which has no gradient there; None for none. Where means
            coincide, as at the start of training, the term is of the order 1e8.
    """
    if mixture.mean.shape[-2] == 1:
        return torch.zeros_like(mixture.logits[..., 0])
    apart = (mixture.mean.unsqueeze(-2) - mixture.mean.unsqueeze(-3)).square().sum(-2)
    term = 0.5 * (mixture.variance.sqrt() / (apart + 1e-8)).sum((-2, -1))
    return term if bound is None else term.clamp(max=bound)


def label_loss(logits: Tensor, label: Tensor) -> Tensor:
    """Return the cross-entropy -log softmax(logits)_label, and 0 where the label is negative.

    Args:
        logits: [*, K].
        label: [*] int64 below K; negative where it is not known.
    """
    known = label.clamp(min=0).unsqueeze(-1)
    loss = -logits.log_softmax(-1).gather(-1, known).squeeze(-1)
    return loss.masked_fill(label < 0, 0.0)


def uniform_divergence(logits: Tensor) -> Tensor:
    """Return KL(q || uniform) = sum_k q_k ln q_k + ln K, q = softmax(logits) [*, K] -> [*]."""
    log_q = logits.log_softmax(-1)
    return (log_q.exp() * log_q).sum(-1) + math.log(logits.shape[-1])


def evidence_bound(
    nll: Tensor, divergence: Tensor, logits: Tensor, *, alpha: float, beta: float
) -> Tensor:
    """Return CEMRL's bound, [*], which is to be maximised.

    sum_k q_k (-nll_k - alpha KL_k) - beta KL(q || uniform),   q = softmax(logits)

    Args:
        nll: reconstruction losses of a z drawn from each component, [*, K].
        divergence: KL_k of each component to its prior, [*, K].
        logits: [*, K].
        alpha: weight of KL_k.
        beta: weight of the divergence of q.
    """
    parts = logits.softmax(-1) * (-nll - alpha * divergence)
    return parts.sum(-1) - beta * uniform_divergence(logits)
