"""Each test starts without gin bindings, in the member's wheel as well as in the workspace."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gin
import pytest


@pytest.fixture(autouse=True)
def no_bindings() -> Iterator[None]:
    """Clear the configuration before and after each test."""
    gin.clear_config()
    yield
    gin.clear_config()


@pytest.fixture
def write_run(tmp_path: Path) -> Callable[..., Path]:
    """Writes what is left of a run: records of evaluations, and the protocol."""

    def write(
        name: str, seed: int, evaluations: dict[int, dict[str, Any]], **protocol: Any
    ) -> Path:
        folder = tmp_path / name / f"seed_{seed}"
        folder.mkdir(parents=True)
        lines = [{"step": step, "wall_time": step, **tags} for step, tags in evaluations.items()]
        (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        facts = {"suite": "Meta-World v3", "benchmark": "MT10", "tasks": ["a", "b"]}
        facts |= {"reward_version": "v2", "horizon": 500, "goals_per_task": 50}
        run = {"experiment": name, "seed": seed, "protocol": facts | protocol}
        (folder / "run.json").write_text(json.dumps(run))
        return folder

    return write
