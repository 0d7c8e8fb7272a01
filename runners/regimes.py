"""Which loop, schedule and evaluator a learner is made for: what mismatches are told."""

from typing import Any, NamedTuple


class Regime(NamedTuple):
    """The parts that a kind of learner trains with."""

    part: str
    """The gin file to include."""
    evaluator: str


PLAIN = Regime("gin/runners/off_policy.gin", "Evaluator")
ON_POLICY = Regime("gin/runners/meta_on_policy.gin", "MetaEvaluator")
POSTERIOR = Regime("gin/runners/posterior_schedule.gin", "PosteriorEvaluator")
WINDOW = Regime("gin/runners/window_schedule.gin", "WindowEvaluator")


def regime(learner: Any) -> Regime:
    """The regime of a learner.

    One without `adapt` learns tasks that it is told. Of those that adapt, the off-policy ones say
    by `window` from what: None, all transitions so far; a number, the last ones of the episode.
    """
    if not hasattr(learner, "adapt"):
        return PLAIN
    if not hasattr(learner, "window"):
        return ON_POLICY
    return POSTERIOR if learner.window is None else WINDOW


def check_loop(owner: str, learner: Any, *wanted: Regime) -> None:
    """Refuse a learner of another regime than `wanted`.

    Raises:
        ValueError: naming the loop or schedule `owner`, and the gin file to include.
    """
    fit = regime(learner)
    if fit not in wanted:
        raise ValueError(f"{owner}: {_why(learner, fit)}; use {fit.part}")


def check_evaluator(owner: str, learner: Any, *wanted: Regime) -> None:
    """Refuse a learner of another regime than `wanted`.

    Raises:
        ValueError: naming the evaluator `owner`, and the one to bind.
    """
    fit = regime(learner)
    if fit not in wanted:
        raise ValueError(
            f"{owner}: {_why(learner, fit)}; bind train.evaluator = @{fit.evaluator}()"
        )


def _why(learner: Any, fit: Regime) -> str:
    what = {
        PLAIN: "does not adapt to tasks",
        ON_POLICY: "adapts to tasks by whole episodes of its own policy",
        POSTERIOR: "adapts to tasks between episodes, from a replay",
        WINDOW: f"adapts to tasks at every step, from the last {getattr(learner, 'window', 0)}",
    }
    return f"{type(learner).__name__} {what[fit]}"
