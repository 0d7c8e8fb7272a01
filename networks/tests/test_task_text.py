"""Tests of the task descriptions and the file of their embeddings."""

import hashlib
import json
import math
import sys
from itertools import combinations
from pathlib import Path

import pytest
import torch

from networks import task_text
from networks.task_encoder import PACKAGED, read_embeddings
from networks.task_text import DESCRIPTIONS, centred, lexical, main, slots, terms

MT10 = (
    "reach push pick-place door-open drawer-open drawer-close button-press-topdown "
    "peg-insert-side window-open window-close"
)
MODIFIERS = {"v3", "side", "back", "wall", "topdown", "of", "out", "into"}


def letters(sentences):
    """A sentence encoder: how often each letter occurs."""
    return [[sentence.count(chr(97 + k)) for k in range(26)] for sentence in sentences]


def ragged(sentences):
    return [[0.0] * (1 + len(sentence)) for sentence in sentences]


def too_few(sentences):
    return [[1.0, 2.0]]


def numbers(sentences):
    return [1.0 for _ in sentences]


def infinite(sentences):
    return [[math.inf, 1.0] for _ in sentences]


@pytest.fixture
def module(monkeypatch):
    """This file under a name that --encoder can import."""
    monkeypatch.setitem(sys.modules, "encoders_of_the_test", _Module)
    return "encoders_of_the_test"


class _Module:
    letters, ragged, too_few = map(staticmethod, (letters, ragged, too_few))
    numbers, infinite = map(staticmethod, (numbers, infinite))


def similarity():
    rows = torch.nn.functional.normalize(read_embeddings(PACKAGED, list(DESCRIPTIONS)).double())
    return rows @ rows.T


def test_the_packaged_file_is_what_the_command_writes(tmp_path):
    out = tmp_path / "again.json"
    assert main([f"--out={out}"]) == 0
    assert out.read_bytes() == PACKAGED.read_bytes()
    assert len(out.read_bytes()) < 400_000


def test_fifty_short_sentences():
    assert len(DESCRIPTIONS) == 50
    assert {f"{name}-v3" for name in MT10.split()} <= set(DESCRIPTIONS)
    assert all(len(sentence.split()) <= 12 for sentence in DESCRIPTIONS.values())
    assert len(set(DESCRIPTIONS.values())) == 50


def test_meta_names_encoder_width_and_text():
    meta = json.loads(PACKAGED.read_text())["meta"]
    assert meta["dim"] == 768
    assert "tf-idf" in meta["encoder"]
    text = "".join(f"{name}\t{DESCRIPTIONS[name]}\n" for name in DESCRIPTIONS)
    assert meta["text_sha256"] == hashlib.sha256(text.encode()).hexdigest()


def test_rows_are_distinct_not_zero_and_not_negative():
    rows = read_embeddings(PACKAGED, list(DESCRIPTIONS))
    assert rows.shape == (50, 768)
    assert len({tuple(row.tolist()) for row in rows}) == 50
    assert bool((rows >= 0).all()) and bool((rows > 0).any(1).all())
    torch.testing.assert_close(
        rows.norm(dim=1), torch.full((50,), math.sqrt(768)), atol=1e-3, rtol=0
    )


def test_rows_are_not_collinear():
    cosine = similarity()
    others = cosine[~torch.eye(50, dtype=torch.bool)]
    assert float(others.mean()) == pytest.approx(0.09, abs=0.005)  # as docs/methods/care.md says
    assert float(others.max()) < 0.9


def test_tasks_of_one_object_or_verb_are_closer():
    cosine, related, unrelated = similarity(), [], []
    words = [set(name.split("-")) - MODIFIERS for name in DESCRIPTIONS]
    for i, j in combinations(range(50), 2):
        (related if words[i] & words[j] else unrelated).append(float(cosine[i, j]))
    assert len(related) > 50
    means = [sum(values) / len(values) for values in (related, unrelated)]
    assert means == pytest.approx([0.22, 0.08], abs=0.005)  # as docs/methods/care.md says


def test_terms_are_words_and_pairs():
    assert terms("Turn a ring-shaped a") == {
        "turn": 1,
        "a": 2,
        "ring-shaped": 1,
        "turn a": 1,
        "a ring-shaped": 1,
        "ring-shaped a": 1,
    }


def test_lexical_by_hand(monkeypatch):
    monkeypatch.setattr(task_text, "slots", lambda term, dim: [len(term)])
    rows = lexical(["ab", "ab cde cde"], dim=9)
    # "ab" stands in both sentences and weighs log(3 / 3) = 0, so nothing of the first is left.
    assert rows[0] == [0.0] * 9
    weight = math.log(3 / 2)
    wanted = torch.zeros(9, dtype=torch.float64)
    wanted[3], wanted[6], wanted[7] = 2 * weight, weight, weight  # cde; ab cde; cde cde
    torch.testing.assert_close(torch.tensor(rows[1]).double(), wanted / wanted.norm())


def test_slots_are_fixed():
    assert slots("puck", 768) == slots("puck", 768)
    assert len(slots("puck", 768)) == 4
    assert all(0 <= slot < 10 for slot in slots("puck", 10))
    assert slots("puck", 768) != slots("peg", 768)


def test_another_encoder(tmp_path, module):
    out = tmp_path / "letters.json"
    assert main([f"--out={out}", f"--encoder={module}:letters"]) == 0
    names = list(DESCRIPTIONS)
    rows = read_embeddings(out, names).double()
    counts = torch.tensor(letters(DESCRIPTIONS.values())).double()
    counts = counts - counts.mean(0)
    wanted = counts / counts.norm(dim=1, keepdim=True) * math.sqrt(26)
    torch.testing.assert_close(rows, wanted, atol=6e-5, rtol=0)
    assert json.loads(out.read_text())["meta"]["dim"] == 26


@pytest.mark.parametrize(
    ("encoder", "message"),
    [
        ("letters", "module:function"),
        (":letters", "module:function"),
        ("no_such_module:letters", "no_such_module"),
        ("MODULE:none", "none"),
        ("MODULE:ragged", "one width"),
        ("MODULE:too_few", "50 vectors, got 1"),
        ("MODULE:infinite", "finite"),
        ("MODULE:numbers", "iterable"),
    ],
)
def test_encoders_that_do_not_work(encoder, message, tmp_path, capsys, module):
    out = tmp_path / "mine.json"
    assert main([f"--out={out}", f"--encoder={encoder.replace('MODULE', module)}"]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert not out.exists()


def test_a_folder_that_is_not_there(tmp_path, capsys):
    assert main([f"--out={tmp_path / 'none' / 'file.json'}"]) == 2
    assert "file.json" in capsys.readouterr().err


def test_centred_rows():
    rows = torch.tensor(centred([[1.0, 2.0], [3.0, 2.0], [2.0, 5.0]]))
    wanted = torch.tensor([[-1.0, -1.0], [1.0, -1.0], [0.0, 2.0]])
    torch.testing.assert_close(rows, wanted / wanted.norm(dim=1, keepdim=True))
    assert centred([[1.0], [1.0]]) == [[0.0], [0.0]]


def test_the_file_is_in_the_package():
    assert PACKAGED == Path(task_text.__file__).with_name("task_embeddings.json")
