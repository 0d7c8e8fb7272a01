import pytest

from runners import sweep_plan
from runners.config import ConfigError
from runners.grid import configurations
from runners.sweep_plan import Experiment, plan

GIB = 2**30
MACHINE = {"memory": 10 * GIB, "disk": 10 * GIB}


def about(label, text="", **facts):
    answer = {
        "experiment": f"base,{label}",
        "bindings": [f"train.experiment = 'base,{label}'"],
        "config": f"train.total_steps = %TOTAL_STEPS\nTOTAL_STEPS = 60\n{text}\n",
        "unit": "steps",
        "memory": GIB,
        "checkpoint": GIB // 2,
        "missing": [GIB, GIB],
        "unread": [],
        "devices": 0,
    }
    return answer | facts


@pytest.fixture
def answers(monkeypatch):
    """Sets what the check of the configurations answers."""

    def set_to(*found, machine=MACHINE):
        monkeypatch.setattr(sweep_plan, "_checked", lambda *_, **__: [*found, machine])

    return set_to


def planned(workdir, grid=("A = 1, 2",), seeds=(0, 1), jobs=2):
    experiment = Experiment(("x.gin",), ("B = 3",), ("there",), str(workdir))
    return plan(experiment, configurations(list(grid)), seeds, jobs)


def test_every_run_has_its_folder_and_its_command(tmp_path, answers):
    answers(about("A=1", "A = 1"), about("A=2", "A = 2"))
    runs = planned(tmp_path).runs
    assert [run.name for run in runs] == ["A=1 seed 0", "A=1 seed 1", "A=2 seed 0", "A=2 seed 1"]
    assert len({run.folder for run in runs}) == len({run.output for run in runs}) == 4
    assert runs[3].folder == tmp_path / "base,A=2" / "seed_1"
    assert runs[3].flags == [
        "--gin_file=x.gin",
        "--gin_search_path=there",
        "--gin=B = 3",
        "--gin=A = 2",
        "--gin=train.experiment = 'base,A=2'",
        f"--workdir={tmp_path}",
        "--seed=1",
    ]
    assert {run.total_steps for run in runs} == {60}


def test_finished_runs_are_done(tmp_path, answers):
    answers(about("A=1", "A = 1"), about("A=2", "A = 2"))
    for name, state in (("base,A=1/seed_1", "DONE"), ("base,A=2/seed_0", "INTERRUPTED")):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "status.json").write_text(f'{{"state": "{state}"}}')
    states = [run.state for run in planned(tmp_path).runs]
    assert states == ["WAITING", "DONE", "WAITING", "WAITING"]


REFUSED = {
    "the same twice": (
        [about("A=1", "A = 1"), about("A=2", "A = 1")],
        ["A=1 and A=2", "the same configuration"],
    ),
    "one folder": (
        [about("A=x", "A = 1"), about("A=X", "A = 2")],
        ["share the folder", "base,A=X"],
    ),
    "nothing reads it": (
        [about("A=1", "A = 1"), about("A=2", "A = 2", unread=["A"])],
        ["--grid: A", "nothing reads it"],
    ),
    "memory": (
        [about("A=1", "A = 1", memory=5 * GIB), about("A=2", "A = 2", memory=4.5 * GIB)],
        ["memory", "2 runs at a time need 10.0 GiB", "--jobs"],
    ),
    "disk": (
        [about("A=1", "A = 1", missing=[4 * GIB, 4 * GIB]), about("A=2", "A = 2")],
        ["disk", "4 runs need 11.2 GiB more", "--workdir"],
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_in_one_line(case, tmp_path, answers):
    found, words = REFUSED[case]
    answers(*found)
    with pytest.raises(ConfigError) as caught:
        planned(tmp_path)
    assert "\n" not in str(caught.value)
    for word in words:
        assert word in str(caught.value)


def test_fewer_at_a_time_need_less(tmp_path, answers):
    answers(*REFUSED["memory"][0])
    assert len(planned(tmp_path, jobs=1).runs) == 4
    assert len(planned(tmp_path, jobs=None).runs) == 4  # elsewhere


def test_runs_that_are_done_need_nothing(tmp_path, answers):
    answers(*REFUSED["disk"][0])
    for seed in (0, 1):
        folder = tmp_path / "base,A=1" / f"seed_{seed}"
        folder.mkdir(parents=True)
        (folder / "status.json").write_text('{"state": "DONE"}')
    assert len(planned(tmp_path).runs) == 4


def test_other_unread_bindings_are_warned_of_once(tmp_path, answers):
    found = [about(f"A={i}", f"A = {i}", unread=["GRUMBLE"]) for i in (1, 2)]
    answers(*found)
    (line,) = planned(tmp_path).warnings
    assert line.startswith("GRUMBLE is bound but nothing reads it")


def test_devices_are_those_the_user_left_visible(tmp_path, answers, monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    answers(about("A=1", "A = 1", devices=2), about("A=2", "A = 2"))
    assert planned(tmp_path).devices == ["0", "1"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,7")
    assert planned(tmp_path).devices == ["4", "7"]
    answers(about("A=1", "A = 1"), about("A=2", "A = 2"))
    assert planned(tmp_path).devices == []
