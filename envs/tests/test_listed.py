import numpy as np
import pytest

from envs.listed import shares, tabled


def draw(low, width, stream):
    values = stream.uniform(low, low + 1, (6, width))
    return values[:4], values[4:]


def test_tables_are_filled_up_and_do_not_depend_on_each_other():
    draws = {
        0: lambda stream: draw(0, 1, stream),
        3: lambda stream: draw(5, 2, stream),
        1: lambda stream: draw(2, 2, stream),
    }
    tables = tabled(draws, 1337)
    assert [rows.shape for rows in tables["train"]] == [(4, 2)] * 3
    assert [rows.shape for rows in tables["test"]] == [(2, 2)] * 3
    assert not tables["train"][0][:, 1].any()
    # The first family's stream is the seed's own, as in the reference.
    first = np.random.RandomState(1337).uniform(0, 1, (6, 1))
    assert np.array_equal(tables["train"][0][:, :1], first[:4])
    fewer = tabled({3: draws[3]}, 1337)
    assert np.array_equal(fewer["test"][0], tables["test"][1])
    assert not np.allclose(tables["train"][1] - 5, tables["train"][2] - 2)
    assert not np.array_equal(tabled({3: draws[3]}, 1)["test"][0], fewer["test"][0])


def test_shares():
    assert shares((80, 40), 8) == (10, 5) and shares((60, 30), 7) == (8, 4)
    for sizes in ((7, 40), (80, 7), (80.0, 40), (True, 1), (80,)):
        with pytest.raises(ValueError, match="sizes"):
            shares(sizes, 8)
