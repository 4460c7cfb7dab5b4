from __future__ import annotations

import datetime
import enum
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ForwardRef, Literal, NamedTuple, NewType, TypedDict, TypeVar

import dspy
import pydantic
import pytest

from dynscale_dspy.selection.blends import LISTS, TEXTS, ByValue
from dynscale_dspy.selection.by_type import bare, is_code, is_list, record_fields, selector_by_type, told_of
from dynscale_dspy.selection.default import default_selector
from dynscale_dspy.selection.fieldwise import Fieldwise
from dynscale_dspy.selection.medoid import Medoid
from dynscale_dspy.selection.plurality import Plurality
from dynscale_dspy.selection.similarity import CharacterF


class Mood(enum.Enum):
    GOOD = "good"


class Person(pydantic.BaseModel):
    name: str
    mood: Literal["good", "bad"]
    tags: list[str] = []
    friends: list[Person] = []
    boss: Person | None = None
    reasoning: str = ""
    confidence: float = 0.5


@dataclass
class Point:
    x: int
    y: float


class Options(TypedDict):
    size: int
    colour: str


class NamedPoint(NamedTuple):
    x: int
    y: int


class Code:
    """Of a user's own, and no program of DSPy's."""


@pytest.mark.parametrize(
    "kind",
    [
        *(int, float, bool, Mood, Literal["a", "b"], datetime.date, int | None, bytes, Code),
        *(tuple[int, int], tuple[str, int, str], NamedPoint),
    ],
)
def test_what_is_equal_or_not_is_voted_on(kind):
    assert selector_by_type("field", kind) == Plurality().typed({"field": kind})


@pytest.mark.parametrize(
    "kind", [list, list[str], set[int], tuple[int, ...], frozenset[str], Sequence[str], list[Person] | None]
)
def test_lists_are_compared_by_their_elements(kind):
    assert is_list(kind) and selector_by_type("field", kind) == Medoid(LISTS)


@pytest.mark.parametrize("kind", [dict, dict[str, int], Any, int | str, dict[str, Any] | None])
def test_what_is_known_once_it_is_there_is_compared_by_what_it_is(kind):
    assert selector_by_type("field", kind) == Medoid(ByValue())


@pytest.mark.parametrize("kind", [dspy.Code, dspy.Code["sql"], dspy.Code["python"] | None])
def test_code_of_any_language_is_compared_by_its_characters(kind):
    assert is_code(kind) and selector_by_type("field", kind) == Medoid(CharacterF())


def test_text_within_a_record_is_compared_by_its_words():
    assert selector_by_type("field", str) == selector_by_type("field", Annotated[str, "short"]) == Medoid(TEXTS)
    assert not is_code(Code) and not is_list(str)


def test_a_record_is_chosen_by_its_fields_that_vote_as_deep_as_it_goes():
    selector = selector_by_type("person", Person)
    assert isinstance(selector, Fieldwise) and not selector.composes
    assert list(selector.fields) == ["name", "mood", "tags", "friends", "boss"]
    assert selector.fields["mood"] == Plurality().typed({"mood": Literal["good", "bad"]})
    assert selector.fields["boss"] == Medoid(ByValue())  # a record of its own type has no end of its own
    deep: Any = str
    for depth in range(6):
        deep = pydantic.create_model(f"Level{depth}", below=(deep, ...))
    deep, depth = selector_by_type("deep", deep), 0
    while isinstance(deep, Fieldwise):
        deep, depth = deep.fields["below"], depth + 1
    assert deep == Medoid(ByValue()) and depth == 4


def test_a_type_with_many_fields_of_its_own_type_has_one_selector_for_each():
    names = [f"field{place}" for place in range(30)]
    # To the depth of four there would be 30**4 of them.
    Node = pydantic.create_model("Node", value=(int, 0), **{name: (ForwardRef("Node | None"), None) for name in names})
    Node.model_rebuild(_types_namespace={"Node": Node})
    selector = selector_by_type("node", Node)
    assert isinstance(selector, Fieldwise) and list(selector.fields) == ["value", *names]
    assert {*(selector.fields[name] for name in names)} == {Medoid(ByValue())}


def test_dataclasses_and_typed_dicts_are_records():
    assert record_fields(Point) == {"x": int, "y": float} and record_fields(Options) == {"size": int, "colour": str}
    assert record_fields(int) is None and record_fields(dspy.Code) is None and record_fields(list[int]) is None
    assert isinstance(selector_by_type("p", Point), Fieldwise) and isinstance(selector_by_type("o", Options), Fieldwise)


def test_a_type_without_what_is_around_it():
    assert bare(Annotated[Annotated[int, 1] | None, 2]) is int and bare(int | str | None) == int | str | None


@pytest.mark.parametrize(("names", "told"), [("a", "a"), ("ab", "a and b"), ("abc", "a, b and c")])
def test_names_in_a_sentence(names, told):
    assert told_of(names) == told


@dataclass
class Unknown:
    """A type whose fields cannot be looked up."""

    field: NotToBeFound  # type: ignore[name-defined]  # noqa: F821


@pytest.mark.parametrize(
    "odd",
    [
        *(ForwardRef("Person"), "Person", TypeVar("T"), NewType("Key", str), Callable[[int], str], object(), 3, None),
        *(Unknown, type, type[int], list[ForwardRef("Person")], Literal[()], Annotated[ForwardRef("X"), 1]),
    ],
    ids=lambda odd: re.sub(" at 0x[0-9a-f]+", "", repr(odd)),
)
def test_no_annotation_keeps_a_program_from_being_wrapped(odd):
    selector = selector_by_type("field", odd)
    vote = selector.read("said")
    assert vote is not None and selector.empty().add(vote).winner() == 0
    default_selector({"field": odd, "other": odd})
    default_selector({"field": odd})
