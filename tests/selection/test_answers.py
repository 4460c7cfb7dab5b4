from __future__ import annotations

import dataclasses
import datetime
import enum
import functools
import math
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Any, Literal

import dspy
import numpy as np
import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynscale_dspy.selection.answers import Record, UnreadableAnswer, canonical, key_of, kind_of, kinds_of
from dynscale_dspy.selection.blends import fields_of
from dynscale_dspy.selection.features import text_of
from dynscale_dspy.selection.text import LAYERS
from tests import hostile

NAN = float("nan")


UTC, PARIS = datetime.timezone.utc, datetime.timezone(datetime.timedelta(hours=1))
Python = dspy.Code["python"]


class Color(enum.Enum):
    RED = 1
    GREEN = 2


class Size(str, enum.Enum):
    SMALL = "s"
    LARGE = "l"


class Person(pydantic.BaseModel):
    name: str
    age: float


class Refund(pydantic.BaseModel):
    order: int
    note: str = ""


class Cancel(pydantic.BaseModel):
    order: int
    note: str = ""


class Loose(pydantic.BaseModel, extra="allow"):
    pass


class Tags(pydantic.RootModel[list[str]]):
    pass


@dataclasses.dataclass
class Point:
    x: float
    y: float


def tool(name, **arguments):
    return dspy.ToolCalls.from_dict_list([{"name": name, "args": arguments}])


def numbered(number, name):
    """A call of a tool as a provider sends it: under a number of its own."""
    if "id" not in dspy.ToolCalls.ToolCall.model_fields:
        return tool(name)
    return dspy.ToolCalls(tool_calls=[dspy.ToolCalls.ToolCall(id=number, name=name, args={})])


SAME = [
    # numbers
    (42, 42.0), (1, Decimal("1.0")), (0.1 + 0.2, 0.3), (1.1 * 3, 3.3), (4.35 * 100, 435), (-0.0, 0), (NAN,
    float("nan")),
    (Decimal("1.50"), Decimal("1.5")), (Decimal("1.5"), 1.5), (Decimal("0.3"), 0.1 + 0.2), (Fraction(1, 2), 0.5),
    (np.float64(1.5), 1.5), (np.float32(0.1), 0.1), (np.int64(3), 3), (np.bool_(True), True), (1e22, 10**22),
    # text and numbers
    ("42", 42), ("42", "42.0"), ("1,000", 1000), ("1e3", "1000"), (0.1, "0.1"), (r"\boxed{0.5}", 0.5), ("\u22125", -5),
    # parts
    ([0.1 + 0.2, 1.0], [0.3, 1]), ([1, 2], (1.0, 2)), ({"a": 1, "b": 2}, {"b": 2.0, "a": 1}), ({1, 2}, {2, 1}),
    ({"a": [0.1 + 0.2]}, {"a": [0.3]}), (np.array([1, 2]), [1, 2]), (np.array([0.1], dtype=np.float32), [0.1]),
    ([[1, 2], [3]], ((1, 2), (3,))), ({0.1 + 0.2}, {0.3}), (["a\r\nb"], ["a\nb"]), (["e\u0301"], ["\u00e9"]),
    # objects
    (Person(name="Ann", age=0.1 + 0.2), Person(name="Ann", age=0.3)), (Point(1, 2), Point(1.0, 2.0)),
    (Loose(a=1, b=2), Loose(b=2, a=1)), (Tags(["a"]), Tags(["a"])), (Color.RED, Color.RED), (Size.SMALL, Size("s")),
    ([Person(name="Ann", age=3)], [Person(name="Ann", age=3.0)]),
    (datetime.datetime(2024, 1, 5, 12, tzinfo=UTC), datetime.datetime(2024, 1, 5, 13, tzinfo=PARIS)),
    (datetime.date(2024, 1, 5), datetime.date(2024, 1, 5)), (datetime.timedelta(hours=1),
    datetime.timedelta(minutes=60)),
    (Python(code="if a:\r\n  b()"), Python(code="if a:\n  b()")), (tool("a", x=1, y=2), tool("a", y=2.0, x=1)),
    (numbered("call_1", "a"), numbered("call_2", "a")), ((0.1 + 0.2) + 1j, 0.3 + 1j), ({0.1 + 0.2: 1}, {0.3: 1}),
    (b"ab", b"ab"), (range(3), range(0, 3)), (Path("a/b"), Path("a") / "b"),
]  # fmt: skip

DIFFERENT = [
    # numbers, flags and text
    (True, 1), (False, 0), (True, "True"), (True, "true"), (1, 1.0000001), (10**20, 10**20 + 1), (0.1, 0.11),
    (1700000000.123, 1700000000.124), (Decimal("0.10000000000000000001"), Decimal("0.1")), (NAN, 0.0), (NAN, math.inf),
    (np.bool_(True), 1), ("007", 7), ("3.10", 3.1), ("+5", 5), ("$5", 5),
    # parts
    ([1, 2], [2, 1]), ([1, 2], {1, 2}), ([1, 2], [1, "2"]), (["a"], "['a']"), ([1], 1), ([], ""), ({}, []), ([[1], 2],
    [1, [2]]),
    ({"a": None}, {}), ({"a": 1}, {"A": 1}), ({"path": "Makefile"}, {"path": "makefile"}), ({1: "a"}, {"1": "a"}),
    ({"v": "3.10"}, {"v": "3.1"}), ({"sep": " "}, {"sep": ""}), (["a "], ["a"]), (["**a**"], ["a"]), (["yes"], ["Yes"]),
    (["1"], ["1.0"]), ({"n": "1"}, {"n": 1}), ({"n": True}, {"n": 1}), ([True], [1]), ({"a", "b"}, {"a", "B"}),
    # objects
    (Color.RED, Color.GREEN), (Color.RED, "RED"), (Color.RED, 1), (Size.SMALL, "s"), (Size.SMALL, Size.LARGE),
    (Refund(order=1), Cancel(order=1)), (Refund(order=1), {"order": 1, "note": ""}), (Point(1, 2), {"x": 1, "y": 2}),
    (Person(name="Ann", age=3), Person(name="ann", age=3)), (Person(name="Ann", age=3), {"name": "Ann", "age": 3}),
    (Point(1, 2), Point(2, 1)), (Loose(a=1), Loose(a=2)), (Loose(a=1), Loose(b=1)), (Tags(["a"]), Tags(["A"])),
    (datetime.datetime(2024, 1, 5), datetime.datetime(2024, 1, 5, tzinfo=UTC)), (b"ab", "ab"), (Path("a"), "a"),
    (datetime.date(2024, 1, 5), datetime.date(2024, 5, 1)), (Path("README"), Path("readme")),
    # code and tools
    (Python(code="if ok:\n    charge()\nsend()"), Python(code="if ok:\n    charge()\n    send()")),
    (Python(code="x = T"), Python(code="x = t")), (Python(code="print('1.10')"), Python(code="print('1.1')")),
    (Python(code="f(1, 2)"), Python(code="f(1,2)")), (Python(code="'a'"), Python(code="a")),
    (tool("getA"), tool("geta")), (tool("read", path="README"), tool("read", path="readme")), (tool("a"), tool("b")),
    (tool("install", version="3.10"), tool("install", version="3.1")), (tool("a", x=1), tool("a", x="1")),
    (tool("run", command="ls -L"), tool("run", command="ls -l")), (tool("run", command="ls"), tool("run",
    command="ls ")),
    (tool("a", x=True), tool("a", x=1)), (tool("a", x=1), tool("a", y=1)), (tool("a"), tool("a", x=None)),
]  # fmt: skip


def test_the_tables_are_large():
    assert len(SAME) >= 40 and len(DIFFERENT) >= 60


@pytest.mark.parametrize(("one", "other"), SAME)
def test_same_answer(one, other):
    assert canonical(one) == canonical(other)
    assert hash(canonical(one)) == hash(canonical(other))


@pytest.mark.parametrize(("one", "other"), DIFFERENT)
def test_different_answers(one, other):
    assert canonical(one) != canonical(other)


@pytest.mark.parametrize(
    ("kind", "one", "other"),
    [
        ("number", "3.10", "3.1"),
        ("number", "3.10", 3.1),
        ("number", "**1,000**", 1000),
        ("flag", "True", True),
        ("flag", "**false**.", False),
        ("exact", " yes ", "yes"),
    ],
)
def test_the_type_of_a_field_says_how_its_text_is_read(kind, one, other):
    assert canonical(one, kind) == canonical(other, kind)


@pytest.mark.parametrize(("one", "other"), [("Polish", "polish"), ("yes", "YES"), ("(B)", "B"), ("1.0", "1")])
def test_words_of_a_literal_are_compared_exactly(one, other):
    assert canonical(one) == canonical(other)
    assert canonical(one, "exact") != canonical(other, "exact")


@pytest.mark.parametrize(
    ("annotation", "kind"),
    [
        *((annotation, "as it is") for annotation in (str, Any, list[int], dict[str, float], Color, Size, None)),
        *((annotation, "as it is") for annotation in (int | str, Person, Python, dspy.ToolCalls, datetime.date)),
        *((annotation, "number") for annotation in (int, float, Decimal, int | None, float | None, int | float)),
        *((annotation, "flag") for annotation in (bool, bool | None)),
        *((annotation, "exact") for annotation in (Literal["a"], Literal["a"] | None, Annotated[Literal["a"], "note"])),
    ],
)
def test_kinds_of_fields(annotation, kind):
    assert kind_of(annotation) == kind
    assert kinds_of({"x": annotation, "y": str}) == (() if kind == "as it is" else (("x", kind),))


def test_each_field_of_a_record_is_read_as_its_own():
    kinds = kinds_of({"city": str, "label": Literal["a", "A"], "year": int})
    one = Record(city="**Paris**", label="a", year="2,024")
    assert key_of(one, kinds, LAYERS) == key_of(Record(city="paris", label="a", year=2024), kinds, LAYERS)
    assert key_of(one, kinds, LAYERS) != key_of(Record(city="paris", label="A", year=2024), kinds, LAYERS)
    assert key_of(dict(one), kinds, LAYERS) != key_of({**one, "city": "Paris"}, kinds, LAYERS)


@pytest.mark.parametrize("nothing", [None, "", "   ", "\n"])
def test_no_answer(nothing):
    assert canonical(nothing) is None


def test_an_absurd_number_is_text_and_costs_nothing():
    assert canonical("1e999") == canonical("1E999")
    assert canonical("9" * 5000) == canonical("9" * 5000)
    assert canonical(float("nan")) == canonical(float("nan"))


nested = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


@given(nested)
def test_every_value_has_a_stable_hashable_key(value):
    assert hash(canonical(value)) == hash(canonical(value))
    assert canonical(value) == canonical(value)


@given(st.integers(-(10**20), 10**20))
def test_integers_agree_with_their_texts(number):
    assert canonical(number) == canonical(str(number)) == canonical(f"{number:,}") == canonical(f" {number}. ")


@given(hostile.makers)
def test_any_value_has_a_key_that_never_raises_or_is_unreadable(make):
    value = make()
    try:
        key = canonical(value)
    except UnreadableAnswer as error:
        assert hostile.SECRET not in str(error)
        return
    assert hash(key) == hash(key) and (key == key) and {key: 1}[key]
    assert (key == canonical("a")) in (True, False)


@pytest.mark.parametrize("name", hostile.HUGE)
def test_an_answer_that_never_ends_is_unreadable(name):
    with pytest.raises(UnreadableAnswer, match="has more than 100,000 parts"):
        canonical(hostile.HUGE[name]())


def test_answers_nested_as_deep_as_can_be_compared_vote():
    assert canonical(hostile.deep(99)) == canonical(hostile.deep(99)) != canonical(hostile.deep(98))


class Squared(pydantic.BaseModel):
    side: int

    @functools.cached_property
    def area(self) -> int:
        return self.side**2


def test_what_a_model_has_computed_and_kept_is_no_part_of_it():
    looked_at = Squared(side=3)
    assert looked_at.area == 9 and canonical(looked_at) == canonical(Squared(side=3))
    assert fields_of(looked_at) == {"side": 3} and text_of(looked_at) == "3"
