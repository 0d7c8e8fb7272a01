"""The mask generator of MUST: task and recent trajectory in, a score for every weight out.

MUST is known only from a public repository, without a paper; the defaults are a corrected form.
"""

import copy
import math
from collections.abc import Callable, Sequence
from typing import cast

import gin
import torch
from tensordict import TensorDictBase
from torch import Tensor, nn

from networks import similarity as similarities
from networks.arguments import check_choice
from networks.score_body import SCORE_HEADS, ScoreBody, head_rank
from networks.top_k import (
    ROUNDINGS,
    SURROGATES,
    gumbel_like,
    hard_top_k,
    keep_count,
    standardised,
    straight_through_top_k,
    swap_towards,
)
from networks.trajectory_encoder import TrajectoryEncoder

SUMMARY_WINDOW = 5


@gin.configurable
class MaskGenerator(nn.Module):
    """Scores every weight (or unit) of one network for each task; masks keep the best ones.

    e_t = [onehot(t), encoding of t's trajectory];  s_t = head(relu(W e_t));
    low rank: s_t,l = A_l(e_t) B_l(e_t)^T;  mask = top k_l of s_t,l.

    Deviations from the published code, each of which an option undoes:
        1. Scores are divided by their standard deviation, and noise is off unless asked for.
        2. The gradient of the selection is that of a sigmoid around the threshold.
        3. Low-rank scores for wide layers, instead of a head of full width.
        4. k_l = max(1, round((1 - pruning_ratio) N_l)).
        5. The similarity loss compares overlaps over pairs of different tasks, against a slow copy
           of the encoder.
        6. A commit exchanges a bounded share of the kept entries.
    """

    def __init__(
        self,
        mask_shapes: Sequence[Sequence[int]],
        num_tasks: int,
        observation_dim: int,
        *,
        pruning_ratio: float = 0.5,
        hidden: int = 256,
        score_head: str = "auto",
        rank: int = 16,
        surrogate: str = "sigmoid_k",
        noise_scale: float = 0.0,
        standardise: bool = True,
        rounding: str = "round",
        max_swap: float | None = 0.02,
        hysteresis: float = 0.0,
        use_trajectory_info: bool = True,
        encoder: Callable[[int], TrajectoryEncoder] = TrajectoryEncoder,
        target_rate: float = 0.01,
        similarity: str = "overlap",
        similarity_target: str = "encoding",
    ) -> None:
        """Build encoder, its slow copy, and the scoring body.

        Args:
            mask_shapes: shape of one task's mask in each masked layer, (out, in) or (units,).
            num_tasks: number of tasks.
            observation_dim: width of a state, without the task one-hot.
            pruning_ratio: share of entries set to zero, in [0, 1), per layer and task.
            hidden: width of the body's hidden layer.
            score_head: `low_rank`, `dense`, or `auto`: low rank if a mask is at least 128 wide.
            rank: rank of the low-rank scores.
            surrogate: `sigmoid_k`, `softmax` (published) or `identity`; see `networks.top_k`.
            noise_scale: factor of the Gumbel noise when `masks` is asked for noise (published: 1).
            standardise: divide scores by their std per task and layer (published: False).
            rounding: `round`, or `trunc` as published.
            max_swap: largest share of the kept entries that one commit exchanges; None: no bound.
            hysteresis: score difference, in standard deviations, below which nothing is exchanged.
            use_trajectory_info: whether the encoding is an input of the body.
            encoder: factory encoder(observation_dim).
            target_rate: Polyak rate of the slow encoder; 1 follows at once, as published.
            similarity: `overlap`, or `exp_distance` with the Euclidean loss as published.
            similarity_target: `encoding`, `chance_corrected` (in between 1 - pruning_ratio and 1)
                or `gaussian_kl`.

        Raises:
            ValueError: if an argument is out of its range or not among its options, if
                `similarity_target` is `gaussian_kl` and the encoder has no `pretrain_passes`, or
                `chance_corrected` and `similarity` is not `overlap`.
        """
        super().__init__()
        shapes = tuple(tuple(int(size) for size in shape) for shape in mask_shapes)
        if not shapes or any(len(s) not in (1, 2) or min(s) < 1 for s in shapes):
            raise ValueError(f"mask_shapes must be shapes (out, in) or (units,), got {shapes}")
        for name, number, low, high in (
            ("num_tasks", num_tasks, 1, math.inf),
            ("hidden", hidden, 1, math.inf),
            ("rank", rank, 1, math.inf),
            ("noise_scale", noise_scale, 0.0, math.inf),
            ("hysteresis", hysteresis, 0.0, math.inf),
            ("max_swap", 1.0 if max_swap is None else max_swap, 0.0, 1.0),
            ("target_rate", target_rate, 0.0, 1.0),
        ):
            if not low <= number <= high:
                raise ValueError(f"{name} must lie in [{low}, {high}], got {number}")
        if not 0.0 <= pruning_ratio < 1.0:
            raise ValueError(f"pruning_ratio must lie in [0, 1), got {pruning_ratio}")
        for name, option, options in (
            ("score_head", score_head, SCORE_HEADS),
            ("surrogate", surrogate, SURROGATES),
            ("rounding", rounding, ROUNDINGS),
            ("similarity", similarity, similarities.SIMILARITIES),
            ("similarity_target", similarity_target, similarities.TARGETS),
        ):
            check_choice(name, option, options)
        self.mask_shapes = shapes
        self.num_tasks = num_tasks
        self.pruning_ratio = pruning_ratio
        self.surrogate, self.noise_scale, self.standardise = surrogate, noise_scale, standardise
        self.max_swap, self.hysteresis = max_swap, hysteresis
        self.use_trajectory_info = use_trajectory_info
        self.target_rate = target_rate
        self.similarity, self.similarity_target = similarity, similarity_target
        sizes = [shape[0] * (shape[1] if len(shape) == 2 else 1) for shape in shapes]
        self.kept = tuple(keep_count(size, pruning_ratio, rounding) for size in sizes)
        self.encoder = encoder(observation_dim)
        self.encoder_target = copy.deepcopy(self.encoder).requires_grad_(False)
        if similarity == "exp_distance" and similarity_target == "chance_corrected":
            raise ValueError("similarity must be overlap for similarity_target chance_corrected")
        if similarity_target == "gaussian_kl":
            if not self.encoder.pretrain_passes:
                raise ValueError("pretrain_passes of the encoder must be positive for gaussian_kl")
            latent = (num_tasks, self.encoder.latent_dim)
            self.register_buffer("task_mean", torch.zeros(latent))
            self.register_buffer("task_std", torch.ones(latent))
        inputs = num_tasks + (self.encoder.width if use_trajectory_info else 0)
        self.body = ScoreBody(inputs, hidden, shapes, head_rank(score_head, rank, shapes))

    def encode(self, trajectories: TensorDictBase | None, *, slow: bool = False) -> Tensor:
        """Encode one trajectory per task; zeros where there is none.

        Args:
            trajectories: "observation" [num_tasks, length, observation_dim] and "mask"
                [num_tasks, length] bool, or None.
            slow: use the slow copy of the encoder.

        Returns:
            Encodings [num_tasks, d_e].
        """
        if trajectories is None:
            like = next(self.body.parameters())
            return like.new_zeros(self.num_tasks, self.encoder.width)
        encoder = self.encoder_target if slow else self.encoder
        return cast(Tensor, encoder(trajectories["observation"], trajectories["mask"]))

    def scores(self, trajectories: TensorDictBase | None = None) -> list[Tensor]:
        """Score every entry, [num_tasks, *shape] per layer; deterministic.

        Args:
            trajectories: as in `encode`; not read without `use_trajectory_info`.
        """
        like = next(self.body.parameters())
        embedding = torch.eye(self.num_tasks, dtype=like.dtype, device=like.device)
        if self.use_trajectory_info:
            embedding = torch.cat((embedding, self.encode(trajectories)), -1)
        return cast(list[Tensor], self.body(embedding))

    def masks(
        self,
        scores: Sequence[Tensor],
        noise: torch.Generator | None = None,
        committed: Sequence[Tensor] | None = None,
    ) -> list[Tensor]:
        """Return straight-through masks [num_tasks, *shape]: exactly 0.0 or 1.0, with a gradient.

        Given a random generator as `noise`, noise_scale * Gumbel drawn from it is added first.
        Given `committed` bool masks, those are the values, and the scores only receive the
        gradient.
        """
        masks = []
        for layer, (score, k) in enumerate(zip(scores, self.kept, strict=True)):
            flat = score.flatten(1)
            if self.standardise:
                flat = standardised(flat)
            if noise is not None and self.noise_scale > 0.0:
                flat = flat + self.noise_scale * gumbel_like(flat, noise)
            chosen = None if committed is None else committed[layer].bool().flatten(1)
            masks.append(straight_through_top_k(flat, k, self.surrogate, chosen).view_as(score))
        return masks

    @torch.no_grad()
    def hard(self, scores: Sequence[Tensor]) -> list[Tensor]:
        """Return the top-k masks, bool [num_tasks, *shape]."""
        pairs = zip(scores, self.kept, strict=True)
        return [hard_top_k(score.flatten(1), k)[0].view_as(score) for score, k in pairs]

    @torch.no_grad()
    def commit(self, committed: Sequence[Tensor], scores: Sequence[Tensor]) -> list[Tensor]:
        """Return the next masks, bool [num_tasks, *shape]: the committed ones moved to the scores.

        At most `max_swap` of the kept entries are exchanged per layer and task, largest score
        differences first. A mask that does not keep k entries (such as all ones) becomes the top k.
        """
        return [
            swap_towards(
                old.bool().flatten(1), score.flatten(1), k, self.max_swap, self.hysteresis
            ).view_as(score)
            for old, score, k in zip(committed, scores, self.kept, strict=True)
        ]

    @torch.no_grad()
    def target_similarity(self, trajectories: TensorDictBase | None) -> Tensor:
        """Return the similarity that masks should have, [num_tasks, num_tasks], no gradient."""
        if self.similarity_target == "gaussian_kl":
            mean, std = self.get_buffer("task_mean"), self.get_buffer("task_std")
            return similarities.gaussian_kl_similarity(mean, std)
        encoding = self.encode(trajectories, slow=True)
        if self.similarity == "exp_distance":
            return similarities.exp_distance([encoding])
        target = similarities.encoding_similarity(encoding)
        corrected = similarities.chance_corrected(target, self.pruning_ratio)
        return corrected if self.similarity_target == "chance_corrected" else target

    def similarity_loss(
        self,
        trajectories: TensorDictBase | None,
        target: Tensor | None = None,
        *,
        noise: torch.Generator | None = None,
    ) -> Tensor:
        """Return the supervised loss, a scalar; 0 for one task.

        Args:
            trajectories: as in `encode`.
            target: [num_tasks, num_tasks], such as another generator's `target_similarity`; None
                takes this generator's own.
            noise: draws the noise of the masks, as published, see `masks`; None: no noise.
        """
        target = self.target_similarity(trajectories) if target is None else target
        masks = self.masks(self.scores(trajectories), noise)
        if self.similarity == "overlap":
            return similarities.mean_square(similarities.overlap(masks), target)
        return similarities.euclidean(similarities.exp_distance(masks), target)

    def pretrain(self, context: TensorDictBase, draws: torch.Generator) -> None:
        """Train the encoder on the recent trajectories, if it has `pretrain_passes`.

        The slow encoder follows once. Also renews the Gaussians of `gaussian_kl`, from the newest
        five trajectories of each task.

        Args:
            context: "observation" [num_tasks, window, length, observation_dim], newest first, and
                "mask" [num_tasks, window, length] bool.
            draws: see `TrajectoryEncoder.pretrain`.
        """
        observation, mask = context["observation"], context["mask"]
        self.encoder.pretrain(observation.flatten(0, 1), mask.flatten(0, 1), draws)
        if self.encoder.pretrain_passes:
            self.follow()
        if self.similarity_target == "gaussian_kl":
            with torch.no_grad():
                recent = observation[:, :SUMMARY_WINDOW], mask[:, :SUMMARY_WINDOW]
                mean, std = self.encoder.summary(*recent)
                self.get_buffer("task_mean").copy_(mean)
                self.get_buffer("task_std").copy_(std)

    @torch.no_grad()
    def follow(self) -> None:
        """Move the slow encoder by `target_rate` towards the encoder."""
        for slow, live in zip(
            self.encoder_target.parameters(), self.encoder.parameters(), strict=True
        ):
            slow.lerp_(live, self.target_rate)
