import json

import pytest

from runners.config import ConfigError
from runners.protocols import check, check_published, describe
from runners.recorded_runs import read_methods

ONE = {1: {"eval/success_rate": 0.5}}
DIFFERENT = {
    "suite": {"suite": "point mass"},
    "tasks": {"tasks": ["a", "c"]},
    "reward_version": {"reward_version": "v1"},
    "horizon": {"horizon": 200},
    "goals": {"goals_per_task": 1, "fixed_goals": [3]},
    "success": {"success": "at the last step"},
    "other": {"physics": {"gravity": 1.0}},
}


def methods(*folders):
    return read_methods([*folders])[0]


@pytest.mark.parametrize("fact", DIFFERENT)
def test_what_differs_is_refused_and_mixed_on_demand(write_run, fact):
    both = methods(write_run("x", 0, ONE), write_run("y", 0, ONE, **DIFFERENT[fact]))
    with pytest.raises(ConfigError, match=f"runs differ in {fact}.*--mix={fact}") as error:
        check(both)
    assert "x/seed_0" in str(error.value) and "\n" not in error.value.line()
    assert len(check(both, [fact])) == 1
    others = [name for name in DIFFERENT if name != fact]
    with pytest.raises(ConfigError):
        check(both, others)
    assert check(both, compared=others) == []


def test_seeds_of_one_method_are_compared_too(write_run, tmp_path):
    write_run("x", 0, ONE)
    write_run("x", 1, ONE, horizon=200)
    with pytest.raises(ConfigError, match="--mix=horizon"):
        check(methods(tmp_path / "x"))


def test_goals_drawn_for_each_seed_are_one_protocol(write_run, tmp_path):
    for seed in (0, 1):
        write_run("x", seed, ONE, goal_draw=seed, fixed_goals=[seed], goals_per_task=1)
    assert check(methods(tmp_path / "x")) == []
    write_run("y", 0, ONE, goals_per_task=1, fixed_goals=[0])
    with pytest.raises(ConfigError, match="--mix=goals"):
        check(methods(tmp_path / "x", tmp_path / "y"))


def test_facts_that_older_runs_did_not_write_do_not_differ(write_run):
    both = methods(write_run("x", 0, ONE), write_run("y", 0, ONE, goal_draw=None, fixed_goals=None))
    assert check(both) == []


def test_iterations_and_steps_do_not_share_an_axis(write_run):
    other = {1: {"env_steps": 100, "eval/success_rate": 0.5}}
    with pytest.raises(ConfigError, match="--mix=steps"):
        check(methods(write_run("x", 0, ONE), write_run("y", 0, other)))


def test_unknown_protocols(write_run):
    known, unknown = write_run("x", 0, ONE), write_run("y", 0, ONE)
    (unknown / "run.json").unlink()
    assert "could be compared" in check(methods(unknown))[0]
    with pytest.raises(ConfigError, match="--mix=suite"):
        check(methods(known, unknown))


def test_published_figures_are_held_to_the_same(write_run):
    ours = methods(write_run("x", 0, ONE))
    entry = {"key": "MT10/x/y", "benchmark": "MT10", "horizon": 500, "goals": "random"}
    assert check_published(entry, ours) == []
    assert check_published(entry | {"horizon": None}, ours) == []
    for fact, value in (("horizon", 150), ("reward_version", "v1"), ("goals", "fixed")):
        with pytest.raises(ConfigError, match=f"MT10/x/y differs.*--mix={fact}"):
            check_published(entry | {fact: value}, ours)
        assert len(check_published(entry | {fact: value}, ours, [fact])) == 1
    with pytest.raises(ConfigError, match="--mix=tasks"):
        check_published(entry | {"benchmark": "MT50"}, ours)


def test_description_names_the_protocol(write_run):
    ours = methods(write_run("x", 0, ONE), write_run("y", 0, ONE, horizon=200))
    assert describe(ours) == "Meta-World v3, MT10, v2 reward, 50 goals of each task"
    assert "horizon 500" in describe(ours[:1])
    (ours[0].runs[0].folder / "run.json").write_text(json.dumps({}))
    assert describe(methods(ours[0].runs[0].folder)) == "protocol not known"
