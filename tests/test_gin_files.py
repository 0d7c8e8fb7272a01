"""Every experiment under gin/ trains for a few steps, at reduced size, with nothing unread."""

from pathlib import Path

import pytest

from runners import train

ROOT = Path(__file__).resolve().parents[1]
PARTS = ("algorithms", "buffers", "envs", "networks", "runners", "settings")
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
