"""What `--dry_run` finds: environments and learners that break the rules, in one line each."""

from functools import partial

import pytest

from envs.plane import PointMass
from envs.point_mass import PointMassSuite
from runners.config import ConfigError
from runners.environment_checks import check_environments


def made(kind, task):
    return kind(task.task_id, (42,))


def suite_of(kind, workers=0, name="turn-1"):
    """The point mass, with an environment of another kind for the task of this name."""

    class Suite(PointMassSuite):
        def build(self, tasks):
            return partial(mixed, kind, name)

    return Suite(2, workers=workers)


def mixed(kind, name, task):
    return made(kind if task.name == name else PointMass, task)


class Forgetful(PointMass):
    """Nothing is kept."""

    def snapshot(self):
        return {}

    def restore(self, state):
        pass


class Tired(PointMass):
    """Pushes less from step to step, and keeps to itself how many there were."""

    def reset(self, **options):
        self.pushes = 0
        return super().reset(**options)

    def step(self, action):
        self.pushes += 1
        return super().step(action / self.pushes)


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("kind", [Forgetful, Tired])
def test_a_snapshot_that_leaves_something_out(kind, workers):
    said = "task turn-1: after a restored snapshot .* snapshot and restore must hold everything"
    with pytest.raises(ConfigError, match=said):
        check_environments(suite_of(kind, workers))


def test_environments_that_keep_the_rules():
    check_environments(suite_of(PointMass))
