"""What goes wrong in modules and gin files of the user's own: one line that names their place."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from runners import train

ROOT = Path(__file__).resolve().parents[1]
BASE = "include 'gin/quick/mtsac_point_mass.gin'\n"
TWIN = "import gin\n\n\n@gin.configurable\nclass Twin:\n    def __init__(self, *, width=1): ...\n"

BAD = {
    "two of one name, referred to": (
        {"one_net": TWIN, "other_net": TWIN},
        "import one_net\nimport other_net\nActor.trunk = @Twin\n",
        [
            "mine.gin line 4: `Actor.trunk = @Twin`",
            "'Twin' may be one_net.Twin or other_net.Twin; write @one_net.Twin or @other_net.Twin",
        ],
    ),
    "two of one name, bound": (
        {name: TWIN.replace("Twin", "Pair") for name in ("a_net", "b_net")},
        "import a_net\nimport b_net\nPair.width = 3\n",
        ["mine.gin line 4: `Pair.width = 3`", "write a_net.Pair or b_net.Pair"],
    ),
    "a module that Python cannot read": (
        {"broken_net": "import gin\n\nclass MoE(object)\n    pass\n"},
        "import broken_net\n",
        ["broken_net.py line 3: expected ':' in `class MoE(object)`; correct this module"],
    ),
    "a module that raises": (
        {"raising_net": "import gin\n\n{}['width']\n"},
        "import raising_net\n",
        ["mine.gin line 2: `import raising_net`", "KeyError at", "raising_net.py:3"],
    ),
    "a class that gin does not know": (
        {"plain_net": "class PlainNet: ...\n"},
        "import plain_net\nActor.trunk = @PlainNet\n",
        ["'PlainNet' of plain_net is not known to gin; write @gin.configurable above it"],
    ),
    "a learner that lacks something": (
        {
            "half_learner": "import gin\n\nfrom algorithms.base import Algorithm\n\n\n"
            "@gin.configurable\nclass Half(Algorithm):\n    def __init__(self, sizes):\n"
            "        super().__init__()\n\n    def act(self, td, explore):\n        return td\n"
        },
        "import half_learner\ntrain.algorithm = @Half\n",
        ["abstract class Half", "update", "write what it lacks"],
    ),
    "a learner that is no module": (
        {
            "plain_learner": "import gin\n\n\n@gin.configurable\nclass Plain:\n"
            "    def __init__(self, sizes): ...\n"
        },
        "import plain_learner\ntrain.algorithm = @Plain\n",
        ["train.algorithm makes a Plain, no torch.nn.Module"],
    ),
    "a class that is nowhere": (
        {},
        "Actor.trunk = @Zyxwv\n",
        ["nothing is called 'Zyxwv'; import its module in the gin file, above the binding, or"],
    ),
}


@pytest.fixture
def mine(tmp_path, monkeypatch):
    """Writes modules and a gin file into the current folder; gives the flags that train it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    written = []

    def write(modules, text):
        for name, code in modules.items():
            (tmp_path / f"{name}.py").write_text(code)
            written.append(name)
        (tmp_path / "mine.gin").write_text(BASE + text)
        return ["train", "--gin_file=mine.gin", f"--workdir={tmp_path / 'runs'}"]

    yield write
    for name in written:
        sys.modules.pop(name, None)


def one_line(capsys):
    lines = [line for line in capsys.readouterr().err.splitlines() if line.strip()]
    assert len(lines) == 1 and lines[0].startswith("error: "), lines
    return lines[0]


@pytest.mark.parametrize("case", BAD)
def test_one_line_that_names_the_place(case, mine, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "blocked_import", None)  # no module stands there
    modules, text, words = BAD[case]
    assert train.main(mine(modules, text)) == 2
    line = one_line(capsys)
    for word in words:
        assert word in line


LEARNER = """import gin

from algorithms.sac import SAC


@gin.configurable
class {name}(SAC):
    def __init__(self, sizes, **sac):
        {first}
        super().__init__(sizes, **sac)

    def update(self, batch):
        {second}
        return super().update(batch)
"""
SAC_NETWORKS = "{name}.actor = @Actor\n{name}.critic = @Critic\ntrain.algorithm = @{name}\n"
SUITE = """import gin

from envs.point_mass import PointMassSuite


@gin.configurable
class FaultySuite(PointMassSuite):
    def build(self, tasks):
        build = super().build(tasks)

        def faulty(task):
            environment = build(task)
            environment.step = lambda action: int("my own bug")
            return environment

        return faulty
"""


def test_a_constructor_that_raises(mine, capsys):
    code = LEARNER.format(name="Raising", first="{}['hidden']", second="pass")
    text = "import raising\n" + SAC_NETWORKS.format(name="Raising")
    assert train.main(mine({"raising": code}, text)) == 2
    line = one_line(capsys)
    assert "Raising: 'hidden' (KeyError at " in line and line.endswith("raising.py:9)")


def test_a_value_that_polytask_refuses_is_not_blamed_on_who_derives(mine, capsys):
    code = LEARNER.format(name="Derived", first="pass", second="pass")
    text = "import derived\nDerived.discount = 2.0\n" + SAC_NETWORKS.format(name="Derived")
    assert train.main(mine({"derived": code}, text)) == 2
    assert one_line(capsys).endswith("must lie in [0, 1), got 2.0")


def test_an_environment_that_raises(mine, capsys):
    text = "import faulty\ntrain.suite = @FaultySuite()\n"
    assert train.main([*mine({"faulty": SUITE}, text), "--dry_run"]) == 2
    line = one_line(capsys)
    assert "my own bug" in line and "ValueError at " in line and "faulty.py:" in line


def test_an_update_that_raises_leaves_its_traceback(mine, tmp_path):
    code = LEARNER.format(name="Failing", first="pass", second="{}['hidden']")
    text = "import failing\n" + SAC_NETWORKS.format(name="Failing")
    with pytest.raises(KeyError):
        train.main([*mine({"failing": code}, text), "--gin=WARMUP_STEPS = 20"])
    run = tmp_path / "runs/mine/seed_0"
    status = json.loads((run / "status.json").read_text())
    assert status["state"] == "FAILED"
    assert status["reason"] == "KeyError: 'hidden'"
    log = (run / "log.txt").read_text()
    assert "Traceback" in log and "KeyError: 'hidden'" in log


def test_a_syntax_error_of_an_included_file_is_its_own(mine, capsys, tmp_path):
    (tmp_path / "part.gin").write_text("\nSAC.discount 0.9\n")
    assert train.main(mine({}, "include 'part.gin'\n")) == 2
    assert "part.gin line 2" in one_line(capsys)


def test_an_include_beside_its_file_is_pointed_to(tmp_path, capsys, monkeypatch):
    folder = tmp_path / "deep"
    folder.mkdir()
    (folder / "pendulum.gin").write_text("SEED = 0\n")
    (folder / "mine.gin").write_text("include 'pendulum.gin'\n")
    monkeypatch.chdir(tmp_path)
    assert train.main(["train", "--gin_file=deep/mine.gin"]) == 2
    line = one_line(capsys)
    assert "deep/mine.gin line 1" in line and f"add --gin_search_path={folder}" in line


def real(tmp_path, *arguments):
    """A process that begins in the folder, whose own packages then come first."""
    return subprocess.run(
        [sys.executable, "-m", *arguments],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
    )


def test_a_folder_that_hides_a_package(tmp_path):
    (tmp_path / "networks").mkdir()
    (tmp_path / "networks/__init__.py").write_text("")
    done = real(tmp_path, "runners.train", "--gin_file=gin/quick/mtsac_point_mass.gin")
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1, done.stderr
    assert f"{tmp_path / 'networks'} hides Polytask's package 'networks'; rename it" in done.stderr


def test_a_class_with_the_name_of_one_of_polytasks(tmp_path):
    """Polytask's file means its own; what is saved of it says which, and can be read again."""
    code = (
        "import gin\nimport networks.mlp\n\n\n@gin.configurable\nclass MLP(networks.mlp.MLP): ...\n"
    )
    (tmp_path / "my_net.py").write_text(code)
    flags = ["--gin=TOTAL_STEPS = 80", "--gin=train.evaluator = None"]
    before = "import my_net\n" + BASE
    (tmp_path / "mine.gin").write_text(before)
    done = real(tmp_path, "runners.train", "--gin_file=mine.gin", *flags)
    assert done.returncode == 2, done.stderr
    assert "import your module after the includes, or rename your class" in done.stderr
    (tmp_path / "mine.gin").write_text(BASE + "import my_net\nActor.trunk = @my_net.MLP\n")
    done = real(tmp_path, "runners.train", "--gin_file=mine.gin", *flags)
    assert done.returncode == 0, done.stderr
    run = "runs/mine/seed_0"
    done = real(tmp_path, "runners.train", f"--gin_file={run}/config.gin", "--workdir=again")
    assert done.returncode == 0, done.stderr
    text = (tmp_path / run / "config.gin").read_text()
    assert "Actor.trunk = @my_net.MLP" in text and "Critic.trunk = @mlp.MLP" in text
