"""One loop for every regime: steps, evaluations, checkpoints, until the end or a signal."""

import psutil

from runners import preflight
from runners.evaluation_results import warn_of_broken
from runners.parts import Parts
from runners.run_folder import RunFolder
from runners.signals import Interruption, Signals


def drive(parts: Parts, run: RunFolder, signals: Signals, total_steps: int, text: str) -> bool:
    """Step the loop, evaluate and save when due.

    Args:
        parts: the run, put together and restored.
        run: its folder, which evaluations are written to.
        signals: where a request to stop is noted.
        total_steps: what the loop counts, environment steps or iterations, until the end.
        text: the gin text of the run, for its videos.

    Returns:
        Whether the end was reached; False after a request to stop.

    Raises:
        ConfigError: the folder was removed meanwhile.
        DivergenceError: too many updates in a row gave numbers that are not finite, or the critics'
            loss was too large.
    """
    loop, evaluator, checkpointer = parts.loop, parts.evaluator, parts.checkpointer
    try:
        _evaluate_if_due(parts, run, signals, text)  # an evaluation that a signal cut short
        while not signals.requested and (loop.step < total_steps or loop.pending):
            commits = loop.closing and parts.learner.commits
            before = _around_commit(parts, "before") if commits else {}
            step, metrics = next(loop)
            if before:
                parts.logger.write(step, {**before, **_around_commit(parts, "after")})
            if metrics:
                metrics = parts.logger.write(step, {**metrics, **_used()})
            parts.progress.update(step, metrics, loop.updates)
            _evaluate_if_due(parts, run, signals, text)
            if checkpointer.due(step):
                run.check_claim()
                checkpointer.save(step, **parts.state())
        if not signals.requested and evaluator and parts.evaluated["step"] != loop.step:
            _evaluate(parts, run, signals, text)
    except Interruption:
        return False
    finally:
        run.check_claim()
    return not signals.requested


def _used() -> dict[str, float]:
    """Memory now, and processor time since the process began, ended workers included."""
    process = psutil.Process()
    times = process.cpu_times()
    spent = times.user + times.system + times.children_user + times.children_system
    return {"sys/rss_gib": process.memory_info().rss / preflight.GIB, "sys/cpu_s": spent}


def _evaluate_if_due(parts: Parts, run: RunFolder, signals: Signals, text: str) -> None:
    if parts.evaluator is None or parts.loop.pending:
        return  # in the middle of the updates of this step
    if parts.evaluator.due(parts.loop.step) and not signals.requested:
        _evaluate(parts, run, signals, text)


def _evaluate(parts: Parts, run: RunFolder, signals: Signals, text: str) -> None:
    """Evaluate, and tell everybody; a signal drops it, and the resumed run does it again."""
    step, evaluator = parts.loop.step, parts.evaluator
    assert evaluator is not None
    before = evaluator.state_dict()
    try:
        with signals.at_once():
            metrics = evaluator(parts.suite, parts.learner)
    except Interruption:
        evaluator.load_state_dict(before)  # it may have been made, but nobody heard of it
        raise
    run.check_claim()
    warn_of_broken(metrics)
    parts.learner.evaluated(evaluator.success)
    parts.evaluated["step"] = step
    parts.progress.update(step, parts.logger.write(step, {**metrics, **_used()}))
    evaluator.write_result(run.results, step, parts.suite, metrics)
    parts.checkpointer.mark_best(step, evaluator.score(metrics), learner=parts.learner)
    if parts.recorder is not None:
        parts.recorder(run.path, step, parts.suite, parts.learner, text)


def _around_commit(parts: Parts, when: str) -> dict[str, float]:
    """Success rates `commit/success_rate_<when>` and of each task; nothing unless asked for."""
    if parts.commit_evaluator is None:
        return {}
    metrics = parts.commit_evaluator(parts.suite, parts.learner)
    tag, new = "eval/success_rate", f"commit/success_rate_{when}"
    return {k.replace(tag, new): v for k, v in metrics.items() if k.startswith(tag)}
