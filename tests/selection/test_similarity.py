"""How alike two answers are."""

from __future__ import annotations

import math
import pickle
from typing import Any

import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynscale_dspy.selection.answers import Record, UnreadableAnswer
from dynscale_dspy.selection.similarity import (
    UNITS,
    CharacterF,
    ElementF1,
    Equal,
    EqualOutputs,
    Given,
    MeanOver,
    Similarity,
    TokenF1,
    similarity_of,
)
from tests import hostile


def outputs_of(code: Any) -> Any:
    """What a program of digits does: one output a digit."""
    if "boom" in str(code):
        raise RuntimeError("boom")
    return [digit for digit in str(code) if digit.isdigit()]


def share_of_letters(one: Any, other: Any) -> float:
    first, second = set(str(one)), set(str(other))
    return len(first & second) / len(first) if first else float(not second)  # not the same both ways round


def always(value: Any) -> Any:
    return Given(lambda one, other: value)


SIMILARITIES: list[Any] = [
    Equal(),
    Equal("number"),
    TokenF1(),
    CharacterF(),
    CharacterF(3),
    ElementF1(),
    MeanOver({"name": TokenF1(), "year": Equal()}),
    EqualOutputs(outputs_of),
    EqualOutputs(outputs_of, text=None),
    Given(share_of_letters),
]
IDS = [str(index) + type(each).__name__ for index, each in enumerate(SIMILARITIES)]

texts = st.text(st.sampled_from("abc xyz.12東ก-"), max_size=20) | st.text(max_size=8)
values = texts | st.none() | st.integers(0, 20) | st.booleans() | st.lists(texts | st.none(), max_size=4)
answers = values | st.fixed_dictionaries({"name": values, "year": values}) | st.builds(Record, name=values, year=values)


def alike(similarity: Similarity, one: Any, other: Any) -> float:
    """How alike two answers are; 0 where one casts no vote."""
    first, second = similarity.prepare(one), similarity.prepare(other)
    return 0.0 if first is None or second is None else similarity.between(first, second)


# ---- what holds for all


@pytest.mark.parametrize("similarity", SIMILARITIES, ids=IDS)
@given(one=answers, other=answers)
def test_it_is_symmetric_within_bounds_and_exact(similarity: Similarity, one: Any, other: Any) -> None:
    found = alike(similarity, one, other)
    assert found == alike(similarity, other, one)
    assert 0 <= found <= 1
    assert found * UNITS == int(found * UNITS)


@pytest.mark.parametrize("similarity", SIMILARITIES, ids=IDS)
@given(answer=answers)
def test_the_same_is_as_alike_as_can_be(similarity: Similarity, answer: Any) -> None:
    prepared = similarity.prepare(answer)
    assert prepared is None or similarity.between(prepared, similarity.prepare(answer)) == 1


@pytest.mark.parametrize("similarity", SIMILARITIES, ids=IDS)
def test_it_is_a_value(similarity: Similarity) -> None:
    loaded = pickle.loads(pickle.dumps(similarity))
    assert loaded == similarity and hash(loaded) == hash(similarity) and similarity_of(similarity) is similarity
    assert repr(loaded) == repr(similarity)
    one, other = loaded.prepare("12 ab"), similarity.prepare("12 ab")
    assert similarity.between(pickle.loads(pickle.dumps(one)), other) == 1


@pytest.mark.parametrize("name", hostile.LAZY)
def test_what_harms_its_reader_is_read_or_refused(name: str) -> None:
    for similarity in (*SIMILARITIES[:7], EqualOutputs(repr)):
        try:
            similarity.prepare(hostile.LAZY[name]())
        except UnreadableAnswer as error:
            assert hostile.SECRET not in str(error)


def test_settings_can_be_read() -> None:
    assert repr(MeanOver({"a": TokenF1(), "b": CharacterF(3)})) == (
        "MeanOver(fields={'a': TokenF1(), 'b': CharacterF(order=3)})"
    )
    assert CharacterF(3) != CharacterF() and Equal("number") != Equal()


# ---- each of them


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ("Paris", "paris.", 1),
        ("Paris", "Rome", 0),
        ("the cat sat", "the cat ran", 2 / 3),
        ("a a b", "a b b", 2 / 3),
        ("東京都", "東京", 4 / 5),
        (None, None, 1),
        (None, "", 1),
        (" ", "\n", 1),
        (None, "Paris", 0),
        ("", "?", 0),
        ("-5", "5", 0),
        (["red fox"], "red fox", 1),
        (Record(summary="red fox", note=None), "red", 2 / 3),
    ],
)
def test_words_in_common(one: Any, other: Any, expected: float) -> None:
    assert alike(TokenF1(), one, other) == pytest.approx(expected, abs=1 / UNITS)


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ("abc", "abc", 1),
        ("a b\tc", "abc", 1),
        ("abc", "ABC", 0),
        (None, "", 1),
        (None, "x", 0),
        # One of two letters alike, and no pair.
        ("ab", "ac", 1 / 4),
        # 2 of 3, 1 of 2, 0 of 1
        ("abc", "bcd", (2 / 3 + 1 / 2) / 3),
        # P = 1 and R = (1/2 + 0)/1: only runs of one letter are in both.
        ("a", "ab", 2 * 0.5 / 1.5),
    ],
)
def test_characters_in_common(one: Any, other: Any, expected: float) -> None:
    assert alike(CharacterF(), one, other) == pytest.approx(expected, abs=1 / UNITS)


@pytest.mark.parametrize("order", [0, 8, 2.5, True, "6", None])
def test_an_order_out_of_bounds_is_refused(order: Any) -> None:
    with pytest.raises(ValueError, match=r"^order must be a whole number from 1 to 7, got "):
        CharacterF(order)


class Entity(pydantic.BaseModel):
    name: str


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ([], None, 1),
        ([], ["a"], 0),
        (["a", "b"], ["B", "A", "a"], 1),
        (["a", "b"], ("b", "c"), 1 / 2),
        ([["Paris", "LOC"]], [["paris", "loc"], ["Rome", "loc"]], 2 / 3),
        ([Entity(name="a")], {"a"}, 0),
        ([Entity(name="a"), Entity(name="b")], [Entity(name="b")], 2 / 3),
        ({"a": 1, "b": 2}, {"a": 1, "b": 3}, 1 / 2),
        ("a", ["a"], 1),
        ([1, None], [1.0, None], 1),
    ],
)
def test_elements_in_common(one: Any, other: Any, expected: float) -> None:
    assert alike(ElementF1(), one, other) == pytest.approx(expected, abs=1 / UNITS)


class Person(pydantic.BaseModel):
    name: str | None = None
    year: int | None = None


def test_the_mean_over_fields() -> None:
    person = MeanOver({"name": TokenF1(), "year": Equal()})
    ada = Record(name="Ada Lovelace", year=1815)
    assert alike(person, ada, Person(name="Ada Lovelace", year=1815)) == 1
    assert alike(person, ada, {"name": "Ada", "year": 1815}) == pytest.approx((2 / 3 + 1) / 2, abs=1 / UNITS)
    assert alike(person, ada, {"name": "Ada Lovelace"}) == 1 / 2
    assert alike(person, {"year": 1}, {"year": 1}) == 1  # neither has a name, as if it were None in both
    assert alike(person, {"year": 1}, {"year": 2}) == alike(person, Person(year=1), Person(year=2)) == 1 / 2
    assert alike(person, {"year": 1}, Person(year=1)) == 1 / 2  # one of them has a name, which is None
    assert person.prepare({}) is None and alike(person, None, None) == 1 == alike(person, Person(), Person())
    assert alike(person, None, Person()) == 0 == alike(person, "Ada", None)


def test_fields_that_cast_no_vote_are_like_none() -> None:
    program = MeanOver({"code": EqualOutputs(outputs_of, text=None), "name": TokenF1()})
    assert alike(program, {"code": "1", "name": "a"}, {"code": "1", "name": "a"}) == 1
    assert alike(program, {"code": "boom", "name": "a"}, {"code": "boom", "name": "a"}) == 1 / 2
    assert MeanOver({"code": EqualOutputs(outputs_of)}).prepare({"code": "boom"}) is None


@pytest.mark.parametrize("fields", [{}, None, ["name"], {"name": "TokenF1"}, {"name": TokenF1}])
def test_fields_need_similarities(fields: Any) -> None:
    with pytest.raises(ValueError, match=r"^(fields must be a dict of similarities|similarity must be)"):
        MeanOver(fields)


def test_equal_outputs() -> None:
    outputs, both = EqualOutputs(outputs_of, text=None), EqualOutputs(outputs_of)
    assert alike(outputs, "1 2 3", "123") == 1
    assert alike(outputs, "1 2 3", "124") == pytest.approx(2 / 3, abs=1 / UNITS)
    assert alike(outputs, "12", "1234") == 1 / 2
    assert alike(both, "12", "abcde 12") == pytest.approx(
        (1 + alike(CharacterF(), "12", "abcde 12")) / 2, abs=2 / UNITS
    )


@pytest.mark.parametrize("found", [None, "", " ", [], [None, ""], [ValueError("x"), None], ValueError("x")])
def test_programs_without_outputs_cast_no_vote(found: Any) -> None:
    assert EqualOutputs(lambda code: found).prepare("code") is None


def test_programs_that_fail_cast_no_vote() -> None:
    assert EqualOutputs(outputs_of).prepare("boom") is None


def test_an_output_that_is_none_or_an_error_equals_no_other() -> None:
    results = {"one": [1, None, ValueError("x"), "a"], "other": [1, None, ValueError("x"), "A"]}
    outputs = EqualOutputs(results.get, text=None)
    assert alike(outputs, "one", "other") == 1 / 4


@pytest.mark.parametrize("run", [None, "run", 3])
def test_what_cannot_be_run_is_refused(run: Any) -> None:
    with pytest.raises(ValueError, match=r"^run must be a function"):
        EqualOutputs(run)


# ---- a function of the user's


def test_a_function_is_asked_both_ways_round() -> None:
    assert alike(Given(share_of_letters), "ab", "abcd") == 3 / 4


@pytest.mark.parametrize("value", [math.nan, math.inf, -0.1, 1.1, None, "alike", "nan", 1j])
def test_what_is_no_similarity_costs_its_comparison(value: Any) -> None:
    assert alike(always(value), "a", "b") == 0


def test_an_error_costs_its_comparison() -> None:
    def fails(one: Any, other: Any) -> float:
        raise ZeroDivisionError

    assert alike(Given(fails), "a", "b") == 0


@pytest.mark.parametrize(
    ("value", "expected"), [(0, 0), (1, 1), (True, 1), (0.5, 0.5), (1e-9, 0), (1 / 3, 349525 / UNITS)]
)
def test_what_is_one_is_taken(value: Any, expected: float) -> None:
    assert alike(always(value), "a", "b") == expected


def test_a_function_becomes_a_similarity() -> None:
    assert similarity_of(share_of_letters) == Given(share_of_letters)


@pytest.mark.parametrize("what", [None, "TokenF1", 0.5, object(), TokenF1, {"name": TokenF1()}])
def test_what_is_neither_is_refused(what: Any) -> None:
    with pytest.raises(ValueError, match=r"^similarity must be a similarity such as TokenF1\(\)"):
        similarity_of(what)
    with pytest.raises(ValueError, match=r"^function must be"):
        Given(None)  # type: ignore[arg-type]


# ---- functions of the user's


def exiting(code: Any) -> Any:
    return exec(code, {})


def test_a_program_that_exits_costs_its_vote_and_not_the_process() -> None:
    assert EqualOutputs(run=exiting).prepare("raise SystemExit(0)") is None
    with pytest.raises(KeyboardInterrupt):
        EqualOutputs(run=exiting).prepare("raise KeyboardInterrupt")


def test_a_function_of_the_users_changes_copies() -> None:
    answers: list[list[int]] = [[3, 1], [2]]
    emptied = Given(lambda one, other: float(bool(one.clear() or other.append(1))))
    assert emptied.between(*map(emptied.prepare, answers)) == 0
    EqualOutputs(run=lambda answer: answer.clear() or [1]).prepare(answers[0])
    assert answers == [[3, 1], [2]]
    lonely = (each for each in "ab")  # has no copy
    assert Given(lambda one, other: one is other).between(*[Given(max).prepare(lonely)] * 2) == 1
