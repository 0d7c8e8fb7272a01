"""Tests of what is told to a learner under the wrong loop or evaluator."""

import pytest

from runners.regimes import (
    ON_POLICY,
    PLAIN,
    POSTERIOR,
    WINDOW,
    check_evaluator,
    check_loop,
    regime,
)


class Plain:
    pass


class Adapting(Plain):
    def adapt(self):
        pass


class Posterior(Adapting):
    window = None


class Window(Adapting):
    window = 16


KINDS = {Plain: PLAIN, Adapting: ON_POLICY, Posterior: POSTERIOR, Window: WINDOW}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("wanted", KINDS.values())
def test_a_learner_fits_its_own_regime_alone(kind, wanted):
    fit = KINDS[kind]
    assert regime(kind()) == fit
    if fit == wanted:
        check_loop("Loop", kind(), wanted)
        check_evaluator("Judge", kind(), wanted)
        return
    with pytest.raises(ValueError, match=f"^Loop: {kind.__name__} .*use {fit.part}$"):
        check_loop("Loop", kind(), wanted)
    with pytest.raises(ValueError, match=rf"^Judge: {kind.__name__} .*= @{fit.evaluator}\(\)$"):
        check_evaluator("Judge", kind(), wanted)
