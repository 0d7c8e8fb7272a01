"""What `runners.doctor` looks at, by the standard library alone: all else may be missing."""

import importlib
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from envs.cores import usable_cores
from runners import rendering
from runners.files import existing
from runners.requirements import canonical, installed, pins, requirements, satisfies

GOOD, NOTE, BAD = "ok", "note", "BAD"
ROOT = Path(__file__).resolve().parents[1]
GIB = 2**30
PYTHON = (3, 11)
EXTRAS = {
    "imageio-ffmpeg": "pip install imageio-ffmpeg, for videos",
    "pillow": "pip install pillow, for contact sheets",
    "matplotlib": "pip install matplotlib, for plots",
    "wandb": "pip install wandb, if metrics shall go there",
}
INSTALL = "pip install -c constraints.txt -e ."
FREE_DISK, FREE_MEMORY = 10 * GIB, 4 * GIB
SLOW = 0.5
"""Below this share of the documented speed there is a note."""
FEATURES = ("avx2", "avx512f", "avx512_bf16", "amx_bf16")
TORCH = """
import json, torch
gpu = torch.cuda.is_available()
ones = torch.ones(8, 8, device="cuda" if gpu else "cpu")
print(json.dumps({
    "threads": torch.get_num_threads(),
    "cuda": torch.version.cuda,
    "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count() * gpu)],
    "gpu_memory": torch.cuda.get_device_properties(0).total_memory if gpu else 0,
    "answer": float((ones @ ones).sum()),
}))
"""


@dataclass(frozen=True)
class Finding:
    """A line of the report."""

    level: str
    """GOOD, NOTE (training runs without) or BAD (it does not)."""
    what: str
    text: str
    fix: str = ""


def examine(workdir: Path | str, speed: bool = True) -> Iterator[Finding]:
    """All findings, as they come.

    Args:
        workdir: where runs will be kept.
        speed: also measure half a minute how fast training is.
    """
    yield python()
    yield from libraries()
    yield from extras()
    yield processor()
    told, finding = torch_works()
    yield finding
    yield from threads(told)
    yield gpu(told)
    yield memory()
    yield from pictures()
    yield disk(workdir)
    if speed and told:
        yield from measured()


def python() -> Finding:
    """The interpreter's version."""
    text = f"{platform.python_version()} on {platform.system()} {platform.machine()}"
    if sys.version_info < PYTHON:
        return Finding(
            BAD, "python", text, "use Python 3.11 or newer: make PYTHON=python3.11 train"
        )
    return Finding(GOOD, "python", text)


def libraries() -> Iterator[Finding]:
    """What must be installed, in versions of the ranges asked for."""
    wanted, tested = requirements(), pins()
    if not wanted:
        yield Finding(BAD, "libraries", "what is needed is written nowhere", INSTALL)
    fine, other = [], []
    for name, ranges in wanted.items():
        version = installed(name)
        if version is None:
            yield Finding(BAD, name, "is not installed", INSTALL)
        elif not satisfies(version, ranges):
            yield Finding(BAD, name, f"{version} is installed, {ranges} is needed", INSTALL)
        else:
            fine.append(f"{name} {version}")
            pinned = tested.get(canonical(name), version)
            if pinned != version.split("+")[0]:
                other.append(f"{name} {version} (tested: {pinned})")
    if fine:
        yield Finding(GOOD, "libraries", ", ".join(fine))
    if other:
        yield Finding(NOTE, "versions", f"not those of the tests: {', '.join(other)}", INSTALL)


def extras() -> Iterator[Finding]:
    """What may be missing."""
    for name, fix in EXTRAS.items():
        version = installed(name)
        if version is None:
            yield Finding(NOTE, name, "is not installed; training does not need it", fix)
        else:
            yield Finding(GOOD, name, version)


def processor() -> Finding:
    """The processor and what of it matters to the products of matrices."""
    info = _read("/proc/cpuinfo")
    found = re.search(r"model name\s*:\s*(.+)", info)
    name = found[1].strip() if found else platform.processor() or platform.machine()
    listed = re.search(r"flags\s*:\s*(.+)", info)
    flags = set(listed[1].split()) if listed else set()
    text = f"{name}, {os.cpu_count()} cores"
    if not flags:
        return Finding(GOOD, "processor", text)
    text += f"; {' '.join(flag for flag in FEATURES if flag in flags) or 'none of AVX2, AVX-512'}"
    if "avx2" not in flags:
        return Finding(NOTE, "processor", text, "updates will be slow; use a machine with AVX2")
    if not flags & {"avx512_bf16", "amx_bf16"}:
        text += "; no bfloat16 arithmetic: keep PRECISION = 'fp32'"
    return Finding(GOOD, "processor", text)


def torch_works() -> tuple[dict[str, Any], Finding]:
    """What torch says of itself in a process of its own; nothing if it does not work."""
    told, problem = _ask([sys.executable, "-c", TORCH])
    if told.get("answer") == 512.0:
        return told, Finding(GOOD, "torch", "imports, and multiplies")
    return {}, Finding(BAD, "torch", problem or "multiplies wrongly", INSTALL)


def threads(told: dict[str, Any]) -> Iterator[Finding]:
    """Cores this process may use, torch's threads, and who else is at work."""
    may = usable_cores()
    set_to = os.environ.get("OMP_NUM_THREADS")
    number = told.get("threads", 0)
    text = f"{number or '?'} of torch, {may:g} of {os.cpu_count()} cores may be used"
    if set_to:
        text += f", OMP_NUM_THREADS={set_to}"
    if number > max(1, may):
        fix = f"export OMP_NUM_THREADS={max(1, int(may))}, or bind train.threads"
        yield Finding(NOTE, "threads", text, fix)
    else:
        yield Finding(GOOD, "threads", text)
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    if load > 0.5 * (os.cpu_count() or 1):
        fix = "wait for it, or give training cores of its own (taskset); speeds below are too low"
        yield Finding(NOTE, "load", f"{load:.1f} processes are at work already", fix)


def gpu(told: dict[str, Any]) -> Finding:
    """CUDA devices, or why there is none."""
    if told.get("gpus"):
        names = ", ".join(told["gpus"])
        text = f"{names}, {told['gpu_memory'] / GIB:.0f} GiB; bind DEVICE = 'cuda'"
        return Finding(GOOD, "gpu", text)
    if shutil.which("nvidia-smi") is None:
        return Finding(GOOD, "gpu", "none; training runs on the processor")
    if told and told["cuda"] is None:
        fix = "install a torch with CUDA: https://pytorch.org/get-started/locally"
        return Finding(NOTE, "gpu", "there may be one, but this torch has no CUDA", fix)
    fix = "look at nvidia-smi; the driver may be too old for this torch"
    return Finding(NOTE, "gpu", "nvidia-smi is there, but torch sees no device", fix)


def memory() -> Finding:
    """Main memory that is free."""
    free = [int(kib) * 1024 for kib in re.findall(r"MemAvailable:\s*(\d+)", _read("/proc/meminfo"))]
    limit, used = (_read(f"/sys/fs/cgroup/memory.{name}").strip() for name in ("max", "current"))
    if limit.isdecimal() and used.isdecimal():
        free.append(int(limit) - int(used))
    if not free:
        return Finding(GOOD, "memory", "not known on this system")
    text = f"{min(free) / GIB:.1f} GiB free"
    if min(free) < FREE_MEMORY:
        fix = "lower REPLAY_CAPACITY; `runners.train --dry_run` says what a run needs"
        return Finding(NOTE, "memory", text, fix)
    return Finding(GOOD, "memory", text)


def pictures() -> Iterator[Finding]:
    """Every back end for pictures, really tried, and the encoder of videos."""
    given = os.environ.get("MUJOCO_GL", "").lower()
    tried = list(rendering.attempts())
    works = [one for one in tried if not one.problem]
    for one in tried:
        what = f"pictures, {one.backend}"
        if not one.problem:
            slow = " (in software)" if re.search("llvmpipe|softpipe|swrast", one.drawn_by) else ""
            text = f"{one.drawn_by}{slow}, {one.seconds:.2f} s for one of 480x480"
            yield Finding(GOOD, what, text)
        else:
            text = f"does not work: {one.problem}"
            level = GOOD if works and one.backend != given else NOTE
            fix = rendering.FIX if level == NOTE else ""
            yield Finding(level, what, f"{text}{'; not needed' * (level == GOOD)}", fix)
    if installed("imageio-ffmpeg") is not None:
        try:
            program = importlib.import_module("imageio_ffmpeg").get_ffmpeg_exe()
            yield Finding(GOOD, "videos", f"ffmpeg at {program}")
        except (ImportError, RuntimeError) as error:
            yield Finding(NOTE, "videos", str(error).splitlines()[0], EXTRAS["imageio-ffmpeg"])


def disk(workdir: Path | str) -> Finding:
    """Room for checkpoints, and whether anything can be written at all."""
    path = existing(Path(workdir))
    try:
        free = shutil.disk_usage(path).free
        text = f"{free / GIB:.0f} GiB free for {workdir}"
        with tempfile.TemporaryFile(dir=path) as file:
            file.write(b"x" * 2**16)
            file.flush()
    except OSError as error:
        fix = "choose another folder with --workdir"
        return Finding(BAD, "disk", f"{path} cannot be written to: {error.strerror or error}", fix)
    if free < FREE_DISK:
        fix = "clear some, choose another --workdir, or bind Checkpointer.exclude_buffer = True"
        return Finding(NOTE, "disk", text, fix)
    return Finding(GOOD, "disk", text)


def measured() -> Iterator[Finding]:
    """Stepping and updating beside the figures of docs/performance.md."""
    if not (ROOT / "gin").is_dir():
        fix = "clone the repository for its gin files and benchmarks"
        yield Finding(NOTE, "speed", "not measured: the folder gin/ is not here", fix)
        return
    told, problem = _ask([sys.executable, "-m", "runners.speed"], timeout=300.0)
    if not told:
        fix = "`python -m runners.speed` shows all of the error"
        yield Finding(BAD, "speed", f"a training could not be tried: {problem}", fix)
        return
    documented: dict[str, float] = told["documented"]
    stepping = told["steps_per_second"] / documented["steps_per_second"]
    updating = documented["update_ms"] / told["update_ms"]
    yield _compared(
        "stepping",
        f"{told['steps_per_second']:,.0f} steps a second of MT10",
        stepping,
        "no other work beside it; as many cores as there are; MetaWorldSuite.workers = None",
    )
    yield _compared(
        "updating",
        f"{told['update_ms']:.0f} ms for an MT-SAC update of MT10",
        updating,
        "no other work beside it; OMP_NUM_THREADS as many as cores; DEVICE = 'cuda' on a GPU",
    )


def _compared(what: str, text: str, share: float, fix: str) -> Finding:
    text += f", {share:.2f} times the speed in docs/performance.md (two cores)"
    return Finding(NOTE, what, text, fix) if share < SLOW else Finding(GOOD, what, text)


def _ask(command: list[str], timeout: float = 120.0) -> tuple[dict[str, Any], str]:
    """The JSON object a program prints last, or why there is none."""
    environment = {"GOMP_SPINCOUNT": "1000", **os.environ}  # as runners.command_line says
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=timeout, cwd=ROOT, env=environment
        )
        return dict(json.loads(done.stdout.splitlines()[-1])), ""
    except subprocess.TimeoutExpired:
        return {}, f"no answer within {timeout:.0f} s"
    except (IndexError, ValueError, TypeError):
        lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
        return {}, lines[-1] if lines else f"ended with {done.returncode}"


def _read(path: Path | str) -> str:
    try:
        return Path(path).read_text(errors="replace")
    except OSError:
        return ""
