import json
import os
import subprocess
import sys
from pathlib import Path

import gin
import numpy as np
import pytest
import torch

DATA = Path(__file__).parent / "data"
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory):
    """Goals are drawn once per test session, never read from the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(autouse=True)
def no_bindings():
    """What a test binds is its own, in the member's wheel as well as in the workspace."""
    gin.clear_config()
    yield
    gin.clear_config()


@pytest.fixture(scope="session")
def goals():
    """The first ten goals of each task of MT50(seed=42); a slow test draws them anew."""
    plain = json.loads((DATA / "goals_mt50_seed42.json").read_text())
    return {"train": {name: [np.array(v) for v in values] for name, values in plain.items()}}


@pytest.fixture
def rollout():
    """Step a vector with seeded uniform actions; a stacked TensorDict `[steps, n]`."""

    def run(vector, steps, seed=0, start=None):
        generator, rules = torch.Generator().manual_seed(seed), vector.rules
        td, out = start if start is not None else vector.reset(), []
        for _ in range(steps):
            if rules.discrete:
                size = (vector.num_envs,)
                td["action"] = torch.randint(rules.action_dim, size, generator=generator)
            else:
                size = (vector.num_envs, rules.action_dim)
                td["action"] = torch.rand(size, generator=generator) * 2 - 1
            out.append(vector.step(td))
            td = vector.current()
        return torch.stack(out)

    return run


@pytest.fixture
def recorded():
    """Random steps of one task of a suite of robots: what was before and after each of them."""

    def run(suite, name, steps=100, goal=0, seed=0, split="train"):
        task = {task.name: task for task in suite.tasks(split)}[name]
        environment = suite.build([task])(task)
        data, rng, rows = environment._body.data, np.random.default_rng(seed), []
        environment.reset(options={"goal": goal, "rng": rng})
        for _ in range(steps):
            action = rng.uniform(-1, 1, suite.spec.action_dim).astype(np.float32)
            before = data.qpos.copy(), data.body("torso").xpos.copy(), data.xipos.copy()
            observation, reward, terminated, _, info = environment.step(action)
            row = {"qpos": before[0], "torso": before[1], "inertial": before[2]}
            row |= {
                "after": data.qpos.copy(),
                "qvel": data.qvel.copy(),
                "control": data.ctrl.copy(),
            }
            row |= {"torso_after": data.body("torso").xpos.copy(), "force": data.cfrc_ext.copy()}
            row |= {"inertial_after": data.xipos.copy(), "reward": reward, "seen": observation}
            rows.append({**row, "ended": terminated, "goal": info["specification"]})
            if terminated:
                environment.reset(options={"goal": goal, "rng": rng})
        return rows

    return run


@pytest.fixture
def same():
    """Assert that two TensorDicts are equal, key by key, bit for bit."""

    def check(a, b):
        keys = set(a.keys(True, True))
        assert keys == set(b.keys(True, True))
        for key in keys:
            assert torch.equal(a[key], b[key]), key

    return check


@pytest.fixture(scope="module")
def gl():
    """A back end that works here, in MUJOCO_GL."""
    before = dict(os.environ)
    os.environ.pop("PYOPENGL_PLATFORM", None)
    said = []
    for backend in ("egl", "osmesa"):
        os.environ["MUJOCO_GL"] = backend
        command = [sys.executable, "-m", "envs.camera"]
        done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
        if done.returncode == 0:
            told = json.loads(done.stdout)
            assert told["seconds"] > 0 and told["drawn_by"]
            yield backend
            break
        said.append(f"{backend}: {(done.stderr.splitlines() or ['nothing'])[-1]}")
    os.environ.clear()
    os.environ.update(before)
    if len(said) == 2:
        pytest.skip(f"no back end for pictures works here: {said}")
