from __future__ import annotations

import asyncio

import dspy
import pytest

from dynscale_dspy import BudgetExhausted, BudgetPool, Uniform
from dynscale_dspy.allocation.confidence import Answers, chance_right
from dynscale_dspy.allocation.tally import Tally
from dynscale_dspy.config import ScalingSettings
from dynscale_dspy.execution.answer_reader import AnswerReader
from dynscale_dspy.execution.call import Call, Cancellable, Scaled
from dynscale_dspy.execution.drivers import adrive, drive
from dynscale_dspy.execution.shared_request import SharedRequest, Slot
from dynscale_dspy.sampling.sample import Draw
from dynscale_dspy.sampling.steps import Job
from dynscale_dspy.selection.plurality import Plurality
from tests.support import ScriptedModel, cycle, open_call


def scaled(pool=None, program=None, **options):
    program = program or dspy.Predict("question -> answer")
    defaults = {
        "owner": program,
        "program": program,
        "pool": pool or BudgetPool(per_call=3, policy=Uniform()),
        "reader": AnswerReader(program),
        "selector": Plurality(),
        "settings": ScalingSettings(max_choices=1),
    }
    return Scaled(**{**defaults, **options})


class LMAuthError(Exception):
    """DSPy's name for a wrong key."""


def test_a_call_needs_no_wrapper_to_be_driven():
    pool = BudgetPool(per_call=3, policy=Uniform())
    with dspy.context(lm=ScriptedModel(cycle("A", "B", "B")).lm()):
        call = Call(scaled(pool), (), {"question": "q"})
        outcome = drive(call.steps(), call.run, call.desk())
        assert call.answer(call.finish(outcome)).answer == "B"
        again = Call(scaled(pool), (), {"question": "other"})
        assert asyncio.run(adrive(again.steps(), again.arun, again.desk())).winner.prediction.answer in "AB"
    assert call.outcome(outcome.winner) is outcome
    assert list(pool.history.programs) == ["Predict(question -> answer)"]


@pytest.mark.parametrize(
    ("program", "kind"),
    [
        (dspy.Predict("question -> answer"), Answers.OPEN),
        (dspy.ChainOfThought("question -> answer: int"), Answers.OPEN),
        (dspy.ChainOfThought("question -> answer: bool"), Answers.CLOSED),
        (dspy.Predict("question -> answer: bool"), Answers.AT_ONCE),
    ],
)
def test_confidence_is_by_what_a_program_chooses_its_answers_from(program, kind):
    answers = cycle(*(["1"] * 4 if kind is Answers.OPEN else ["True"] * 4))
    with dspy.context(lm=ScriptedModel(answers).lm()):
        call = Call(scaled(program=program), (), {"question": "q"})
        outcome = drive(call.steps(), call.run, call.desk())
    assert outcome.explanation.confidence == chance_right(Tally.of("AAA"), answers=kind)
    assert call.scaled.pool.history.answered[0].confidence == outcome.explanation.confidence


def test_calls_have_lasting_names_where_their_inputs_have():
    with dspy.context(lm=ScriptedModel(cycle("A")).lm()):
        names = [
            Call(scaled(), (), inputs).name for inputs in ({"question": "q"}, {"question": "q"}, {"question": "p"})
        ]
        assert names[0] == names[1] != names[2]
        assert Call(scaled(), (), {"question": object()}).name is None
        other_fields = scaled(program=dspy.Predict("question -> label"))
        assert Call(other_fields, (), {"question": "q"}).name != names[0]


def test_a_sample_whose_shared_request_has_failed_is_not_run():
    model = ScriptedModel(cycle("A"))
    request = SharedRequest([])
    request.failed(LMAuthError("wrong key"))
    with dspy.context(lm=model.lm()):
        call = Call(scaled(), (), {"question": "q"})
        for sample in (
            call.run(Job(Draw(0), None), Slot(request, 0)),
            asyncio.run(call.arun(Job(Draw(0), None), Slot(request, 0))),
        ):
            assert (sample.problem, sample.error, sample.permanent) == ("failed", request.error, True)
    assert model.requests == []


def test_a_sample_that_must_not_begin_says_why():
    model = ScriptedModel(cycle("A"))
    with dspy.context(lm=model.lm()):
        pool = BudgetPool(5)
        arm = open_call(pool)
        job = Job(Draw(0), arm.take())
        arm.close()
        call = Call(scaled(pool), (), {"question": "q"})
        sample = call.run(job)
        with pytest.raises(BudgetExhausted, match=r"^the call was over before this sample began$"):
            raise sample.error
        stopped = BudgetPool(5)
        job = Job(Draw(0), open_call(stopped).take())
        stopped.stop()
        assert isinstance(Call(scaled(stopped), (), {"question": "q"}).run(job).error, BudgetExhausted)
    assert model.requests == []


def test_a_sample_that_is_not_needed_any_more_is_not_run():
    model = ScriptedModel(cycle("A"))
    with dspy.context(lm=model.lm()):
        call = Call(scaled(), (), {"question": "q"})
        call.plan.decided = True
        assert call.run(Job(Draw(0), None)).problem == "not needed"
        assert asyncio.run(call.arun(Job(Draw(0), None))).problem == "not needed"
    assert model.requests == []


def test_each_of_two_equal_calls_is_told_its_usage():
    with dspy.context(lm=ScriptedModel(cycle("A")).lm(), track_usage=True):
        call = Call(scaled(), (), {"question": "q"})
        outcome = drive(call.steps(), call.run, call.desk())
        other = outcome.copied()
        for each in (outcome, other):
            with dspy.track_usage() as usage:
                call.finish(each)
            assert len(usage.usage_data["scripted/model"]) == 3
    assert other.usage == outcome.usage and other.usage is not outcome.usage


def test_a_task_whose_loop_was_closed_keeps_no_other_from_being_cancelled():
    pool, cut = BudgetPool(samples=9), []

    async def left_behind() -> Cancellable:
        block = Cancellable(pool)
        block.__enter__()
        return block

    loop = asyncio.new_event_loop()
    block = loop.run_until_complete(left_behind())
    loop.close()
    with pool.cancellable(lambda: cut.append("later")):
        pool.stop(cancel=True)
    assert cut == ["later"]
    block.__exit__(None, None, None)
