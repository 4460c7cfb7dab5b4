"""Questions of known answer distributions, and replies framed as a prompt asks."""

from __future__ import annotations

import json
import math
from collections import Counter
from typing import Any, Literal

import dspy
import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynscale_dspy.testing import FakeQuestion, questions
from dynscale_dspy.testing.fake_model import Prompt, uniform

# ---- the bank


def test_the_bank_is_mixed_and_reproducible() -> None:
    bank = questions(200, seed=3)
    assert bank == questions(200, seed=3) != questions(200, seed=4)
    assert len({question.text for question in bank}) == 200
    assert all(math.isclose(sum(question.answers.values()), 1) for question in bank)
    kinds = Counter()
    for question in bank:
        chance = question.answers[question.answer]
        leader = max(question.answers, key=lambda answer: question.answers[answer])
        if leader != question.answer:
            kinds["trap"] += 1
        else:
            kinds["easy" if chance > 0.8 else "medium" if chance >= 0.5 else "hard"] += 1
    assert kinds == {"easy": 70, "medium": 60, "hard": 50, "trap": 20}


@pytest.mark.parametrize("count", [0, 1, 7])
def test_banks_of_any_size(count: int) -> None:
    assert len(questions(count)) == count


def test_draws_follow_the_chances() -> None:
    question = FakeQuestion("?", {"a": 3, "b": 1, "never": 0}, "a")
    assert [question.draw(u) for u in (0, 0.74, 0.76, 0.999999)] == ["a", "a", "b", "b"]
    assert question.draw(0.89, sharpen=1) == "a"  # 9 to 1
    assert question.draw(0.91, sharpen=1) == "b"
    assert question.draw(0.999999, sharpen=math.inf) == "a"


@pytest.mark.parametrize("answers", [{}, {"a": 0}, {"a": 2, "b": -1}])
def test_a_question_needs_chances(answers: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="chances"):
        FakeQuestion("?", answers, "a")


@given(st.dictionaries(st.text(max_size=3), st.floats(0.01, 10), min_size=1), st.floats(0, 1, exclude_max=True))
def test_every_point_of_the_unit_interval_draws_an_answer(answers: dict[str, float], point: float) -> None:
    question = FakeQuestion("?", answers, next(iter(answers)))
    assert question.draw(point) in answers


def test_uniform_numbers_depend_on_their_key_alone_and_are_spread_evenly() -> None:
    numbers = [uniform("seed", number) for number in range(2000)]
    assert numbers == [uniform("seed", number) for number in range(2000)]
    assert all(0 < number < 1 for number in numbers) and len(set(numbers)) == 2000
    tenths = Counter(int(10 * number) for number in numbers)
    assert all(140 <= tenths[tenth] <= 260 for tenth in range(10))  # 200 each, give or take 4.5 standard deviations


# ---- what a prompt asks


def prompt(adapter: Any, signature: Any, demos: Any = (), **inputs: Any) -> Prompt:
    return Prompt({"messages": adapter.format(dspy.ensure_signature(signature), list(demos), inputs)})


ADAPTERS = [dspy.ChatAdapter(), dspy.JSONAdapter(), dspy.XMLAdapter()]
adapters = pytest.mark.parametrize("adapter", ADAPTERS, ids=lambda adapter: type(adapter).__name__)
BANK = [FakeQuestion("Which?", {"a": 1}, "a"), FakeQuestion("Which? Say why.", {"b": 1}, "b")]


@adapters
def test_the_question_is_read_in_the_last_message_and_the_longest_counts(adapter: Any) -> None:
    demo = dspy.Example(question=BANK[1].text, answer="b")
    by_text = {question.text: question for question in BANK}
    for asked in BANK:
        read = prompt(adapter, "question -> answer", [demo], question=asked.text)
        assert read.question(BANK) == read.question(BANK, by_text) == asked


def test_a_prompt_of_none_of_the_questions_asks_none() -> None:
    assert Prompt({"messages": [{"role": "user", "content": "Hello"}]}).question(BANK) is None
    assert Prompt({}).question(BANK) is None


def test_a_content_in_parts_is_read_as_one_text() -> None:
    parts = [{"type": "text", "text": "Look:"}, {"type": "image_url", "image_url": {"url": "data:"}}]
    read = Prompt({"messages": [{"role": "user", "content": [*parts, {"type": "text", "text": "Which?"}]}]})
    assert read.question(BANK) == BANK[0]


@adapters
def test_earlier_attempts_are_noticed_where_they_stand_as_a_field(adapter: Any) -> None:
    shown = prompt(adapter, "question, earlier_attempts -> answer", question="Which?", earlier_attempts="1: a")
    named = prompt(adapter, "question -> answer", question="Which earlier_attempts are there?")
    assert shown.conditioned and not named.conditioned


@adapters
def test_each_adapter_parses_the_reply_to_its_own_prompt(adapter: Any) -> None:
    signature = dspy.Signature("question -> reasoning, answer")
    reply = prompt(adapter, signature, question="Which?").reply("a")
    assert adapter.parse(signature, reply) == {"reasoning": "Trying it out gives a.", "answer": "a"}


@pytest.mark.parametrize("adapter", ADAPTERS[:2], ids=lambda adapter: type(adapter).__name__)
@pytest.mark.parametrize(
    ("kind", "answer", "value"),
    [
        ("int", "42", 42),
        ("int", "many", 0),
        ("float", "2.5", 2.5),
        ("bool", "True", True),
        ("bool", "42", False),
        ("list[int]", "42", [42]),
        ("list[str]", "a", ["a"]),
        ("dict[str, int]", "a", {}),
        ("Literal['a', 'b']", "b", "b"),
        ("Literal['a', 'b']", "c", "a"),  # a word that the type does not know: its first
    ],
)
def test_values_have_the_types_asked_for(adapter: Any, kind: str, answer: str, value: Any) -> None:
    signature = dspy.Signature(f"question -> answer: {kind}")
    assert adapter.parse(signature, prompt(adapter, signature, question="Which?").reply(answer)) == {"answer": value}


def test_a_json_schema_is_filled_in() -> None:
    class Part(pydantic.BaseModel):
        name: str
        size: Literal["small", "large"]

    class Thing(pydantic.BaseModel):
        reasoning: str
        parts: list[Part]
        count: int | None
        ratio: float
        sure: bool

    schema = {"json_schema": {"schema": Thing.model_json_schema()}}
    reply = Prompt({"messages": [], "response_format": schema}).reply("large")
    thing = Thing.model_validate_json(reply)
    assert thing.reasoning == "Trying it out gives large."
    assert thing.parts == [Part(name="large", size="large")]
    assert (thing.count, thing.ratio, thing.sure) == (0, 0, False)
    assert list(json.loads(reply)) == ["reasoning", "parts", "count", "ratio", "sure"]


def test_a_prompt_that_asks_for_no_framing_gets_a_sentence() -> None:
    read = Prompt({"messages": [{"role": "user", "content": "Which?"}]})
    assert read.reply("a") == read.prose("a") == "After some thought I would say it is a."
