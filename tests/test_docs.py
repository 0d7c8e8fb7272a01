"""The documentation: it builds, its reference is complete, and what its pages show is so."""

import ast
import html
import importlib
import inspect
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import gin
import pytest
from gin import config as gin_config

from runners import config

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
ENVIRONMENTS = DOCS / "methods/meta_environments.md"
PACKAGES = ("envs", "networks", "buffers", "algorithms", "runners")
BLOCK = re.compile(r'^```(\w+)(?: title="([^"]+)")?\n(.*?)^```$', re.MULTILINE | re.DOTALL)
TINY = ["TOTAL_STEPS = 48", "WARMUP_STEPS = 8", "BATCH_SIZE = 8", "LOG_INTERVAL = 8"]
TINY += ["Evaluator.num_goals = 1", "Logger.tensorboard = False"]


def _name(page):
    return str(page.relative_to(DOCS))


def blocks(page, kind=None):
    """Title and text of a page's fenced blocks, of one kind."""
    found = BLOCK.findall((DOCS / page).read_text())
    return [(title, text) for language, title, text in found if kind in (None, language)]


def environment(**more):
    """Where Polytask is found as if it were installed, and no tool asks the network."""
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
    return {**os.environ, "PYTHONPATH": path, "NO_MKDOCS_2_WARNING": "1", **more}


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The built site, from scratch; a warning fails it."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", f"--site-dir={folder}"]
    built = subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, text=True)
    assert built.returncode == 0, built.stdout + built.stderr
    return folder


def test_site_builds_strictly_and_fetches_nothing(site):
    """Strictly: each page is in the navigation, each link and anchor leads somewhere."""
    for page in PAGES:
        assert (site / page.relative_to(DOCS).with_suffix(".html")).is_file()
    fetched = re.compile(r"""(?:\bsrc=|<link[^>]*\bhref=|url\(|@import )["']?(?:https?:)?//""")
    for file in (*site.rglob("*.html"), *site.rglob("*.css")):
        assert not (there := fetched.search(file.read_text())), f"{file}: {there and there[0]}"


def test_reference_is_complete(site):
    """Every configurable of the registry and of the sources, with every argument gin may bind."""
    text = "".join(file.read_text() for file in (site / "reference").glob("*.html"))
    shown = set(re.findall(r'id="([\w.]+)"', text))
    names = set()
    for package in PACKAGES:
        for file in sorted((ROOT / package).glob("[a-z]*.py")):
            module = importlib.import_module(f"{package}.{file.stem}")
            assert {f"{module.__name__}.{n}" for n in _decorated(file)} <= _registered()
    for entry in (entry for _, entry in gin_config._REGISTRY.items()):
        if entry.module.split(".")[0] not in PACKAGES and entry.module != "torch.optim":
            continue
        if ".tests" in entry.module:
            continue
        names.add(entry.name)
        assert entry.name in shown
        assert html.escape(f"{entry.module}.{entry.name}") in text
        for parameter in inspect.signature(entry.wrapped).parameters.values():
            if parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
                assert f"{entry.name}.{parameter.name}" in shown
    headings = set(re.findall(r'<h2 id="(\w+)"', text)) - set(PACKAGES)
    assert headings == names


def _decorated(file):
    nodes = ast.walk(ast.parse(file.read_text()))
    definitions = [n for n in nodes if isinstance(n, ast.ClassDef | ast.FunctionDef)]
    marked = [n for n in definitions if any("gin." in ast.unparse(d) for d in n.decorator_list)]
    return {node.name for node in marked}


def _registered():
    return {f"{entry.module}.{entry.name}" for _, entry in gin_config._REGISTRY.items()}


def test_every_macro_is_in_the_reference(site):
    text = (site / "reference/macros.html").read_text()
    for part in ("algorithms", "envs", "networks", "runners"):
        for file in (ROOT / "gin" / part).glob("*.gin"):
            for macro in re.findall(r"^([A-Z][A-Z0-9_]*) *=", file.read_text(), re.MULTILINE):
                assert f'id="{macro}"' in text, f"{file}: {macro}"


@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_files_that_a_page_names_exist(page):
    text = re.sub(r"^```console.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    folders = "|".join((*PACKAGES, "gin", "benchmarks", "docs", "tests"))
    for path in re.findall(rf"(?<![\w/.])((?:{folders})/[\w/]+\.(?:gin|py|md))\b", text):
        assert (ROOT / path).is_file(), path


@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_commands_of_a_page_have_flags_that_there_are(page, capsys):
    command = re.compile(r"python -m runners\.(\w+)((?:[^\n]*\\\n)*[^\n`]*)")
    for verb, rest in command.findall(page.read_text()):
        assert importlib.import_module(f"runners.{verb}").main([verb, "--help"]) == 0
        known = set(re.findall(r"--(?:\[no\])?(\w+)", capsys.readouterr().out))
        for flag in re.findall(r"(?<=\s)--(\w+)", rest):
            assert flag in known, f"runners.{verb} --{flag}"


def test_sizes_of_the_inference_environments():
    """The table's rows are what the part files build, and every part file is in it."""
    row = re.compile(
        r"^\| `(\w+)` \| .+ \| (\d+), (\d+) \| (\d+) \| (\d+), (\d+) \|$", re.MULTILINE
    )
    told = {name: sizes for name, *sizes in row.findall(ENVIRONMENTS.read_text())}
    files = sorted((ROOT / "gin/envs").glob("*.gin"))
    parts = [f for f in files if f.stem.startswith(("point_robot", "pearl_", "tigr_", "cemrl_"))]
    assert set(told) == {file.stem for file in parts}
    importlib.import_module("runners.training")  # as the entry point does
    for file in parts:
        gin.clear_config()
        config.parse([file])
        suite = gin.query_parameter("train.suite").scoped_configurable_fn()
        spec = suite.spec
        sizes = [spec.observation_dim, spec.action_dim, spec.horizon]
        sizes += [len(suite.each(split)) for split in ("train", "test")]
        assert told[file.stem] == [str(size) for size in sizes], file


MESSAGES = [text for _, text in blocks("troubleshooting.md", "console")]


@pytest.mark.parametrize("session", MESSAGES, ids=range(len(MESSAGES)))
def test_messages_of_troubleshooting(session, tmp_path, monkeypatch, capsys, caplog):
    """Commands and what they print; three dots stand for anything."""
    if "cuda'" in session:
        monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.gin").write_text("import lab.gain_mlp\n")
    monkeypatch.setitem(sys.modules, "lab", None)
    for step in session.split("$ python -m ")[1:]:
        command, _, expected = step.partition("\n")
        verb, *arguments = shlex.split(command.removeprefix("runners."))
        caplog.clear()
        code = importlib.import_module(f"runners.{verb}").main([verb, *arguments])
        printed = capsys.readouterr().err
        assert code == (2 if "error:" in expected else 0)
        if not expected.strip():
            continue
        printed += "".join(f"{r.levelname}:{r.name}:{r.getMessage()}\n" for r in caplog.records)
        pattern = re.escape(expected.strip()).replace(re.escape("..."), ".*")
        pattern = pattern.replace("No\\ module\\ named\\ 'lab'", ".*")
        assert re.search(f"^{pattern}$", printed, re.MULTILINE), printed


def test_quick_start(tmp_path, monkeypatch, capsys):
    """Its file and its script do what the page says."""
    monkeypatch.chdir(tmp_path)
    files = dict(blocks("quick_start.md"))
    (tmp_path / "mine.gin").write_text(files["mine.gin"])
    describe = importlib.import_module("runners.describe")
    assert describe.main(["describe", "--gin_file=mine.gin"]) == 0
    assert "MaskedSAC" in capsys.readouterr().out
    exec(compile(files["from_python.py"], "from_python.py", "exec"), {})
    assert capsys.readouterr().out.splitlines()[-1] == "DONE"
    assert (tmp_path / "runs/from_python/mtsac_point_mass/seed_0/policy").is_dir()


def test_every_verb_in_a_notebook(tmp_path, monkeypatch, capsys):
    """The page's script runs, and its table names functions that there are."""
    monkeypatch.chdir(tmp_path)
    script = dict(blocks("notebooks.md"))["notebook.py"]
    exec(compile(script, "notebook.py", "exec"), {})
    run = tmp_path / "runs/mtsac_point_mass/seed_0"
    assert "| mtsac_point_mass | 2 |" in capsys.readouterr().out
    assert (run / "eval" / "evaluate_700_episodes_10_seed_7.json").is_file()
    assert list(run.glob("videos/*_sheet.png"))
    assert (tmp_path / "plots/curves.png").is_file() and (run / "policy_best").is_dir()
    page = (DOCS / "notebooks.md").read_text()
    assert not gin.config_is_locked()  # so that these modules can be imported by now
    for place, name in re.findall(r"\| `(runners\.\w+)\.(\w+)` \|", page):
        assert callable(getattr(importlib.import_module(place), name))


def test_the_environments_alone(tmp_path):
    """The page's script runs as a file of its own, whose workers import it."""
    script = tmp_path / "environments.py"
    script.write_text(dict(blocks("notebooks.md"))["environments.py"])
    done = subprocess.run(
        [sys.executable, str(script)], env=environment(), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert re.match(r"tensor\(\d", done.stdout)


def run_walk_through(page, folder):
    """Write the files of a page into a folder and run its commands there, with fewer steps."""
    for title, text in blocks(page):
        if title:
            (folder / title).parent.mkdir(exist_ok=True)
            (folder / title).write_text(text)
    commands = [line for _, text in blocks(page, "sh") for line in text.splitlines()]
    before = _tree()
    for command in commands:
        program, *words = shlex.split(command)
        assert program == "python"
        tiny = [f"--gin={line}" for line in TINY] if "runners.train" in words else []
        done = subprocess.run(
            [sys.executable, *words, *tiny],
            cwd=folder,
            env=environment(),
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        assert "nothing reads it" not in done.stderr
    assert _tree() == before  # Polytask's own files are as they were
    return commands


def test_tasks_are_added_from_outside(tmp_path):
    """The suite of the page trains in workers, and its simulator keeps what was promised."""
    assert len(run_walk_through("add_tasks.md", tmp_path)) == 3
    run = tmp_path / "runs/mtsac_pendulums/seed_0"
    assert json.loads((run / "status.json").read_text())["state"] == "DONE"
    [result] = (run / "eval").glob("evaluate_*.json")
    assert json.loads(result.read_text())["protocol"]["gravities"] == [2.0, 4.0]


def test_a_method_is_added_from_outside(tmp_path):
    """The files and commands of the walk-through, in a folder of their own, with fewer steps."""
    commands = run_walk_through("add_a_method.md", tmp_path)
    assert len(commands) == 4 and sum("runners.train" in line for line in commands) == 3
    for name, parts in {"gain": ("GainMLP", "SAC"), "ddpg": ("GainMLP", "DDPG")}.items():
        run = tmp_path / f"runs/{name}_point_mass/seed_0"
        assert json.loads((run / "status.json").read_text())["state"] == "DONE"
        operative = (run / "operative.gin").read_text()
        assert all(f"@{part}\n" in operative for part in parts)
        last = json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])
        assert last["step"] == 48
    assert list((tmp_path / "runs/gain_point_mass/seed_0/eval").glob("evaluate_*.json"))


def _tree():
    folders = [ROOT / name for name in (*PACKAGES, "gin")]
    return {
        f: f.stat().st_mtime_ns
        for top in folders
        for f in top.rglob("*.*")
        if f.is_file() and f.suffix != ".pyc"
    }


TRAINER = """#!{python}
import pathlib, signal, sys, time
signal.signal(signal.SIGUSR1, lambda *_: (time.sleep(0.3), sys.exit(75)))
signal.signal(signal.SIGTERM, lambda *_: sys.exit(75))
pathlib.Path("words").write_text("|".join(sys.argv[1:]))
if "--finish" in sys.argv: sys.exit(0)
time.sleep(30)
"""


@pytest.mark.parametrize("slow", [False, True])
@pytest.mark.parametrize("sent", [signal.SIGUSR1, signal.SIGTERM, None])
def test_batch_script(sent, slow, tmp_path):
    """It hands signals on, waits for the training, asks for a new turn on 75, and only then.

    Slow, it rests before each command, so that the training has ended when it next looks.
    """
    ((_, script),) = blocks("cluster.md", "bash")
    (tmp_path / "train.sbatch").write_text(script)
    (tmp_path / "python").write_text(TRAINER.format(python=sys.executable))
    (tmp_path / "scontrol").write_text('#!/bin/sh\necho "$@" > requeued\n')
    for name in ("python", "scontrol"):
        (tmp_path / name).chmod(0o755)
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    slurm = {"SLURM_ARRAY_TASK_ID": "3", "SLURM_JOB_ID": "77", "PATH": path}
    rest = ["-T", "-c", "trap 'sleep 0.1' DEBUG; . ./train.sbatch", "train.sbatch"]
    begin = rest if slow else ["train.sbatch"]
    command = ["bash", *begin, "--gin=A = 'b c'", *([] if sent else ["--finish"])]
    job = subprocess.Popen(command, cwd=tmp_path, env=environment(**slurm))
    deadline = time.monotonic() + 20
    while not (tmp_path / "words").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    time.sleep(1.0 if slow else 0.1)  # until it catches signals
    if sent:
        job.send_signal(sent)
    assert job.wait(timeout=20) == (75 if sent else 0)
    words = (tmp_path / "words").read_text().split("|")
    assert words[:2] == ["-m", "runners.train"] and "--seed=3" in words
    assert "--gin=A = 'b c'" in words
    assert (tmp_path / "requeued").exists() == bool(sent)
    if sent:
        assert (tmp_path / "requeued").read_text() == "requeue 77\n"
