"""Values for settings of every type, good and bad, made from how the settings are declared."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import dspy
from hypothesis import strategies as st

from dynscale_dspy import Price, _fields
from dynscale_dspy._fields import Check, Field, fields_of
from dynscale_dspy._models import LanguageModels, Models
from dynscale_dspy.budget.stores.base import Store
from dynscale_dspy.budget.stores.memory import MemoryStore
from dynscale_dspy.config import OfUsers, Prices
from dynscale_dspy.selection.base import Selector
from dynscale_dspy.selection.numbers import Numbers
from dynscale_dspy.selection.plurality import Plurality

FIELDS = ("answer", "note")
"""Output fields of the programs that tests give settings to."""


def first_field(prediction: Any) -> Any:
    """A function from a prediction to its answer."""
    return prediction.answer


def fall_back(prediction: Any, **inputs: Any) -> Any:
    """A function that answers in place of a vote."""
    return prediction


@dataclass(frozen=True)
class OwnSelector(Plurality):
    """A selector of a user's own."""

    mood: str = "good"


class OwnStore(MemoryStore):
    """A store of a user's own, with an address: a copy, or one sent elsewhere, is the same place."""

    def __init__(self, address: str) -> None:
        self.address = address
        super().__init__()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, OwnStore) and other.address == self.address

    def __hash__(self) -> int:
        return hash(self.address)

    def __repr__(self) -> str:
        return f"OwnStore({self.address!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        return OwnStore, (self.address,)


class OwnLM(dspy.BaseLM):
    """A language model of a user's own, which is its name: a copy, or one sent elsewhere, is the same."""

    def forward(self, prompt: Any = None, messages: Any = None, **settings: Any) -> Any:
        """Answer no request."""
        raise AssertionError("nobody is to ask it")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, OwnLM) and other.model == self.model

    def __hash__(self) -> int:
        return hash(self.model)


OF_USERS: Mapping[type, tuple[Any, ...]] = {
    Selector: (
        *(None, OwnSelector(), Plurality(), Plurality(without="case"), OwnSelector(mood="bad"), Numbers(0.5, "score")),
    ),
    Store: (None, OwnStore("here"), OwnStore("there")),
}
"""Objects of users' own by the protocol that they keep to."""


def good(field: Field) -> st.SearchStrategy[Any]:
    """Values that a setting takes."""
    return st.none() | _good(field.check) if field.optional else _good(field.check)


def _good(check: Check) -> st.SearchStrategy[Any]:
    match check:
        case _fields.Integer():
            return st.integers(-(2**62) if check.least is None else int(check.least), 2**62 - 1)
        case _fields.PeriodOfTime():
            return st.sampled_from([*_fields.PERIODS, 1, 2.5, 1e6])
        case _fields.Number():
            low = check.above if check.least is None else check.least
            high = min(bound for bound in (check.below, check.most, 1e9) if bound is not None)
            numbers = st.floats(low, high, exclude_min=check.least is None, exclude_max=high == check.below)
            return numbers if check.below == 1 else numbers | st.just(1)
        case _fields.Flag():
            return st.booleans()
        case _fields.FlagOrWord():
            return st.booleans() | st.sampled_from(check.words)
        case _fields.WordOrFunction():
            return st.sampled_from([*check.words, fall_back])
        case _fields.Words():
            return st.sampled_from(check.words)
        case _fields.Function():
            return st.sampled_from([time.monotonic, print])
        case _fields.FieldNames():
            names = st.lists(st.sampled_from(FIELDS), min_size=1, max_size=2, unique=True).map(tuple)
            return names | st.just(first_field)
        case _fields.SomeOf():
            return st.lists(st.sampled_from(check.names), unique=True).map(check.check)
        case _fields.OneOf():
            return st.one_of(*map(_objects, check.known))
        case _fields.Dollars():
            return st.decimals(Decimal("0.000000001"), 4 * 10**9, places=9) | st.floats(0.01, 1e6) | st.integers(1, 100)
        case _fields.FilePath():
            return st.sampled_from(["budget.sqlite", "/tmp/b"])
        case Prices():
            return st.dictionaries(st.sampled_from("ab"), st.builds(Price, st.floats(0, 9), st.floats(0, 9)))
        case Models():
            return st.sampled_from([None, *(LanguageModels({name: OwnLM(name)}) for name in "ab")])
        case OfUsers():
            return st.sampled_from(OF_USERS[check.protocol])
    raise NotImplementedError(f"say what values a setting with the check {check!r} takes")


def _objects(known: type) -> st.SearchStrategy[Any]:
    """Strategies and policies with settings of their own, as far as those are declared."""
    return st.builds(known, **{name: good(field) for name, field in fields_of(known).items()})


def bad(field: Field) -> list[Any]:
    """Values that a setting refuses."""
    check = field.check
    values: list[Any] = [object(), math.nan, b"1", [3], Decimal("NaN"), 1j]
    if not isinstance(check, (_fields.FieldNames, Prices)):
        values += [{"a": 1}]
    if not isinstance(check, (_fields.OneOf, _fields.Function, Prices, OfUsers, Models)):
        values += [] if field.optional else [None]
    if isinstance(check, OfUsers):
        values += [type(OF_USERS[check.protocol][-1])]
    if not isinstance(check, (_fields.Flag, _fields.FlagOrWord)):
        values += [True]
    if isinstance(check, _fields.Number):
        values += [math.inf, -math.inf, -(10**400)] if not isinstance(check, _fields.Integer) else [1.0, 2.5]
        values += ["1", "week"]
        if check.least is not None:
            values += [check.least - 1]
        if check.above is not None:
            values += [check.above, check.above - 1]
        if check.below is not None:
            values += [check.below]
        if check.most is not None and check.most < 2:
            values += [check.most + 1]
    if isinstance(check, _fields.Integer) and check.bits:
        values += [2**check.bits]
    if isinstance(check, _fields.Words):
        values += ["", "junk"]
    if isinstance(check, _fields.Dollars):
        values += [0, -1, math.inf, 10**400, "5", Decimal("-Infinity")]
    return values


def settings_of(model: Any) -> st.SearchStrategy[dict[str, Any]]:
    """Arguments for all settings of a model."""
    return st.fixed_dictionaries({name: good(field) for name, field in model.fields().items()})


def saved_part(settings: Any) -> Mapping[str, Any]:
    """The settings that a file holds: all but functions and objects of users' own, and what belongs to them."""
    return {name: getattr(settings, name) for name in settings.to_json()}
