import matplotlib
import numpy as np
import pytest

from runners.aggregates import Estimate
from runners.figures import Line, apart, bars, curves, save


def line(label="ours", style=0, scale=1.0, faint=False):
    x = np.array([0.0, 5000.0, 10_000.0])
    y = np.array([0.0, 0.5, 0.6]) * scale
    return Line(label, x, y, y - 0.1, y + 0.1, style, faint)


def size(figure):
    return len(figure.axes), [text.get_text() for text in figure.legends[0].get_texts()]


def test_one_legend_names_each_method_once():
    figure = curves(
        {"a": [line(), line("theirs", 1)], "b": [line(), line("theirs", 1)]}, x="steps", y="return"
    )
    panels, names = size(figure)
    assert panels == 2 and names == ["ours", "theirs"]
    first, second = figure.axes[0].get_lines()
    assert first.get_color() != second.get_color() and first.get_marker() != second.get_marker()
    assert first.get_linestyle() != second.get_linestyle()
    assert figure.axes[0].get_title() == "a" and figure.axes[1].get_xlabel() == "steps"


@pytest.mark.parametrize("labels, columns", [(3, 3), (4, 2), (5, 3), (7, 3)])
def test_rows_of_a_legend_are_alike(labels, columns):
    lines = [line(f"method {i}" + " " * 12, i) for i in range(labels)]  # three fit into a row
    assert curves({"a": lines}, x="steps", y="return").legends[0]._ncols == columns


def test_few_steps_are_marked_by_round_numbers():
    x = np.arange(10.0, 510.0, 10.0)
    nothing = np.full_like(x, np.nan)
    axis = curves({"": [Line("ours", x, x, nothing, nothing)]}, x="x", y="y").axes[0]
    assert {100.0, 200.0, 300.0, 400.0, 500.0} <= {*axis.get_xticks()}


def test_one_seed_has_no_band():
    nothing = np.full(3, np.nan)
    one = Line("ours", np.arange(3.0), np.arange(3.0), nothing, nothing)
    assert not curves({"": [one]}, x="x", y="y").axes[0].collections
    assert curves({"": [line()]}, x="x", y="y").axes[0].collections


def test_references_are_drawn_and_told(tmp_path):
    levels = {"a long name that will not fit into one line of a legend " * 3: 0.7, "b": 0.71}
    figure = curves({"p": [line()]}, x="x", y="y", bounded=True, references={"p": levels})
    names = size(figure)[1]
    assert names[1].startswith("a: a long name") and "\n" in names[1] and names[2] == "b: b"
    drawn = sorted(one.get_ydata()[0] for one in figure.axes[0].get_lines()[1:])
    assert drawn == [0.7, 0.71]
    letters = {text.get_text(): text.xy[1] for text in figure.axes[0].texts}
    assert letters["b"] - letters["a"] > 0.04
    assert np.mean(list(letters.values())) == pytest.approx(0.705)
    # Nothing of the legend is cut off.
    save(figure, tmp_path / "x")
    box = figure.legends[0].get_window_extent()
    assert box.x0 >= 0 and box.x1 <= figure.bbox.x1 and box.y0 >= 0


def test_letters_keep_their_order_and_distance():
    rng = np.random.default_rng(0)
    for _ in range(50):
        values = np.sort(rng.uniform(size=8)).tolist()
        places = apart(values, 0.05)
        assert np.diff(places).min() >= 0.05 - 1e-12
        assert np.mean(places) == pytest.approx(np.mean(values))
    assert apart([0.1, 0.5], 0.05) == [0.1, 0.5]
    assert apart([0.5, 0.5], 0.1) == pytest.approx([0.45, 0.55])


@pytest.mark.parametrize("tasks, columns", [(2, 1), (10, 1), (50, 4)])
def test_bars_of_many_tasks_fill_columns(tasks, columns):
    value = Estimate(0.5, 0.4, 0.7, 3)
    methods = {f"m{i}": {f"task-{t}": value for t in range(tasks)} for i in range(4)}
    figure = bars(methods, x="success rate", bounded=True)
    assert len(figure.axes) == columns
    drawn = [bar for axis in figure.axes for bar in axis.patches]
    assert len(drawn) == 4 * tasks and {bar.get_width() for bar in drawn} == {0.5}
    labels = [t.get_text() for axis in figure.axes for t in axis.get_yticklabels()]
    assert labels == [f"task-{t}" for t in range(tasks)]


def test_files_are_the_same_each_time_and_settings_stay(tmp_path):
    before = dict(matplotlib.rcParams)
    for name in ("a", "b"):
        save(curves({"": [line(), line("faint", 1, 0.5, True)]}, x="x", y="y"), tmp_path / name)
    for kind in ("png", "svg"):
        one, other = ((tmp_path / f"{name}.{kind}").read_bytes() for name in "ab")
        assert one == other and len(one) > 5000
    assert dict(matplotlib.rcParams) == before
