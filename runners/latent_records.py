"""What a meta-learner inferred in an evaluation, as arrays to be written beside its result."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tensordict import TensorDict
from torch import Tensor

Arrays = dict[str, NDArray[Any]]


def of_windows(suite: Any, tasks: Sequence[Any], experience: TensorDict) -> Arrays:
    """What was inferred before each step.

    Args:
        suite: the tasks'.
        tasks: with one goal each.
        experience: `[tasks, episodes, time]` of `WindowRollouts` with `detailed`.

    Returns:
        `latent` `[tasks, episodes, time, latent_dim]`, `weights` (of the mixture's components)
        `[..., K]`, `component` `[tasks, episodes, time]`, the likeliest one. The truth of each step
        in the same form: `family`, `specification` `[..., specification_dim]`, `changed`, `reward`;
        `mask`, False after an episode's end. `names` of the families; and of each task `task`, its
        name, and `goal`.
    """
    following = experience["next"]
    told = {
        "latent": experience["latent"],
        "weights": experience["weights"],
        "component": experience["component"],
        "family": experience["family"],
        "reward": following["reward"].squeeze(-1),
        "mask": experience["mask"],
    }
    arrays: Arrays = {name: value.cpu().numpy() for name, value in told.items()}
    if "specification" in following.keys():
        arrays["specification"] = following["specification"].cpu().numpy()
        arrays["changed"] = following["task_changed"].squeeze(-1).cpu().numpy()
    else:
        own = _specifications(suite, tasks)
        shape = (*experience.shape, own.shape[-1])
        arrays["specification"] = np.broadcast_to(own[:, None, None], shape)
        arrays["changed"] = np.zeros(tuple(experience.shape), dtype=bool)
    names = {task.task_id: task.name for task in suite.tasks(tasks[0].split)}
    families = range(int(arrays["family"].max()) + 1)
    arrays["names"] = np.array([names.get(family, f"family {family}") for family in families])
    return arrays | _named(tasks)


def of_posteriors(suite: Any, tasks: Sequence[Any], told: Mapping[str, Tensor]) -> Arrays:
    """What was believed after each episode.

    Args:
        suite: the tasks'.
        tasks: with one goal each.
        told: `mean` and `variance` `[tasks, repetitions, episodes, latent_dim]` of the posterior of
            all transitions up to the end of an episode, `return` `[tasks, repetitions, episodes]`
            of that episode; nan after the last one of a task.

    Returns:
        These, and of each task `task`, its name, `goal` and `specification`.
    """
    arrays: Arrays = {name: value.numpy() for name, value in told.items()}
    return arrays | {"specification": _specifications(suite, tasks)} | _named(tasks)


def of_split(arrays: Mapping[str, NDArray[Any]]) -> tuple[str, Arrays]:
    """The last split, or run, of a file's arrays, and those of it without its name.

    Raises:
        KeyError: there is none.
    """
    places = [name.rpartition("/")[0] for name in arrays if "/" in name]
    if not places:
        raise KeyError("no split")
    place = places[-1]
    chosen = [name for name in arrays if name.rpartition("/")[0] == place]
    return place, {name.rpartition("/")[2]: arrays[name] for name in chosen}


def _specifications(suite: Any, tasks: Sequence[Any]) -> NDArray[Any]:
    return np.stack([np.asarray(suite.specification(task)) for task in tasks])


def _named(tasks: Sequence[Any]) -> Arrays:
    return {
        "task": np.array([task.name for task in tasks]),
        "goal": np.array([task.goals[0] for task in tasks]),
    }
