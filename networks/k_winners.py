"""k-winners-take-all: in each row the k largest values stay, all others become zero.

Ahmad and Scheinkman, "How Can We Be So Dense? The Benefits of Using Highly Sparse
Representations", 2019 (arXiv 1903.11257).
"""

import math

import gin
import numpy as np
import torch
from torch import Tensor, nn

from networks.arguments import check_sizes


def winners(scores: Tensor, k: int, strict: bool = True) -> Tensor:
    """Return a bool mask of the k largest scores along the last dimension.

    Args:
        scores: [*, n]; below single precision they are compared in single precision.
        k: number of winners; 0 gives none, n or more give all.
        strict: of equal scores at the threshold take those of lowest index, so that there are
            exactly k winners; otherwise all of them win.
    """
    size = scores.shape[-1]
    if k <= 0 or k >= size:
        return torch.full_like(scores, k > 0, dtype=torch.bool)
    scores = scores.detach()
    if scores.dtype in (torch.float16, torch.bfloat16):
        scores = scores.float()
    on_cpu = scores.is_cpu and not torch.compiler.is_compiling()
    if on_cpu:  # several times faster than topk
        ordered = torch.from_numpy(np.sort(scores.numpy(), -1))
        threshold = ordered[..., size - k].unsqueeze(-1)
    else:
        threshold = scores.topk(k, -1, sorted=False).values.amin(-1, keepdim=True)
    reached = scores >= threshold
    if not strict or (on_cpu and int(reached.count_nonzero()) * size == k * scores.numel()):
        return reached  # no equals
    above = scores > threshold
    wanted = k - above.sum(-1, keepdim=True, dtype=torch.int32)
    ties = reached ^ above
    return above | ties.logical_and_(ties.cumsum(-1, dtype=torch.int32) <= wanted)


def k_winners(x: Tensor, k: int, scores: Tensor | None = None, strict: bool = True) -> Tensor:
    """Return x where `winners` of the scores (of x itself if None) are, and zero elsewhere.

    The winners keep their value bit for bit, negative ones too. Their gradient is one, and zero
    for all others. A loser that is not finite becomes NaN, so that it cannot hide.
    """
    kept = winners(x if scores is None else scores, k, strict)
    return x * kept.to(x.dtype)  # much faster than a choice or a product with bool


@gin.configurable
class KWinners(nn.Module):
    """k-winners-take-all with the duty cycle of each unit, and boosting by it.

    For a batch of B rows of n units, with duty cycle d and boost strength b:

        winners: the k largest of x exp(-b d) in each row, k = round(n percent_on);
                 k = floor(round(n percent_on) k_inference_factor) in evaluation mode
        N <- N + B,  P = min(duty_cycle_period, N),  r = min(1, B / P)
        d <- (1 - r) d + r mean over the rows of [output > 0]

    Deviations from the reference:
    1. Its rate is B / P, with which d diverges as soon as a batch is larger than twice the period.
    2. N is part of the state, as d and b are.
    3. Statistics are taken only in the pass that trains the network: in training mode, with
       gradients recorded, and unless the caller says that it is not `learning`.
    4. Exactly k winners, unless `strict` is off.
    """

    duty_cycle: Tensor
    boost_strength: Tensor
    rows_seen: Tensor

    def __init__(
        self,
        num_units: int,
        *,
        percent_on: float = 0.25,
        k_inference_factor: float = 1.0,
        boost_strength: float = 0.0,
        boost_decay: float = 0.0,
        duty_cycle_period: int = 1000,
        strict: bool = True,
    ) -> None:
        """Set k and start the duty cycle at zero.

        Args:
            num_units: number of units n.
            percent_on: share of the units that win.
            k_inference_factor: factor of k in evaluation mode.
            boost_strength: b at the start; at zero there is never any boosting.
            boost_decay: factor of b at the end of each iteration.
            duty_cycle_period: rows over which the duty cycle is averaged.
            strict: exactly k winners; otherwise equal values at the threshold all win.

        Raises:
            ValueError: if an argument is out of range.
        """
        super().__init__()
        check_sizes(num_units=num_units, duty_cycle_period=duty_cycle_period)
        if not 0.0 < percent_on < 1.0:
            raise ValueError(f"percent_on must lie in (0, 1), got {percent_on}")
        if not 0.0 < percent_on * k_inference_factor < 1.0:
            raise ValueError(
                "k_inference_factor must keep percent_on * k_inference_factor in (0, 1), "
                f"got {k_inference_factor} with percent_on {percent_on}"
            )
        if not 0.0 <= boost_strength < math.inf:
            raise ValueError(f"boost_strength must be finite and at least 0, got {boost_strength}")
        if not 0.0 <= boost_decay <= 1.0:
            raise ValueError(f"boost_decay must lie in [0, 1], got {boost_decay}")
        self.num_units, self.percent_on, self.strict = num_units, percent_on, strict
        self.k = round(num_units * percent_on)
        self.k_inference = math.floor(self.k * k_inference_factor)
        self.boosts = boost_strength > 0.0
        self.boost_decay, self.duty_cycle_period = boost_decay, duty_cycle_period
        self.register_buffer("duty_cycle", torch.zeros(num_units))
        self.register_buffer("boost_strength", torch.tensor(float(boost_strength)))
        self.register_buffer("rows_seen", torch.tensor(0))

    def forward(self, x: Tensor, learning: bool = True) -> Tensor:
        """Map x [*stack, *, num_units] to its winners, same shape.

        Args:
            x: values of the units; the stack is that of `duty_cycle`, empty for one network.
            learning: whether this pass trains the network that x comes from. A pass through
                constant weights does not, though its result may have a gradient.
        """
        k = self.k if self.training else self.k_inference
        y = k_winners(x, k, self._boosted(x) if self.boosts else None, self.strict)
        if self.training and learning and torch.is_grad_enabled():
            self._observe(y.detach())
        return y

    def _boosted(self, x: Tensor) -> Tensor:
        stack = self.duty_cycle.shape[:-1]
        factor = (-self.boost_strength.unsqueeze(-1) * self.duty_cycle).exp()
        ones = (1,) * (x.dim() - len(stack) - 1)
        return x.detach() * factor.view(*stack, *ones, self.num_units)

    @torch.no_grad()
    def _observe(self, y: Tensor) -> None:
        stack = self.duty_cycle.shape[:-1]
        y = y.reshape(*stack, -1, self.num_units)
        rows = y.shape[-2]
        if rows == 0:
            return
        self.rows_seen += rows
        active = (y > 0).to(self.duty_cycle.dtype).mean(-2)
        period = self.rows_seen.clamp(max=self.duty_cycle_period).to(active.dtype)
        self.duty_cycle.lerp_(active, (rows / period).clamp(max=1.0).unsqueeze(-1))

    def end_iteration(self) -> None:
        """Let the boost strength decay.

        Raises:
            FloatingPointError: if there is boosting and the duty cycle is not finite; this waits
                for the device, which is why no forward pass asks.
        """
        if not self.boosts:
            return
        if not bool(torch.isfinite(self.duty_cycle).all()):
            raise FloatingPointError("the duty cycle of a boosted k-winners layer is not finite")
        self.boost_strength.mul_(self.boost_decay)

    def entropy(self) -> Tensor:
        """Return the sum over units of the binary entropy of the duty cycle, in bits, [*stack]."""
        p, q = self.duty_cycle, 1.0 - self.duty_cycle
        bits: Tensor = -(torch.xlogy(p, p) + torch.xlogy(q, q)) / math.log(2.0)
        return bits.sum(-1)

    @property
    def max_entropy(self) -> float:
        """The entropy if each unit won k / n of the time."""
        share = self.k / self.num_units
        bits = [p * math.log2(p) for p in (share, 1.0 - share) if p > 0.0]
        return -self.num_units * sum(bits)
