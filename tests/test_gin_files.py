"""Every experiment under gin/ trains for a few steps, at reduced size, with nothing unread."""

from pathlib import Path

import pytest

from runners import train

ROOT = Path(__file__).resolve().parents[1]
PARTS = ("algorithms", "envs", "methods", "networks", "runners", "settings")
FILES = [
    file.relative_to(ROOT)
    for file in sorted((ROOT / "gin").rglob("*.gin"))
    if not set(file.relative_to(ROOT).parts[1:-1]) & set(PARTS)
]
NUM_TASKS = {"mt10": 10, "mt25": 25, "mt50": 50, "mt1": 1}


def reduced(file):
    """Bindings that make any experiment small; each names a macro or a part it has."""
    text = _whole(file)
    tasks = next((n for name, n in NUM_TASKS.items() if f"envs/{name}.gin" in text), 2)
    if "envs/tasks.gin" in text:
        tasks = 10
    if "settings/eight_turns.gin" in text:
        tasks = 8
    values = {
        "TOTAL_STEPS": 16 * tasks,
        "WARMUP_STEPS": 4,
        "LOG_INTERVAL": 4 * tasks,
        "EVALUATION_INTERVAL": 10**9,
        "BATCH_SIZE": 4 * 2 * tasks,
        "REPLAY_CAPACITY": 100 * tasks,
        "STEPS_PER_ITERATION": 4 if "STEPS_PER_ITERATION" in text else None,
        "UPDATE_INTERVAL": 2 if "UPDATE_INTERVAL" in text else None,
        "HORIZON": 10 if "HORIZON" in text else None,
        "HIDDEN": "(16, 16)" if "HIDDEN" in text else None,
        "Evaluator.num_goals": 1,
        "Logger.tensorboard": False,
        "MaskGenerator.hidden": 8 if "@MaskGenerator" in text else None,
        "MaskGenerator.rank": 2 if "@MaskGenerator" in text else None,
        "MetaWorldSuite.workers": 0 if "@MetaWorldSuite" in text else None,
    }
    return [f"--gin={name} = {value}" for name, value in values.items() if value is not None]


def _whole(file):
    lines = (ROOT / file).read_text().splitlines()
    included = [line.split("'")[1] for line in lines if line.startswith("include")]
    return "\n".join([*lines, *included, *map(_whole, included)])


@pytest.mark.parametrize("file", FILES, ids=str)
def test_every_experiment_trains(file, tmp_path, monkeypatch, caplog):
    monkeypatch.chdir(tmp_path)
    flags = ["train", f"--gin_file={file}", f"--workdir={tmp_path}", *reduced(file)]
    assert train.main(flags) == 0
    assert "nothing reads it" not in caplog.text
    folder = tmp_path / file.stem / "seed_0"
    assert '"updates"' in (folder / "metrics.jsonl").read_text()


def test_one_include_turns_must_into_the_multi_head_learner(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = (ROOT / "gin/must_mt10.gin").read_text()
    old, new = "include 'gin/methods/must.gin'", "include 'gin/methods/mtmhsac.gin'"
    assert text.count(old) == 1
    file = tmp_path / "swapped.gin"
    file.write_text(text.replace(old, new))
    assert train.main(["train", f"--gin_file={file}", f"--workdir={tmp_path}", *reduced(file)]) == 0
    operative = (tmp_path / "swapped/seed_0/operative.gin").read_text()
    assert "MultiHeadMLP" in operative and "Masked" not in operative


@pytest.mark.parametrize("learner", ["sac", "masked_sac", "must_reference"])
@pytest.mark.parametrize("network", ["mlp", "multi_head", "masked"])
def test_every_trunk_under_every_learner(network, learner, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "pair.gin"
    parts = ("envs/point_mass", f"networks/{network}", f"algorithms/{learner}")
    includes = [f"include 'gin/{part}.gin'\n" for part in (*parts, "runners/off_policy")]
    file.write_text("".join(includes))
    code = train.main(["train", f"--gin_file={file}", f"--workdir={tmp_path}", *reduced(file)])
    if learner == "sac" or network == "masked":
        assert code == 0
    else:
        assert code == 2
        assert "gin/networks/masked.gin" in capsys.readouterr().err
