"""Tasks that alter the robot itself: its masses, its damping, its friction, the strength of a leg.

The parameters are those of Rakelly et al., "Efficient Off-Policy Meta-Reinforcement Learning via
Probabilistic Context Variables", 2019, and of Bing et al., "Meta-Reinforcement Learning in
Non-Stationary and Dynamic Environments", 2022.
"""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from envs.body import PARAMETERS, Anatomy, Body

BASES = {"body_mass": 1.5, "body_inertia": 1.5, "dof_damping": 1.3, "geom_friction": 1.5}


class Outfit(Protocol):
    """What a specification does to a body."""

    @property
    def alters_model(self) -> bool:
        """The body needs a model of its own."""

    def wear(self, body: Body, specification: NDArray[np.float64]) -> None:
        """Alter the body, whatever it wore before."""


@dataclass(frozen=True)
class Parameters:
    """A factor on every entry of some arrays of the model.

        entry <- original entry * base^u,  base 1.3 for the damping, 1.5 for the others

    The specification holds the exponents u, array by array in the order of `names`. Masses and
    inertias are scaled apart, and the floor's friction too, as in the reference.

    Attributes:
        names: of the arrays, among `envs.body.PARAMETERS`.
    """

    names: tuple[str, ...] = PARAMETERS
    alters_model = True

    def width(self, anatomy: Anatomy) -> int:
        """Exponents of a task."""
        sizes = {
            "body_mass": anatomy.num_bodies,
            "body_inertia": 3 * anatomy.num_bodies,
            "dof_damping": anatomy.num_velocities,
            "geom_friction": 3 * anatomy.num_geoms,
        }
        return sum(sizes[name] for name in self.names)

    def wear(self, body: Body, specification: NDArray[np.float64]) -> None:
        """Exponents `[width]`."""
        start = 0
        for name in self.names:
            original = body.original[name]
            exponents = specification[start : start + original.size].reshape(original.shape)
            getattr(body.model, name)[:] = original * BASES[name] ** exponents
            start += original.size
        body.settle()


@dataclass(frozen=True)
class Element:
    """A factor on one entry of some arrays; the specification begins with the factor.

    Attributes:
        names: of the arrays, among `envs.body.PARAMETERS`.
        index: of the entry: a body, or a degree of freedom.
    """

    names: tuple[str, ...]
    index: int
    alters_model = True

    def wear(self, body: Body, specification: NDArray[np.float64]) -> None:
        """The other entries are the original ones again."""
        for name in self.names:
            array = getattr(body.model, name)
            array[:] = body.original[name]
            array[self.index] *= specification[0]
        body.settle()


@dataclass(frozen=True)
class Limp:
    """Dead actuators, those of leg i where entry i of the specification is 1.

    Attributes:
        legs: the actuators of each leg.
    """

    legs: tuple[tuple[int, ...], ...]
    alters_model = False

    def wear(self, body: Body, specification: NDArray[np.float64]) -> None:
        """Entries 0 or 1, one for each leg."""
        strength = np.ones(body.model.nu)
        for leg, dead in zip(self.legs, specification.tolist(), strict=True):
            strength[list(leg)] = 1.0 - dead
        body.strength = strength
