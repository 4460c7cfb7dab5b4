"""Whole checks, on scripted models, a fake server and the model in the box."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from dataclasses import replace
from typing import Literal

import dspy
import pytest

from dynscale_dspy import (
    BudgetExhausted,
    BudgetPool,
    DynScaling,
    Integrated,
    Parallel,
    Price,
    Uniform,
    explain,
    lab,
)
from dynscale_dspy.selection.medoid import Medoid
from dynscale_dspy.tuning import Check, check
from dynscale_dspy.tuning import checks as module
from dynscale_dspy.tuning.examples import Judge
from dynscale_dspy.tuning.records import Call, voted
from tests.support import ScriptedModel, needs_lm_errors

EXAMPLES = [dspy.Example(question=f"number {i}", answer=f"right {i}").with_inputs("question") for i in range(40)]
UNLABELLED = [example.inputs() for example in EXAMPLES]
SEEING = Integrated(when="close", first="own")
QA = "question -> answer"


def luck(*parts):
    return int(hashlib.blake2b("/".join(map(str, parts)).encode(), digest_size=4).hexdigest(), 16) % 100


class Model(ScriptedModel):
    """Right so often in a hundred: at temperature 0, above it, and with attempts shown. Wrong in ever other words."""

    def __init__(self, greedy, warm, shown=None):
        super().__init__(lambda prompt, number: {})
        self.greedy, self.warm, self.shown_right = greedy, warm, warm if shown is None else shown
        self.counts: dict[object, int] = {}

    def answer(self, request):
        prompt = self.text(request)
        number = prompt.rpartition("[[ ## question ## ]]\nnumber ")[2].split("\n")[0]
        temperature = request.config.temperature
        kind = "shown" if "Attempt 1:" in prompt else "greedy" if temperature == 0 else "warm"
        with self.lock:
            self.requests.append(request)
            count = 0 if kind == "greedy" else self.counts.get((kind, number), 0)
            self.counts[kind, number] = count + 1
        level = {"greedy": self.greedy, "warm": self.warm, "shown": self.shown_right}[kind]
        wins = luck(kind, number, count) < level
        wrong = luck("wrong", kind, number, count)
        text = f"right {number}" if wins else "".join(chr(ord("a") + int(digit)) for digit in f"{wrong:02}")
        return f"[[ ## reasoning ## ]]\nso\n\n[[ ## answer ## ]]\n{text}\n\n[[ ## completed ## ]]"

    def temperatures(self):
        found: dict[object, int] = {}
        for request in self.requests:
            found[request.config.temperature] = found.get(request.config.temperature, 0) + 1
        return found


def checked(model, examples=EXAMPLES, program=QA, **options):
    program = dspy.ChainOfThought(program) if isinstance(program, str) else program
    with dspy.context(lm=model.lm(**options.pop("lm", {}))):
        return check(program, examples, **{"num_threads": 1, "strategies": [SEEING], **options})


def row(found, name):
    return next(each for each in found.rows if each.name == name)


def test_a_program_that_more_samples_help():
    model = Model(greedy=45, warm=75)  # a vote of four is nearly always right
    found = checked(model)
    assert isinstance(found, Check) and [each.name for each in found.rows] == [
        "plain",
        "greedy",
        "vote of 4",
        "Integrated of 4",
    ]
    assert found.calls == found.labelled == 40 and found.notes == ()
    assert row(found, "vote of 4").gain.low > 0 and found.recommended.name == "vote of 4"
    assert re.fullmatch(
        r"Four samples a call \(vote\) gain \d+\.\d \[\d+\.\d, \d+\.\d\] points "
        r"over (the greedy run|the program as it is) for 4\.0 times its cost\.",
        found.sentence,
    )
    # Two single runs, four samples for the vote, four on average for the strategy.
    assert found.spent.samples == found.spent.requests == len(model.requests) == 400
    assert row(found, "plain").spending == (1, 1, 7, 3, None) and row(found, "vote of 4").spending == (
        4,
        4,
        28,
        12,
        None,
    )
    assert model.temperatures() == {None: 40, 0.0: 40, 1.0: 320}


def test_the_recommended_settings_make_the_program_that_was_measured():
    found = checked(Model(greedy=45, warm=75))
    assert found.settings == {"budget": 4, "max_samples": 4, "sampling": Parallel(first="own"), "policy": Uniform()}
    model = Model(greedy=45, warm=75)
    with dspy.context(lm=model.lm()):
        qa = DynScaling(dspy.ChainOfThought(QA), **found.settings)
        for number in range(6):
            assert len(explain(qa(question=f"number {number}")).samples) == 4
    model.requests.clear()
    with dspy.context(lm=model.lm(temperature=0.7)):
        plain = DynScaling(dspy.ChainOfThought(QA), **row(found, "plain").settings)
        greedy = DynScaling(dspy.ChainOfThought(QA), **row(found, "greedy").settings)
        plain(question="number 1"), greedy(question="number 1")
    assert model.temperatures() == {0.7: 1, 0.0: 1}


def test_a_program_that_they_do_not_help_stays_with_one_request():
    found = checked(Model(greedy=80, warm=40))
    assert found.recommended.name == "greedy" and found.settings == {"budget": 1, "max_samples": 1, "temperature": 0.0}
    assert found.sentence.startswith("One greedy request is ")
    assert row(found, "greedy").gain is None and row(found, "plain").gain.mean < 0


def test_by_default_a_strategy_that_need_not_learn_is_beside_the_usual_one():
    found = checked(Model(greedy=60, warm=60), EXAMPLES[:4], strategies=None)
    names = [each.name for each in found.rows]
    assert names == ["plain", "greedy", "vote of 4", "Integrated of 4", "Integrated(when='close') of 4"]
    assert found.rows[-1].settings["sampling"] == Integrated(when="close") and found.spent.samples == 4 * 14


def test_without_labels_it_tells_what_would_change():
    found = checked(Model(greedy=60, warm=60), UNLABELLED)
    assert found.labelled == 0 and found.recommended.name == "plain"
    assert found.sentence.startswith(
        "Without labels more samples are not shown to help, so keep the program as it is: four"
    )
    assert all(each.accuracy is None and each.gain is None for each in found.rows)
    assert row(found, "greedy").changed.mean == 0 < row(found, "vote of 4").changed.mean
    assert 0 < row(found, "vote of 4").agreement < 1 and row(found, "plain").agreement is None
    # Calls on which all ways agree are not named.
    assert 0 < len(found.disagreements) < 40
    sure = checked(Model(greedy=100, warm=100), UNLABELLED)
    assert sure.recommended.name == "greedy" and sure.disagreements == ()
    assert sure.sentence.startswith("One greedy request is enough here: more samples change none of its 40 answers")


def test_labels_of_some_calls_are_used_and_the_others_still_tell_what_changes():
    found = checked(Model(greedy=45, warm=75), [*EXAMPLES[:25], *UNLABELLED[25:]])
    assert found.calls == 40 and found.labelled == 25
    assert row(found, "plain").accuracy.mean * 25 == pytest.approx(round(row(found, "plain").accuracy.mean * 25))


def test_labels_of_the_calls_that_differ_are_enough():
    blind = checked(Model(greedy=45, warm=75), UNLABELLED)
    some = [EXAMPLES[n] if n in blind.disagreements else UNLABELLED[n] for n in range(40)]
    found, full = checked(Model(greedy=45, warm=75), some), checked(Model(greedy=45, warm=75), EXAMPLES)
    assert found.labelled == len(blind.disagreements) < 40 and found.disagreements == blind.disagreements
    assert all(each.accuracy is None for each in found.rows) and "right, %" not in str(found) and "gain" in str(found)
    assert found.sentence == full.sentence and found.settings == full.settings
    for mine, theirs in zip(found.rows, full.rows, strict=True):
        assert (mine.gain is None and theirs.gain is None) or mine.gain == pytest.approx(theirs.gain)


def test_labels_under_another_name_are_pointed_out():
    found = checked(Model(greedy=60, warm=60), [{"question": "number 1", "gold": "right 1"}, {"question": "number 2"}])
    assert found.labelled == 0
    assert found.notes == (
        "nothing in the examples labels an output field of the program (beside its inputs they have gold): rename the "
        "label, or pass metric=",
    )


def test_a_metric_decides_what_is_right():
    found = checked(
        Model(greedy=0, warm=100), UNLABELLED, metric=lambda example, prediction: "right" not in prediction.answer
    )
    assert found.labelled == 40 and row(found, "greedy").accuracy.mean == 1.0
    assert found.recommended.name == "greedy" and "best here" in found.sentence


def test_votes_of_fewer_samples_come_from_the_same_record():
    found = checked(Model(greedy=45, warm=70), samples=8, strategies=[])
    assert [each.name for each in found.rows] == ["plain", "greedy", "vote of 4", "vote of 8"]
    assert found.spent.samples == 40 * 10
    assert row(found, "vote of 4").spending.samples == 4 and row(found, "vote of 4").settings["max_samples"] == 4
    assert row(found, "vote of 4").accuracy.mean < row(found, "vote of 8").accuracy.mean


def test_temperatures_and_strategies_of_ones_own():
    model = Model(greedy=60, warm=60)
    found = checked(model, strategies=[Parallel(), SEEING, replace(SEEING, when="always")], temperatures=[0.5, 0.9])
    names = [each.name for each in found.rows]
    assert len(names) == len(set(names)) == 2 + 2 * 4
    assert "vote of 4 at 0.5" in names and "Parallel of 4 at 0.9" in names
    assert sum(name.startswith("Integrated(") and "first='own'" in name for name in names) == 4
    assert row(found, "vote of 4 at 0.5").settings["temperature"] == 0.5
    assert model.temperatures() == {None: 40, 0.0: 40, 0.5: 640, 0.9: 640}


class Writer(ScriptedModel):
    """Writes no text twice: two of three samples tell of the number and a word of their own, others of such alone."""

    def __init__(self, field="summary"):
        super().__init__(lambda prompt, number: {})
        self.field = field

    def answer(self, request):
        number = self.text(request).rpartition("number ")[2].split("\n")[0]
        with self.lock:
            self.requests.append(request)
            count = len(self.requests)
        own = [f"w{luck(count, place)}x{count}" for place in range(3)]
        told = [*(f"n{number}", "is", "a", "number"), own[0]] if luck("told", count) < 67 else own
        text = {"summary": " ".join(told), "tags": json.dumps(told)}[self.field]
        return f"[[ ## {self.field} ## ]]\n{text}\n\n[[ ## completed ## ]]"


def likeness(example, prediction):
    """The share of the words that are to be said."""
    said = prediction.get("summary", "").split() or prediction.get("tags", [])
    wanted = [f"n{example.document.split()[-1]}", "is", "a", "number"]
    return sum(word in said for word in wanted) / len(wanted)


@pytest.mark.parametrize("field", ["summary", "tags"])
def test_text_and_lists_are_voted_on_by_their_own_rule_and_scored_by_the_metric(field):
    """No two samples are equal: by equality a vote is its first sample, and every answer another one."""
    examples = [{"document": f"number {i}"} for i in range(40)]
    signature = {"summary": "document -> summary", "tags": "document -> tags: list[str]"}[field]
    program = DynScaling(dspy.Predict(signature), 4, selector=Medoid() if field == "summary" else None)
    found = checked(Writer(field), examples, program, metric=likeness, samples=6, strategies=[Parallel()])
    plain, half, vote = (row(found, name) for name in ("plain", "vote of 3", "vote of 6"))
    assert 0.5 < plain.accuracy.mean < 0.85 and vote.accuracy.mean > 0.9 and vote.gain.low > 0
    assert plain.accuracy.mean < half.accuracy.mean < vote.accuracy.mean
    assert found.recommended.name.startswith("vote of") or found.recommended.name == "Parallel of 6"
    assert 0.3 < vote.agreement < 0.6 and 0.2 < vote.changed.mean < 0.5  # of what is much alike: two of three, squared
    assert vote.changed.mean < plain.changed.mean < 0.8 and len(found.disagreements) < 40


def test_a_vote_of_all_samples_is_what_the_program_returns():
    """Labels, text with ties, lists, records and numbers: the record has the winner that the module had."""
    cases = {
        "question -> answer": ["a b", "b c", "c", "a b c"],
        "question -> answer: Literal['x', 'y']": ["x", "y", "y", "x"],
        "question -> answer: list[str]": ['["a"]', '["a", "b"]', '["c"]', '["b", "c"]'],
        "question -> answer: float": ["1", "2", "2.0", "3"],
        "question -> answer: dict[str, int]": ['{"a": 1, "b": 2}', '{"a": 1}', '{"a": 1, "b": 3}', '{"c": 1}'],
    }
    for signature, values in cases.items():
        pool = BudgetPool(samples=8, policy=Uniform())
        program = DynScaling(dspy.Predict(signature), pool, sampling=Parallel(), max_choices=1)
        model = ScriptedModel(lambda prompt, number, values=values: {"answer": values[number % 4]})
        with dspy.context(lm=model.lm()):
            predictions = program.batch([{"question": f"q{i}"} for i in range(2)], num_threads=1)
        for prediction in predictions:
            judge = Judge(lambda example, prediction: luck(prediction.answer))
            call = Call.of(prediction, dspy.Example(), judge, program.scaling_selector.read)
            (outcome,) = voted([call], 4, program.scaling_selector, fixed=4)  # in the order in which they were drawn
            assert outcome.score == call.score == luck(prediction.answer), signature
            assert outcome.answers == call.alone().answers and call.vote.answer == prediction.answer, signature


class Once(Integrated):
    """Wants no second sample."""

    def propose(self, view, learned, rng):
        return super().propose(view, learned, rng) if view.next_index == 0 else None


ONCE = Once(when="close", first="own")


def test_a_strategy_that_wants_fewer_samples_is_said_to_draw_so_many():
    found = checked(Model(greedy=20, warm=100), strategies=[ONCE, ONCE])
    assert [each.name for each in found.rows] == ["plain", "greedy", "vote of 4", "Once of 4"]
    assert row(found, "Once of 4").spending.samples == 1 and row(found, "Once of 4").times == pytest.approx(1)
    found = checked(Model(greedy=20, warm=100), strategies=[ONCE], lm={"temperature": 0.0}, temperatures=[1.0])
    assert found.sentence.startswith("1.0 samples a call (Once) gain ") and found.sentence.endswith(
        " for 1.0 times its cost."
    )


def test_a_model_at_temperature_0_has_one_single_run_and_the_vote_keeps_it_first():
    model = Model(greedy=100, warm=0)
    found = checked(model, lm={"temperature": 0.0})
    assert [each.name for each in found.rows] == ["greedy", "vote of 4", "Integrated of 4"]
    assert found.settings == {"budget": 1, "max_samples": 1}
    # Its first sample is the greedy one, and wins where the others all differ.
    assert row(found, "vote of 4").changed.mean < 0.2 and model.temperatures()[0.0] >= 80


def test_a_wrapped_program_is_measured_with_its_settings():
    model = Model(greedy=60, warm=60)
    program = DynScaling(
        dspy.ChainOfThought("question -> answer, note"),
        3,
        sampling=Parallel(first="own"),
        temperature=0.6,
        answer="answer",
        min_confidence=0.99,
        on_low="raise",
        max_samples=6,
    )
    model.answer = lambda request, own=model.answer: own(request).replace(
        "[[ ## completed", "[[ ## note ## ]]\nn\n\n[[ ## completed"
    )
    found = checked(model, program=program, strategies=None)
    assert [each.name for each in found.rows] == ["plain", "greedy", "vote of 4", "Parallel of 4", "Integrated of 4"]
    assert model.temperatures() == {None: 40, 0.0: 80, 0.6: 440}
    assert row(found, "Parallel of 4").settings == {
        **{"budget": 4, "sampling": Parallel(first="own"), "temperature": 0.6, "answer": ("answer",), "max_samples": 6},
    }
    assert program.pool.statistics().spent.samples == 0


# ---- budgets


def test_a_cap_on_samples_answers_fewer_examples():
    found = checked(Model(greedy=60, warm=60), budget=205)
    assert found.calls == 20 and found.spent.samples == 200
    assert found.notes == ("20 examples do not fit the budget and are left out",)
    with pytest.raises(
        ValueError, match="budget is too small: 15 samples, and each example takes 10; give at least 20"
    ):
        checked(Model(greedy=60, warm=60), budget=15)


@pytest.mark.parametrize("cap", [{"requests": 300}, {"tokens": 3500}, {"dollars": 0.0035}])
def test_other_caps_leave_out_what_does_not_fit_and_are_never_passed(cap):
    prices = {"prices": {"scripted/model": Price(prompt=1.0, completion=1.0)}}
    model = Model(greedy=60, warm=60)
    found = checked(model, lm={"max_tokens": 3}, budget={**cap, **prices})
    assert [each.name for each in found.rows] == ["plain", "greedy", "vote of 4"]
    ((unit, most),) = cap.items()
    assert getattr(found.spent, unit) <= most and len(model.requests) == 240
    (note,) = found.notes
    assert note.startswith("Integrated of 4 is left out: it takes about ") and unit in note


@pytest.mark.parametrize("threads", [1, 8])
def test_a_run_that_a_cap_has_cut_short_is_left_out(threads):
    """It has tokens left in the end, but fewer than the next request may take."""
    found = checked(Model(greedy=60, warm=60), lm={"max_tokens": 3}, budget={"tokens": 3000}, num_threads=threads)
    assert [each.name for each in found.rows] == ["plain", "greedy"] and found.spent.tokens <= 3000
    vote, strategy = found.notes
    assert vote.startswith("vote of 4 is left out: ") and "tokens of the pool are spent" in vote
    assert strategy.startswith("Integrated of 4 is left out: it takes about 1,600 tokens")


def test_a_budget_for_the_single_runs_alone_says_so():
    found = checked(Model(greedy=60, warm=60), budget={"requests": 90})
    assert [each.name for each in found.rows] == ["plain", "greedy"] and len(found.notes) == 2
    assert found.sentence.endswith(" is all that the budget let the check measure.")
    with pytest.raises(BudgetExhausted):
        checked(Model(greedy=60, warm=60), budget={"requests": 30})


def test_dollars_are_told_where_prices_are_known():
    prices = {"prices": {"scripted/model": Price(prompt=1000.0, completion=2000.0)}}
    found = checked(Model(greedy=60, warm=60), budget=prices)
    assert row(found, "plain").spending.dollars == pytest.approx(0.013) and found.cost_unit == "dollars"
    assert found.spent.dollars == pytest.approx(0.013 * 400)


# ---- failures


@needs_lm_errors
def test_a_way_that_fails_is_left_out_and_the_others_are_kept():
    class NoGreedy(Model):
        def answer(self, request):
            if request.config.temperature == 0:
                raise (
                    dspy.LMInvalidRequestError("no", model="m")
                    if hasattr(dspy, "LMInvalidRequestError")
                    else ValueError("no")
                )
            return super().answer(request)

    found = checked(NoGreedy(greedy=60, warm=60))
    assert [each.name for each in found.rows] == ["plain", "vote of 4", "Integrated of 4"]
    (note,) = found.notes
    assert note.startswith("greedy is left out: every call of it failed, the first with ")


def test_a_call_that_fails_is_wrong():
    class Fails(Model):
        def answer(self, request):
            text = super().answer(request)
            if "number 7\n" in self.text(request) and request.config.temperature is None:
                raise ValueError("down")
            return text

    found = checked(Fails(greedy=100, warm=100))
    assert found.labelled == 40 and row(found, "plain").accuracy.mean == pytest.approx(39 / 40)
    assert row(found, "plain").changed.mean == pytest.approx(1 / 40) and found.disagreements == (7,)


def test_a_call_that_always_fails_is_labelled_and_wrong():
    class Fails(Model):
        def answer(self, request):
            if "number 7\n" in self.text(request):
                raise ValueError("down")
            return super().answer(request)

    found = checked(Fails(greedy=100, warm=100))
    assert found.labelled == 40 and [each.accuracy.mean for each in found.rows] == [pytest.approx(39 / 40)] * 4
    assert found.disagreements == ()


def test_a_metric_that_can_judge_nothing_is_not_told_to_look_for_labels():
    found = checked(Model(greedy=60, warm=60), EXAMPLES[:5], metric=lambda example, prediction: None)
    assert found.labelled == 0 and found.notes == ()


def test_a_program_that_always_fails_raises_its_own_error():
    class Broken(dspy.Module):
        def forward(self, question):
            raise RuntimeError("not today")

    with pytest.raises(RuntimeError, match="not today"):
        checked(Model(greedy=60, warm=60), program=Broken())


def test_a_metric_that_always_fails_is_raised_after_one_run():
    model = Model(greedy=60, warm=60)
    with pytest.raises(AttributeError, match="nothing"):
        checked(model, metric=lambda example, prediction: prediction.nothing)
    assert len(model.requests) == 40


def test_a_program_whose_parts_run_in_threads_of_their_own():
    class Pipeline(dspy.Module):
        def __init__(self):
            super().__init__()
            self.think = dspy.Predict("question -> thought")
            self.say = dspy.ChainOfThought("question, thought -> answer")

        def forward(self, question):
            made: list[object] = []
            thread = threading.Thread(target=lambda: made.append(0))
            thread.start()
            thread.join()
            return self.say(question=question, thought="t")

    found = checked(
        Model(greedy=60, warm=60),
        [{"question": f"number {i}", "answer": f"right {i}"} for i in range(8)],
        Pipeline(),
        num_threads=4,
    )
    assert found.calls == found.labelled == 8


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"samples": 2}, ValueError, "samples must be at least 3, or no vote decides anything, got 2"),
        ({"samples": 2.5}, TypeError, "samples must be"),
        (
            {"examples": EXAMPLES[:1]},
            ValueError,
            "at least two examples are needed, a few dozen to tell anything, got 1",
        ),
        ({"examples": [{"text": "x"}] * 3}, ValueError, "example 0 has no 'question'"),
        ({"metric": "exact"}, TypeError, "metric must be a function of an example and a prediction, got 'exact'"),
        ({"temperatures": [0]}, ValueError, "temperatures must be above 0: the greedy run is measured in any case"),
        ({"temperatures": [-1]}, ValueError, "temperature must"),
        ({"strategies": ["vote"]}, TypeError, "sampling must be"),
        ({"budget": {"per_call": 3}}, ValueError, "budget cannot have 'per_call'"),
        ({"program": len}, TypeError, "program must be a dspy.Module, got <built-in function len>"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_spent(options, error, message):
    model = Model(greedy=60, warm=60)
    with pytest.raises(error, match=message):
        checked(model, **options)
    assert not model.requests


# ---- on a server, and on a real model


@pytest.mark.parametrize("engine", ["auto", "litellm"])
def test_on_a_server_that_shares_requests_or_not(server, engine):
    class Sign(dspy.Signature):
        """The sign of a number."""

        number: int = dspy.InputField()
        sign: Literal["plus", "minus"] = dspy.OutputField()

    fake = server()
    examples = [{"number": number, "sign": "plus"} for number in range(6)]
    with dspy.context(lm=fake.lm(engine)):
        found = check(dspy.Predict(Sign), examples, num_threads=4)
    assert found.labelled == 6 and not found.notes
    assert found.spent.requests == fake.statistics().requests
    vote = row(found, "vote of 4").spending
    assert vote.samples == 4 and vote.requests <= 4 and found.cost_unit == "tokens"


@pytest.mark.timeout(120)
def test_on_the_model_in_the_box():
    with lab.serve(cache=False, seed=1, engine="auto") as lm, dspy.context(lm=lm):
        found = check(dspy.ChainOfThought(QA), lab.questions(12, seed=5), num_threads=16, samples=3)
    assert found.calls == found.labelled == 12 and len(found.rows) == 5
    assert found.spent.samples == 12 * 11
    if not found.recommended.name.startswith(("plain", "greedy")):
        assert found.recommended.gain.low > 0


def test_numbers_are_spelt_in_sentences():
    assert module.NUMBERS[4] == "Four" and module._sizes(16) == [4, 8, 16] and module._sizes(5) == [5]
