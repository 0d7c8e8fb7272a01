"""What `--dry_run` asks of learner and replay: their state is all of them, and acting is pure."""

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from runners.config import ConfigError
from runners.devices import device_of
from runners.logs import record_values
from runners.parts import Parts
from runners.seeding import GlobalStreams

Call = tuple[tuple[Any, ...], dict[str, Any]]
TRAINING = ("begin_phase", "infer", "validate", "update", "end_phase")
"""What of a learner changes it, in whatever order a loop calls them."""


@contextmanager
def last_calls(
    target: Any, names: Sequence[str], check: Callable[[str, Any], None] | None = None
) -> Iterator[dict[str, Call]]:
    """Copies of the arguments of the last call of each method, in the order of these calls.

    Args:
        target: whose methods they are.
        names: of the methods; those that `target` does not have are left out.
        check: is given the name and what a call returned, after each.
    """
    calls: dict[str, Call] = {}

    def heard(name: str, method: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            calls.pop(name, None)
            calls[name] = _copied(arguments, options)
            returned = method(*arguments, **options)
            if check is not None:
                check(name, returned)
            return returned

        return call

    known = [name for name in names if hasattr(target, name)]
    for name in known:
        setattr(target, name, heard(name, getattr(target, name)))
    try:
        yield calls
    finally:
        for name in known:
            delattr(target, name)


def check_metrics(learner: Any, task_names: Sequence[str], name: str, metrics: Any) -> None:
    """What a method that trains returns can be logged, and its update was finite.

    Raises:
        ConfigError: saying what is wrong.
    """
    if name not in TRAINING:
        return
    whose = f"{type(learner).__name__}.{name}"
    if not hasattr(metrics, "items"):
        raise ConfigError(f"{whose} must return a dict of metrics, got {metrics!r}")
    try:
        values = record_values(metrics, task_names)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{whose}: {error}") from error
    if values.get("health/nonfinite"):
        raise ConfigError(
            f"{whose}: the first gradients are not finite already; look at the networks and at the "
            "losses, and for a learning rate that is far too high"
        )


def check_acting(learner: Any, calls: dict[str, Call], streams: GlobalStreams) -> None:
    """With `explore=False` the same is done again, and no random number is drawn.

    Raises:
        ConfigError: saying which of the two it is.
    """
    if "act" not in calls:
        return
    name = type(learner).__name__
    before = copy.deepcopy(streams.state_dict())
    action = _act(learner, calls["act"], explore=False)
    if difference(action, _act(learner, calls["act"], explore=False)) is not None:
        raise ConfigError(
            f"{name}.act: the same observations give other actions with explore=False; let it "
            "take the mean or the mode there"
        )
    if difference(before, streams.state_dict()) is not None:
        raise ConfigError(
            f"{name}.act draws random numbers with explore=False, so that an evaluation would "
            "change the training; draw only where explore is True"
        )


def check_second(learner: Any, second: Any, calls: dict[str, Call], streams: GlobalStreams) -> None:
    """A second learner with the state of the first must go on exactly as that does.

    On a GPU, where sums may round in another order, only what was loaded is compared.

    Raises:
        ConfigError: naming what differs.
    """
    name, fix = type(learner).__name__, "give it in get_extra_state, or register it as a buffer"
    if (place := difference(learner.state_dict(), second.state_dict())) is not None:
        raise ConfigError(
            f"{name}: {place} of its state did not come back; correct set_extra_state"
        )
    if (place := _number_that_differs(learner, second)) is not None:
        raise ConfigError(f"{name}: {place} changes in training and is not in its state; {fix}")
    if device_of(learner).type != "cpu":
        return
    before = copy.deepcopy(streams.state_dict())
    one = _trained(learner, calls)
    streams.load_state_dict(before)
    other = _trained(second, calls)
    if (place := difference(one, other)) is not None:
        raise ConfigError(
            f"{name}: {place} differs after the same update in a second learner that was given "
            "its state, which lacks something: optimizers belong into get_extra_state, layers "
            "into a ModuleList, counters into either"
        )


def check_replay(parts: Parts, second: Any, calls: dict[str, Call]) -> None:
    """A second replay with the state of the first must draw the same.

    Raises:
        ConfigError: it does not.
    """
    replay, streams = parts.loop.replay, parts.streams
    if "sample" not in calls:
        return
    arguments, options = calls["sample"]
    before = copy.deepcopy(streams.state_dict())
    try:
        second.load_state_dict(copy.deepcopy(replay.state_dict()))
        one = replay.sample(*arguments, **options)
        streams.load_state_dict(before)
        place = difference(_plain(one), _plain(second.sample(*arguments, **options)))
    except Exception as error:  # an empty one may fail in any way
        place = f"its sample ({type(error).__name__}: {(str(error).splitlines() or [''])[0]})"
    if place is not None:
        raise ConfigError(
            f"{type(replay).__name__}: {place} differs in a second replay that was given its "
            "state; state_dict must hold the rows, how many there are, and the generator"
        )


def difference(one: Any, other: Any, place: str = "") -> str | None:
    """Where two nested states differ, None if nowhere; nan is equal to itself."""
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        one, other = one.cpu(), other.cpu()  # what is not the module's own may lie elsewhere
        same = one.shape == other.shape and one.dtype == other.dtype
        same = same and bool(((one == other) | (one != one) & (other != other)).all())
        return None if same else place
    if isinstance(one, dict) and isinstance(other, dict):
        if one.keys() != other.keys():
            return place or "a key"
        pairs = [(f"{place}.{key}".lstrip("."), one[key], other[key]) for key in one]
    elif isinstance(one, list | tuple) and isinstance(other, list | tuple):
        if len(one) != len(other):
            return place
        pairs = [(f"{place}[{i}]", *pair) for i, pair in enumerate(zip(one, other, strict=True))]
    else:
        return None if one == other or (one != one and other != other) else place
    found = (difference(a, b, inner) for inner, a, b in pairs)
    return next((place for place in found if place is not None), None)


def _number_that_differs(learner: nn.Module, second: nn.Module) -> str | None:
    """A plain number of the learner or one of its parts that is another in the second learner."""
    others = dict(second.named_modules())
    for path, module in learner.named_modules():
        values = vars(others[path]) if path in others else {}
        for name in sorted(vars(module).keys() & values.keys() - {"training"}):  # a mode is none
            value = vars(module)[name]
            if isinstance(value, int | float) and value != values[name]:
                return f"{path}.{name}".lstrip(".")
    return None


def _trained(learner: Any, calls: dict[str, Call]) -> dict[str, Any]:
    """What the last calls come to, made once more: metrics, actions, and the state after them."""
    told = {}
    for name in calls:
        if name in TRAINING:
            arguments, options = _copied(*calls[name])
            told[name] = getattr(learner, name)(*arguments, **options)
    acted = {}
    if "act" in calls:
        acted = {f"act {kind}": _act(learner, calls["act"], kind) for kind in (False, True)}
    state = copy.deepcopy(dict(learner.state_dict()))
    return {**state, **_plain(acted), **_plain(told)}


def _act(learner: Any, call: Call, explore: bool) -> Tensor:
    arguments, _ = _copied(*call)
    with torch.no_grad():
        action: Tensor = learner.act(arguments[0], explore=explore)["action"]
    return action.clone()


def _copied(arguments: tuple[Any, ...], options: dict[str, Any]) -> Call:
    def copied(value: Any) -> Any:
        return value.clone() if hasattr(value, "clone") else value

    return tuple(map(copied, arguments)), {k: copied(value) for k, value in options.items()}


def _plain(tree: Any) -> Any:
    """TensorDicts as dicts."""
    if hasattr(tree, "to_dict"):
        return tree.to_dict()
    return {key: _plain(value) for key, value in tree.items()} if isinstance(tree, dict) else tree
