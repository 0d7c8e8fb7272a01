"""A gin configuration of its own, beside the one of the process, and what of it a learner needs."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import gin
from gin import config as gin_config

OTHERS = ("envs", "buffers", "runners")
"""Packages whose parts no learner is built from."""


@contextmanager
def own_configuration() -> Iterator[None]:
    """Within the block gin has an empty, unlocked configuration; after it all is as before.

    Only what modules register while they are imported stays, as after any import. Not for two
    threads at once: gin has one configuration per process.
    """
    module = vars(gin_config)
    fresh = {
        "_CONFIG": {},
        "_OPERATIVE_CONFIG": {},
        "_IMPORTS": set(),
        "_SINGLETONS": {},
        "_SCOPE_MANAGER": type(module["_SCOPE_MANAGER"])(),
        "_CONFIG_IS_LOCKED": False,
    }
    kept = {name: module[name] for name in fresh}
    module.update(fresh)
    try:
        yield
    finally:
        module.update(kept)


def learner_config(text: str) -> tuple[str, str] | None:
    """What of a run's configuration builds its learner.

    Args:
        text: the gin text of the run.

    Returns:
        The learner's name for `gin.get_configurable`, and a gin text without the bindings and
        imports of suite, replay, loop and services; None where `train.algorithm` is not bound.
    """
    with own_configuration():
        gin.parse_config(text)
        bound = gin_config._CONFIG
        root: Any = bound.get(("", _selector("train")), {}).get("algorithm")
        if root is None:
            return None
        modules = {selector: _module(selector) for _, selector in bound}
        services = {
            reference.configurable.selector
            for (_, selector), values in bound.items()
            if _foreign(modules[selector])
            for value in values.values()
            if value is not root
            for reference in _references(value)
        }
        kept = {
            key: values
            for key, values in bound.items()
            if key[1] != "gin.macro" and not _foreign(modules[key[1]])
        }
        needed = {r.configurable.selector for r in (root, *_references(kept))}
        unwanted = services - needed  # a suite of the user's own, say
        kept = {key: values for key, values in kept.items() if key[1] not in unwanted}
        _add_macros(kept, bound)
        away = {_module(selector) for selector in unwanted}
        imports = {
            line
            for line in gin_config._IMPORTS
            if not _foreign(line.module) and line.module not in away
        }
        vars(gin_config)["_CONFIG"], vars(gin_config)["_IMPORTS"] = kept, imports
        return str(root.scoped_selector), gin.config_str()


def _add_macros(kept: dict[tuple[str, str], Any], bound: dict[tuple[str, str], Any]) -> None:
    """Add the macros that the kept bindings, or macros among them, refer to."""
    while True:
        names = {("/".join(r.scopes), r.configurable.selector) for r in _references(kept)}
        new = {key: bound[key] for key in names if key[1] == "gin.macro" and key in bound}
        if new.keys() <= kept.keys():
            return
        kept |= new


def _references(value: Any) -> list[Any]:
    return list(vars(gin_config)["iterate_references"](value))


def _selector(name: str) -> str:
    found: str = gin_config._REGISTRY.get_match(name).selector
    return found


def _module(selector: str) -> str:
    """Where the configurable was registered."""
    found: str = gin_config._REGISTRY[selector].wrapped.__module__
    return found


def _foreign(module: str) -> bool:
    return module.split(".")[0] in OTHERS
