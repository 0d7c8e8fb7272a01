"""What `python -m runners.record` does, as functions."""

import contextlib
import errno
import functools
import importlib
import itertools
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gin

from runners import config, rendering
from runners.checkpoint_files import step_name
from runners.config import ConfigError
from runners.contact_sheet import write_contact_sheet
from runners.evaluation import evaluating, untouched_randomness
from runners.filming import Act, Episode, Film, Studio, one_of_each, policy_act, random_act
from runners.meta_filming import WindowAct, adaptations, before_and_after
from runners.regimes import ON_POLICY, POSTERIOR, WINDOW, regime
from runners.saved_run import SavedRun
from runners.video import write_video

SHEET_PICTURES = 6


@dataclass(frozen=True)
class Source:
    """Who acts, and where."""

    suite: Any
    prefix: str
    """What names of files begin with."""
    title: str
    folder: Path | None
    """Where files go if nothing else is said."""
    learner: Any = None
    """None acts at random."""
    evaluator: Any = None


def policy_of(run: Path | str, checkpoint: str = "latest", device: str = "cpu") -> Source:
    """The policy of a run, or an exported one.

    Raises:
        ConfigError: no run, or no such checkpoint.
    """
    saved = SavedRun(run, checkpoint, device)
    evaluator = saved.evaluator()
    kind = "stochastic" if _explores(saved.learner, evaluator) else "deterministic"
    return Source(
        saved.suite,
        step_name(saved.step),
        f"{saved.suite.name}, step {saved.step:,}, {kind} policy",
        saved.folder / "videos",
        saved.learner,
        evaluator,
    )


def random_on(
    files: Sequence[str], bindings: Sequence[str] = (), search_paths: Sequence[str] = ()
) -> Source:
    """Random actions on the suite of gin files.

    Raises:
        ConfigError: something is wrong with them, or they bind no `train.suite`.
    """
    training: Any = importlib.import_module("runners.training")
    config.parse(files, bindings, search_paths)
    with config.config_errors():
        suite = gin.get_bindings(training.train).get("suite")
    if suite is None:
        raise ConfigError(f"--gin_file={files[-1]}: binds no train.suite; take one of gin/envs")
    return Source(suite, "random", f"{suite.name}, random actions", None)


def record(
    source: Source,
    folder: Path | None = None,
    *,
    tasks: Sequence[str] = (),
    episodes: int = 10,
    every: int = 0,
    size: int = 480,
    sheet_only: bool = False,
    adapted: int | None = None,
    seed: int = 0,
    say: Callable[[str], None] = print,
) -> list[Path]:
    """Film each task, a success and a failure where there are both; then draw the contact sheet.

    A learner that adapts is filmed on a task of each name that it may not have seen (of the split
    that its evaluator names last), and before and after, if it adapts between episodes.

    Args:
        source: who acts, and where.
        folder: for the files.
        tasks: names; all if empty.
        episodes: played of each task at most.
        every: steps between two pictures; 0 for 20 pictures a second.
        size: width and height of a video.
        sheet_only: no videos.
        adapted: how often, of a learner that adapts between episodes; as in its evaluations if
            None.
        seed: of environments and random actions.
        say: is told each file, as it is written.

    Returns:
        The files.

    Raises:
        ConfigError: a task that there is not, tasks that cannot be filmed, or a folder that cannot
            be written to.
        RenderingError: the tasks need OpenGL, and no back end works.
    """
    folder = folder or source.folder or Path("videos")
    chosen = _chosen(source, tasks)
    count = adaptations(source.suite, source.learner, source.evaluator)
    if adapted is not None and not count:
        raise ConfigError(
            "--adaptations: this run's learner does not adapt between episodes; leave the flag out"
        )
    count = adapted or count
    _prepare(source.suite, chosen[0], say)
    writing = functools.partial(config.file_errors, f"--to={folder}", "choose another folder")
    with writing():  # before hours are played
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    files: list[Path] = []
    shown: list[Film] = []
    with untouched_randomness(seed):
        for task in chosen:
            begin = time.perf_counter()
            with contextlib.closing(Studio(source.suite, task, seed)) as studio:
                played = (
                    before_and_after(source.learner, source.evaluator, studio, count, seed)
                    if count
                    else _both(source, studio, episodes, seed)
                )
                for mark, episode in [] if sheet_only else played:
                    film = studio.film(episode, size, every=every)
                    name = f"{source.prefix}_{task.name}{mark}_{episode.outcome}.mp4"
                    with writing():
                        files.append(write_video(folder / name, film.pictures, film.rate))
                    seconds = time.perf_counter() - begin
                    say(f"{files[-1]}  ({len(episode.actions)} steps, {seconds:.0f} s)")
                _, best = played[-1 if count else 0]
                shown.append(studio.film(best, size, pictures=SHEET_PICTURES))
    path = folder / f"{source.prefix}_sheet.png"
    title = source.title
    if count:
        title += f", adapted {count} times"
    with writing():
        files.append(write_contact_sheet(path, shown, title))
    say(str(path))
    return files


def _chosen(source: Source, names: Sequence[str]) -> list[Any]:
    fit, split = regime(source.learner), "train"
    if fit in (ON_POLICY, POSTERIOR):
        split = source.evaluator.splits[-1]
    elif fit is WINDOW:
        split = source.evaluator.runs[-1].split("/")[0]
    known = {task.name: task for task in source.suite.tasks(split)}
    for name in names:
        if name not in known:
            raise ConfigError(f"--tasks={name}: {source.suite.name} has {', '.join(known)}")
    return [known[name] for name in names] if names else list(known.values())


def _prepare(suite: Any, task: Any, say: Callable[[str], None]) -> None:
    """See that one picture can be taken, and choose the back end that takes it."""
    environment = suite.build((task,))(task)
    try:
        if environment.needs_gl:
            tried = rendering.choose()
            say(
                f"pictures by {tried.backend} ({tried.drawn_by}), "
                f"{tried.seconds:.2f} s for one of 480x480"
            )
        environment.reset(options={"goal": task.goals[0]})
        environment.picture(16, 16)
    except NotImplementedError as error:
        raise ConfigError(f"the tasks of {suite.name} have no pictures; nothing to film") from error
    finally:
        environment.close()


def _both(source: Source, studio: Studio, episodes: int, seed: int) -> list[tuple[str, Episode]]:
    """A success and a failure of one task, as far as there are both."""
    goals = list(itertools.islice(itertools.cycle(studio.task.goals), episodes))
    if source.learner is None:
        return [
            ("", one) for one in one_of_each(studio, goals, random_act(source.suite.spec, seed))
        ]
    explore = _explores(source.learner, source.evaluator)
    if not explore:
        goals = goals[: len(studio.task.goals)]  # again would be the same again
    with evaluating(source.learner):
        if regime(source.learner) is WINDOW:
            act: Act = WindowAct(source.learner, source.evaluator, studio, explore)
        else:
            act = policy_act(source.learner, studio.task, explore)
        return [("", one) for one in one_of_each(studio, goals, act)]


def _explores(learner: Any, evaluator: Any) -> bool:
    """Whether actions are sampled, as in the run's evaluations."""
    fit = regime(learner)
    if fit is WINDOW:
        return bool(evaluator.runs[-1].endswith("stochastic"))
    return fit is ON_POLICY or bool(getattr(evaluator, "explore", False))
