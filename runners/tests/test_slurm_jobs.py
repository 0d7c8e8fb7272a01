import signal
import sys
import time
import types

import pytest

from runners import slurm_jobs, sweep_child
from runners.config import ConfigError
from runners.slurm_jobs import Job, SlurmJobs
from runners.sweep_runs import SweptRun


class FakeJob:
    states: dict = {}

    def __init__(self, folder, job_id):
        self.job_id = job_id

    @property
    def state(self):
        return self.states[self.job_id][0]

    def done(self):
        return self.states[self.job_id][0] == "COMPLETED"

    def result(self):
        return self.states[self.job_id][1]()


class FakeExecutor:
    sent: list = []
    parameters: dict = {}

    def __init__(self, folder, cluster, **creating):
        if cluster == "slurm":
            raise RuntimeError('Could not detect "srun"')
        self._executor = types.SimpleNamespace(job_class=FakeJob)
        self.parameters.update(creating)

    def update_parameters(self, **parameters):
        if "slurm_partitoin" in parameters:
            raise NameError("Unknown argument 'slurm_partitoin'\nin arguments")
        self.parameters.update(parameters)

    def submit_array(self, jobs):
        numbers = range(len(self.sent), len(self.sent) + len(jobs))
        self.sent.extend(jobs)
        FakeJob.states.update({str(n): ["PENDING", None] for n in numbers})
        return [FakeJob(None, str(n)) for n in numbers]


@pytest.fixture(autouse=True)
def fake_submitit(monkeypatch):
    module = types.SimpleNamespace(AutoExecutor=FakeExecutor)
    monkeypatch.setitem(sys.modules, "submitit", module)
    monkeypatch.setattr(FakeExecutor, "sent", [])
    monkeypatch.setattr(FakeExecutor, "parameters", {})
    monkeypatch.setattr(FakeJob, "states", {})
    monkeypatch.setattr(slurm_jobs, "LOOK_SECONDS", 0.0)


@pytest.fixture
def runs(tmp_path):
    return [SweptRun("A=1", i, tmp_path / "x" / f"seed_{i}", [f"--seed={i}"]) for i in range(3)]


def jobs(tmp_path, number=None, **options):
    return SlurmJobs(tmp_path / "submitit", number, {"cluster": "fake", **options})


def status(run, state):
    run.folder.mkdir(parents=True, exist_ok=True)
    (run.folder / "status.json").write_text(f'{{"state": "{state}"}}')


def test_every_run_is_one_job_with_the_users_parameters(tmp_path, runs):
    launcher = jobs(tmp_path, 2, timeout_min=240, slurm_partition="gpu", slurm_max_num_timeout=9)
    launcher.submit(runs)
    assert [job.flags for job in FakeExecutor.sent] == [["--seed=0"], ["--seed=1"], ["--seed=2"]]
    assert FakeExecutor.parameters == {
        "name": "polytask",
        "slurm_array_parallelism": 2,
        "timeout_min": 240,
        "slurm_partition": "gpu",
        "slurm_max_num_timeout": 9,
    }


def test_runs_are_watched_until_their_jobs_are_over(tmp_path, runs):
    launcher = jobs(tmp_path)
    launcher.submit(runs)
    launcher.step()
    assert [run.state for run in runs] == ["WAITING"] * 3 and launcher.active
    status(runs[0], "RUNNING")
    launcher.step()
    assert [run.state for run in runs] == ["RUNNING", "WAITING", "WAITING"]
    status(runs[0], "DONE")
    status(runs[1], "INTERRUPTED")
    runs[2].output.write_text("the lamp went out\n")

    def lost():
        raise RuntimeError("first\nthe node went down")

    FakeJob.states["0"] = ["COMPLETED", lambda: 0]
    FakeJob.states["1"] = ["COMPLETED", lambda: 75]
    FakeJob.states["2"] = ["COMPLETED", lost]
    launcher.step()
    assert [run.state for run in runs] == ["DONE", "INTERRUPTED", "FAILED"] and not launcher.active
    assert runs[2].tail == ["the lamp went out", "first", "the node went down"]
    assert not list(tmp_path.glob("x/job_*"))


def test_a_job_that_lives_is_not_sent_again(tmp_path, runs, monkeypatch):
    first = jobs(tmp_path)
    first.submit(runs)
    first.stop()
    assert not first.active and "goes on" in runs[0].reason
    FakeJob.states["0"] = ["RUNNING", None]
    FakeJob.states["1"] = ["CANCELLED", None]
    FakeJob.states["2"] = ["UNKNOWN", None]
    second = jobs(tmp_path)
    second.submit(runs)
    assert [job.flags for job in FakeExecutor.sent[3:]] == [["--seed=1"]]
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 1000)  # forgotten by the accounting
    jobs(tmp_path).submit(runs)
    assert ["--seed=2"] in [job.flags for job in FakeExecutor.sent[4:]]


@pytest.mark.parametrize(
    "options, word",
    [({"cluster": "slurm"}, "srun"), ({"slurm_partitoin": "gpu"}, "slurm_partitoin")],
)
def test_what_submitit_refuses_is_one_line(tmp_path, options, word):
    with pytest.raises(ConfigError, match=f"--launcher=slurm: .*{word}") as caught:
        jobs(tmp_path, **options)
    assert "\n" not in str(caught.value)


def test_without_submitit_the_line_says_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "submitit", None)
    with pytest.raises(ConfigError, match="pip install submitit"):
        jobs(tmp_path)


def test_a_job_checkpoints_its_run_and_says_how_to_go_on(tmp_path, monkeypatch):
    code = (
        "import signal, sys, time\n"
        "signal.signal(signal.SIGUSR1, lambda *_: sys.exit(75))\n"
        "print('begun', flush=True)\n"
        "time.sleep(600)\n"
    )
    monkeypatch.setattr(sweep_child, "COMMAND", (sys.executable, "-c", code))
    helpers = types.SimpleNamespace(DelayedSubmission=lambda job: ("again", job))
    monkeypatch.setattr(sys.modules["submitit"], "helpers", helpers, raising=False)
    job, found = Job(["x"], tmp_path / "output.txt"), []
    # As submitit does it: a handler that interrupts the waiting job in its main thread.
    old = signal.signal(signal.SIGALRM, lambda *_: found.append(job.checkpoint()))
    try:
        signal.setitimer(signal.ITIMER_REAL, 1.5)
        assert job() == 75
    finally:
        signal.signal(signal.SIGALRM, old)
    (word, again), *_ = found
    assert word == "again" and (again.flags, again.output) == (job.flags, job.output)
