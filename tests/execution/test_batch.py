"""A known set of calls. What users see of it is in tests/test_module.py."""

from __future__ import annotations

import logging

import dspy
import pytest

from dynscale_dspy import BudgetPool, Cost, DynScaling, Uniform
from dynscale_dspy.execution.batch import answer_all
from tests.support import ScriptedModel

QUESTIONS = [{"question": f"q{number}"} for number in range(4)]


def answer(qa, **options):
    defaults = {"num_threads": 2, "max_errors": 99, "in_order": True, "provide_traceback": False}
    return answer_all(qa._scaled(), QUESTIONS, **{**defaults, "disable_progress_bar": True, **options})


def fails_for(*questions):
    return ScriptedModel(
        lambda prompt, n: ValueError("secret") if any(q in prompt for q in questions) else {"answer": "A"}
    )


@pytest.mark.parametrize("in_order", [True, False])
def test_predictions_come_in_order_and_errors_by_position(in_order, caplog):
    pool = BudgetPool(per_call=2, policy=Uniform())
    qa = DynScaling(dspy.Predict("question -> answer"), pool)
    with dspy.context(lm=fails_for("q1", "q3").lm()), caplog.at_level(logging.ERROR, "dynscale_dspy"):
        results, errors = answer(qa, in_order=in_order)
    assert [made is None for made in results] == [False, True, False, True]
    assert list(errors) == [1, 3]
    assert [
        record.getMessage().rpartition(",")[0] for record in caplog.records if record.name.startswith("dynscale")
    ] == [
        "every sample of example 1 failed",
        "every sample of example 3 failed",
    ]
    assert "secret" not in "".join(record.getMessage() for record in caplog.records if "dynscale" in record.name)
    assert pool.statistics().reserved == Cost() and pool.statistics().open_calls == 0


def test_where_nothing_works_the_first_error_is_raised_and_everything_closed():
    pool = BudgetPool(per_call=2, policy=Uniform())
    qa = DynScaling(dspy.Predict("question -> answer"), pool)
    with dspy.context(lm=fails_for("q").lm()):
        with pytest.raises(Exception, match="secret"):
            answer(qa, max_errors=2)
    assert pool.statistics().reserved == Cost() and pool.statistics().open_calls == 0
