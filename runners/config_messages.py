"""What gin and the constructors it calls say of a wrong configuration, in one line with a fix."""

import difflib
import inspect
import re
from collections.abc import Sequence
from typing import Any

from gin import config as gin_config

from runners.ownership import hidden_package, is_own, undecorated
from runners.status import memory_lack

MISUSE = (TypeError, KeyError, AttributeError, AssertionError)
"""What a part raises that is given something other than it expects; if gin called it."""


def building_error(error: Exception) -> str | None:
    """What is wrong in one line, None if it is not the configuration."""
    text = str(error)
    first = text.splitlines()[0] if text else type(error).__name__
    missing = re.match(r"Required bindings for `(.+)` not provided in config: (.+)", first)
    if missing:
        return (
            f"{missing[1]} needs {missing[2]}, which nothing binds; "
            "include the gin file of that part or bind it"
        )
    calls = re.findall(r"In call to configurable '(\w+)'", text)
    prefix = f"{calls[0]}: " if calls and calls[0] not in first else ""
    if lack := memory_lack(error):
        fix = "REPLAY_CAPACITY (TaskReplay.capacity) or the networks' sizes"
        if calls and calls[0].endswith("Suite"):
            fix = "the sizes that are bound to it"
        return f"{prefix}{lack}; lower {fix}"
    if isinstance(error, RecursionError):
        own = [binding for binding, name in references() if binding.split(".")[0] == name]
        if own or not calls:  # too deep for gin to tell where
            where = " and ".join(own) or "look for references that lead back to themselves"
            return f"a part is built of itself without end: {where}; bind a part that fits there"
    if re.match(r"Can't instantiate abstract class", first):
        return f"{prefix}{first}; write what it lacks"
    if factory := re.match(r"(\w+)\.__init__\(\) missing \d+ required positional", first):
        return (
            f"{first}: where it is bound it is called with fewer; bind a part that fits there, and "
            f"one that is to be called later without parentheses: @{factory[1]}"
        )
    misfit = re.match(r"(\w+)\.__init__\(\) (takes|got an unexpected keyword)", first)
    unlike = isinstance(error, RecursionError | TypeError)  # given what another part would be
    part = misfit[1] if misfit else calls[0] if unlike and calls else None
    if bound := [binding for binding, name in references() if name == part]:
        return f"{prefix}{first}; see {' and '.join(bound)}, and bind a part that fits there"
    by_calls = isinstance(error, (RuntimeError, *MISUSE)) and bool(calls)
    if by_calls and re.search("CUDA|NVIDIA", first):
        return f"{prefix}no CUDA device: {first}; bind DEVICE = 'cpu', or {calls[0]}.device alone"
    if isinstance(error, AttributeError | AssertionError) and by_calls:
        return f"{prefix}{first}; correct what is bound to {calls[0]}"
    if isinstance(error, ValueError) or by_calls:
        return f"{prefix}{first}"
    return None


def references() -> list[tuple[str, str]]:
    """Bindings of parts to parts, each as "Class.parameter = @Part" with the name of the part."""
    found = []
    for (scope, selector), values in gin_config._CONFIG.items():
        for parameter, value in values.items():
            if isinstance(value, gin_config.ConfigurableReference):
                owner, part = (name.split(".")[-1] for name in (selector, value.selector))
                if "macro" not in (owner, part):
                    place = f"{scope}/{owner}" if scope else owner
                    found.append((f"{place}.{parameter} = @{part}", part))
    return found


def explain(message: str, error: Exception) -> str:
    """What an error of gin's parser, or of a module it imports, means."""
    names = sorted({str(name).split(".")[-1] for name, _ in gin_config._REGISTRY.items()})
    first = message.splitlines()[0]
    if found := re.search(r"No configurable matching (?:reference )?'@?([\w./]+)", message):
        name = found[1].split("/")[-1].split(".")[-1]
        if module := undecorated(name):
            return f"'{name}' of {module} is not known to gin; write @gin.configurable above it"
        fix = closest(name, names) or (
            "import its module in the gin file, above the binding, or write @gin.configurable "
            "above it"
        )
        binding = re.search(r"In binding for '(.+?)'", message)
        where = f" (in {binding[1]})" if binding else ""
        return f"nothing is called '{name}'{where}; {fix}"
    if found := re.search(r"Ambiguous selector '(.+?)', matches \[(.+?)\]", message):
        return _ambiguous(found[1], sorted(re.findall(r"'(.+?)'", found[2])), message)
    if found := re.search(r"Configurable '(.+?)' doesn't have a parameter named '(\w+)'", first):
        parameters = gin_config._REGISTRY.get_match(found[1])
        fix = closest(found[2], _parameters(parameters.wrapped)) or "see its constructor"
        return f"'{found[1]}' has no parameter '{found[2]}'; {fix}"
    if found := re.search(r"No bindings specified for '(.+?)/(?:gin\.)?macro'", message):
        macros = [scope for scope, name in gin_config._CONFIG if name == "gin.macro"]
        fix = closest(found[1], macros) or f"bind it: {found[1]} = value"
        return f"macro %{found[1]} has no value; {fix}"
    if isinstance(error, ImportError) and (hidden := hidden_package()):
        return f"import failed: {hidden}"
    if isinstance(error, ImportError):
        return f"import failed: {first}; correct the import or install what it needs"
    return first


def _ambiguous(name: str, matches: Sequence[str], message: str) -> str:
    at = "@" if re.search(rf"@[\w/]*{re.escape(name)}\b", message) else ""
    fix = f"write {' or '.join(at + match for match in matches)}"
    file = re.search(r'In file "(.+?)"', message)
    if file and is_own(file[1]):
        fix = "import your module after the includes, or rename your class"
    return f"'{name}' may be {' or '.join(matches)}; {fix}"


def closest(name: str, names: Sequence[str]) -> str:
    """A question that names the one most like it; empty if none is."""
    close = difflib.get_close_matches(name, names, 1, 0.6)
    if not close:
        lowered = [known for known in names if known.lower() == name.lower()]
        close = lowered[:1]
    return f"did you mean '{close[0]}'?" if close else ""


def _parameters(configurable: Any) -> list[str]:
    """Names of the constructor's parameters, those handed on by `**kwargs` included."""
    owners = configurable.__mro__[:-1] if isinstance(configurable, type) else (configurable,)
    constructors = [vars(o).get("__init__") if isinstance(o, type) else o for o in owners]
    signatures = [inspect.signature(inspect.unwrap(c)) for c in constructors if callable(c)]
    return [name for signature in signatures for name in signature.parameters if name != "self"]
