import os
import subprocess

import pytest

from runners import rendering
from runners.rendering import Attempt, RenderingError, attempt, choose


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    monkeypatch.setenv("MUJOCO_GL", "")
    monkeypatch.delenv("PYOPENGL_PLATFORM", raising=False)
    monkeypatch.setattr(rendering, "BACKENDS", ("egl", "osmesa"))


def tries(monkeypatch, working):
    asked = []

    def fake(backend, timeout=0.0):
        asked.append(backend)
        return Attempt(backend, "" if backend in working else f"no {backend} here", 0.1, "pencil")

    monkeypatch.setattr(rendering, "attempt", fake)
    return asked


@pytest.mark.parametrize(
    "given, working, asked",
    [
        ("", {"egl", "osmesa"}, ["egl"]),
        ("", {"osmesa"}, ["egl", "osmesa"]),
        ("osmesa", {"egl", "osmesa"}, ["osmesa"]),
        ("glfw", {"egl"}, ["glfw", "egl"]),
        ("EGL", {"osmesa"}, ["egl", "osmesa"]),
    ],
)
def test_what_is_set_comes_first_then_egl_then_osmesa(monkeypatch, given, working, asked):
    monkeypatch.setenv("MUJOCO_GL", given)
    monkeypatch.setenv("PYOPENGL_PLATFORM", "something")
    found = tries(monkeypatch, working)
    assert choose().backend == asked[-1] == os.environ["MUJOCO_GL"]
    assert found == asked and "PYOPENGL_PLATFORM" not in os.environ


def test_none_works_is_one_line_with_packages(monkeypatch):
    tries(monkeypatch, set())
    with pytest.raises(RenderingError) as told:
        choose()
    text = str(told.value)
    for word in ("no egl here", "no osmesa here", "libegl1 libegl-mesa0", "libosmesa6"):
        assert word in text
    assert "\n" not in text and os.environ["MUJOCO_GL"] == ""


def test_a_back_end_that_crashes_or_hangs_is_a_problem_not_an_error(monkeypatch):
    tried = attempt("crayons")
    assert "crayons" in tried.problem

    def hangs(*args, **options):
        raise subprocess.TimeoutExpired("x", 3)

    monkeypatch.setattr(subprocess, "run", hangs)
    assert "within 3 s" in attempt("egl", timeout=3).problem
    for output, said in (("", "ended with -11"), ("hello", "ended with -11"), ("[]", "-11")):
        done = subprocess.CompletedProcess("x", -11, output, "")
        monkeypatch.setattr(subprocess, "run", lambda *a, _done=done, **o: _done)
        assert said in attempt("egl").problem
