"""From the mixtures of single steps to one of the window: the merge rules of TIGR and CEMRL.

See `networks.mixture` for the papers.
"""

from collections.abc import Callable

import gin
import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from networks.arguments import check_choice, check_sizes
from networks.feed_forward import FeedForward
from networks.latent_gaussian import LatentGaussian, product_of_gaussians
from networks.mixture import GaussianMixture, pick
from networks.mixture_heads import RawMixture, SeparateHeads

EXTRA_VARIANCE = 1e-8


def mixture_of(raw: RawMixture, scale: str) -> GaussianMixture:
    """Return the mixture that the numbers stand for, see `scale` of `TimeMerge`."""
    positive = softplus(raw.spread)
    variance = positive if scale == "variance" else positive.square()
    return GaussianMixture(raw.mean, variance + EXTRA_VARIANCE, raw.logits)


# Rules for logits: they map log p [*, T, K], and where steps are missing [*, T, 1], to [*, K].


def sum_of_logs(log_p: Tensor, missing: Tensor) -> Tensor:
    """Return sum_t log p_t."""
    return log_p.masked_fill(missing, 0.0).sum(-2)


def log_of_mean(log_p: Tensor, missing: Tensor) -> Tensor:
    """Return log(1/T sum_t p_t)."""
    none = missing.all(-2, keepdim=True)
    log_p = log_p.masked_fill(missing & ~none, -torch.inf).masked_fill(none, 0.0)
    number = (~missing).sum(-2).clamp(min=1)
    return log_p.logsumexp(-2) - number.to(log_p.dtype).log()


def sum_of_probabilities(log_p: Tensor, missing: Tensor) -> Tensor:
    """Return sum_t p_t."""
    return log_p.exp().masked_fill(missing, 0.0).sum(-2)


def product_of_probabilities(log_p: Tensor, missing: Tensor) -> Tensor:
    """Return prod_t p_t."""
    return sum_of_logs(log_p, missing).exp()


RULES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "sum": sum_of_logs,
    "mean_prob": log_of_mean,
    "softmax_sum_prob": sum_of_probabilities,
    "softmax_prod_prob": product_of_probabilities,
    "per_step_argmax": sum_of_logs,
}
FEATURE_NETS = ("linear", "mlp")
LOGITS = (*RULES, "net", *FEATURE_NETS)
GAUSSIANS = ("poe", "net")


@gin.configurable
class TimeMerge(nn.Module):
    """Merges K Gaussians and K logits l_t over the steps t; p_t = softmax(l_t).

    Gaussians
        poe:  for each component the product over the steps, see `product_of_gaussians`
        net:  W_1 relu(W_0 x + b_0) + b_1 over time, the same for every mean and every spread
    Logits
        sum:                sum_t log p_t: the product of the p_t, of the weights of sum_t l_t
        mean_prob:          log(1/T sum_t p_t)                    (CEMRL's "add")
        softmax_sum_prob:   sum_t p_t                             ("add_softmax")
        softmax_prod_prob:  prod_t p_t: weights nearly equal, `sum` is meant   ("multiply")
        net:                a net over time, the same for every component
        linear, mlp:        the logits of W [h_1, ..., h_T] + b, or of a perceptron of it
        per_step_argmax:    sum_t log p_t; each step brings the Gaussian it weighs most, whatever
                            its number, and all components are the product of these

    s = softplus(spread) is read by `scale`: a "variance"; a "std"; or "legacy_std", as in CEMRL's
    code, a variance in the product and the result of it a standard deviation. In the end 1e-8 is
    added to the variance.

    With a mask padded steps take no part, and without any step the mixture is N(0, I), weights
    equal; the nets see zeros in their place.

    Deviation: no optimiser of the published code of TIGR knows the nets over time; here they are
    parameters like others.
    """

    def __init__(
        self, length: int, features: int, *, gaussians: str = "poe", logits: str = "sum"
    ) -> None:
        """Build the networks that the rules need.

        Args:
            length: steps T of a window.
            features: width of a step's features h.
            gaussians: `poe` or `net`.
            logits: one of the rules above.

        Raises:
            ValueError: if a size is below 1, a rule is unknown, or `per_step_argmax` comes with
                `net`.
        """
        super().__init__()
        check_sizes(length=length, features=features)
        check_choice("gaussians", gaussians, GAUSSIANS)
        check_choice("logits", logits, LOGITS)
        if logits == "per_step_argmax" and gaussians != "poe":
            raise ValueError(f"logits 'per_step_argmax' needs gaussians 'poe', got {gaussians!r}")
        self.gaussians, self.logits = gaussians, logits
        whole = length * features
        if gaussians == "net":
            self.gaussian_net = FeedForward((length, length, 1), init="torch")
        if logits == "net":
            self.logit_net = FeedForward((length, length, 1), init="torch")
        elif logits == "linear":
            self.feature_net = FeedForward((whole, features), init="torch")
        elif logits == "mlp":
            self.feature_net = FeedForward((whole, features, features), init="soft_module")

    def check(self, head: nn.Module) -> None:
        """Raise a ValueError if the rule for logits asks more of the head than it has."""
        if self.logits in FEATURE_NETS and not isinstance(head, SeparateHeads):
            name = type(head).__name__
            raise ValueError(f"logits {self.logits!r} needs the head SeparateHeads, got {name}")

    def forward(
        self, raw: RawMixture, features: Tensor, head: nn.Module, mask: Tensor | None, scale: str
    ) -> GaussianMixture:
        """Return the merged mixture, [batch].

        Args:
            raw: the numbers of each step, [batch, T].
            features: [batch, T, features].
            head: what made the numbers of the features.
            mask: [batch, T] bool, False on padding; None lets padding take part.
            scale: `variance`, `std` or `legacy_std`.
        """
        if mask is None:
            mask = torch.ones(features.shape[:-1], dtype=torch.bool, device=features.device)
        logits = self._logits(raw.logits, features, head, ~mask.unsqueeze(-1))
        if self.logits == "per_step_argmax":
            choice = raw.logits.argmax(-1)
            mean, spread = (pick(x, choice).unsqueeze(-2) for x in raw[:2])
            raw = RawMixture(mean, spread, raw.logits)
        merged = self.components(raw, mask, scale)
        mean, variance = (x.expand(*logits.shape, x.shape[-1]) for x in merged)
        return GaussianMixture(mean, variance, logits)

    def components(self, raw: RawMixture, mask: Tensor | None, scale: str) -> LatentGaussian:
        """Return each component's own merge, [batch, K, latent_dim], whatever the steps weigh most.

        Arguments as `forward`.
        """
        if mask is None:
            mask = torch.ones(raw.mean.shape[:-2], dtype=torch.bool, device=raw.mean.device)
        if self.gaussians == "net":
            mean, spread = (_over_time(self.gaussian_net, x, mask) for x in raw[:2])
            return mixture_of(RawMixture(mean, spread, raw.logits), scale).components
        s = softplus(raw.spread)
        mean, variance = product_of_gaussians(
            raw.mean.transpose(-3, -2),
            (s.square() if scale == "std" else s).transpose(-3, -2),
            mask.unsqueeze(-2),
        )
        if scale == "legacy_std":
            variance = variance.square()
        return LatentGaussian(mean, variance + EXTRA_VARIANCE)

    def _logits(self, logits: Tensor, features: Tensor, head: nn.Module, missing: Tensor) -> Tensor:
        if self.logits in FEATURE_NETS:
            assert isinstance(head, SeparateHeads)
            whole: Tensor = self.feature_net(features.masked_fill(missing, 0.0).flatten(-2))
            return head.logits(whole)
        if self.logits == "net":
            return _over_time(self.logit_net, logits, ~missing.squeeze(-1))
        return RULES[self.logits](logits.log_softmax(-1), missing)


def _over_time(net: nn.Module, x: Tensor, mask: Tensor) -> Tensor:
    """Apply a net with inputs of T numbers along time: x [batch, T, ...] -> [batch, ...]."""
    shape = (*mask.shape, *(1,) * (x.dim() - mask.dim()))
    columns = x.masked_fill(~mask.view(shape), 0.0).movedim(mask.dim() - 1, -1)
    merged: Tensor = net(columns)
    return merged.squeeze(-1)
