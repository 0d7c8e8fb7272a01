"""What decides a score besides the agent, and whether figures may stand side by side.

A run's protocol is what its suite said of itself (run.json); a published figure's is in
`published_results.json`. A fact that either side does not tell is not compared.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from runners.config import ConfigError
from runners.recorded_runs import Method, RecordedRun

FACTS = ("suite", "tasks", "reward_version", "horizon", "goals", "success", "steps", "other")
"""What can differ, and be mixed on demand."""
GOALS = ("goals_per_task", "goals", "goal_seed", "goal_hidden", "seeding", "spans", "change_steps")
OWN = {"suite", "benchmark", "tasks", "test_tasks", "reward_version", "horizon", "success"}
UNKNOWN = "not known"

Facts = dict[str, Any]


def facts_of(run: RecordedRun) -> Facts:
    """The run's protocol by the names in `FACTS`; `UNKNOWN` for all if run.json has none."""
    protocol = run.protocol
    if not protocol:
        return dict.fromkeys(FACTS, UNKNOWN) | {"steps": run.unit}
    goals = {name: protocol[name] for name in GOALS if name in protocol}
    if protocol.get("goal_draw") is not None:
        goals["goal_draw"] = "one for each seed"  # goals differ from seed to seed by intention
    elif protocol.get("fixed_goals") is not None:
        goals["fixed_goals"] = protocol["fixed_goals"]
    rest = set(protocol) - OWN - set(GOALS) - {"goal_draw", "fixed_goals"}
    return {
        "suite": protocol.get("suite"),
        "tasks": [protocol.get(name) for name in ("benchmark", "tasks", "test_tasks")],
        "reward_version": protocol.get("reward_version"),
        "horizon": protocol.get("horizon"),
        "goals": goals,
        "success": protocol.get("success"),
        "steps": run.unit,
        "other": {name: protocol[name] for name in sorted(rest)},
    }


def check(
    methods: Sequence[Method], mixed: Sequence[str] = (), compared: Sequence[str] = FACTS
) -> list[str]:
    """Refuse runs whose protocols differ.

    Args:
        methods: all runs that are to be shown together.
        mixed: names in `FACTS` that may differ.
        compared: the names that matter here.

    Returns:
        What differs by permission, as warnings.

    Raises:
        ConfigError: something else differs; the message names it, and the flag that permits it.
    """
    warnings = []
    known = [(run, facts_of(run)) for method in methods for run in method.runs]
    for name in compared:
        kinds: dict[str, list[str]] = {}
        for run, facts in known:
            text = json.dumps(facts[name], sort_keys=True)
            kinds.setdefault(text, []).append(f"{run.folder.parent.name}/{run.folder.name}")
        if len(kinds) < 2:
            continue
        sides = "; ".join(
            f"{_short(text)} in {runs[0]}" + (f" and {len(runs) - 1} more" if runs[1:] else "")
            for text, runs in kinds.items()
        )
        warnings.append(_differ(f"runs differ in {name}: {sides}", name, mixed))
    if all(facts["suite"] == UNKNOWN for _, facts in known):
        warnings.append("no run has a run.json with its protocol: nothing could be compared")
    return warnings


def check_published(
    entry: Mapping[str, Any], methods: Sequence[Method], mixed: Sequence[str] = ()
) -> list[str]:
    """Refuse a published figure whose protocol is known to be another than the runs'.

    Returns:
        What differs by permission, as warnings.

    Raises:
        ConfigError: as in `check`.
    """
    run = methods[0].runs[0]
    protocol, warnings = run.protocol, []
    if not protocol:
        return [f"{entry['key']}: the runs' own protocol is not known"]
    theirs = {
        "tasks": entry["benchmark"],
        "reward_version": entry.get("reward_version"),
        "horizon": entry.get("horizon"),
        "goals": entry.get("goals"),
    }
    ours = {
        "tasks": protocol.get("benchmark"),
        "reward_version": protocol.get("reward_version"),
        "horizon": protocol.get("horizon"),
        "goals": "fixed" if protocol.get("goals_per_task") == 1 else "random",
    }
    for name, value in theirs.items():
        if value is not None and value != ours[name]:
            text = f"{entry['key']} differs from the runs in {name}: {value}, not {ours[name]}"
            warnings.append(_differ(text, name, mixed))
    return warnings


def describe(methods: Sequence[Method]) -> str:
    """The protocol in a line; what differs between runs is left out."""
    runs = [run for method in methods for run in method.runs]
    protocols = [run.protocol for run in runs]
    shared = {
        key: value
        for key, value in protocols[0].items()
        if all(protocol.get(key) == value for protocol in protocols)
    }
    parts = [str(shared[key]) for key in ("suite", "benchmark") if key in shared]
    if shared.get("reward_version"):
        parts.append(f"{shared['reward_version']} reward")
    if "horizon" in shared:
        parts.append(f"horizon {shared['horizon']}")
    if "goals_per_task" in shared:
        parts.append(f"{shared['goals_per_task']} goals of each task")
    elif isinstance(shared.get("goals"), str):
        parts.append(f"goals {shared['goals']}")
    if shared.get("success"):
        parts.append(f"success: {shared['success']}")
    return ", ".join(parts) or "protocol not known"


def _differ(text: str, name: str, mixed: Sequence[str]) -> str:
    if name not in mixed:
        raise ConfigError(f"{text}; give --mix={name} to show them together all the same")
    return text


def _short(text: str, width: int = 60) -> str:
    return text if len(text) <= width else text[: width - 3] + "..."
