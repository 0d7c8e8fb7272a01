import re

import pytest

from runners.config import ConfigError
from runners.grid import Configuration, checked_seeds, configurations, read_axis, read_seeds

VALUES = [
    "64", "-1", "0.001", "1e-07", "True", "None", "'True'", "'64'", "'cpu'", "'v1.2'", "'a b'",
    "'a/b'", "''", "(64, 64)", "[64, 64]", "(64,)", "('a', 'b')", "'a_b'", "['reach-v3']",
    "'64x64'", "{'a': 1}", "@MLP", "'MLP'", "@MLP()", "@actor/MLP", "%WIDTH", "'../up'", "'ü'",
    "(@MLP, @MLP)", "'" + "long" * 40 + "'", "(1, (2, 3))", "'a-1'", "1j",
]  # fmt: skip


def test_all_combinations_the_last_axis_fastest():
    found = configurations(["BATCH_SIZE = 64, 128", "SAC.discount = 0.9, 0.99"])
    assert [c.label for c in found] == [
        "BATCH_SIZE=64,SAC.discount=0.9",
        "BATCH_SIZE=64,SAC.discount=0.99",
        "BATCH_SIZE=128,SAC.discount=0.9",
        "BATCH_SIZE=128,SAC.discount=0.99",
    ]
    assert found[3].bindings == ["BATCH_SIZE = 128", "SAC.discount = 0.99"]


def test_no_axis_is_one_configuration_of_no_bindings():
    assert configurations([]) == configurations({}) == [Configuration()]
    assert Configuration().label == "" and Configuration().bindings == []


def test_a_mapping_says_the_same_as_lines():
    mapping = {"BATCH_SIZE": (64, 128), "DEVICE": ["cpu"], "HIDDEN": [(8, 8)]}
    lines = ["BATCH_SIZE = 64, 128", "DEVICE = 'cpu'", "HIDDEN = (8, 8),"]
    assert configurations(mapping) == configurations(lines)


@pytest.mark.parametrize(
    "line, values",
    [
        ("A = (64, 64), (128, 128)", ["(64, 64)", "(128, 128)"]),
        ("A = 'a, b', 'c = d'", ["'a, b'", "'c = d'"]),
        ("A=1e-3,0.1", ["0.001", "0.1"]),
        ("A = @MLP, @critic/MLP(), %B", ["@MLP", "@critic/MLP()", "%B"]),
        ("A = [1, [2, 3]], {'a': (1, 2)}", ["[1, [2, 3]]", "{'a': (1, 2)}"]),
    ],
)
def test_values_stand_between_the_outer_commas(line, values):
    assert read_axis(line) == ("A", values)


def test_every_value_has_a_label_of_its_own_that_a_folder_can_bear():
    labels = [Configuration((("A", value),)).label for value in VALUES]
    assert len({label.casefold() for label in labels}) == len(VALUES)
    for label in labels:
        assert re.fullmatch(r"A=[A-Za-z0-9_.@%-]+", label) and len(label) < 60, label


def test_labels_are_readable():
    texts = {"(64, 64)": "64x64", "'cpu'": "cpu", "1e-3": "0.001", "@MLP": "@MLP", "True": "True"}
    for text, label in texts.items():
        assert configurations([f"actor/A.b = {text}"])[0].label == f"actor.A.b={label}"


def test_a_label_that_is_too_long_ends_in_a_digest():
    one, other = (
        Configuration(tuple((f"PARAMETER_{i}", str(last if i == 29 else 1)) for i in range(30)))
        for last in (1, 2)
    )
    assert len(one.label) == len(other.label) == 150 and one.label != other.label


@pytest.mark.parametrize(
    "line, words",
    [
        ("BATCH_SIZE", ["BATCH_SIZE", "no values"]),
        ("BATCH_SIZE =", ["no values"]),
        ("", ["--grid=: it is empty", "NAME = value"]),
        (" ", ["it is empty"]),
        (64, ["64 is no text"]),
        ("= 64", ["NAME = value"]),
        ("BATCH SIZE = 64", ["'BATCH SIZE' is no name"]),
        ("A = cpu", ["'cpu'", "quotes"]),
        ("A = 'cpu", ["quotes"]),
        ("A = (1, 2", ["brackets"]),
        ("A = 1, , 2", ["literal"]),
        ("A = 0.1, 1e-1", ["0.1 stands there twice"]),
        ("SEED = 1, 2", ["--seeds"]),
        ("train.seed = 1, 2", ["--seeds"]),
        ("train.experiment = 'a', 'b'", ["train.experiment"]),
    ],
)
def test_bad_lines_are_refused_in_one_line(line, words):
    with pytest.raises(ConfigError) as caught:
        configurations([line])
    text = str(caught.value)
    assert text.startswith("--grid") and "\n" not in text and ";" in text
    for word in words:
        assert word in text


@pytest.mark.parametrize("value", [64, None, "cpu"])
def test_a_mapping_holds_lists(value):
    with pytest.raises(ConfigError, match=r"'?A'? has .* no list of values; write {'A': \["):
        configurations({"A": value})


def test_more_runs_than_anyone_means_are_refused_before_they_are_laid_out():
    assert len(read_seeds("0-99999")) == 100_000
    for seeds in ("0-1000000000000", "0-60000,60001-120000"):
        with pytest.raises(ConfigError, match=f"--seeds={seeds}: .* too many"):
            read_seeds(seeds)
    axis = list(range(100))
    with pytest.raises(ConfigError, match="--grid: 1,000,000 runs are too many"):
        configurations({"A": axis, "B": axis, "C": axis})


def test_one_axis_for_each_name():
    with pytest.raises(ConfigError, match="A has two axes"):
        configurations(["A = 1", "A = 2"])


def test_seeds():
    assert read_seeds("0,1,2") == [0, 1, 2]
    assert read_seeds("0-2, 7") == [0, 1, 2, 7]
    for wrong in ("", "one", "1,1", "0-2,1", "3-1", "-1", "0.5"):
        with pytest.raises(ConfigError, match="--seeds"):
            read_seeds(wrong)
    with pytest.raises(ConfigError, match="-1 is negative"):
        checked_seeds([-1])
