import errno

import numpy as np
import pytest

from runners import recorded_runs
from runners.config import ConfigError
from runners.recorded_runs import Tag, read_methods, read_run, read_tag

TAGS = {
    "eval/success_rate": ("eval/success_rate", "", "", ""),
    "eval/success_rate/reach-v3": ("eval/success_rate", "", "", "reach-v3"),
    "eval/return/test/step_2": ("eval/return", "test", "step_2", ""),
    "eval/return/train/episode_10": ("eval/return", "train", "episode_10", ""),
    "eval/return/test/last": ("eval/return", "test", "last", ""),
    "eval/return/test": ("eval/return", "test", "", ""),
    "eval/success_rate/test/step_1/push-v3": ("eval/success_rate", "test", "step_1", "push-v3"),
    "eval/return_before": ("eval/return_before", "", "", ""),
    "eval/return/turn-0": ("eval/return", "", "", "turn-0"),
    "eval/return/trainer-v3": ("eval/return", "", "", "trainer-v3"),
    "eval/return/last": ("eval/return", "", "", "last"),
    "eval/return/step_1": ("eval/return", "", "", "step_1"),
    "loss/critic": ("loss/critic", "", "", ""),
    "eval/return/test/deterministic": ("eval/return", "test", "deterministic", ""),
    "eval/return/test/stochastic/run": ("eval/return", "test", "stochastic", "run"),
    "mask/overlap/actor": ("mask/overlap", "", "", "actor"),
    "mask/overlap_of_task/actor/reach-v3": ("mask/overlap_of_task", "", "", "actor/reach-v3"),
    "train/success_rate/reach-v3": ("train/success_rate", "", "", "reach-v3"),
    "train/test/step_1": ("train/test", "", "", "step_1"),
    "sys/eval/x": ("sys/eval", "", "", "x"),
    "entropy": ("entropy", "", "", ""),
}


@pytest.mark.parametrize("name", TAGS)
def test_tags(name):
    tag = read_tag(name)
    assert tag == TAGS[name] and tag.name == name
    assert tag.evaluation == name.startswith("eval/")
    assert Tag("return", "", "episode_10", "").number == 10
    assert tag.number == {"step_2": 2, "episode_10": 10, "step_1": 1}.get(tag.stage)


def test_a_multi_task_run(write_run):
    folder = write_run(
        "m", 3, {10: {"step_per_task": 5, "eval/success_rate/a": 0.5}, 20: {"step_per_task": 10}}
    )
    run = read_run(folder)
    assert (run.seed, run.unit, run.meta) == (3, "env_steps", False)
    assert run.series("eval/success_rate/a") == {10: 0.5}
    assert run.place([10, 15], "step_per_task").tolist() == [5.0, 7.5]
    assert run.place([10], "env_steps").tolist() == [10.0]
    with pytest.raises(ConfigError, match="--x=updates"):
        run.place([10], "updates")


def test_a_meta_run_counts_iterations(write_run):
    tags = {3: {"env_steps": 300}, 4: {"eval/return/test/step_0": -1.0}, 6: {"env_steps": 900}}
    run = read_run(write_run("m", 0, tags))
    assert run.unit == "iterations" and run.meta
    assert run.place([3, 4, 6], "env_steps").tolist() == [300.0, 500.0, 900.0]
    assert run.place([4], "step").tolist() == [4.0]


def test_null_is_left_out_and_a_torn_line_too(write_run):
    folder = write_run("m", 0, {1: {"eval/return": None}, 2: {"eval/return": 2.0}})
    with open(folder / "metrics.jsonl", "a") as file:
        file.write('{"step": 3, "eval/ret')
    assert read_run(folder).series("eval/return") == {2: 2.0}


def test_records_and_facts_of_another_kind_are_left_out(write_run):
    folder = write_run("m", 0, {2: {"eval/return": 2.0}, 4: {"eval/return": "high"}})
    with open(folder / "metrics.jsonl", "a") as file:
        for step in ("null", '"600"', "NaN", "[1]"):
            file.write(f'{{"step": {step}, "eval/return": 1.0}}\n')
    (folder / "run.json").write_text('{"protocol": 3, "seed": [1]}')
    run = read_run(folder)
    assert run.series("eval/return") == {2: 2.0} and len(run.records) == 2
    assert run.protocol == {} and run.seed == 0


def test_a_run_that_may_not_be_read_is_named(write_run, monkeypatch):
    folder = write_run("m", 0, {1: {"eval/return": 0.0}})

    def refuse(path):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(recorded_runs, "read_records", refuse)  # root may read everything
    with pytest.raises(ConfigError, match=f"^{folder}: .*metrics.jsonl: Permission denied; see"):
        read_methods([folder])


def test_seeds_of_one_folder_are_one_method(write_run, tmp_path):
    for seed in (10, 2):
        write_run("m", seed, {s: {"eval/return": seed + s} for s in (1, 2, 3)})
    (tmp_path / "m" / "seed_4").mkdir()
    (tmp_path / "m" / "seed_4" / "metrics.jsonl").write_text("")
    methods, warnings = read_methods([tmp_path / "m", tmp_path / "m" / "seed_2"])
    assert len(methods) == 1 and [run.seed for run in methods[0].runs] == [2, 10]
    assert len(warnings) == 1 and "seed_4" in warnings[0]
    steps, scores = methods[0].curve(["eval/return"])
    assert steps.tolist() == [1, 2, 3] and scores.shape == (3, 2, 1)
    assert scores[:, :, 0].tolist() == [[3, 11], [4, 12], [5, 13]]
    assert methods[0].curve(["eval/return"], until=2)[0].tolist() == [1, 2]


def test_a_seed_that_has_not_the_metric_yet_is_left_out(write_run, tmp_path):
    write_run("m", 0, {1: {"loss/critic": 1.0, "eval/return": 0.0}})
    write_run("m", 1, {1: {"loss/critic": 2.0}})
    write_run("m", 2, {1: {"train/return": 0.0}})
    for metric, seeds in {
        "": [0],
        "return": [0],
        "eval/return": [0],
        "loss/critic": [0, 1],
        "train/return": [2],
        "unheard/of": [0, 1, 2],  # the comparison says what there is
    }.items():
        (method,), warnings = read_methods([tmp_path / "m"], metric=metric)
        assert [run.seed for run in method.runs] == seeds
        wanted = metric or "evaluation"
        assert len(warnings) == 3 - len(seeds) and all(f"no {wanted} yet" in w for w in warnings)


def test_a_curve_ends_with_the_shortest_seed(write_run, tmp_path):
    write_run("m", 0, {s: {"eval/return": 0.0} for s in (1, 2, 3)})
    write_run("m", 1, {s: {"eval/return": 0.0} for s in (1, 2)})
    (method,), _ = read_methods([tmp_path / "m"])
    assert method.curve(["eval/return"])[0].tolist() == [1, 2]
    assert "up to step 2 of 3" in method.shorter("eval/return")[0]


def test_equal_names_are_told_apart(write_run, tmp_path):
    for place in ("x/m", "y/m"):
        write_run(place, 0, {1: {"eval/return": 0.0}})
    methods, _ = read_methods([tmp_path / "x" / "m", tmp_path / "y" / "m"], {"y/m": "ours"})
    assert [method.name for method in methods] == ["x/m", "ours"]


def test_labels_leave_every_method_a_name_of_its_own(write_run, tmp_path):
    for name in ("a", "b"):
        write_run(name, 0, {1: {"eval/return": 0.0}})
    paths = [tmp_path / "a", tmp_path / "b"]
    for labels, text in (({"a": "b"}, "a=b: two"), ({"a": "x", "b": "x"}, "a=x: two")):
        with pytest.raises(ConfigError, match=f"--label={text} methods would be called"):
            read_methods(paths, labels)
    for empty in ("", " "):
        with pytest.raises(ConfigError, match="--label=a=: the text is empty"):
            read_methods(paths, {"a": empty})
    methods, _ = read_methods(paths, {"a": "b", "b": "a"})
    assert [method.name for method in methods] == ["b", "a"]


def test_bad_paths(write_run, tmp_path):
    folder = write_run("m", 0, {1: {"train/return": 0.0}})
    damaged = write_run("d", 0, {1: {"eval/return": 0.0}})
    (damaged / "metrics.jsonl").write_text('{"step": 1, "eval/ret')
    for path, text in {
        damaged: "no whole record in metrics.jsonl",
        tmp_path / "nothing": "is no folder",
        tmp_path: "has neither metrics.jsonl nor seed_<n>",
        folder: "no evaluation was written yet",
    }.items():
        with pytest.raises(ConfigError, match=text):
            read_methods([path])
    write_run("n", 0, {1: {"eval/return": 0.0}})
    with pytest.raises(ConfigError, match="--label=x: no such experiment; there are: n"):
        read_methods([tmp_path / "n"], {"x": "y"})
    write_run("n", 1, {2: {"eval/return": 0.0}})
    (method,), _ = read_methods([tmp_path / "n"])
    with pytest.raises(ConfigError, match="no step at which all its seeds"):
        method.curve(["eval/return"])


def test_a_damaged_run_json_is_no_protocol(write_run):
    folder = write_run("m", 7, {1: {"eval/return": 0.0}})
    (folder / "run.json").write_text("{")
    run = read_run(folder)
    assert run.protocol == {} and run.seed == 7
    assert np.isfinite(run.place([1], "step")).all()
