"""`python -m runners.record` and the recorder of a run: films, the contact sheet, and failures."""

import errno
import json
import shutil
import sys
import time
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest
import torch

from runners import record, recording, rendering, train, video_recorder
from runners.evaluation import evaluating
from runners.filming import Episode, Studio, one_of_each, policy_act
from runners.meta_filming import WindowAct
from runners.rendering import RenderingError
from runners.saved_run import SavedRun
from runners.window_rollouts import WindowRollouts

for library in ("imageio_ffmpeg", "PIL"):
    pytest.importorskip(library, reason="needs polytask-runners[record]")

ROOT = Path(__file__).resolve().parents[1]
TINY = ["TOTAL_STEPS = 120", "WARMUP_STEPS = 20", "BATCH_SIZE = 8", "HIDDEN = (8, 8)"]
TINY += ["Evaluator.num_goals = 3", "EVALUATION_INTERVAL = 60", "Logger.tensorboard = False"]


def trained(folder, *files, bindings=()):
    given = [f"--gin={line}" for line in (*TINY, *bindings)]
    given += [f"--gin_file={file}" for file in ("gin/quick/mtsac_point_mass.gin", *files)]
    assert train.main(["train", f"--workdir={folder}", "--seed=4", *given]) == 0
    [run] = folder.glob("*/seed_4")
    return run


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return trained(tmp_path_factory.mktemp("runs"))


def call(*arguments):
    return record.main(["record", *map(str, arguments)])


class Chaser(torch.nn.Module):
    """Solves turn-0 from everywhere, and no other task of the point mass."""

    def act(self, td, explore=False):
        o = td["observation"]
        return td.set("action", (2.0 * (o[:, 4:] - o[:, :2]) - 0.9 * o[:, 2:4] * 2).clamp(-1, 1))


def test_played_and_filmed_episodes_are_those_of_the_vector(run):
    """The same goals end the same way as in an evaluation, and a film repeats what was played."""
    saved = SavedRun(run)
    task = saved.suite.tasks()[0]
    studio = Studio(saved.suite, task)
    learner = saved.learner.eval()
    evaluator = saved.evaluator(3)
    evaluator(saved.suite, saved.learner)
    evaluator.close()
    for goal in range(3):
        episode = studio.play(goal, policy_act(learner, task))
        assert episode.success == bool(evaluator.episodes["success"][0, goal])
        assert len(episode.actions) == int(evaluator.episodes["length"][0, goal])
        assert episode.total == pytest.approx(float(evaluator.episodes["return"][0, goal]))
    film = studio.film(episode, 32, every=7)
    assert film.steps[0] == 0 and film.steps[1] == 7 and film.steps[-1] == len(episode.actions)
    assert film.rate == pytest.approx(10 / 7)
    few = studio.film(episode, 32, pictures=4)
    assert len(few.pictures) == 4 and np.array_equal(few.pictures[-1], film.pictures[-1])
    assert not np.array_equal(few.pictures[0], few.pictures[-1])


def test_a_success_and_a_failure_are_looked_for(run):
    suite = SavedRun(run).suite
    outcomes = []
    for task in suite.tasks():
        studio = Studio(suite, task)
        found = one_of_each(studio, range(6), policy_act(Chaser(), task))
        outcomes.append([episode.outcome for episode in found])
    assert outcomes[0] == ["success"] and "failure" in outcomes[1]


def test_a_run_is_filmed(run, capsys):
    assert call(run, "--size=32", "--episodes=2") == 0
    names = sorted(path.name for path in (run / "videos").iterdir())
    assert names[0] == "step_000000000120_sheet.png"
    for task in ("turn-0", "turn-1"):
        assert any(
            name
            in (f"step_000000000120_{task}_failure.mp4", f"step_000000000120_{task}_success.mp4")
            for name in names
        )
    out = capsys.readouterr().out
    assert all(name in out for name in names)


def test_an_exported_policy_and_random_actions_are_filmed(run, tmp_path):
    shutil.copytree(run / "policy", tmp_path / "shared")
    flags = ["--sheet_only", "--size=32", "--episodes=1"]
    assert call(tmp_path / "shared", "--tasks=turn-1", *flags) == 0
    assert [p.name for p in (tmp_path / "shared" / "videos").iterdir()] == [
        "step_000000000120_sheet.png"
    ]
    given = [
        "--gin_file=gin/envs/point_mass.gin",
        f"--to={tmp_path / 'out'}",
        "--gin=NUM_TASKS = 3",
    ]
    assert call(*given, *flags) == 0
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["random_sheet.png"]


def test_wrong_input_is_one_line_and_2(run, tmp_path, capsys, monkeypatch):
    suite = "--gin_file=gin/envs/point_mass.gin"
    for arguments, words in [
        ((), ["one run folder"]),
        ((tmp_path / "nothing",), ["no config.gin"]),
        ((run, "--tasks=turn-7"), ["--tasks=turn-7", "turn-0"]),
        ((run, "--checkpoint=7"), ["there are:"]),
        ((run, "--size=33"), ["--size=33", "even"]),
        ((run, "--size=10000000"), ["size", "4096"]),
        ((run, "--every=-1"), ["every"]),
        ((run, f"--seed={2**63}"), ["--seed", f"{2**63 - 1}]"]),
        ((run, "--adaptations=2"), ["--adaptations", "does not adapt between episodes"]),
        ((run, suite), ["not both"]),
        ((suite,), ["--to is missing"]),
        ((suite, f"--to={tmp_path}", "--checkpoint=3"), ["--checkpoint"]),
        (("--gin_file=gin/runners/videos.gin", f"--to={tmp_path}"), ["videos.gin"]),
        (("--gin_file=gin/envs/navigation.gin", f"--to={tmp_path}"), ["no pictures"]),
    ]:
        assert call(*arguments) == 2, arguments
        out, error = capsys.readouterr()
        assert error.count("\n") == 1 and error.startswith("error: "), (arguments, error)
        for word in words:
            assert word in error, (arguments, error)

    def none():
        raise RenderingError("no back end works; apt-get install -y libegl1")

    monkeypatch.setattr(rendering, "choose", none)
    given = ["--gin_file=gin/envs/mt1.gin", "--gin=TASK = 'reach-v3'", f"--to={tmp_path}"]
    assert call(*given) == 2
    assert "libegl1" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_written_is_named_before_anything_is_played(
    run, tmp_path, capsys, monkeypatch
):
    def refuse(*arguments):
        raise AssertionError("an episode was played")

    monkeypatch.setattr(Studio, "play", refuse)
    (tmp_path / "file").write_text("")
    for place in ("file", "file/b"):
        assert call(run, f"--to={tmp_path / place}") == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1 and f"--to={tmp_path / place}: " in error
    monkeypatch.setattr(recording.os, "access", lambda path, mode: False)  # root may write anywhere
    assert call(run) == 2
    assert "/videos: Permission denied; choose another folder" in capsys.readouterr().err


def test_what_the_file_system_says_later_is_one_line_too(run, tmp_path, capsys, monkeypatch):
    def full(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(recording, "write_video", full)
    assert call(run, f"--to={tmp_path}", "--size=32", "--episodes=1", "--tasks=turn-0") == 2
    assert f"--to={tmp_path}: No space left on device;" in capsys.readouterr().err


def metrics(run):
    lines = (run / "metrics.jsonl").read_text().splitlines()
    timed = ("wall_time", "perf/", "sys/")
    return [
        {key: value for key, value in json.loads(line).items() if not key.startswith(timed)}
        for line in lines
    ]


def test_a_run_with_a_recorder_is_the_same_run(run, tmp_path):
    lines = [
        "VideoRecorder.size = 32",
        "VideoRecorder.episodes = 1",
        "VideoRecorder.evaluations = 1",
    ]
    filmed = trained(tmp_path, "gin/runners/videos.gin", bindings=lines)
    assert metrics(filmed) == metrics(run)
    files = {path.name for path in (filmed / "videos").iterdir()}
    assert files >= {"record.log"} and any(name.endswith("_sheet.png") for name in files)
    assert not any(name.startswith(".policy") for name in files)


def test_no_film_stops_a_run(tmp_path, monkeypatch):
    """Neither a process that fails nor one that hangs nor one that cannot be started."""
    bindings = ["VideoRecorder.evaluations = 1", "VideoRecorder.minutes = 0.01"]
    for name, program in (
        ("fails", "import sys; sys.exit(1)"),
        ("hangs", "import time; time.sleep(900)"),
        ("missing", None),
    ):
        command = tmp_path / f"{name}.sh"
        if program is not None:
            command.write_text(f"#!/bin/sh\nexec {sys.executable} -c '{program}'\n")
            command.chmod(0o755)
        monkeypatch.setattr(video_recorder.sys, "executable", str(command))
        monkeypatch.setattr(video_recorder.shutil, "which", lambda name: None)
        started = time.monotonic()
        made = trained(tmp_path / name, "gin/runners/videos.gin", bindings=bindings)
        assert json.loads((made / "status.json").read_text())["state"] == "DONE"
        assert time.monotonic() - started < 450
        assert not list((made / "videos").glob(".policy*"))


def test_a_recorder_that_is_closed_leaves_no_process(run, tmp_path, monkeypatch):
    command = tmp_path / "hangs.sh"
    command.write_text("#!/bin/sh\nsleep 60\n")
    command.chmod(0o755)
    monkeypatch.setattr(video_recorder.sys, "executable", str(command))
    saved, recorder = SavedRun(run), video_recorder.VideoRecorder()
    recorder(tmp_path, 5, saved.suite, saved.learner, saved.config)
    process = recorder._process
    assert process.poll() is None
    (tmp_path / "eval").mkdir()
    (tmp_path / "eval/5.json").touch()
    recorder(tmp_path, 6, saved.suite, saved.learner, saved.config)  # every fifth only
    assert recorder._process is process
    resumed = video_recorder.VideoRecorder()
    resumed(tmp_path, 6, saved.suite, saved.learner, saved.config)
    assert resumed._process is None
    recorder.close()
    assert process.poll() is not None and not list((tmp_path / "videos").glob(".policy*"))


@pytest.mark.parametrize("bad", ["evaluations", "episodes", "every", "size", "minutes"])
def test_values_out_of_range_are_named(bad):
    with pytest.raises(ValueError, match=f"VideoRecorder.{bad}"):
        video_recorder.VideoRecorder(**{bad: -1})


def test_episodes_that_nobody_judges_are_no_failures():
    task = namedtuple("Task", "name goals")("half-cheetah", (0,))
    assert Episode(task, (), False, 0.0, judged=False).outcome == "episode"
    assert [Episode(task, (), s, 0.0).outcome for s in (True, False)] == ["success", "failure"]


@pytest.mark.gl
def test_a_meta_learner_is_filmed_before_and_after_adaptation(tmp_path, capsys):
    try:
        rendering.choose()
    except RenderingError as error:
        pytest.skip(str(error))
    values = {"ITERATIONS": 1, "META_BATCH": 2, "EPISODES": 2, "TEST_EPISODES": 2, "TEST_STEPS": 1}
    values |= {"HORIZON": 8, "Logger.tensorboard": False}
    given = [f"--gin={name} = {value}" for name, value in values.items()]
    given += ["--gin_file=gin/quick/cavia_half_cheetah.gin", f"--workdir={tmp_path}"]
    assert train.main(["train", "--seed=4", *given]) == 0
    [folder] = tmp_path.glob("*/seed_4")
    assert call(folder, "--size=64") == 0
    assert sorted(path.name for path in (folder / "videos").iterdir()) == [
        "step_000000000001_half-cheetah-direction_adapted-0_episode.mp4",
        "step_000000000001_half-cheetah-direction_adapted-1_episode.mp4",
        "step_000000000001_sheet.png",
    ]


WINDOWS = {"INFERENCE_STEPS": 2, "INFERENCE_BATCH": 8, "POLICY_STEPS": 2}
POSTERIORS = {"UPDATES": 2, "INITIAL_STEPS": 40, "POSTERIOR_STEPS": 20, "EVALUATION_STEPS": 60}


def inferring(folder, name, bindings):
    """A run of a learner that infers the direction of half-cheetahs."""
    values = {"ITERATIONS": 1, "HORIZON": 20, "BATCH_SIZE": 8, "HIDDEN": (8, 8)}
    values |= {"Logger.tensorboard": False, **bindings}
    given = [f"--gin={key} = {value}" for key, value in values.items()]
    given += [f"--gin_file=gin/quick/{name}.gin", f"--workdir={folder}"]
    assert train.main(["train", "--seed=4", *given]) == 0
    return folder / name / "seed_4"


def test_what_a_window_shows_is_inferred_as_in_an_evaluation(tmp_path):
    """Both begin with the same random stream, so that the same episode comes of it."""
    saved = SavedRun(inferring(tmp_path, "tigr_cheetah_direction", WINDOWS))
    task, evaluator = saved.suite.each("test")[0], saved.evaluator()
    studio = Studio(saved.suite, task)
    rollouts = WindowRollouts(saved.suite, 1, evaluator.window, purpose="evaluation")
    with evaluating(saved.learner):
        wanted = rollouts.run(saved.learner, [task], explore=False)
        act = WindowAct(saved.learner, evaluator, studio, explore=False)
        played = [studio.play(task.goals[0], act) for _ in range(2)]
    rollouts.close()
    studio.close()
    for episode in played:
        assert np.array_equal(np.stack(episode.actions), wanted["action"][0, 0].numpy())


@pytest.mark.gl
@pytest.mark.parametrize(
    ("name", "bindings", "marks"),
    [
        ("pearl_cheetah_direction", POSTERIORS, ["_adapted-0", "_adapted-1"]),
        ("tigr_cheetah_direction", WINDOWS, [""]),
    ],
)
def test_learners_that_infer_are_filmed(name, bindings, marks, tmp_path):
    """Before and after adaptation, or while it goes on."""
    try:
        rendering.choose()
    except RenderingError as error:
        pytest.skip(str(error))
    run = inferring(tmp_path, name, bindings)
    assert call(run, "--size=32", "--every=10") == 0
    films = sorted(path.stem for path in (run / "videos").glob("*.mp4"))
    step = "step_000000000001"
    goals = ("forward", "backward") if marks == [""] else ("",)
    assert films == sorted(
        f"{step}_direction{goal and '_' + goal}{mark}_episode" for goal in goals for mark in marks
    )


@pytest.mark.gl
def test_meta_world_is_filmed(tmp_path):
    try:
        rendering.choose()
    except RenderingError as error:
        pytest.skip(str(error))
    given = ["--gin_file=gin/envs/mt1.gin", "--gin=TASK = 'reach-v3'", f"--to={tmp_path}"]
    flags = ["--gin=HORIZON = 12", "--every=6", "--size=64", "--episodes=1"]
    assert call(*given, *flags) == 0
    assert len(list(tmp_path.glob("random_reach-v3_*.mp4"))) == 1
