"""Comparing values bound in gin with the annotations of the parameters they are bound to.

gin checks that a name exists but not what it is given: a string for a learning rate passes and
fails hours later, or never. Only literals are judged; what a reference returns is not known here.
"""

import collections.abc
import inspect
import types
import typing
from pathlib import Path
from typing import Any

import gin
from gin import config as gin_config

_UNKNOWN, _CIRCLE = object(), object()


def type_errors() -> list[str]:
    """One line for each bound literal that does not fit its parameter's annotation."""
    errors = []
    for (scope, selector), values in gin_config._CONFIG.items():
        if selector == "gin.macro":
            if _resolve(values.get("value")) is _CIRCLE:
                errors.append(f"macro %{scope} stands for itself; bind it to a value")
            continue
        for parameter, value in values.items():
            hint = annotation(gin_config._REGISTRY[selector].wrapped, parameter)
            resolved = _resolve(value)
            if hint is _UNKNOWN or fits(resolved, hint):
                continue
            name = f"{scope}/" * bool(scope) + gin_config._REGISTRY.minimal_selector(selector)
            fix = "bind a value of that type"
            if isinstance(resolved, gin_config.ConfigurableReference):
                fix = f"{fix}, or write {_other_form(resolved)}"
            given = repr(value) if resolved is value else f"{value!r} ({resolved!r})"
            errors.append(
                f"{name}.{parameter} = {given}: got {_kind(resolved)}, "
                f"expected {_readable(hint)}; {fix}"
            )
    return errors


def annotation(configurable: Any, parameter: str) -> Any:
    """The type hint of a parameter, also one that a subclass hands on by `**kwargs`."""
    owners = configurable.__mro__ if inspect.isclass(configurable) else (configurable,)
    for owner in owners:
        function = owner.__dict__.get("__init__") if inspect.isclass(owner) else owner
        function = inspect.unwrap(function) if callable(function) else None
        if not inspect.isfunction(function):
            continue
        if parameter in inspect.signature(function).parameters:
            try:
                return typing.get_type_hints(function).get(parameter, _UNKNOWN)
            except (NameError, TypeError):
                return _UNKNOWN
    return _UNKNOWN


def fits(value: Any, hint: Any) -> bool:
    """Whether a gin value may stand for a parameter annotated `hint`; True when in doubt."""
    if (
        hint is Any
        or hint is _UNKNOWN
        or any(value is x for x in (_UNKNOWN, _CIRCLE, gin.REQUIRED))
    ):
        return True
    if isinstance(hint, typing.TypeVar):
        return True
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Annotated:
        return fits(value, arguments[0])
    if origin in (typing.Union, types.UnionType):
        return any(fits(value, argument) for argument in arguments)
    if origin is typing.Literal:
        return value in arguments
    kind = origin or hint
    if isinstance(value, gin_config.ConfigurableReference):
        return _fits_once_made(value, kind) if value.evaluate else _takes_a_factory(kind)
    if kind in (None, type(None)) or value is None:
        return value is None and kind in (None, type(None), object)
    return _literal_fits(value, kind, arguments)


def _fits_once_made(reference: Any, kind: Any) -> bool:
    """Whether what the reference makes may be called, if the parameter is called."""
    made = reference.configurable.wrapped
    return kind is not collections.abc.Callable or not inspect.isclass(made) or _has_call(made)


def _takes_a_factory(kind: Any) -> bool:
    """Whether a class or function, not yet called, may stand for a parameter of this type."""
    if not inspect.isclass(kind) or kind in (object, type, collections.abc.Callable):
        return True
    return _has_call(kind)


def _has_call(kind: type) -> bool:
    return any("__call__" in vars(owner) for owner in kind.__mro__)


def _literal_fits(value: Any, kind: Any, arguments: tuple[Any, ...]) -> bool:
    if kind is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if kind is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if kind in (Path, str):
        return isinstance(value, str)
    if kind is collections.abc.Callable:
        return callable(value)
    if not inspect.isclass(kind):
        return True
    if isinstance(value, list | tuple):
        if not (issubclass(kind, list | tuple) or kind.__module__ == "collections.abc"):
            return kind is object
        return _items_fit(value, kind, arguments)
    if isinstance(value, str) and kind.__module__ == "collections.abc":
        return False
    if getattr(kind, "_is_protocol", False):
        return not isinstance(value, int | float | str | dict)
    return isinstance(value, kind)


def _items_fit(value: Any, kind: Any, arguments: tuple[Any, ...]) -> bool:
    if issubclass(kind, tuple) and arguments and arguments[-1] is not Ellipsis:
        if len(value) != len(arguments):
            return False
        return all(fits(_resolve(v), hint) for v, hint in zip(value, arguments, strict=True))
    return not arguments or all(fits(_resolve(item), arguments[0]) for item in value)


def _resolve(value: Any) -> Any:
    """What a macro stands for; other values as they are."""
    seen = 0
    while isinstance(value, gin_config.ConfigurableReference) and repr(value).startswith("%"):
        bound = gin_config._CONFIG.get((repr(value)[1:], "gin.macro"), {})
        value = bound.get("value", _UNKNOWN)
        seen += 1
        if seen > 100:
            return _CIRCLE
    return value


def _other_form(reference: Any) -> str:
    """With parentheses where there are none, and without where there are some."""
    text = repr(reference)
    return text.removesuffix("()") if reference.evaluate else f"{text}() if it makes one"


def _kind(value: Any) -> str:
    if isinstance(value, gin_config.ConfigurableReference):
        return "a reference"
    return type(value).__name__


def _readable(hint: Any) -> str:
    if inspect.isclass(hint) and not typing.get_args(hint):
        return hint.__name__
    return str(hint).replace("typing.", "").replace("collections.abc.", "")
