"""The card of an exported policy: where it comes from, how well it does, how to build it again."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from runners.compatibility import versions
from runners.files import read_object
from runners.isolation import learner_config


def facts(config: str, suite: Any, run: Path | str, step: int) -> dict[str, Any]:
    """What a card says besides the weights, in JSON values.

    Args:
        config: the gin text of the run.
        suite: the run's tasks.
        run: the run's folder; its `run.json` and `eval/<step>.json` are asked.
        step: steps of the run the policy has been trained for.
    """
    run = Path(run)
    found = learner_config(config)
    about = read_object(run / "run.json") or {}
    result = read_object(run / "eval" / f"{step}.json")
    return {
        "experiment": about.get("experiment"),
        "seed": about.get("seed"),
        "suite": suite.name,
        "protocol": suite.protocol(),
        "success": None if result is None else success(result),
        "sizes": asdict(suite.spec),
        "learner": None if found is None else {"name": found[0], "config": _lines(found[1])},
        "config": _lines(config),
        "versions": versions(),
    }


def success(result: dict[str, Any]) -> dict[str, Any]:
    """An evaluation's result without single episodes: rates, and how they were measured."""
    kept = ("step", "success", "policy", "seed", "episodes_per_task", "episodes_per_step")
    rates = ("adaptations", "return", "success_rate")
    short = {key: result[key] for key in (*kept, *rates) if key in result}
    if "tasks" in result:
        short["tasks"] = {name: task["success_rate"] for name, task in result["tasks"].items()}
    for group in ("splits", "runs"):  # of a meta-learner's evaluation
        if group in result:
            short[group] = {name: _without_tasks(there) for name, there in result[group].items()}
    return short


def _without_tasks(part: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in part.items() if key not in ("tasks", "reaction")}


def _lines(text: str) -> list[str]:
    """A gin text without empty lines and comments."""
    return [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
