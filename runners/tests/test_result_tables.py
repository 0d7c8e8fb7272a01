import csv
import io

import numpy as np

from runners import result_tables
from runners.aggregates import Estimate, estimate, iqm
from runners.result_tables import Result


def result(method="MUST_a", seeds=(0, 1, 2), split="", stage="", scale=1.0):
    scores = np.linspace(0.0, 1.0, 2 * len(seeds)).reshape(len(seeds), 2) * scale
    by_task = {name: estimate(scores[:, i : i + 1]) for i, name in enumerate(("a|1", "b"))}
    return Result(
        method, split, stage, 2000, seeds, ("a|1", "b"), scores, estimate(scores),
        estimate(scores, iqm), by_task,
    )  # fmt: skip


def rows(text):
    return list(csv.DictReader(io.StringIO(text)))


def test_markdown_has_the_number_of_seeds():
    text = result_tables.markdown(result_tables.aggregate([result(), result(seeds=(4,))], "steps"))
    lines = text.splitlines()
    assert lines[0] == "| method | seeds | steps | mean | 95 % | IQM | 95 % |"
    assert lines[2].startswith("| MUST_a | 3 | 2,000 | 0.500 | 0.100 to 0.900 | 0.500 |")
    assert lines[3].split(" | ")[1] == "1" and "–" in lines[3]  # one seed has no interval
    assert len({line.count("|") for line in lines}) == 1


def test_a_task_table_has_it_too():
    text = result_tables.markdown(result_tables.per_task([result()]))
    assert "| task | MUST_a (3 seeds) |" in text and "a\\|1" in text


def test_meta_evaluations_are_named():
    cells = result_tables.aggregate([result(split="test", stage="step_4")], "iterations")
    assert cells[0][1] == "evaluation" and cells[1][1] == "test step 4"


def test_decimals_suit_the_scores():
    assert [result_tables.digits([result(scale=s)]) for s in (1.0, 50.0, 3000.0)] == [3, 2, 1]
    assert result_tables.interval_text(Estimate(-2.0, -3.0, -1.0, 5), 1) == "-3.0 to -1.0"


def test_latex_is_escaped_and_whole():
    text = result_tables.latex([["method & 1", "95 %"], ["a_b", "1"]], "50 % of a_b")
    assert r"a\_b & 1 \\" in text and r"method \& 1 & 95 \% \\" in text
    assert text.count(r"\begin") == text.count(r"\end") == 2
    assert r"\caption{50 \% of a\_b}" in text and "{lr}" in text


def test_csv_holds_every_digit():
    one = result()
    (row,) = rows(result_tables.aggregate_csv([one]))
    assert float(row["mean"]) == one.mean.value and float(row["iqm_high"]) == one.iqm.high
    assert row["seeds"] == "3" and row["tasks"] == "2" and row["step"] == "2000"
    tasks = rows(result_tables.tasks_csv([one]))
    assert [row["task"] for row in tasks] == ["a|1", "b"]
    scores = rows(result_tables.scores_csv([one]))
    assert (
        np.reshape([float(row["score"]) for row in scores], (3, 2)).tolist() == one.scores.tolist()
    )
    assert [row["seed"] for row in scores] == ["0", "0", "1", "1", "2", "2"]
