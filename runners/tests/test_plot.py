import csv
from pathlib import Path

import numpy as np
import pytest

from runners import aggregates, plot, protocols
from runners.comparison import Choices, Comparison
from runners.plotting import plot as plot_runs
from runners.recorded_runs import read_methods

TASKS = ("reach-v3", "push-v3", "door-v3")


@pytest.fixture
def multi(write_run, tmp_path):
    """Two methods on three tasks, with five seeds and with one."""
    rng = np.random.default_rng(0)
    for method, seeds in (("must_mt10", 5), ("sac_mt10", 1)):
        for seed in range(seeds):
            evaluations = {}
            for step in (100, 200, 300):
                values = rng.uniform(size=3)
                tags = {f"eval/success_rate/{t}": v for t, v in zip(TASKS, values, strict=True)}
                tags |= {f"eval/return/{t}": 100 * v for t, v in zip(TASKS, values, strict=True)}
                tags["eval/success_rate"] = values.mean()
                evaluations[step] = {"step_per_task": step / 3, "updates": step * 2, **tags}
            write_run(method, seed, evaluations)
    return [tmp_path / "must_mt10", tmp_path / "sac_mt10"]


@pytest.fixture
def undrawn(monkeypatch):
    """For what no picture tells: drawing takes most of the time."""
    monkeypatch.setattr("runners.figures.save", lambda figure, path: [])


@pytest.fixture
def meta(write_run, tmp_path):
    """A meta-learner: two splits, three adaptation steps, iterations."""
    for seed in range(2):
        evaluations = {
            step: {
                "env_steps": step * 1000,
                "eval/return": seed,
                "eval/return_before": -2.0,
                **{
                    f"eval/return/{split}/step_{k}": seed + k + step / 10
                    for split in ("train", "test")
                    for k in (0, 1, 2, 10)
                },
            }
            for step in (5, 10)
        }
        write_run("cavia", seed, evaluations, benchmark="navigation", reward_version=None)
    return [tmp_path / "cavia"]


def call(*arguments):
    return plot.main(["plot", *map(str, arguments)])


def rows(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def one_line(capsys):
    out, error = capsys.readouterr()
    assert out == "" and error.startswith("error: ") and error.count("\n") == 1
    return error


def test_labels_of_experiments_with_a_binding_in_their_name(multi, tmp_path, capsys):
    swept = []
    for folder, value in zip(multi, (2, 4), strict=False):
        swept.append(Path(folder).parent / f"moe,MoE.experts={value}")
        Path(folder).rename(swept[-1])
    flags = [f"--label=moe,MoE.experts={value}=E = {value}" for value in (2, 4)]
    assert call(*swept, f"--out={tmp_path / 'plots'}", *flags) == 0
    printed, _ = capsys.readouterr()
    assert "E = 2" in printed and "E = 4" in printed and "MoE" not in printed


def test_everything_is_written(multi, tmp_path, capsys):
    out = tmp_path / "plots"
    assert call(*multi, f"--out={out}", "--label=must_mt10=MUST", "--last=2") == 0
    printed, error = capsys.readouterr()
    pictures = ("curves", "curves_by_task", "tasks", "profile")
    names = {f"{name}.{kind}" for name in pictures for kind in ("png", "svg")}
    tables = {"aggregate.md", "aggregate.tex", "aggregate.csv", "tasks.csv", "scores.csv"}
    assert {path.name for path in out.iterdir()} == names | tables
    assert "MT10, v2 reward, horizon 500, 50 goals of each task" in printed
    assert "| MUST | 5 | 300 |" in printed and "| sac_mt10 | 1 | 300 |" in printed
    assert "fewer than 5 seeds (sac_mt10 1)" in error and "MUST 5" not in error
    assert (out / "aggregate.md").read_text() in printed


@pytest.mark.usefixtures("undrawn")
def test_figures_are_those_of_the_records(multi, tmp_path):
    outcome = plot_runs(multi, tmp_path / "plots", last=2)
    scores = np.zeros((5, 3))
    for row in rows(tmp_path / "plots" / "scores.csv")[:15]:
        scores[int(row["seed"]), TASKS.index(row["task"])] = float(row["score"])
    (row, _) = rows(tmp_path / "plots" / "aggregate.csv")
    assert float(row["mean"]) == pytest.approx(scores.mean(), abs=1e-12)
    assert float(row["iqm"]) == pytest.approx(np.sort(scores.ravel())[3:12].mean(), abs=1e-12)
    low, high = aggregates.interval(scores)
    assert [float(row["mean_low"]), float(row["mean_high"])] == pytest.approx([low, high])
    assert outcome.results[0].by_task["push-v3"].value == pytest.approx(scores[:, 1].mean())


@pytest.mark.usefixtures("undrawn")
def test_until_statistic_and_interval_are_heeded(multi, tmp_path):
    whole = plot_runs(multi[:1], tmp_path / "p").results[0]
    early = plot_runs(multi[:1], tmp_path / "p", until=250, statistic="iqm", axis="updates")
    assert early.results[0].step == 200 and early.results[0].mean != whole.mean
    by_task = plot_runs(multi[:1], tmp_path / "p", by_task=True).results[0]
    assert by_task.mean.value == whole.mean.value and by_task.mean.low != whole.mean.low


def test_a_meta_learner(meta, tmp_path, capsys):
    assert call(*meta, f"--out={tmp_path / 'p'}", "--x=env_steps") == 0
    printed = capsys.readouterr().out
    names = {path.stem for path in (tmp_path / "p").glob("*.png")}
    assert names == {"curves", "profile", "adaptation"}
    assert "| cavia | train step 10 | 2 | 10 | 11.50 |" in printed  # 0.5 + 10 + 1.0
    assert "| cavia | test step 0 | 2 | 10 | 1.50 |" in printed
    assert "iterations" in printed


def test_pearl_like_tags(write_run, tmp_path):
    tags = {"eval/return/test": 3.0, "eval/return/test/last": 2.0, "eval/return/train": 4.0}
    tags |= {f"eval/return/test/episode_{k}": float(k) for k in (1, 2, 3)}
    write_run("pearl", 0, {100: tags, 200: tags})
    outcome = plot_runs([tmp_path / "pearl"], tmp_path / "p")
    found = {(r.split, r.stage): r.mean.value for r in outcome.results}
    assert found["test", ""] == 3.0 and found["train", ""] == 4.0
    assert (tmp_path / "p" / "adaptation.png").exists()


@pytest.fixture
def trained(write_run, tmp_path):
    """Two seeds of training without any evaluation."""
    for seed in range(2):
        records = {}
        for step in (10, 20):
            tags = {"loss/critic": 4.0 + seed, "entropy": 0.5, "step_per_task": step / 2}
            tags |= {f"mask/overlap/{part}": 0.1 * step / 10 for part in ("actor", "critic_0")}
            tags |= {f"train/success/{task}": 0.5 for task in TASKS}
            records[step] = tags
        write_run("must", seed, records)
    return tmp_path / "must"


@pytest.fixture
def drawn(monkeypatch):
    """The figures that would have been saved, by name."""
    figures = {}
    monkeypatch.setattr(
        "runners.figures.save", lambda figure, path: figures.update({path.stem: figure}) or []
    )
    return figures


def test_tags_of_training_are_drawn(trained, drawn, tmp_path, capsys):
    out = tmp_path / "p"
    assert call(trained, "--metric=mask/overlap", "--x=step_per_task", f"--out={out}") == 0
    assert set(drawn) == {"curves", "curves_by_task", "tasks", "profile"}
    axes = drawn["curves_by_task"].axes
    assert [axis.get_title() for axis in axes] == ["actor", "critic_0"]
    assert axes[0].get_ylabel() == "mask/overlap"
    assert axes[0].get_lines()[0].get_xdata().tolist() == [5.0, 10.0]
    assert axes[0].get_lines()[0].get_ydata() == pytest.approx([0.1, 0.2])
    assert drawn["curves"].axes[0].get_title() == "mean over 2 parts"
    printed = capsys.readouterr().out
    assert "# mask/overlap" in printed and "the last record;" in printed
    assert "| must | 2 | 20 | 0.200 |" in printed and "Mean of each part" in printed
    assert [row["task"] for row in rows(out / "tasks.csv")] == ["actor", "critic_0"]


def test_a_tag_of_one_value_is_drawn_too(trained, drawn, tmp_path):
    for metric, value in {"loss/critic": 4.5, "entropy": 0.5}.items():
        drawn.clear()
        outcome = plot_runs([trained], tmp_path / "p", metric=metric, last=2)
        assert set(drawn) == {"curves", "profile"} and outcome.results[0].mean.value == value
        assert drawn["curves"].axes[0].get_ylabel() == f"{metric}, mean"


def test_successes_of_training_are_bounded(trained, drawn, tmp_path):
    plot_runs([trained], tmp_path / "p", metric="train/success")
    axis = drawn["curves"].axes[0]
    assert axis.get_ylim() == (-0.02, 1.02) and axis.get_title() == "mean over 3 tasks"


@pytest.mark.usefixtures("undrawn")
def test_an_evaluation_comes_before_training(write_run, tmp_path):
    write_run("m", 0, {1: {"eval/kl": 1.0, "kl": 2.0}})
    for metric in ("kl", "eval/kl"):
        outcome = plot_runs([tmp_path / "m"], tmp_path / "p", metric=metric)
        assert outcome.results[0].mean.value == 1.0 and "# kl\n" in outcome.text


def test_an_unknown_metric(multi, trained, capsys):
    assert call(multi[0], "--metric=sucess_rate") == 2
    line = one_line(capsys)
    assert "not written by must_mt10; did you mean 'success_rate'?" in line
    assert "shared by all evaluations: return, success_rate; tags of training, such as" in line
    assert call(trained, "--metric=loss/critc") == 2
    line = one_line(capsys)
    assert "did you mean 'loss/critic'?" in line and "evaluations: none;" in line
    assert call(trained) == 2
    assert "no evaluation was written yet; leave it out, or wait; --metric" in one_line(capsys)
    assert call(trained, "--metric=train/success", "--published=MT10/*") == 2
    assert "success rates of evaluations, not train/success" in one_line(capsys)


STAGES = {
    "posterior": (["last", "episode_1", "episode_2"], "last", "episode_1"),
    "window": (["stochastic", "deterministic"], "deterministic", "stochastic"),
    "adaptation": (["step_0", "step_1", "step_10"], "step_10", "step_0"),
}


@pytest.mark.parametrize("name", STAGES)
def test_the_stage_that_is_a_result_and_the_one_it_is_compared_with(name, write_run):
    stages, result, before = STAGES[name]
    run = write_run("a", 0, {1: {f"eval/return/test/{stage}": 1.0 for stage in stages}})
    methods, _ = read_methods([run])
    views = Comparison(methods, "return", Choices()).views
    assert [(view.stage, view.headline) for view in views] == [(before, False), (result, True)]


def test_a_metric_that_some_lack_or_have_otherwise(write_run, tmp_path, capsys):
    write_run("a", 0, {1: {"eval/return": 1.0, "eval/speed/x": 1.0}})
    write_run("b", 0, {1: {"eval/length": 1.0, "eval/speed/y": 1.0}})
    runs = (tmp_path / "a", tmp_path / "b")
    assert call(*runs, "--metric=return") == 2
    assert "not written by b; shared by all evaluations: none;" in one_line(capsys)
    assert call(*runs, "--metric=speed") == 2
    assert "not written alike by all runs;" in one_line(capsys)


@pytest.mark.usefixtures("undrawn")
def test_published_lines(multi, tmp_path, capsys):
    flags = (f"--out={tmp_path / 'p'}", "--published=MT10/softmod/mclean2025_*")
    assert call(*multi, *flags) == 2
    assert "reward_version: v1, not v2; give --mix=reward_version" in one_line(capsys)
    assert call(*multi, *flags, "--mix=reward_version") == 0
    printed, error = capsys.readouterr()
    assert "Soft Modularization 0.849 (McLean et al. 2025; IQM, 10 seeds" in printed
    assert "https://arxiv.org/abs/2505.11289" in printed and "differs from the runs" in error
    assert call(*multi, *flags, "--metric=return") == 2
    assert "--metric=success_rate" in one_line(capsys)
    assert call("--published=list") == 0
    assert "MT50/moore/mclean2025_v2\tMOORE 0.72" in capsys.readouterr().out


def test_bad_input(multi, write_run, tmp_path, capsys):
    other = write_run("other", 0, {100: {"eval/success_rate/reach-v3": 1.0}}, horizon=200)
    empty = tmp_path / "empty"
    empty.mkdir()
    for arguments, words in {
        (): ("one run folder is needed", "--help"),
        (tmp_path / "no",): ("is no folder",),
        (empty,): ("neither metrics.jsonl nor seed_<n>",),
        (*multi, other): ("horizon", "500", "200", "--mix=horizon"),
        (multi[0], "--mix=colour"): ("--mix=colour", "reward_version"),
        (multi[0], "--x=time"): ("--x=time",),
        (multi[0], "--last=0"): ("last",),
        (multi[0], "--metric=speed"): ("--metric=speed", "return, success_rate"),
        (multi[0], "--label=MUST"): ("--label=MUST", "<experiment>=<text>"),
        (multi[0], "--until=10"): ("--until=10", "must_mt10", "first measured at step 100"),
        (multi[0], "--label=x=MUST"): ("--label=x", "must_mt10"),
        (multi[0], "--label=must_mt10="): ("--label=must_mt10=", "empty"),
        (*multi, "--label=must_mt10=sac_mt10"): ("--label=must_mt10=sac_mt10", "different names"),
        (multi[0], "--published=MT7*"): ("--published=MT7*", "list"),
        (multi[0], f"--out={other / 'run.json'}"): ("--out=", "choose another folder"),
    }.items():
        assert call(*arguments) == 2, arguments
        line = one_line(capsys)
        assert all(word in line for word in words), line


def test_flag_and_library_know_the_same_facts():
    assert plot.FACTS == protocols.FACTS
