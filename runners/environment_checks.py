"""What `--dry_run` asks of the environments: gymnasium's rules, a step's keys, exact snapshots."""

import copy
import math
import warnings
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from gymnasium.wrappers import PassiveEnvChecker
from tensordict import TensorDict
from torch import Tensor

from envs.environment import check_environment, fault, reset_fault
from envs.errors import TaskError
from runners.config import ConfigError
from runners.status import failure_reason


def check_environments(suite: Any, steps: int = 5) -> None:
    """Gymnasium's checker and a few steps in each task: keys, shapes, dtypes, a snapshot.

    Raises:
        ConfigError: naming the task and what it does wrong.
    """
    tasks = suite.tasks()
    build = suite.build(tasks)
    for task in tasks:
        if not (isinstance(task.name, str) and task.name):
            raise ConfigError(f"a task's name (Task.name) must be a string, got {task.name!r}")
        if not task.goals:
            raise ConfigError(f"task {task.name} has no goals; give it at least one")
        try:
            _check_alone(build, task, suite.spec.rules(), steps)
        except TaskError as error:
            raise ConfigError(str(error)) from error
        except Exception as error:  # whatever the environment's own code comes to
            raise ConfigError(f"task {task.name}: {failure_reason(error)}") from error
    names = [task.name for task in tasks]
    shape = steps, len(names)
    try:
        with suite.vector(seed=0, purpose="evaluation") as vector:
            vector.reset()
            for td in _run(vector, _actions(suite.spec, shape, seed=0)):
                _check_step(td, suite.spec, names)
            _check_snapshot(vector, names, _actions(suite.spec, shape, seed=1))
    except TaskError as error:
        raise ConfigError(str(error)) from error
    except ConfigError:
        raise
    except Exception as error:
        raise ConfigError(f"a task of {', '.join(names)}: {failure_reason(error)}") from error


def _check_alone(build: Any, task: Any, rules: Any, steps: int) -> None:
    """One environment by itself, outside of a vector."""
    environment = build(task)
    check_environment(task.name, environment, rules)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of bounds that are infinite on purpose
            checked = PassiveEnvChecker(environment)
            began = checked.reset(options={"goal": task.goals[0]})
            if said := reset_fault(task.name, began, rules):
                raise TaskError(said)
            for number in range(steps):  # the first without the checker, which unpacks five values
                stepped = checked if number else environment
                outcome = stepped.step(checked.action_space.sample())
                if said := fault(task.name, outcome, rules):
                    raise TaskError(said)
                if not math.isfinite(float(outcome[1])):
                    raise TaskError(
                        f"task {task.name}: the reward is {float(outcome[1])}; it must be finite"
                    )
    finally:
        environment.close()


def _actions(spec: Any, shape: tuple[int, int], seed: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    if spec.num_actions:
        return list(torch.randint(spec.num_actions, shape, generator=generator))
    return list(2.0 * torch.rand(*shape, spec.action_dim, generator=generator) - 1.0)


def _run(vector: Any, actions: Iterable[Tensor]) -> list[TensorDict]:
    return [vector.step(vector.current().set("action", action)) for action in actions]


def _check_snapshot(vector: Any, names: Sequence[str], actions: Sequence[Tensor]) -> None:
    """The same actions from a restored snapshot must give the same, to the last bit."""
    state = copy.deepcopy(vector.state_dict())
    first: TensorDict = torch.stack(_run(vector, actions))
    vector.reset()  # other goals: what the snapshot leaves out is another now
    _run(vector, actions[:2])
    vector.load_state_dict(state)
    second = torch.stack(_run(vector, actions))
    for key, value in first.items(include_nested=True, leaves_only=True):
        same = (value == second[key]) | (value != value)
        what = key if isinstance(key, str) else key[-1]
        for i, name in enumerate(names):
            if not same[:, i].all():
                raise ConfigError(
                    f"task {name}: after a restored snapshot the same actions give another {what}; "
                    "snapshot and restore must hold everything the future depends on"
                )


def _check_step(td: TensorDict, spec: Any, names: Sequence[str]) -> None:
    num = len(names)
    expected: dict[Any, tuple[tuple[int, ...], torch.dtype]] = {
        "observation": ((num, spec.observation_dim), torch.float32),
        "task_id": ((num,), torch.int64),
        ("next", "observation"): ((num, spec.observation_dim), torch.float32),
        ("next", "reward"): ((num, 1), torch.float32),
    }
    flags = ("terminated", "truncated", "done", "success", "valid")
    expected |= {("next", flag): ((num, 1), torch.bool) for flag in flags}
    for key, (shape, dtype) in expected.items():
        value = td[key]
        if tuple(value.shape) != shape or value.dtype != dtype:
            raise ConfigError(
                f"environments: {key} is {tuple(value.shape)} {value.dtype}, "
                f"expected {shape} {dtype}"
            )
        if dtype == torch.float32:
            finite = torch.isfinite(value).flatten(1).all(1)
            for name, good in zip(names, finite.tolist(), strict=True):
                if not good:
                    raise ConfigError(f"task {name}: {key} is not finite")
