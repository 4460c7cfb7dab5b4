"""A selector of the user's own decides wherever a call, a batch, a report or the bandit asks which answer wins."""

from __future__ import annotations

import asyncio
import copy
import logging
import re
import threading
from dataclasses import dataclass, field, replace
from itertools import groupby
from typing import Any

import cloudpickle
import dspy
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from dynscale_dspy import (
    BudgetPool,
    Calibrate,
    DynScaling,
    Integrated,
    KnowledgeGradient,
    LowConfidence,
    Parallel,
    Sequential,
    Uniform,
    explain,
    wrap,
)
from dynscale_dspy.allocation.evidence import TopTwo
from dynscale_dspy.allocation.policies import AdaptiveConsistency, EarlyStopping
from dynscale_dspy.selection.base import Group, Selection, Selector, Vote
from dynscale_dspy.selection.fieldwise import Fieldwise
from dynscale_dspy.selection.judge import Judge
from dynscale_dspy.selection.lists import ElementVote
from dynscale_dspy.selection.medoid import Medoid
from dynscale_dspy.selection.numbers import Numbers
from dynscale_dspy.selection.plurality import Plurality
from dynscale_dspy.selection.similarity import CharacterF, ElementF1, EqualOutputs, TokenF1
from tests.support import ScriptedModel, cycle, one_each

# By plurality "no" wins; the longest is said once.
ANSWERS = ("no", "yes, indeed", "no", "maybe", "no", "no", "no", "no")


@dataclass(frozen=True)
class Said:
    """One vote."""

    answer: str
    sample: int
    weight: float
    conditioned: bool


@dataclass(frozen=True)
class LongestSoFar:
    """The votes of one call: answers of one length are one group, and the longest wins."""

    votes: tuple[Said, ...] = ()
    samples: int = 0
    blanks: int = 0

    def add(
        self, vote: Vote | None, *, sample: int | None = None, weight: float = 1.0, conditioned: bool = False
    ) -> LongestSoFar:
        count = self.samples + 1
        if vote is None:
            return replace(self, samples=count, blanks=self.blanks + 1)
        said = Said(vote.answer, self.samples if sample is None else sample, weight, conditioned)
        return replace(self, samples=count, votes=(*self.votes, said))

    def winner(self, *, favour_conditioned: bool = False) -> int | None:
        if not self.votes:
            return None
        return min(self.votes, key=lambda said: (-len(said.answer), said.sample)).sample

    def is_settled(self, pending: int) -> bool:
        return pending == 0  # a longer one may come

    def evidence(self) -> TopTwo:
        lead, *others = [*self._weights(), 0.0]
        return TopTwo(lead, min(max(others, default=0.0), lead), self.samples, self.blanks)

    def groups(self) -> tuple[Group, ...]:
        groups = []
        for length, found in groupby(sorted(self.votes, key=_length), key=_length):
            said = sorted(found, key=lambda each: each.sample)
            weights = [
                sum(each.weight for each in said if each.conditioned is conditioned) for conditioned in (False, True)
            ]
            groups.append(Group(said[0].answer, length, *weights, tuple(each.sample for each in said)))
        return tuple(sorted(groups, key=lambda group: (-group.weight, group.samples[0])))

    def _weights(self) -> list[float]:
        """Weights by length, the longest first."""
        lengths = sorted({len(said.answer) for said in self.votes}, reverse=True)
        return [sum(said.weight for said in self.votes if len(said.answer) == length) for length in lengths]


def _length(said: Said) -> int:
    return len(said.answer)


@dataclass(frozen=True)
class Longest:
    """The longest answer wins. Its votes have no key: it does not compare by equality."""

    read_so_far: list[Any] = field(default_factory=list, compare=False, repr=False)

    def read(self, answer: Any) -> Vote | None:
        self.read_so_far.append(answer)
        return None if answer is None else Vote(answer)

    def empty(self) -> LongestSoFar:
        return LongestSoFar()


def qa(model: Any = None, budget: Any = None, **settings: Any) -> DynScaling:
    settings = {"selector": Longest(), "sampling": Parallel(), "min_confidence": None, **settings}
    if budget is None:
        budget = BudgetPool(samples=4, policy=Uniform())
    return one_each(dspy.ChainOfThought("question -> answer"), budget, **settings)


@pytest.fixture
def model() -> Any:
    with dspy.context(lm=ScriptedModel(cycle(*ANSWERS)).lm()):
        yield


def test_it_keeps_to_the_contract() -> None:
    assert isinstance(Longest(), Selector) and isinstance(Longest().empty(), Selection)


# ---- who wins


def test_a_call_returns_its_winner(model: Any) -> None:
    program = qa()
    assert program(question="q").answer == "yes, indeed"
    assert sorted(program.selector.read_so_far) == sorted(ANSWERS[:4])  # each sample is read once


def test_a_call_from_a_task_returns_its_winner(model: Any) -> None:
    assert asyncio.run(qa().acall(question="q")).answer == "yes, indeed"


def test_a_batch_returns_its_winners(model: Any) -> None:
    program = qa(budget=BudgetPool(samples=8, policy=Uniform()))
    examples = [dspy.Example(question=f"q{i}").with_inputs("question") for i in range(2)]
    predictions = program.batch(examples, num_threads=1, disable_progress_bar=True)
    for prediction in predictions:
        told = explain(prediction)
        assert prediction.answer == max((report.answer for report in told.samples), key=len)
    assert "yes, indeed" in [prediction.answer for prediction in predictions]


def test_predictors_in_place_use_it(model: Any) -> None:
    program = wrap(
        dspy.ChainOfThought("question -> answer"),
        BudgetPool(samples=4, policy=Uniform()),
        selector=Longest(),
        sampling=Parallel(),
        max_choices=1,
    )
    assert program(question="q").answer == "yes, indeed"


@pytest.mark.parametrize(
    "sampling",
    [
        Sequential(),
        Integrated(width=1, when="close"),
        Integrated(width=1, when="always", repeats=True),
        Integrated(width=1, when="learned"),
    ],
)
def test_every_strategy_works_with_votes_that_have_no_key(model: Any, sampling: Any) -> None:
    program = qa(sampling=sampling, budget=BudgetPool(samples=8, policy=Uniform()).expect(1))
    prediction = program(question="q")
    told = explain(prediction)
    assert len(told.samples) == 8 and prediction.answer == "yes, indeed"
    shown = [report.shown for report in told.samples if report.shown]
    assert shown or sampling.learned
    if sampling == Integrated(width=1, when="close"):  # one for each group
        assert all(len({told.samples[index].key for index in indices}) == len(indices) for indices in shown)


def test_nothing_is_called_off_that_could_still_win(model: Any) -> None:
    told = explain(qa(stop_when_decided=True)(question="q"))
    assert [report.problem for report in told.samples] == [""] * 4


# ---- what others see of it


def test_an_explanation_tells_its_groups(model: Any) -> None:
    told = explain(qa(sampling=Sequential())(question="q"))
    assert [(votes.answer, votes.total) for votes in told.votes] == [("yes, indeed", 1), ("no", 2), ("maybe", 1)]
    assert told.agreement == 1 / 4 and told.confidence == TopTwo(1, 1).confidence
    assert [report.key for report in told.samples] == [len(answer) for answer in ANSWERS[:4]]
    assert "no vote" not in str(told) and "no vote" not in told._repr_html_()


def test_the_history_tells_its_groups_apart(model: Any) -> None:
    program = qa(sampling=Sequential())
    program(question="q")
    (call,) = program.pool.history.answered
    assert call.answers == (0, 1, 0, 2) and call.agreement == 1 / 4


def test_a_sample_without_an_answer_casts_no_vote() -> None:
    model = ScriptedModel(cycle("no", None, "maybe", "no"))
    program = qa(
        sampling=Sequential(), answer=lambda prediction: None if prediction.answer == "None" else prediction.answer
    )
    with dspy.context(lm=model.lm()):
        prediction = program(question="q")
    told = explain(prediction)
    assert prediction.answer == "maybe"
    assert [report.problem for report in told.samples] == ["", "no answer", "", ""]
    assert [report.key for report in told.samples] == [2, None, 5, 2]
    assert program.pool.history.answered[0].answers == (0, None, 1, 0)


# ---- what happens to an unsure answer


def test_its_confidence_decides_what_is_low(model: Any) -> None:
    seen = []

    def on_low(prediction: Any, question: str) -> Any:
        seen.append((prediction.answer, question, explain(prediction).confidence))
        return dspy.Prediction(answer="asked")

    program = qa(min_confidence=0.9, on_low=on_low)
    assert program(question="q").answer == "asked"
    assert seen == [("yes, indeed", "q", TopTwo(1, 1).confidence)]


def test_the_error_of_an_unsure_answer_has_its_winner(model: Any) -> None:
    with pytest.raises(LowConfidence) as caught:
        qa(min_confidence=0.9, on_low="raise")(question="q")
    assert caught.value.prediction.answer == "yes, indeed"


def test_its_confidence_decides_in_batches_too(model: Any) -> None:
    seen = []

    def on_low(prediction: Any, question: str) -> Any:
        seen.append(prediction.answer)
        return dspy.Prediction(answer="asked")

    program = qa(min_confidence=0.9, on_low=on_low)
    (prediction,) = program.batch([{"question": "q"}], num_threads=1, disable_progress_bar=True)
    assert prediction.answer == "asked" and seen == ["yes, indeed"]


def test_a_sure_answer_is_not_low() -> None:
    with dspy.context(lm=ScriptedModel(cycle("same")).lm()):
        prediction = qa(min_confidence=0.9, on_low="raise")(question="q")
    assert prediction.answer == "same" and explain(prediction).confidence == TopTwo(4, 0).confidence > 0.9


# ---- the setting


def test_it_can_be_assigned_and_taken_away(model: Any) -> None:
    program = qa(selector=None, budget=BudgetPool(samples=12, policy=Uniform()).expect(3))
    assert program(question="q").answer == "no"
    program.selector = Longest()
    assert program(question="r").answer == "no"  # the second four answers are all the same
    assert program(question="s").answer == "yes, indeed"
    program.selector = None
    assert program.scaling_settings.selector is None


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, lambda one: cloudpickle.loads(cloudpickle.dumps(one))])
def test_copies_have_it(model: Any, copied: Any) -> None:
    program = copied(qa())
    assert program.selector == Longest()
    assert program(question="q").answer == "yes, indeed"


def test_a_file_does_not_take_it_away() -> None:
    saved = DynScaling(dspy.Predict("question -> answer"), 3)
    program = DynScaling(dspy.Predict("question -> answer"), 3, selector=Longest())
    assert "selector" not in program.dump_state()["dynscale"]
    program.load_state(saved.dump_state())
    assert program.selector == Longest()


@pytest.mark.parametrize("wrong", [Longest, "longest", lambda answer: answer, object()])
def test_what_is_no_selector_is_refused(wrong: Any) -> None:
    message = re.escape(f"selector must be a selector such as Plurality(), with read() and empty(), got {wrong!r}")
    for make in (lambda: DynScaling(dspy.Predict("question -> answer"), 3, selector=wrong), lambda: assign(wrong)):
        with pytest.raises(TypeError, match=f"^{message}$"):
            make()


def assign(selector: Any) -> None:
    DynScaling(dspy.Predict("question -> answer"), 3).selector = selector


# ---- which policies can be used with it

REFUSED = re.escape(
    f"{EarlyStopping()!r} needs the order of the votes (Detail.ORDER), and {Longest()!r} offers only "
    "the weights of the two leading answers (Detail.TOP_TWO): choose a policy that needs no more, such as "
    "KnowledgeGradient(), or a selector that offers it, such as Plurality()"
)


def test_a_policy_that_needs_more_than_it_offers_is_refused_at_construction() -> None:
    program = dspy.Predict("question -> answer")
    for budget, settings in ((3, {"policy": EarlyStopping()}), (BudgetPool(samples=5, policy=EarlyStopping()), {})):
        with pytest.raises(ValueError, match=f"^{REFUSED}$"):
            DynScaling(program, budget, selector=Longest(), **settings)  # type: ignore[arg-type]
        with pytest.raises(ValueError, match=f"^{REFUSED}$"):
            wrap(program, budget, selector=Longest(), **settings)  # type: ignore[arg-type]
        assert type(program) is dspy.Predict
        DynScaling(program, budget, selector=Plurality(), **settings)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="needs the votes of every answer"):
        DynScaling(program, 3, selector=Longest(), policy=AdaptiveConsistency())
    DynScaling(program, 3, selector=Longest(), policy=KnowledgeGradient())


def test_with_the_pool_around_it_is_refused_at_the_call() -> None:
    model = ScriptedModel(cycle("A"))
    program = DynScaling(dspy.Predict("question -> answer"), selector=Longest())
    pool = BudgetPool(samples=5, policy=EarlyStopping())
    with dspy.context(lm=model.lm()), pool:
        with pytest.raises(ValueError, match=f"^{REFUSED}$"):
            program(question="q")
        with pytest.raises(ValueError, match=f"^{REFUSED}$"):
            asyncio.run(program.acall(question="q"))
        with pytest.raises(ValueError, match=f"^{REFUSED}$"):
            program.batch([{"question": "q"}], disable_progress_bar=True)
        assert model.requests == [] and pool.statistics().spent.samples == 0
        with BudgetPool(samples=2):
            assert program(question="q").answer == "A"


def test_assigning_one_that_the_pools_policy_cannot_use_is_refused() -> None:
    program = DynScaling(dspy.Predict("question -> answer"), 3, policy=EarlyStopping())
    with pytest.raises(ValueError, match=f"^{REFUSED}$"):
        program.selector = Longest()
    assert program.selector is None
    program.selector = Plurality()


def test_a_saved_policy_that_needs_more_than_it_offers_is_left_out(caplog: Any) -> None:
    saved = DynScaling(dspy.Predict("question -> answer"), 6, policy=EarlyStopping(), max_samples=9)
    program = DynScaling(dspy.Predict("question -> answer"), 3, selector=Longest())
    with caplog.at_level(logging.WARNING, "dynscale_dspy"):
        program.load_state(saved.dump_state())
    assert program.pool.settings.per_call == 3 and program.pool.policy == KnowledgeGradient()
    assert program.max_samples == 9
    assert re.search("the saved budget is left as it is: " + REFUSED, caplog.text)


def test_calibration_refuses_a_policy_before_anything_is_spent() -> None:
    model = ScriptedModel(cycle("A"))
    program = DynScaling(dspy.Predict("question -> answer"), 3, selector=Longest())
    examples = [dspy.Example(question=f"q{i}", answer="A").with_inputs("question") for i in range(2)]
    calibrate = Calibrate(lambda e, p, trace=None: True, budget=2, policies=[KnowledgeGradient(), EarlyStopping()])
    with dspy.context(lm=model.lm()), pytest.raises(ValueError, match=f"^{REFUSED}$"):
        calibrate.compile(program, trainset=examples)
    assert model.requests == []


def test_calibration_keeps_it(model: Any) -> None:
    program = DynScaling(dspy.Predict("question -> answer"), 3, selector=Longest())
    examples = [dspy.Example(question=f"q{i}", answer="A").with_inputs("question") for i in range(2)]
    calibrate = Calibrate(lambda e, p, trace=None: True, budget=2, sampling=[Parallel()], num_threads=1)
    assert calibrate.compile(program, trainset=examples).selector == Longest()


# ---- answers that are compared by similarity


def f1(one: str, other: str) -> float:
    return TokenF1().between(TokenF1().prepare(one), TokenF1().prepare(other))


TOWERS = ("Rome", "the Eiffel Tower", "Eiffel Tower", "a tower of Paris")


@pytest.mark.parametrize("selector", [Medoid(), Plurality(ties=TokenF1())], ids=repr)
def test_the_most_central_answer_wins(selector: Any) -> None:
    with dspy.context(lm=ScriptedModel(cycle(*TOWERS)).lm()):
        prediction = qa(selector=selector)(question="q")
        examples = [dspy.Example(question=f"q{i}").with_inputs("question") for i in range(2)]
        in_batch = qa(selector=selector, budget=BudgetPool(samples=8, policy=Uniform())).batch(
            examples, num_threads=1, disable_progress_bar=True
        )
    assert prediction.answer == "Eiffel Tower"
    for each in in_batch:
        answers = [report.answer for report in explain(each).samples]
        central = [sum(f1(answer, other) for other in answers) for answer in answers]
        assert central[answers.index(each.answer)] == pytest.approx(max(central))
    told = explain(prediction)
    assert told.winner == [report.answer for report in told.samples].index("Eiffel Tower")
    versions = [votes.versions for votes in told.votes]
    assert versions == ([2, 1, 1] if isinstance(selector, Medoid) else [1, 1, 1, 1])  # "the Eiffel Tower" is much alike


def test_confidence_is_how_alike_another_is_expected_to_be() -> None:
    found = {}
    for name, answers in {"alike": ("a b c", "a b c d", "a b c"), "unlike": ("a", "b", "c")}.items():
        with dspy.context(lm=ScriptedModel(cycle(*answers)).lm()):
            found[name] = explain(qa(selector=Medoid())(question="q")).confidence
            asked = qa(selector=Medoid(), min_confidence=0.6, on_low=lambda prediction, question: prediction)
            assert explain(asked(question="q")).is_low == (name == "unlike")
    assert 0 < found["unlike"] < 0.5 < found["alike"] <= 1


def test_programs_learn_how_alike_their_samples_are() -> None:
    with dspy.context(lm=ScriptedModel(cycle("a b c d", "a b c e")).lm()):
        program = qa(selector=Medoid(), budget=BudgetPool(samples=40, policy=Uniform()).expect(20))
        sure = [explain(program(question=f"q{i}")).confidence for i in range(20)]
    assert sure[0] < sure[-1] == pytest.approx(0.75, abs=0.05)


def test_a_bandit_looks_longer_at_answers_that_are_unlike() -> None:
    def drawn(answers: tuple[str, ...]) -> int:
        with dspy.context(lm=ScriptedModel(cycle(*answers)).lm()):
            pool = BudgetPool(samples=64, policy=KnowledgeGradient()).expect(8)
            return len(explain(qa(selector=Medoid(), budget=pool)(question="q")).samples)

    assert drawn(("a", "b", "c d", "e")) > drawn(("a b c",))


def test_a_program_that_cannot_be_run_casts_no_vote() -> None:
    runs = EqualOutputs(run=lambda code: [eval(code, {"x": x}) for x in (1, 2, 3)])
    with dspy.context(lm=ScriptedModel(cycle("x +", "x + x", "2 * x", "x * x")).lm()):
        prediction = qa(selector=Medoid(runs))(question="q")
    assert prediction.answer in ("x + x", "2 * x")
    assert sorted(report.problem for report in explain(prediction).samples) == ["", "", "", "no answer"]


# ---- confidence, and what happens to an unsure answer, whatever the selector

TEXTS = {
    "a": "the council voted for the new bridge",
    "b": "rain is expected",
    "c": "a mouse ran up",
    "d": "42 per cent",
    "e": "nobody knows",
    "f": "purple",
}
LISTS = {letter: [letter, letter * 2] for letter in TEXTS}
RECORDS = {letter: {"name": letter * 3, "year": place} for place, letter in enumerate(TEXTS)}
NUMBERS = {letter: 10.0 * place for place, letter in enumerate(TEXTS)}
ONE: dict[str, Any] = {letter: f"x = {place}" for place, letter in enumerate(TEXTS)}
EVERY: list[tuple[Any, dict[str, Any]]] = [
    (None, TEXTS),
    (Plurality(), TEXTS),
    (Plurality(ties=TokenF1()), TEXTS),
    (Medoid(), TEXTS),
    (Medoid(lambda one, other: 0.5 + (one == other) / 2), TEXTS),  # type: ignore[arg-type]
    (Medoid(EqualOutputs(run=lambda code: code.split()[-1])), ONE),
    (Medoid(CharacterF()), ONE),
    (ElementVote(), LISTS),
    (Medoid(ElementF1()), LISTS),
    (Fieldwise(), RECORDS),
    (Fieldwise(compose=True), RECORDS),
    (Numbers(), NUMBERS),
    (Numbers(tolerance=0.5), NUMBERS),
    (Numbers(kind="score"), NUMBERS),
    (Judge(), TEXTS),
    (Judge(selector=Medoid()), TEXTS),
    (Longest(), TEXTS),
]


class Says(dspy.Module):
    """A program that says what it is told to, one after the other; None is no answer."""

    def __init__(self, values: dict[str, Any], said: list[str | None]) -> None:
        super().__init__()
        self.values, self.said, self.lock = values, iter(said), threading.Lock()

    def forward(self, question: str) -> Any:
        with self.lock:
            letter = next(self.said)
        return dspy.Prediction(answer=None if letter is None else self.values[letter])


def asked_of(selector: Any, values: dict[str, Any], said: list[str | None], **settings: Any) -> Any:
    pool = BudgetPool(samples=len(said), policy=Uniform()).expect(1)
    program = DynScaling(
        Says(values, said), pool, selector=selector, sampling=Sequential(), answer=lambda made: made.answer, **settings
    )
    return program(question="q")


@pytest.mark.parametrize(
    ("selector", "values"),
    EVERY,
    ids=[f"{place} {type(selector).__name__}" for place, (selector, _) in enumerate(EVERY)],
)
@given(said=st.lists(st.sampled_from([*TEXTS, None]), min_size=1, max_size=7))
@hypothesis_settings(max_examples=25)
def test_min_confidence_and_on_low_work_with_every_selector(selector: Any, values: Any, said: Any) -> None:
    told = explain(asked_of(selector, values, said))
    assert 0 <= told.confidence <= 1 and 0 <= told.agreement <= 1
    votes = [letter for letter in said if letter is not None]
    assert (told.confidence > 0) is bool(votes) and told.winner is not None
    for least in (1e-9, told.confidence, min(1.0, told.confidence + 1e-6), 1.0):
        seen: list[Any] = []

        def on_low(prediction: Any, question: str, seen: list[Any] = seen) -> None:
            seen.append(prediction)

        made = asked_of(selector, values, said, min_confidence=least, on_low=on_low)
        is_low = not votes or told.confidence < least
        assert len(seen) == is_low and (made is None) == is_low
        if votes and seen:
            assert seen[0].answer in [values[letter] for letter in votes] or explain(seen[0]).composed_on is not None


@pytest.mark.parametrize(
    ("selector", "values"),
    EVERY,
    ids=[f"{place} {type(selector).__name__}" for place, (selector, _) in enumerate(EVERY)],
)
@pytest.mark.parametrize("count", [3, 5, 7])
def test_confidence_falls_with_disagreement(selector: Any, values: Any, count: int) -> None:
    found = []
    for others in range(count // 2 + 1):
        said: list[Any] = ["a"] * (count - others) + list("bcdef"[:others])
        found.append(explain(asked_of(selector, values, said)).confidence)
    if isinstance(selector, Numbers) and selector.kind == "score":
        assert found[0] > found[-1]  # the mean moves towards others, and another number may be nearest
    elif not isinstance(selector, Longest):  # its winner is what is longest, by one vote or by many
        assert found == sorted(found, reverse=True) and len(set(found)) == len(found)
    blank = explain(asked_of(selector, values, ["a"] * (count - 1) + [None])).confidence
    assert blank < found[0]
