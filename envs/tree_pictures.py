"""What the agent sees of a picture number of the tree graph: a vector or a small image."""

import math
from dataclasses import dataclass

import gin
import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample

from envs.arguments import check_whole

BRIGHTEST, WHITE = 254, 255
CELLS, SIDE, BLOCK = 4, 12, slice(3, 9)


@gin.configurable
@dataclass(frozen=True, kw_only=True)
class OneHotPictures:
    """A one-hot vector of the picture, and an element that shows the reward (the cue).

    The element of the picture is (254 - noise) / 255; each element gets uniform whole-number noise
    from 0 to `noise`, over 255, at each look. At an end the last element is set to
    (254 - noise) R / high_reward / 255, kept within [0, 1].

    Attributes:
        num_pictures: of the set; None for as many as the graph needs.
        noise: its largest value.

    Raises:
        ValueError: naming the argument.
    """

    num_pictures: int | None = None
    noise: int = 0

    def __post_init__(self) -> None:
        """Check the arguments."""
        _check(self.num_pictures, self.noise)

    def width(self, num_pictures: int) -> int:
        """Numbers in an observation."""
        return num_pictures + 1

    def table(self, num_pictures: int) -> Tensor:
        """The pictures, `[num_pictures, width]`, from 0 to 254."""
        return torch.eye(num_pictures, num_pictures + 1) * (BRIGHTEST - self.noise)

    def look(self, shown: Tensor, ends: Tensor, share: Tensor, rng: np.random.Generator) -> Tensor:
        """Observations `[n, width]` of pictures `[n, width]`; cues where `ends` `[n]`."""
        shown = _noisy(shown, self.noise, rng)
        cue = torch.where(ends, (share * (BRIGHTEST - self.noise)).floor(), shown[:, -1])
        shown = torch.cat([shown[:, :-1], cue[:, None]], dim=1)
        return shown.clamp(0, WHITE) / WHITE


@gin.configurable
@dataclass(frozen=True, kw_only=True)
class PatternPictures:
    """Images of 12 by 12, flat: random patterns of 4 by 4 cells of black, grey and white, turned.

    Each cell is 3 by 3 and has 0, 1 or 2 halves of 254 - noise; the image is turned by a random
    whole number of degrees from 0 to 358. At each look it gets uniform whole-number noise from 0 to
    `noise` and is turned by a random whole number of degrees below `rotation`. At an end the middle
    block of 6 by 6 is set to (254 - noise) R / high_reward. All over 255.

    Attributes:
        num_pictures: of the set; None for as many as the graph needs.
        noise: its largest value.
        rotation: degrees; 1 for none.
        seed: of the set.

    Raises:
        ValueError: naming the argument.
    """

    num_pictures: int | None = None
    noise: int = 0
    rotation: int = 1
    seed: int = 1

    def __post_init__(self) -> None:
        """Check the arguments."""
        _check(self.num_pictures, self.noise)
        check_whole("rotation", self.rotation, 1)
        check_whole("seed", self.seed, 0)

    def width(self, num_pictures: int) -> int:
        """Numbers in an observation."""
        return SIDE * SIDE

    def table(self, num_pictures: int) -> Tensor:
        """The pictures, `[num_pictures, width]`, from 0 to 254."""
        rng = np.random.default_rng(self.seed)
        halves = torch.from_numpy(rng.integers(3, size=(num_pictures, CELLS, CELLS)))
        cells = halves.float() * (BRIGHTEST - self.noise) / 2
        scale = SIDE // CELLS
        images = cells.repeat_interleave(scale, 1).repeat_interleave(scale, 2)
        degrees = torch.from_numpy(rng.integers(359, size=num_pictures))
        return _turn(images, degrees).flatten(1)

    def look(self, shown: Tensor, ends: Tensor, share: Tensor, rng: np.random.Generator) -> Tensor:
        """Observations `[n, width]` of pictures `[n, width]`; cues where `ends` `[n]`."""
        images = _noisy(shown, self.noise, rng).view(-1, SIDE, SIDE)
        if self.rotation > 1:
            images = _turn(images, torch.from_numpy(rng.integers(self.rotation, size=len(shown))))
        cue = (share * (BRIGHTEST - self.noise)).floor()[:, None, None]
        middle = torch.zeros(SIDE, SIDE, dtype=torch.bool)
        middle[BLOCK, BLOCK] = True
        images = torch.where(middle & ends[:, None, None], cue, images)
        return images.flatten(1).clamp(0, WHITE) / WHITE


Pictures = OneHotPictures | PatternPictures


def _check(num_pictures: int | None, noise: int) -> None:
    if num_pictures is not None:
        check_whole("num_pictures", num_pictures, 1)
    check_whole("noise", noise, 0)
    if noise > BRIGHTEST:
        raise ValueError(f"noise must be at most {BRIGHTEST}, got {noise}")


def _noisy(shown: Tensor, noise: int, rng: np.random.Generator) -> Tensor:
    if not noise:
        return shown
    return shown + torch.from_numpy(rng.integers(noise + 1, size=tuple(shown.shape)))


def _turn(images: Tensor, degrees: Tensor) -> Tensor:
    """Turn images `[n, side, side]` about their middle, black from outside, to whole numbers."""
    angle = degrees.float() * (math.pi / 180)
    cosine, sine, zero = angle.cos(), angle.sin(), torch.zeros_like(angle)
    rows = [torch.stack([cosine, -sine, zero], -1), torch.stack([sine, cosine, zero], -1)]
    shape = [len(images), 1, *images.shape[1:]]
    grid = affine_grid(torch.stack(rows, 1), shape, align_corners=False)
    turned: Tensor = grid_sample(images[:, None].float(), grid, align_corners=False)
    return turned[:, 0].round()
