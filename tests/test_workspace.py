"""The house rules: who may import whom, names, dependencies, the gin folder."""

import ast
import re
import sys
import tomllib
from importlib import metadata
from pathlib import Path
from typing import Any

import gin
import pytest

ROOT = Path(__file__).resolve().parents[1]
LEAVES = ("envs", "networks", "buffers", "algorithms")
PACKAGES = (*LEAVES, "runners")
MODULES = [f for p in PACKAGES for f in sorted((ROOT / p).glob("*.py"))]
TESTS = [f for p in PACKAGES for f in sorted((ROOT / p / "tests").rglob("*.py"))]
IMPORTS = (ast.Import, ast.ImportFrom)
# What says only the shape of a part, and what is no part.
ABSTRACT = (
    "envs.environment",
    "envs.errors",
    "envs.suite",
    "envs.vector",
    "algorithms.base",
    "envs.cores",
)


def _name(file: Path) -> str:
    return str(file.relative_to(ROOT))


def _modules(file: Path) -> set[str]:
    nodes = list(ast.walk(ast.parse(file.read_text())))
    names = {a.name for n in nodes if isinstance(n, ast.Import) for a in n.names}
    return names | {n.module for n in nodes if isinstance(n, ast.ImportFrom) and n.module}


def _imports(file: Path) -> set[str]:
    return {name.split(".")[0] for name in _modules(file)}


def _project(folder: Path) -> dict[str, Any]:
    return tomllib.loads((folder / "pyproject.toml").read_text())["project"]


def _canonical(requirement: str) -> str:
    return re.sub(r"[-_.]+", "-", re.split(r"[\s<>=!~;\[(]", requirement)[0]).lower()


@pytest.mark.parametrize("package", PACKAGES)
def test_package_is_complete(package: str) -> None:
    """A docstring-only `__init__`, the typing marker, its own pyproject, tests, nothing nested."""
    folder = ROOT / package
    for needed in ("py.typed", "pyproject.toml", "tests"):
        assert (folder / needed).exists(), f"{package}/{needed} is missing"
    body = ast.parse((folder / "__init__.py").read_text()).body
    assert len(body) == 1 and isinstance(body[0], ast.Expr)
    assert isinstance(body[0].value, ast.Constant) and isinstance(body[0].value.value, str)
    assert not [f for f in folder.rglob("__init__.py") if f.parent != folder]
    assert not {"utils", "common", "helpers"} & {f.stem for f in folder.glob("*.py")}


@pytest.mark.parametrize("file", MODULES + TESTS, ids=_name)
def test_leaves_are_independent(file: Path) -> None:
    """A leaf, and the tests of a leaf, import no other package of the workspace."""
    own = file.relative_to(ROOT).parts[0]
    if own in LEAVES:
        assert not _imports(file) & (set(PACKAGES) - {own})


@pytest.mark.parametrize("file", [f for f in MODULES if f.parent.name == "runners"], ids=_name)
def test_runners_name_no_concrete_part(file: Path) -> None:
    """Concrete parts reach the runners through gin, whose part files import them."""
    foreign = {name for name in _modules(file) if name.split(".")[0] in LEAVES}
    assert foreign <= set(ABSTRACT)


@pytest.mark.parametrize("file", MODULES, ids=_name)
def test_imports_stand_at_the_top(file: Path) -> None:
    """No import inside a function, and none under TYPE_CHECKING."""
    tree = ast.parse(file.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            inner = [n.lineno for n in ast.walk(node) if isinstance(n, IMPORTS)]
            assert not inner, f"import inside a function at line {inner}"
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            raise AssertionError(f"TYPE_CHECKING at line {node.lineno}")


@pytest.mark.parametrize("file", MODULES, ids=_name)
def test_no_relative_imports(file: Path) -> None:
    """A module names its siblings in full, so that it reads the same wherever it stands."""
    nodes = ast.walk(ast.parse(file.read_text()))
    assert not [n.lineno for n in nodes if isinstance(n, ast.ImportFrom) and n.level]


def test_module_names_shadow_nothing() -> None:
    """With a package's folder on the path no module hides a library."""
    installed = set(metadata.packages_distributions())
    taken = (set(sys.stdlib_module_names) | installed) - set(PACKAGES)
    assert not {f.stem for f in MODULES if f.stem != "__init__"} & taken


def test_gin_is_the_library() -> None:
    """The folder gin/ does not hide the package gin."""
    assert gin.__file__ and not Path(gin.__file__).is_relative_to(ROOT / "gin")
    assert not list((ROOT / "gin").rglob("*.py"))


def test_root_lists_the_dependencies_of_its_members() -> None:
    """`pip install -e .` brings what the five members need, with the same ranges."""
    union = {d for p in PACKAGES for d in _project(ROOT / p)["dependencies"]}
    libraries = {d for d in union if not d.startswith("polytask-")}
    assert set(_project(ROOT)["dependencies"]) == libraries


@pytest.mark.parametrize("package", PACKAGES)
def test_members_declare_what_they_import(package: str) -> None:
    """Each library a member imports is among its own dependencies."""
    project = _project(ROOT / package)
    declared = {_canonical(d) for d in project["dependencies"]}
    for extra in project.get("optional-dependencies", {}).values():
        declared |= {_canonical(d) for d in extra}
    providers = metadata.packages_distributions()
    imported = set().union(*(_imports(f) for f in MODULES if f.parent.name == package))
    for name in sorted(imported - set(sys.stdlib_module_names) - set(PACKAGES)):
        owners = {_canonical(d) for d in providers.get(name, [name])}
        assert owners & declared, f"{package}/pyproject.toml does not list {name}"


@pytest.mark.parametrize("package", PACKAGES)
def test_members_agree_with_the_root(package: str) -> None:
    """One version and one Python range for the workspace."""
    member, root = _project(ROOT / package), _project(ROOT)
    assert member["name"] == f"polytask-{package}"
    for key in ("version", "requires-python"):
        assert member[key] == root[key]


def test_constraints_pin_every_direct_dependency() -> None:
    """`constraints.txt` holds one exact version of all that the root and its tools ask for."""
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = [line for line in lines if line and not line.startswith("#")]
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+==[0-9][0-9a-z.]*", pin) for pin in pins)
    names = {_canonical(pin) for pin in pins}
    root = tomllib.loads((ROOT / "pyproject.toml").read_text())
    asked = [*root["project"]["dependencies"], *root["dependency-groups"]["dev"]]
    assert {_canonical(r) for r in asked} <= names
    assert set(root["tool"]["uv"]["constraint-dependencies"]) <= set(pins)
