"""The encoder of TIGR and CEMRL: from a window of transitions to a mixture over the task's latent.

TIGR: Bing et al., "Meta-Reinforcement Learning in Broad and Non-Parametric Environments", 2021.
CEMRL: Bing et al., "Meta-Reinforcement Learning in Non-Stationary and Dynamic Environments", 2022.
"""

import math
from collections.abc import Callable, Sequence

import gin
from tensordict import TensorDictBase
from torch import Tensor, nn

from networks.arguments import check_choice, check_sizes
from networks.latent_gaussian import LatentGaussian
from networks.mixture import SELECTIONS, GaussianMixture
from networks.mixture_heads import JointHead
from networks.mixture_prior import MixturePrior
from networks.time_merge import TimeMerge, mixture_of
from networks.transitions import join, transition_width
from networks.window_backbones import GRUBackbone

SCALES = ("variance", "std", "legacy_std")
Factory = Callable[[int, int, int], nn.Module]


@gin.configurable
class GRUMixtureEncoder(nn.Module):
    """q(z | window): a backbone, a head, and for a backbone that keeps the steps apart a merge.

    h = backbone([o, a, r, o'] of T steps),  (mean_k, spread_k, logit_k) = head(h)

    The defaults are TIGR: a GRU, softplus(spread) as variance, z = sum_k softmax(logits)_k z_k.
    CEMRL takes a perceptron of each step twice as wide, separate heads, the product of the steps'
    Gaussians and their mean weights, spreads as standard deviations, and the z of the likeliest
    component.

    Transitions come normalised, with zeros as padding, see `TransitionNormalizer`.
    """

    def __init__(
        self,
        observation_dim: int,
        action_dim: int,
        *,
        length: int = 64,
        latent_dim: int = 8,
        num_components: int = 8,
        complexity: float = 5.0,
        backbone: Factory = GRUBackbone,
        head: Factory = JointHead,
        merge: Callable[[int, int], TimeMerge] = TimeMerge,
        prior: Callable[[int, int], MixturePrior] = MixturePrior,
        scale: str = "variance",
        selection: str = "convex",
        mask_padding: bool = False,
    ) -> None:
        """Build the parts.

        Args:
            observation_dim: width of the observation.
            action_dim: width of the action.
            length: steps T of a window.
            latent_dim: width of z.
            num_components: K.
            complexity: features for each number of a transition, rounded down in all. Published
                are TIGR's 5, of a window read as one vector too, and CEMRL's 10, there 10 T.
            backbone: see `networks.window_backbones`.
            head: called with the numbers of features, of components, and of z.
            merge: called with T and the number of features; unused by a backbone of one vector.
            prior: called with K and the width of z; its parameters are trained with the encoder's.
            scale: what softplus(spread) is: `variance`, `std` or `legacy_std`, see `TimeMerge`.
            selection: z of the components' z_k: `convex`, `argmax` or `drawn`, see
                `GaussianMixture.latent`.
            mask_padding: keep padding away from the backbone and the merge; the published code
                reads it as transitions of zeros.

        Raises:
            ValueError: if a size is below 1, there would be no feature, or `scale` or `selection`
                is unknown; or as the parts.
        """
        super().__init__()
        check_sizes(length=length, latent_dim=latent_dim, num_components=num_components)
        width = transition_width(observation_dim, action_dim)
        for name, value, choices in (
            ("scale", scale, SCALES),
            ("selection", selection, SELECTIONS),
        ):
            check_choice(name, value, choices)
        features = int(complexity * width) if math.isfinite(complexity) else 0
        if features < 1:
            raise ValueError(f"complexity must give a feature at least, got {complexity}")
        self.length, self.latent_dim, self.num_components = length, latent_dim, num_components
        self.scale, self.selection = scale, selection
        self.mask_padding = mask_padding
        self.backbone = backbone(width, length, features)
        self.head = head(features, num_components, latent_dim)
        self.merge = merge(length, features) if self.backbone.per_step else None
        if self.merge is not None:
            self.merge.check(self.head)
        self.prior = prior(num_components, latent_dim)

    def forward(self, context: TensorDictBase) -> GaussianMixture:
        """Return the mixture, fields [*, K, latent_dim] and [*, K].

        Args:
            context: [*, T], the oldest transition first, see `networks.transitions.join`; "mask"
                is False on padding, which is on the left.
        """
        features, mask = self._features(context)
        raw = self.head(features)
        if self.merge is None:
            mixture = mixture_of(raw, self.scale)
        else:
            mixture = self.merge(raw, features, self.head, mask, self.scale)
        return _shaped(mixture, context.batch_size[:-1])

    def steps(self, context: TensorDictBase) -> tuple[GaussianMixture, LatentGaussian]:
        """Return what the merge starts from.

        Returns:
            The mixture of each step, fields [*, T, K, ...], and each component's own merge, fields
            [*, K, latent_dim]: the same as `forward`'s unless a rule picks among components.

        Raises:
            ValueError: if the backbone makes one vector of a window.
        """
        if self.merge is None:
            name = type(self.backbone).__name__
            raise ValueError(f"the backbone {name} does not keep the steps apart")
        features, mask = self._features(context)
        raw, shape = self.head(features), context.batch_size[:-1]
        merged = self.merge.components(raw, mask, self.scale)
        own = LatentGaussian(*(x.reshape(*shape, *x.shape[1:]) for x in merged))
        return _shaped(mixture_of(raw, self.scale), shape), own

    def latent(self, mixture: GaussianMixture, sample: bool) -> Tensor:
        """Return z [*, latent_dim]: with the components' samples, or with their means."""
        return mixture.latent(self.selection, sample)

    def divergence(self, mixture: GaussianMixture) -> Tensor:
        """Return KL(component k || prior of k), [*, K]."""
        prior: LatentGaussian = self.prior()
        return mixture.components.kl(prior)

    def _features(self, context: TensorDictBase) -> tuple[Tensor, Tensor | None]:
        """Features [batch, T, features] or [batch, features], and the mask where it counts."""
        number = math.prod(context.batch_size[:-1])
        rows = join(context)
        mask: Tensor | None = context.get("mask", None) if self.mask_padding else None
        mask = None if mask is None else mask.reshape(number, self.length)
        features: Tensor = self.backbone(rows.reshape(number, self.length, rows.shape[-1]), mask)
        return features, mask


def _shaped(mixture: GaussianMixture, shape: Sequence[int]) -> GaussianMixture:
    """The mixtures [batch, ...] as [*shape, ...]."""
    return GaussianMixture(*(x.reshape(*shape, *x.shape[1:]) for x in mixture))
