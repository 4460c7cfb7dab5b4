"""Types of settings, apart from the settings that are declared with them."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from pathlib import PurePosixPath
from typing import Annotated, Any, Literal

import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynscale_dspy import _fields
from dynscale_dspy._fields import Count, Field, Money, OneOfWords, Refused, Size, Unsaved, check, field_of

TYPES = {
    name: declared
    for name, declared in vars(_fields).items()
    if field_of(declared) is not None and not isinstance(declared, type)
}
VALUES: dict[str, list[Any]] = {
    "Count": [1, 2**62 - 1],
    "AtLeastOne": [1, 2**80],
    "Size": [1, 2**80],
    "Whole": [-1, 0, 2**80],
    "Seconds": [0.001, 7],
    "SamplesPerCall": [1, 2.5, 1e300],
    "Temperature": [0, 0.7, 2],
    "Probability": [0, 0.5, 1],
    "ShareSpent": [0.8, 1],
    "Quantile": [0.5, 0.95],
    "Fraction": [0.25, 1],
    "ShareOfSamples": [0.25, 1],
    "VoteWeight": [0.5, 4],
    "Toll": [0, 0.1, 3],
    "WholeSize": [0, 2**80],
    "YesNo": [True, False],
    "Money": [0.1, 5, Decimal("0.000000001")],
    "Period": ["hour", "day", 90],
    "Path": ["budget.sqlite"],
    "AnswerFields": [("label",), ("label", "note")],
}


def test_every_type_is_tried_here():
    assert set(VALUES) == set(TYPES)


@pytest.mark.parametrize("name", VALUES)
def test_allowed_values_come_back_from_json_as_they_are(name):
    field = field_of(TYPES[name])
    assert field is not None
    for value in VALUES[name]:
        assert field.checked(value) == value
        assert field.load(json.loads(json.dumps(field.dump(value)))) == value


@pytest.mark.parametrize("name", VALUES)
def test_none_is_allowed_where_it_is_declared(name):
    optional = field_of(TYPES[name] | None)
    assert optional is not None and optional.optional
    assert optional.checked(None) is optional.dump(None) is optional.load(None) is None
    with pytest.raises((TypeError, ValueError), match="^given must be .*, got None$"):
        check("given", None, TYPES[name])


@pytest.mark.parametrize(
    ("declared", "value", "kind", "words"),
    [
        (Count, 0, ValueError, "at least 1, got 0"),
        (Count, 2**62, ValueError, f"below 2**62, got {2**62}"),
        (Count, True, TypeError, "an integer, got True"),
        (Count, 1.0, TypeError, "an integer, got 1.0"),
        (Size, 1.0, ValueError, "an integer of at least 1, got 1.0"),
        (_fields.Temperature, math.nan, ValueError, "finite, got nan"),
        (_fields.Temperature, math.inf, ValueError, "finite, got inf"),
        (_fields.Temperature, -1, ValueError, "at least 0, got -1"),
        (_fields.Seconds, 0, ValueError, "a positive, finite number of seconds, got 0"),
        (_fields.Seconds, "1", TypeError, "a number of seconds, got '1'"),
        (_fields.YesNo, 1, TypeError, "True or False, got 1"),
        (_fields.Period, "week", ValueError, "'hour', 'day' or a number of seconds, got 'week'"),
        (_fields.Period, 0.5, ValueError, "at least 1 second, got 0.5"),
        (Money, Decimal("NaN"), ValueError, "a finite number, got Decimal('NaN')"),
        (Money, 0, ValueError, "at least 0.000000001 and below 4.6 billion, got 0"),
        (_fields.Path, 3, TypeError, "a file's path, text or a pathlib.Path, got 3"),
        (_fields.AnswerFields, [], TypeError, "an output field's name, a list of names or a function, got []"),
    ],
)
def test_the_error_names_the_argument_what_is_right_and_what_was_given(declared, value, kind, words):
    with pytest.raises(kind) as refused:
        check("given", value, declared)
    assert str(refused.value) == f"given must be {words}"
    assert type(refused.value) is kind


@given(st.decimals(Decimal("0.000000001"), 4 * 10**9, places=9))
def test_money_is_exact_to_the_billionth(amount):
    field = field_of(Money)
    assert field is not None
    assert _fields.Dollars.nano(field.load(field.dump(amount))) == int(amount * 10**9)
    assert _fields.Dollars.nano(0.1) == 10**8  # as it is written, not as binary fractions have it


def test_periods_have_words():
    assert [_fields.PeriodOfTime.seconds(period) for period in ("hour", "day", 90)] == [3600.0, 86400.0, 90.0]


def test_a_single_field_is_kept_as_a_tuple_and_a_path_saved_as_text():
    assert check("answer", "label", _fields.AnswerFields) == ("label",)
    field = field_of(_fields.Path)
    assert field is not None and field.dump(PurePosixPath("/tmp/b")) == "/tmp/b"


@pytest.mark.parametrize("one", [_fields.Function(), _fields.WordOrFunction(("raise",)), _fields.FieldNames()])
def test_functions_are_allowed_and_not_saved(one):
    assert one.check(print) is print
    with pytest.raises(Unsaved):
        one.dump(print)


@dataclass(frozen=True)
class Small:
    """One that a family knows."""

    size: Size = 1
    mode: Annotated[Literal["all", "last"], OneOfWords] = "all"

    def __post_init__(self) -> None:
        _fields.check_fields(self, Small)


class Smaller(Small):
    """One of a user's own."""


FAMILY = _fields.OneOf(Small, "a small thing", (Small,), Small)


def test_objects_of_a_family_are_saved_by_name_and_settings():
    assert FAMILY.check(None) == Small()
    assert FAMILY.dump(Small(3, "last")) == {"name": "Small", "size": 3, "mode": "last"}
    assert FAMILY.load({"name": "Small", "size": 3, "mode": "last"}) == Small(3, "last")
    with pytest.raises(Unsaved):
        FAMILY.dump(Smaller(3))
    with pytest.raises(Refused, match="^must be a small thing, got 3$"):
        FAMILY.check(3)


@pytest.mark.parametrize(
    "saved", [{"name": "Large"}, {"size": 1}, {"name": "Small", "weight": 1}, {"name": "Small", "size": 0}, 5]
)
def test_what_another_version_saved_is_refused_in_words(saved):
    with pytest.raises(Refused, match="^is unknown to this version: .*, got "):
        FAMILY.load(saved)


def test_a_dataclass_checks_the_fields_that_are_declared_so():
    assert set(_fields.fields_of(Small)) == {"size", "mode"}
    with pytest.raises(ValueError, match="^size must be an integer of at least 1, got 0$"):
        Small(0)
    with pytest.raises(ValueError, match="^mode must be 'all' or 'last', got 'first'$"):
        Small(mode="first")  # type: ignore[arg-type]


def test_other_types_are_no_settings():
    for declared in (int, str | None, Callable[..., Any], list[int], Annotated[int, "of something"]):
        assert field_of(declared) is None
    assert field_of(Count) == Field(_fields.Integer(least=1, bits=62))


def test_pydantic_checks_by_the_same_rule():
    class Model(pydantic.BaseModel):
        samples: Count | None = None

    assert Model(samples=3).samples == 3 and Model().samples is None
    with pytest.raises(pydantic.ValidationError, match="must be at least 1, got 0"):
        Model(samples=0)
