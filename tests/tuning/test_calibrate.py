from __future__ import annotations

import hashlib
import json
import logging
import re

import dspy
import pytest

from dynscale_dspy import BudgetPool, Calibrate, DynScaling, Integrated, KnowledgeGradient, Parallel, Uniform
from tests.support import ScriptedModel

EXAMPLES = [dspy.Example(question=f"number {i}", answer=f"right {i}").with_inputs("question") for i in range(30)]

CHAINS = Integrated(when="close", first="own")


def metric(example, prediction, trace=None):
    return prediction.answer == example.answer


def question_of(prompt):
    return prompt.rpartition("[[ ## question ## ]]\nnumber ")[2].split("\n")[0]


def luck(key):
    """One of five, the same each time."""
    return int(hashlib.blake2b(key.encode(), digest_size=4).hexdigest(), 16) % 5


def model(shown_right):
    """Right in two of five samples, wrong in ever other ways; with attempts shown, right or wrong for certain."""

    def reply(prompt, number):
        question = question_of(prompt)
        if "Attempt 1:" in prompt:
            return {"reasoning": "checked", "answer": f"right {question}" if shown_right else "misled"}
        lucky = luck(f"{question}/{number}")
        return {"reasoning": "guess", "answer": f"right {question}" if lucky < 2 else f"wrong {lucky}"}

    return ScriptedModel(reply)


def compiled(lm, **options):
    student = DynScaling(dspy.ChainOfThought("question -> answer"), 4, answer="answer", max_samples=16)
    with dspy.context(lm=lm):
        calibrate = Calibrate(metric=metric, budget=6, num_threads=1, **options)
        return student, calibrate.compile(student, trainset=EXAMPLES)


def test_what_answers_best_at_equal_cost_is_taken():
    student, tuned = compiled(model(shown_right=True).lm(temperature=1.0))
    assert isinstance(tuned.sampling, Integrated)
    assert tuned.module is student.module and student.sampling is not tuned.sampling
    assert tuned.max_samples == 16
    chosen = tuned.calibration.chosen
    assert chosen.score > 0.8
    plain, greedy, *combinations = tuned.calibration.points
    assert plain.plain and greedy.plain and not any(point.plain for point in combinations)
    first = [point for point in combinations if isinstance(point.sampling, Parallel)]
    assert [point.samples for point in first] == pytest.approx([2, 4, 6])  # the curve, doubling up to the budget
    for point in tuned.calibration.points:
        assert point.cost <= 6.5
    assert f"* {chosen.samples:8.2f}" in str(tuned.calibration)
    assert len(str(tuned.calibration).splitlines()) == 2 + len(tuned.calibration.points)
    assert tuned.calibration.best is chosen and tuned.calibration.gain.is_sure
    assert tuned.calibration.verdict.startswith("Scaling pays: +")


class Warm(ScriptedModel):
    """Shows its reply the temperature of the request, too."""

    @staticmethod
    def text(request):
        return f"{ScriptedModel.text(request)}\ntemperature {request.config.temperature}"


def test_the_plain_program_is_measured_first_as_it_is_and_at_temperature_0():
    scripted = model(shown_right=True)
    _, tuned = compiled(scripted.lm(temperature=0.3), temperatures=[0.9], sampling=[Parallel()])
    plain, greedy, *_ = tuned.calibration.points
    assert (plain.samples, plain.temperature, plain.cost) == (1, None, 1)
    assert (greedy.samples, greedy.temperature, greedy.cost) == (1, 0, 1)
    warmth = [request.config.temperature for request in scripted.requests]
    assert warmth[:60] == [0.3] * 30 + [0] * 30 and set(warmth[60:]) == {0.9}
    lines = str(tuned.calibration).splitlines()
    assert lines[1].endswith("  plain program") and lines[2].endswith("  plain program, temperature 0")


def test_the_plain_program_is_enough_where_nothing_is_surely_better():
    def reply(prompt, number):  # what it does not know it never knows
        question = question_of(prompt)
        return {"reasoning": "r", "answer": f"right {question}" if int(question) % 3 else f"wrong {number}"}

    scripted = ScriptedModel(reply)
    student, tuned = compiled(scripted.lm(temperature=0.5))
    calibration = tuned.calibration
    assert calibration.chosen is calibration.points[0] and calibration.chosen.plain
    assert not calibration.gain.is_sure and not calibration.best.plain
    assert calibration.verdict.startswith("The plain program is enough: scaling gains ")
    assert str(calibration).splitlines()[1].startswith("*     1.00   1.00")
    assert tuned.scaling_settings == student.scaling_settings.replace(sampling=Parallel(), max_samples=1)
    scripted.requests.clear()
    with dspy.context(lm=scripted.lm(temperature=0.5)):
        tuned(question="number 3")
        tuned.batch(EXAMPLES[:2], num_threads=1, disable_progress_bar=True)
    assert [request.config.temperature for request in scripted.requests] == [0.5] * 3


def test_temperature_0_is_what_scaling_has_to_beat_where_it_is_better():
    """Voting buys back what temperature 1 loses, which is no gain."""

    def reply(prompt, number):
        question = question_of(prompt)
        slips = "temperature 0.0" not in prompt and luck(f"{question}/{number}") == 0
        return {"reasoning": "r", "answer": f"wrong {number}" if slips else f"right {question}"}

    scripted = Warm(reply)
    _, tuned = compiled(scripted.lm(temperature=1.0), sampling=[Parallel()])
    plain, greedy, *_, last = tuned.calibration.points
    assert plain.score < last.score <= greedy.score == 1
    assert tuned.calibration.baseline is tuned.calibration.chosen is greedy
    assert tuned.calibration.verdict.startswith("The plain program, temperature 0 is enough: ")
    loaded = DynScaling(dspy.ChainOfThought("question -> answer"), 4)
    loaded.load_state(tuned.dump_state())
    assert (loaded.temperature, loaded.max_samples) == (0, 1)
    scripted.requests.clear()
    with dspy.context(lm=scripted.lm(temperature=1.0)):
        loaded(question="number 3")
    assert [request.config.temperature for request in scripted.requests] == [0]


def test_a_language_model_that_fails_at_temperature_0_is_calibrated_without(caplog):
    class Picky(ScriptedModel):
        def answer(self, request):
            if request.config.temperature == 0:
                raise ValueError("temperature must be strictly positive")
            return super().answer(request)

    with caplog.at_level(logging.WARNING, "dynscale_dspy"):
        _, tuned = compiled(Picky(model(shown_right=True).reply).lm(temperature=1.0), sampling=[Parallel(), CHAINS])
    assert [point.temperature for point in tuned.calibration.points if point.plain] == [None]
    assert tuned.calibration.gain.is_sure and not tuned.calibration.chosen.plain
    assert re.search(
        "the plain program fails at temperature 0, and is compared without: .*strictly positive", caplog.text
    )


def test_who_asks_for_confidence_is_scaled_and_told_that_nothing_is_gained():
    student = DynScaling(dspy.ChainOfThought("question -> answer"), 4, min_confidence=0.9)
    with dspy.context(lm=model(shown_right=False).lm(temperature=1.0)):
        tuned = Calibrate(metric, budget=2, sampling=[Parallel()], num_threads=1).compile(student, trainset=EXAMPLES)
    assert not tuned.calibration.chosen.plain and tuned.scaling_settings.max_samples == 64
    assert tuned.calibration.verdict.startswith("It takes votes only for min_confidence: scaling gains ")


def test_the_first_setting_stays_unless_another_is_better_beyond_noise():
    _, tuned = compiled(model(shown_right=False).lm(temperature=1.0), sampling=[Parallel(), CHAINS])
    assert tuned.calibration.best.sampling == Parallel()
    _, tuned = compiled(
        model(shown_right=False).lm(temperature=1.0),
        sampling=[Parallel()],
        policies=[Uniform(), KnowledgeGradient()],
        temperatures=[0.7, 1.0],
    )
    assert {(type(p.policy), p.temperature) for p in tuned.calibration.points if not p.plain} == {
        (policy, temperature) for policy in (Uniform, KnowledgeGradient) for temperature in (0.7, 1.0)
    }
    assert tuned.calibration.best.temperature in (0.7, 1.0)


def test_other_settings_are_the_students():
    student = DynScaling(
        dspy.ChainOfThought("question -> answer"),
        4,
        answer="answer",
        temperature=0.6,
        max_samples=16,
        max_choices=2,
        stop_when_decided=True,
        leader=True,
        min_confidence=0.2,
        on_low="raise",
    )
    with dspy.context(lm=model(shown_right=False).lm(temperature=1.0)):
        tuned = Calibrate(metric, budget=2, sampling=[Parallel()], num_threads=1).compile(student, trainset=EXAMPLES)
    assert tuned.scaling_settings == student.scaling_settings.replace(sampling=Parallel())
    assert {point.temperature for point in tuned.calibration.points if not point.plain} == {0.6}
    assert student.sampling == Integrated()


def test_unsure_answers_are_measured_by_their_votes():
    def ask(prediction, **inputs):
        raise AssertionError("nobody is to be asked")

    student = DynScaling(dspy.ChainOfThought("question -> answer"), 4, min_confidence=1.0, on_low=ask)
    with dspy.context(lm=model(shown_right=False).lm(temperature=1.0)):
        tuned = Calibrate(metric, budget=2, sampling=[Parallel()], num_threads=1).compile(student, trainset=EXAMPLES)
    assert tuned.on_low is ask and tuned.min_confidence == 1.0


def test_lists_are_measured_by_their_own_rule_and_a_metric_that_gives_a_number():
    """No two samples are equal: by equality scaling would gain nothing."""

    def reply(prompt, number):
        own = [f"w{number}x{place}" for place in range(2)]
        told = ["a", "b", "c", own[0]] if luck(f"list {number}") < 3 else own
        return {"tags": json.dumps(told)}

    def share(example, prediction, trace=None):
        return len({"a", "b", "c"}.intersection(prediction.tags)) / 3

    student = dspy.Predict("question -> tags: list[str]")
    with dspy.context(lm=ScriptedModel(reply).lm()):
        calibrate = Calibrate(metric=share, budget=6, num_threads=1, sampling=[Parallel()])
        calibration = calibrate.compile(student, trainset=EXAMPLES).calibration
    assert calibration.baseline.score < 0.8 and calibration.best.score > 0.9
    assert calibration.gain.is_sure and not calibration.chosen.plain


def test_dearer_samples_get_fewer():
    class Thrifty(ScriptedModel):
        """Charges ten times as much for a prompt with attempts in it."""

        def usage(self, request):
            dear = 10 if "Attempt 1:" in self.text(request) else 1
            return 40 * dear, 10 * dear

    dear = Thrifty(model(shown_right=True).reply)
    _, tuned = compiled(dear.lm(temperature=1.0), sampling=[Parallel(), Integrated()])
    last = {}
    for point in tuned.calibration.points:
        last[type(point.sampling)] = point
    assert last[Parallel].samples == pytest.approx(6)
    assert last[Integrated].samples < 4
    assert last[Integrated].cost == pytest.approx(6, rel=0.35)


def test_a_plain_program_is_wrapped():
    with dspy.context(lm=model(shown_right=True).lm(temperature=1.0)):
        program = dspy.ChainOfThought("question -> answer")
        tuned = Calibrate(metric, budget=2, sampling=[Parallel()], num_threads=1).compile(program, trainset=EXAMPLES)
        assert tuned.module is program
        assert tuned(question="number 3").answer
        assert isinstance(tuned.pool, BudgetPool)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: Calibrate("accuracy"), TypeError, "metric must be a function"),
        (lambda: Calibrate(metric, budget=1), ValueError, "budget must be at least 2 samples a call"),
        (lambda: Calibrate(metric, price=-1), ValueError, "price must not be negative, got -1"),
        (lambda: Calibrate(metric, sampling=[]), ValueError, "there is nothing to compare"),
        (lambda: Calibrate(metric, temperatures=[]), ValueError, "there is nothing to compare"),
        (
            lambda: Calibrate(metric).compile(dspy.Predict("question -> answer"), trainset=EXAMPLES[:1]),
            ValueError,
            "at least two labelled examples are needed, got 1",
        ),
    ],
)
def test_bad_settings(make, error, message):
    with pytest.raises(error, match=message):
        make()
