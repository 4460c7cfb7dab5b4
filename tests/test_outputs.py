"""Programs of every type of output through the wrapper: which answer wins, what is told of it, and that it travels."""

from __future__ import annotations

import asyncio
import copy
import json
import logging
import random
import re
from collections import Counter
from typing import Any

import cloudpickle
import dspy
import pydantic
import pytest

from dynscale_dspy import (
    BudgetPool,
    DynScaling,
    Integrated,
    LowConfidence,
    Parallel,
    Sequential,
    Uniform,
    explain,
    wrap,
)
from dynscale_dspy.allocation.policies import AdaptiveConsistency
from dynscale_dspy.selection.fieldwise import Fieldwise
from dynscale_dspy.selection.lists import ElementVote
from dynscale_dspy.selection.medoid import Medoid
from dynscale_dspy.selection.numbers import Numbers
from dynscale_dspy.selection.plurality import Plurality
from dynscale_dspy.selection.similarity import TokenF1
from dynscale_dspy.testing import FakeServer
from dynscale_dspy.testing.fake_server import FakeQuestion
from tests.support import ScriptedModel, one_each


class Invoice(pydantic.BaseModel):
    number: str
    total: float
    items: list[str]


def invoice(number: str, total: float, *items: str) -> dict[str, Any]:
    return {"number": number, "total": total, "items": list(items)}


INVOICES = [  # no two are equal; the third has most in common with the others
    invoice("A-7", 12, "pen", "ink"),
    invoice("A-1", 12.5, "ink"),
    invoice("A-7", 12.5, "pen", "ink"),
    invoice("A-7", 12.5, "pen"),
]
LISTS = [["a", "x"], ["a", "b"], ["a", "b", "y"], ["b"]]
TEXTS = [
    "The council voted for the new bridge on Monday.",
    "A new bridge: on Monday the council voted for it.",
    "On Monday the council voted for a new bridge over the river.",
    "Rain is expected.",
]
CODE = ["def f(x): return x + 1", "def f(y): return y + 1", "def f(x): return x + 1  # one more", "raise ValueError"]


class Extract(dspy.Signature):
    """Extract the invoice."""

    text: str = dspy.InputField()
    invoice: Invoice = dspy.OutputField()


WRITE = dspy.Signature({"text": (str, dspy.InputField()), "code": (dspy.Code["python"], dspy.OutputField())})


def replies(name: str, values: list[Any]) -> ScriptedModel:
    """A model whose replies go round these values of a field, each with a reasoning of its own."""

    def reply(prompt: str, number: int) -> dict[str, Any]:
        value = values[number % len(values)]
        told = value if isinstance(value, str) else json.dumps(value)
        return {"reasoning": f"thought {number}", name: told}

    return ScriptedModel(reply)


def scaled(signature: Any, samples: int = 4, **settings: Any) -> DynScaling:
    settings = {"sampling": Parallel(), **settings}
    return one_each(dspy.ChainOfThought(signature), BudgetPool(per_call=samples, policy=Uniform()), **settings)


PROGRAMS = [
    pytest.param(Extract, "invoice", INVOICES, 2, "invoice is a record", id="model"),
    pytest.param("text -> tags: list[str]", "tags", LISTS, 1, "tags is a list", id="list"),
    pytest.param(WRITE, "code", CODE, 0, "code is code", id="code"),
]


# ---- which answer wins


@pytest.mark.parametrize(("signature", "name", "values", "winner", "why"), PROGRAMS)
@pytest.mark.parametrize("how", ["sync", "async", "batch", "wrapped", "loaded", "copied", "sent"])
def test_the_answer_nearest_to_the_others_wins(signature, name, values, winner, why, how, tmp_path):
    program: Any = scaled(signature)
    if how == "loaded":
        program.save(tmp_path / "program.json")
        program = scaled(signature)
        program.load(tmp_path / "program.json")
    elif how == "copied":
        program = copy.deepcopy(program)
    elif how == "sent":
        program = cloudpickle.loads(cloudpickle.dumps(program))
    elif how == "wrapped":
        pool = BudgetPool(per_call=4, policy=Uniform())
        program = wrap(dspy.ChainOfThought(signature), budget=pool, sampling=Parallel(), max_choices=1)
    with dspy.context(lm=replies(name, values).lm(), num_threads=1, trace=[]):
        if how == "async":
            prediction = asyncio.run(program.acall(text="t"))
        elif how == "batch":
            (prediction,) = program.batch([{"text": "t"}], num_threads=1, disable_progress_bar=True)
        else:
            prediction = program(text="t")
        if how == "wrapped":
            prediction = dspy.settings.trace[-1][2]
    found = {answer_of(name, values, sample): sample.index for sample in explain(prediction).samples}
    assert prediction is explain(prediction).samples[found[winner]].prediction
    assert explain(prediction).selector_reason == why and f": {why}" in str(explain(prediction))
    assert why in explain(prediction)._repr_html_()


def answer_of(name: str, values: list[Any], sample: Any) -> int:
    """Which of the values a sample has given."""
    said = sample.answer
    if isinstance(said, pydantic.BaseModel):
        said = said.code if name == "code" else said.model_dump()
    return next(place for place, value in enumerate(values) if said in (value, str(value).strip()))


def test_several_outputs_are_chosen_field_by_field():
    values = [("spam", "Win a car now"), ("ham", "Lunch?"), ("spam", "A car to be won, now"), ("spam", "Win a car")]
    model = ScriptedModel(lambda prompt, number: dict(zip(("label", "gist"), values[number % 4], strict=True)))
    program = one_each(
        dspy.Predict("mail -> label: Literal['spam', 'ham'], gist"),
        BudgetPool(per_call=4, policy=Uniform()),
        sampling=Parallel(),
    )
    with dspy.context(lm=model.lm()):
        prediction = program(mail="m")
    assert (prediction.label, prediction.gist) == ("spam", "Win a car now")
    told = explain(prediction)
    assert told.selector.startswith("Fieldwise(") and told.selector_reason.startswith("label and gist vote together")
    assert repr(program).endswith(", selector=Fieldwise(...): label and gist vote together, each by its type)")
    one = DynScaling(dspy.Predict("question -> tags: list[str]"), 3)
    assert repr(one).endswith("ElementF1()))): tags is a list)")


def test_a_text_and_a_label_say_nothing_new():
    for signature in ("question -> answer", "question -> answer: Literal['a', 'b']", "question -> answer: float"):
        program = DynScaling(dspy.Predict(signature), 3)
        assert "selector" not in repr(program)


@pytest.mark.parametrize("sampling", [Sequential(), None, Integrated(width=1, when="always", first="own")])
def test_samples_that_see_earlier_ones_see_one_of_each_kind(sampling):
    program = scaled("text -> tags: list[str]", 6, sampling=sampling)
    with dspy.context(lm=replies("tags", [["a", "b"], ["a", "b", "y"], ["z"], ["a", "b", "x"]]).lm()):
        told = explain(program(text="t"))
    assert len(told.samples) == 6
    for sample in told.samples:
        kinds = {"z" in told.samples[index].answer for index in sample.shown}
        assert len(kinds) == len(sample.shown)
    assert any(sample.shown for sample in told.samples) is (sampling is not None)  # nothing tells whether they check


# ---- what is told of it


MORE = [invoice("B/9", 3, "ham"), *(one for one in INVOICES if one["number"] == "A-7")]


def told_of(signature: Any, name: str, values: list[Any], **settings: Any) -> tuple[Any, Any]:
    """What is told of a call that had these values, one a sample, and what its pool remembers of it."""
    program = scaled(signature, len(values), **settings)
    with dspy.context(lm=replies(name, values).lm()):
        told = explain(program(text="t"))
    return told, program.pool.history.answered[-1]


def test_of_summaries_the_groups_are_told_with_what_speaks_for_them():
    summaries = [*TEXTS, "The council voted for the new bridge on Monday, at night.", TEXTS[0]]
    told, remembered = told_of("text -> summary", "summary", summaries, selector=Medoid())
    lines = str(told).splitlines()
    assert lines[0].startswith("6 samples in 1 round, 2 groups of answers, 83% like the winner, confidence 0.")
    assert lines[1:3] == [f"    5  {TEXTS[0]} (in 4 versions)", "    1  Rain is expected."]
    assert told.summary == "6 samples, 2 groups of answers, 83% like the winner"
    assert (told.answers, told.agreement, told.votes[0].total) == (2, 5 / 6, 5)
    html = told._repr_html_()
    for words in ("2 groups of answers", "83% like the winner", "(in 4 versions)", "5 + 0"):
        assert words in html
    groups = [sample.group for sample in told.samples]
    assert Counter(groups) == {0: 5, 1: 1} and remembered.agreement == 5 / 6
    assert Counter(Counter(remembered.answers).values()) == {5: 1, 1: 1}
    assert len({sample.key for sample in told.samples}) == 5  # what is the same, and not only alike


@pytest.mark.parametrize(
    ("signature", "name", "values", "first"),
    [
        (Extract, "invoice", MORE, "    3  number='A-7' total=12.5 items=['pen', 'ink'] (in 3 versions)"),
        ("text -> tags: list[str]", "tags", LISTS, "    3  ['a', 'b'] (in 3 versions)"),
        (WRITE, "code", CODE, "    3  def f(x): return x + 1 (in 3 versions)"),
    ],
)
def test_of_other_types_too(signature, name, values, first):
    told, _ = told_of(signature, name, values)
    lines = str(told).splitlines()
    assert "2 groups of answers, 75% like the winner" in lines[0] and lines[1] == first
    assert all(len(line) < 130 for line in lines), "a line is too long to read"
    assert "code=" not in told._repr_html_()
    winner = told.samples[told.winner]
    assert winner.group == 0 and told.votes[0].answer == winner.answer


def test_where_answers_are_the_same_or_not_nothing_is_in_versions():
    for signature in ("text -> answer", "text -> answer: Literal['A', 'B']", "text -> answer: int"):
        values = ["1", "2", "1"] if "int" in signature else ["A", "B", "A"]
        told, remembered = told_of(signature, "answer", values)
        assert "3 samples in 1 round, 2 answers, 67% agree" in str(told) and "versions" not in str(told)
        assert Counter(Counter(remembered.answers).values()) == {2: 1, 1: 1}


# ---- composed answers


COMPOSED = [
    pytest.param(Extract, "invoice", Fieldwise(compose=True), INVOICES[:2] + INVOICES[3:], INVOICES[2], id="record"),
    pytest.param(
        Extract,
        "invoice",
        Fieldwise({"items": ElementVote()}, compose=True),
        [invoice("A-7", 1, "pen", "x"), invoice("A-7", 2, "pen", "ink"), invoice("B", 2, "ink", "y")],
        invoice("A-7", 2, "pen", "ink"),
        id="own",
    ),
    pytest.param(
        Extract,
        "invoice",
        Fieldwise(compose=True),
        [invoice("A-7", 1, "pen"), invoice("A-7", 2, "ink"), invoice("B", 2, "pen")],
        invoice("A-7", 2, "pen"),
        id="model",
    ),
    pytest.param(
        "text -> tags: list[str]", "tags", ElementVote(), [["a", "x"], ["a", "y"], ["z", "a"]], ["a"], id="list"
    ),
]


@pytest.mark.parametrize("how", ["sync", "async", "batch"])
@pytest.mark.parametrize(("signature", "name", "selector", "values", "expected"), COMPOSED)
def test_a_composed_answer_is_returned_where_it_was_asked_for(signature, name, selector, values, expected, how):
    program = scaled(signature, 3, selector=selector)
    with dspy.context(lm=replies(name, values).lm(), num_threads=1, trace=[]):
        if how == "async":
            prediction = asyncio.run(program.acall(text="t"))
        elif how == "batch":
            (prediction,) = program.batch([{"text": "t"}], num_threads=1, disable_progress_bar=True)
        else:
            prediction = program(text="t")
    answer = prediction[name].model_dump() if isinstance(prediction[name], Invoice) else prediction[name]
    told = explain(prediction)
    assert answer == expected
    if expected in values:
        assert told.composed_on is None and any(prediction is sample.prediction for sample in told.samples)
        return
    base = told.samples[told.composed_on].prediction
    assert prediction is not base and prediction.reasoning == base.reasoning
    given = base[name].model_dump() if isinstance(base[name], Invoice) else base[name]
    assert given in values  # what the sample said is left as it was
    words = f"the answer is composed from several samples, all else is of sample #{told.composed_on}"
    assert words in str(told) and words in told._repr_html_() and explain(base) is told


def test_the_same_call_in_flight_twice_gets_the_composed_answer_twice():
    program = scaled("text -> tags: list[str]", 3, selector=ElementVote())

    async def twice():
        return await asyncio.gather(program.acall(text="t"), program.acall(text="t"))

    with dspy.context(lm=replies("tags", [["a", "x"], ["a", "y"], ["z", "a"]]).lm()):
        one, other = asyncio.run(twice())
    assert one.tags == other.tags == ["a"] and one is not other
    assert explain(one).composed_on == explain(other).composed_on is not None


def test_an_unsure_composed_answer_goes_to_whoever_decides():
    program = scaled("text -> tags: list[str]", 3, selector=ElementVote(), min_confidence=1.0, on_low="raise")
    with (
        dspy.context(lm=replies("tags", [["a", "x"], ["a", "y"], ["z", "a"]]).lm()),
        pytest.raises(LowConfidence) as low,
    ):
        program(text="t")
    assert low.value.prediction.tags == ["a"]


def test_of_a_function_s_answer_nothing_is_composed():
    program = scaled("text -> tags: list[str]", 3, selector=ElementVote(), answer=lambda prediction: prediction.tags)
    with dspy.context(lm=replies("tags", [["a", "x"], ["a", "y"], ["z", "a"]]).lm()):
        prediction = program(text="t")
    assert explain(prediction).composed_on is None and len(prediction.tags) == 2


# ---- by field, and settings


def test_a_dict_of_selectors_chooses_by_field_and_is_saved(tmp_path):
    program = scaled("text -> summary, label", selector={"summary": TokenF1(), "label": Plurality(without="case")})
    assert program.selector == Fieldwise({"summary": Medoid(TokenF1()), "label": Plurality(without="case")})
    program.save(tmp_path / "program.json")
    other = scaled("text -> summary, label")
    other.load(tmp_path / "program.json")
    assert other.selector == program.selector and repr(other) == repr(program)
    pairs = [("red car", "x"), ("a red car", "X"), ("the red car", "X"), ("a ship", "x")]
    model = ScriptedModel(
        lambda prompt, number: {"reasoning": "", "summary": pairs[number % 4][0], "label": pairs[number % 4][1]}
    )
    with dspy.context(lm=model.lm()):
        prediction = other(text="t")
    assert prediction.label == "X" and explain(prediction).selector_reason == "selector= says so"


def test_wrong_fields_and_types_are_refused_before_anything_is_spent():
    program = dspy.Predict("text -> summary, label")
    with pytest.raises(ValueError, match=r"names the field 'sumary', .*\(did you mean 'summary'\?\)"):
        DynScaling(program, 3, selector={"sumary": Medoid()})
    with pytest.raises(TypeError, match=r"^selector must be a selector .* by field, got .*'label' must be a selector"):
        DynScaling(program, 3, selector={"label": 3})
    with pytest.raises(ValueError, match="A field that explains or rates another one votes if answer= names it"):
        DynScaling(dspy.Predict("text -> label, explanation"), 3, selector={"explanation": Medoid()})
    scaled_program = DynScaling(program, 3)
    with pytest.raises(ValueError, match="did you mean 'label'"):
        scaled_program.selector = {"labels": Medoid()}
    assert scaled_program.selector is None


def test_a_saved_field_that_a_program_lacks_is_left_out(caplog):
    saved = DynScaling(dspy.Predict("text -> summary, label"), 3, selector={"label": Numbers()})
    program = DynScaling(dspy.Predict("text -> summary, kind"), 3, max_samples=9)
    with caplog.at_level(logging.WARNING, "dynscale_dspy"):
        program.load_state({**program.dump_state(), "dynscale": saved.dump_state()["dynscale"]})
    assert program.selector is None and "'label', which is no part of the answer" in caplog.text


def test_a_policy_that_reads_all_votes_keeps_plurality():
    program = DynScaling(dspy.Predict("text -> tags: list[str]"), 3, policy=AdaptiveConsistency())
    assert "selector=Plurality" in repr(program)
    around = DynScaling(dspy.Predict("text -> tags: list[str]"), sampling=Parallel(), max_choices=1)
    with dspy.context(lm=replies("tags", LISTS).lm()):
        with BudgetPool(per_call=4, policy=AdaptiveConsistency()):
            assert explain(around(text="t")).selector.startswith("Plurality")
        with BudgetPool(per_call=4, policy=Uniform()):
            assert explain(around(text="t")).selector.startswith("Medoid")


# ---- a pool that several steps share


class Steps:
    """Replies to a label step, right more often than not, and to a free-text step, where no two samples are alike."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.asked: Counter[tuple[str, str]] = Counter()

    def __call__(self, prompt: str, number: int) -> dict[str, Any]:
        question = re.findall(r"question (\d+)", prompt)[-1]
        name = "text" if "[[ ## text ## ]]" in prompt else "label"
        self.asked[name, question] += 1
        drawn = random.Random(f"{self.seed}/{name}/{question}/{self.asked[name, question]}")
        if name == "text":
            return {"text": " ".join(f"w{drawn.randrange(500)}" for _ in range(40))}
        sure = random.Random(f"{self.seed}/{question}").choice([0.35, 0.5, 0.65, 0.8, 0.95])
        return {"label": f"right {question}" if drawn.random() < sure else f"wrong {drawn.randrange(3)}"}


class Pipeline(dspy.Module):
    def __init__(self) -> None:
        super().__init__()
        self.label = dspy.Predict("question -> label")
        self.write = dspy.Predict("question, label -> text")

    def forward(self, question: str) -> Any:
        label = self.label(question=question).label
        return dspy.Prediction(label=label, text=self.write(question=question, label=label).text)


def right(program: Any, seed: int, questions: int) -> int:
    with dspy.context(lm=ScriptedModel(Steps(seed)).lm()):
        return sum(program(question=f"question {n}").label == f"right {n}" for n in range(questions))


@pytest.mark.filterwarnings("ignore:no two samples")
@pytest.mark.parametrize("selector", [None, Medoid()], ids=["default", "medoid"])
def test_a_step_that_gains_nothing_takes_no_more_than_its_share_from_one_that_does(selector):
    questions, per_step = 30, 4
    shared = alone = 0
    for seed in range(3):
        pool = BudgetPool(samples=2 * per_step * questions, seed=seed).expect(2 * questions)
        program = wrap(Pipeline(), budget=pool, max_choices=1, sampling=Parallel())
        program.write.selector = selector
        shared += right(program, seed, questions)
        taken = {name.rpartition(".")[2]: cost.samples for name, cost in pool.history.programs.items()}
        by_itself = DynScaling(
            dspy.Predict("question -> label"),
            BudgetPool(samples=per_step * questions, seed=seed).expect(questions),
            max_choices=1,
            sampling=Parallel(),
        )
        alone += right(by_itself, seed, questions)
        spent = pool.statistics().spent.samples
        write = next(samples for name, samples in taken.items() if "write" in name)
        assert write <= spent / 2, taken
    assert shared >= alone - 2  # of 90


# ---- over HTTP


@pytest.mark.parametrize("adapter", [dspy.ChatAdapter(), dspy.JSONAdapter()], ids=["chat", "json"])
@pytest.mark.parametrize(
    ("signature", "why"),
    [
        ("question -> tags: list[str]", "tags is a list"),
        ("question -> city, country", "city and country vote together, each by its type"),
    ],
)
def test_requests_over_http_bring_answers_of_every_type(adapter, signature, why):
    bank = [
        FakeQuestion(
            "Where is it?", {"Paris in France": 0.5, "Paris, France": 0.3, "Rome in Italy": 0.2}, "Paris, France"
        ),
        FakeQuestion("Where was it?", {"Oslo": 0.9, "Bergen": 0.1}, "Oslo"),
    ]
    with FakeServer(bank, seed=3) as server, dspy.context(lm=server.lm(), adapter=adapter):
        program = DynScaling(dspy.Predict(signature), BudgetPool(samples=10))
        predictions = program.batch([{"question": each.text} for each in bank], disable_progress_bar=True)
        told = [explain(prediction) for prediction in predictions]
        assert server.statistics().samples == program.pool.statistics().spent.samples == 10
    for prediction, made in zip(predictions, told, strict=True):
        assert any(prediction is sample.prediction for sample in made.samples)
        assert made.selector_reason == why and made.composed_on is None
    names = list(program.signature.output_fields)
    assert "Paris" in str(predictions[0][names[0]]) and "Oslo" in str(predictions[1][names[0]])
