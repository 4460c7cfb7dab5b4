from __future__ import annotations

from dynscale_dspy.replay.models import BOUND, STRATEGIES, compare, groups, shared
from dynscale_dspy.replay.models_text import kind_of, render, summaries, values
from tests.replay.test_models import pool

WAYS = {"ladder": STRATEGIES["ladder"]}


def found():
    [questions] = shared([pool("weak", 0.3, questions=8), pool("strong", 0.8, questions=8)])
    return [
        compare(questions.of(pair), [1, 10], strategies=WAYS, budgets=[0.5, 2], replicates=2)
        for pair in groups(questions, None, 2)
    ]


def test_a_table_for_each_group_and_a_summary_of_those_alike():
    told = render(found())
    assert "sums: weak, strong (a sample costs 1 : 10): accuracy in %" in told
    assert "sums: strong, weak (a sample costs 1 : 10): accuracy in %" in told
    assert "sums, a price ratio of 8 or more, the dearest model better: points over" in told
    assert "sums, a price ratio of 8 or more, the dearest model no better: points over" in told
    assert told.count(BOUND) >= 6
    assert "  ladder, worst" in told


def test_values_are_a_row_for_each_way_and_budget():
    rows = values(found())["rows"]
    assert len(rows) == 2 * 5 * 2
    assert rows[0] == {
        "dataset": "sums", "models": ("weak", "strong"), "costs": [1, 10], "way": "KG weak", "budget": 0.5, "cost": 5,
        "accuracy": rows[0]["accuracy"], "gain": 0, "se": 0,
    }  # fmt: skip
    missing = [row for row in rows if row["accuracy"] is None]
    assert {row["budget"] for row in missing} == {0.5}
    assert all(row["gain"] is None for row in missing)


def test_summaries_are_means_over_groups_that_are_alike():
    one, other = found()
    assert kind_of(one) == "a price ratio of 8 or more, the dearest model better"
    assert kind_of(other) == "a price ratio of 8 or more, the dearest model no better"
    rows = summaries([one, one, other])
    ways = list(dict.fromkeys(row["way"] for row in rows))
    assert ways == ["KG cheapest", "KG dearest", "uniform dearest", "ladder", BOUND]
    for way, curve in zip(ways, one.curves, strict=True):
        row = next(row for row in rows if row["way"] == way and row["budget"] == 2 and row["kind"] == kind_of(one))
        assert row["groups"] == 2
        assert row["accuracy"] == curve.mean(1)
        assert (row["gain"], row["se"]) == curve.gain(one.curve(BOUND), 1)
        assert row["worst"] == row["gain"]
    assert all(row["gain"] is None for row in rows if row["accuracy"] is None)
