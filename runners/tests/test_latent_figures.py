"""Figures of latents: what is drawn where, from made-up arrays."""

import numpy as np
import pytest

from runners import figures, latent_figures
from runners.latent_figures import plane, responsibilities, space
from runners.latent_records import of_split
from runners.true_tasks import truth

RNG = np.random.default_rng(0)


def windows(width=2, steps=30, length=None, change=None, tasks=2):
    """Two families, a component each; z is the family's number, and noise."""
    family = np.broadcast_to(np.arange(tasks)[:, None, None] % 2, (tasks, 1, steps)).copy()
    changed = np.zeros((tasks, 1, steps), dtype=bool)
    if change is not None:
        family[:, :, change:] = 1 - family[:, :, change:]
        changed[:, :, change] = True
    mask = np.ones((tasks, 1, steps), dtype=bool)
    if length is not None:
        mask[0, 0, length:] = False
    return {
        "latent": 5.0 * family[..., None] + 0.1 * RNG.normal(size=(tasks, 1, steps, width)),
        "weights": np.stack((1.0 - 0.9 * family, 0.9 * family), -1),
        "component": family,
        "family": family,
        "specification": np.ones((tasks, 1, steps, 1)),
        "changed": changed,
        "reward": np.zeros((tasks, 1, steps)),
        "mask": mask,
        "names": np.array(["goal", "direction"]),
        "task": np.array(["goal", "direction"] * tasks)[:tasks],
        "goal": np.zeros(tasks, dtype=int),
    }


def posteriors(tasks=12, width=5, numbers=2, episodes=3):
    specification = RNG.uniform(-1, 1, (tasks, numbers))
    mean = RNG.normal(size=(tasks, 2, episodes, width))
    mean[0, 1, 2] = np.nan  # this task was done after two episodes
    return {
        "mean": mean,
        "variance": np.full(mean.shape, 0.25),
        "return": np.zeros(mean.shape[:3]),
        "specification": specification,
        "task": np.array(["goal"] * tasks),
        "goal": np.arange(tasks),
    }


def offsets(figure, panel=0):
    """The points of each kind in a panel."""
    return [np.asarray(one.get_offsets()) for one in figure.axes[panel].collections]


def names(figure):
    return [text.get_text() for text in figure.legends[0].get_texts()] if figure.legends else []


def test_truth_by_name_by_few_specifications_or_a_continuum():
    several = truth(np.array(["run", "jump", "run"]), np.array([[1.0], [2.0], [3.0]]))
    assert several.labels == ("run", "jump") and several.kind.tolist() == [0, 1, 0]
    assert not several.continuous and len(several.coordinates) == 1
    two = truth(np.array(["direction"] * 3), np.array([[1.0], [-1.0], [1.0]]))
    assert two.labels == ("direction -1", "direction 1") and two.kind.tolist() == [1, 0, 1]
    many = truth(np.array(["goal"] * 20), RNG.uniform(size=(20, 3)))
    assert many.continuous and many.labels == ("goal",) and list(many.coordinates) == [0, 1]
    nothing = truth(np.array(["reach"] * 3), np.zeros((3, 0)))
    assert not nothing.continuous and nothing.labels == ("reach",)


def test_two_dimensions_are_themselves_and_of_more_the_principal_components():
    points = RNG.normal(size=(50, 2))
    assert np.array_equal(plane(points)[0], points)
    wide = RNG.normal(size=(200, 5)) * np.array([0.1, 3.0, 0.1, 1.0, 0.1])
    places, labels = plane(wide)
    centred = wide - wide.mean(0)
    values, vectors = np.linalg.eigh(centred.T @ centred)
    best = vectors[:, ::-1][:, :2]
    assert np.abs(places) == pytest.approx(np.abs(centred @ best))
    shares = values[::-1] / values.sum()
    assert labels[0] == f"PC 1 of z ({100 * shares[0]:.0f} % of variance)"
    assert labels[1] == f"PC 2 of z ({100 * shares[1]:.0f} % of variance)"
    same, told = plane(np.ones((4, 3)))
    assert not same.any() and "(0 %" in told[0]


def test_latents_of_steps_by_family():
    """Not those of the first ten steps, nor of what follows the end of an episode."""
    arrays = windows(length=20)
    figure = space(arrays, "test/deterministic")
    goal, direction = offsets(figure)
    assert goal == pytest.approx(arrays["latent"][0, 0, 10:20])
    assert direction == pytest.approx(arrays["latent"][1, 0, 10:])
    assert names(figure) == ["goal", "direction"]
    assert figure.axes[0].get_title() == "test/deterministic"
    colors = [tuple(one.get_facecolor()[0]) for one in figure.axes[0].collections]
    assert colors[0] != colors[1]
    paths = [one.get_paths()[0].vertices for one in figure.axes[0].collections]
    assert paths[0].shape != paths[1].shape or not np.allclose(*paths)  # markers


def test_short_episodes_are_drawn_whole():
    assert [len(one) for one in offsets(space(windows(steps=6)))] == [6, 6]


def test_after_a_change_a_latent_belongs_to_the_new_task():
    arrays = windows(change=15)
    goal, direction = offsets(space(arrays))
    assert len(direction) == len(goal) == 20
    assert goal == pytest.approx(
        np.concatenate((arrays["latent"][0, 0, 10:15], arrays["latent"][1, 0, 15:]))
    )


def test_one_dimension_over_the_steps():
    arrays = windows(width=1, length=20, change=12)
    axis = space(arrays).axes[0]
    lines = [line for line in axis.get_lines() if line.get_label()[0] != "_"]
    expected = [("goal", 0, 0, 12), ("direction", 0, 12, 20)]
    expected += [("direction", 1, 0, 12), ("goal", 1, 12, 30)]
    for line, (name, row, start, stop) in zip(lines, expected, strict=True):
        assert line.get_label() == name
        steps = line.get_xdata()[: stop - start]
        assert steps.tolist() == list(range(start, stop))
        assert line.get_ydata()[: stop - start] == pytest.approx(
            arrays["latent"][row, 0, start:stop, 0]
        )
    marks = [line.get_xdata()[0] for line in axis.get_lines() if line.get_label()[0] == "_"]
    assert marks == [12, 12]
    assert names(space(arrays)) == ["goal", "direction"]


def test_one_dimension_of_a_continuum_has_a_bar():
    arrays = windows(width=1, tasks=10)
    arrays |= {"names": np.array(["velocity"]), "family": np.zeros_like(arrays["family"])}
    arrays["specification"] = np.linspace(0, 3, 10)[:, None, None, None] * np.ones((1, 1, 30, 1))
    figure = space(arrays)
    assert len(figure.axes) == 2 and not figure.legends
    assert figure.axes[1].get_ylabel() == "true task: velocity"
    assert len({line.get_color() for line in figure.axes[0].get_lines()}) == 10


def test_posteriors_after_each_episode_by_goal():
    arrays = posteriors()
    figure = space(arrays)
    there = ~np.isnan(arrays["mean"]).any(-1)
    places, _ = plane(arrays["mean"][there])
    assert len(figure.axes) == 2 * 3 + 2  # a row for each number of the goal, and two bars
    assert [axis.get_title() for axis in figure.axes[:3]] == [
        "after the first episode",
        "after episode 2",
        "after episode 3",
    ]
    number = np.broadcast_to(np.arange(3), there.shape)[there]
    for panel in range(6):
        (points,) = offsets(figure, panel)
        assert points == pytest.approx(places[number == panel % 3])
    assert [axis.get_ylabel() for axis in figure.axes[6:]] == [
        "true task: goal, number 1",
        "true task: goal, number 2",
    ]
    shown = figure.axes[6].get_ylim()
    first = arrays["specification"][:, 0]
    assert shown == pytest.approx((first.min(), first.max()))


def test_of_many_episodes_four_are_drawn():
    figure = space(posteriors(numbers=1, episodes=10))
    assert [axis.get_title() for axis in figure.axes[:-1]] == [
        "after the first episode",
        "after episode 4",
        "after episode 7",
        "after episode 10",
    ]


def test_posteriors_of_two_tasks_have_markers():
    arrays = posteriors(tasks=2, numbers=1)
    arrays |= {"specification": np.array([[1.0], [-1.0]])}
    figure = space(arrays)
    assert len(figure.axes) == 3 and names(figure) == ["goal -1", "goal 1"]
    assert [len(points) for points in offsets(figure)] == [2, 2]
    assert [len(points) for points in offsets(figure, 2)] == [2, 1]


def test_a_posterior_of_one_dimension_shows_its_deviation():
    figure = space(posteriors(width=1))
    assert np.unique(offsets(figure)[0][:, 1]).tolist() == [0.5]
    assert figure.axes[3].get_ylabel() == "standard deviation of z"


def test_responsibilities_along_an_episode_of_each_family():
    arrays = windows(length=20, tasks=4)
    figure = responsibilities(arrays)
    assert [axis.get_title() for axis in figure.axes] == ["goal", "direction"]
    assert names(figure) == ["component 0", "component 1"]
    for axis, row, steps in zip(figure.axes, (0, 1), (20, 30), strict=True):
        for k, line in enumerate(axis.get_lines()):
            assert line.get_xdata().tolist() == list(range(steps))
            assert line.get_ydata() == pytest.approx(arrays["weights"][row, 0, :steps, k])


def test_responsibilities_mark_where_the_task_changes():
    figure = responsibilities(windows(change=15))
    assert [axis.get_title() for axis in figure.axes] == ["goal → direction", "direction → goal"]
    for axis in figure.axes:
        assert [line.get_xdata()[0] for line in axis.get_lines()[2:]] == [15]


def test_a_title_names_few_tasks_and_none_twice_in_a_row():
    def title(words):
        return latent_figures._changing([(i, i + 1, word) for i, word in enumerate(words)])

    assert title("aabba") == "a → b → a"
    assert title("abcd") == "a → b → c → d"
    assert title("abcdef") == "a → b → c → ..."


@pytest.mark.parametrize(("made", "width"), [(windows, 2), (windows, 1), (posteriors, 5)])
def test_pictures_of_a_file(made, width, tmp_path):
    file = tmp_path / "evaluate_3_seed_0_latents.npz"
    arrays = made(width=width)
    np.savez(file, **{f"{split}/{name}": arrays[name] for split in "ab" for name in arrays})
    kinds = ["latent_space"] if made is posteriors else ["latent_space", "responsibilities"]
    expected = [tmp_path / f"evaluate_3_seed_0_{k}.{end}" for k in kinds for end in ("png", "svg")]
    assert latent_figures.draw(file) == expected
    assert all(path.stat().st_size > 1000 for path in expected)


def test_episodes_that_broke_are_not_drawn(tmp_path):
    arrays = windows(width=1)
    arrays["mask"][0] = False
    assert [axis.get_title() for axis in responsibilities(arrays).axes] == ["direction"]
    assert names(space(arrays)) == ["direction"]
    arrays["mask"][:] = False
    file = tmp_path / "x_latents.npz"
    np.savez(file, **{f"test/deterministic/{name}": arrays[name] for name in arrays})
    assert latent_figures.draw(file) == []


def test_one_component_has_no_responsibilities(tmp_path):
    file = tmp_path / "x_latents.npz"
    arrays = windows()
    arrays["weights"] = arrays["weights"][..., :1]
    np.savez(file, **{f"test/deterministic/{name}": arrays[name] for name in arrays})
    assert {path.stem for path in latent_figures.draw(file)} == {"x_latent_space"}


def test_the_last_split_of_a_file():
    arrays = {"train/deterministic/a": np.zeros(1), "test/deterministic/a": np.ones(1)}
    place, told = of_split(arrays)
    assert place == "test/deterministic" and told == {"a": np.ones(1)}
    with pytest.raises(KeyError):
        of_split({"a": np.zeros(1)})


def test_many_families_differ():
    looks = {
        (latent_figures._color(truth(np.array(["a"]), np.zeros((1, 1))), k), mark)
        for k in range(45)
        for mark in [latent_figures._marker(k)]
    }
    assert len(looks) == 45 and {look[0] for look in looks} == set(figures.COLORS)
