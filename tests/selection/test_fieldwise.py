from __future__ import annotations

import copy
import pickle
from dataclasses import dataclass
from typing import Annotated, Any

import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynscale_dspy.selection.answers import Record
from dynscale_dspy.selection.base import Composed, Selector, composed_of
from dynscale_dspy.selection.default import told
from dynscale_dspy.selection.fieldwise import Fieldwise, may_compose
from dynscale_dspy.selection.lists import ElementVote
from dynscale_dspy.selection.medoid import Medoid
from dynscale_dspy.selection.numbers import Numbers
from dynscale_dspy.selection.plurality import Plurality
from dynscale_dspy.selection.similarity import Equal, TokenF1
from dynscale_dspy.testing import SelectorLaws

records = st.lists(
    st.fixed_dictionaries({"city": st.sampled_from(["Rome", "Bern", "Oslo"]), "year": st.integers(1, 3)}), max_size=7
)


class Line(pydantic.BaseModel):
    item: str
    price: float


class Invoice(pydantic.BaseModel):
    number: str = pydantic.Field(alias="no")
    lines: list[Line]
    total: float

    @pydantic.model_validator(mode="after")
    def _adds_up(self):
        if abs(sum(line.price for line in self.lines) - self.total) > 0.01:
            raise ValueError("the lines do not add up to the total")
        return self


@dataclass
class Point:
    x: int
    y: int


def invoice(number, *prices, total=None):
    lines = [Line(item=f"i{place}", price=price) for place, price in enumerate(prices)]
    return Invoice(no=number, lines=lines, total=sum(prices) if total is None else total)


def selected(selector, answers):
    selection = selector.empty()
    for answer in answers:
        selection = selection.add(selector.read(answer))
    return selection


def abc(a, b, c):
    return Record({"a": a, "b": b, "c": c})


class TestFieldwise(SelectorLaws):
    def selector(self):
        return Fieldwise({"city": Plurality(), "year": Plurality()})

    def answers(self):
        return ({"city": "Rome", "year": 1}, {"city": "Bern", "year": 2}, {"city": "Oslo", "year": 3})


class TestComposing(SelectorLaws):
    def selector(self):
        return Fieldwise(compose=True)

    def answers(self):
        return ({"city": "Rome", "year": 1}, {"city": "Bern", "year": 2}, {"city": "Oslo", "year": 3})


# ---- the nearest record


def test_the_record_nearest_to_the_others_wins_though_no_two_are_equal():
    answers = [abc("x", 2, 3), abc(1, 2, 3), abc(1, "y", 3), abc(1, 2, "z")]
    assert selected(Plurality(), answers).winner() == 0
    assert selected(Fieldwise(), answers).winner() == 1


def test_fields_that_are_not_named_do_not_count_once_its_fields_are_known():
    answers = [abc(1, 9, 9), abc(2, 9, 9), abc(2, 8, 8)]
    assert selected(Fieldwise({"a": Plurality()}), answers).winner() == 1
    assert selected(Fieldwise({"b": Equal()}), answers).winner() == 0


def test_a_field_is_compared_as_its_selector_says():
    answers = [{"name": "paris", "n": 1}, {"name": "Paris", "n": 1.4}, {"name": "Paris", "n": 8}]
    exact = Fieldwise({"name": Plurality(without="case"), "n": Numbers(tolerance=0.5)})
    assert selected(exact, answers).winner() == 1


# ---- a record put together


def test_each_field_of_the_record_has_won_by_itself():
    answers = [abc("x", 2, 3), abc(1, "y", 3), abc(1, 2, "z")]
    selection = selected(Fieldwise(compose=True), answers)
    assert composed_of(selection) == Composed(abc(1, 2, 3), 0) and type(composed_of(selection).answer) is Record  # type: ignore[union-attr]
    assert composed_of(selected(Fieldwise(), answers)) is None


def test_ties_stay_with_the_nearest_record():
    answers = [abc(5, 5, "x"), abc(1, 2, 3), abc(1, "y", 4), abc("z", 2, 6)]
    selection = selected(Fieldwise(compose=True), answers)
    assert selection.winner() == 1 and composed_of(selection) is None


@given(records)
def test_every_field_is_at_least_as_common_as_the_nearest_records(answers):
    made = composed_of(selected(Fieldwise({"city": Equal(), "year": Equal()}, compose=True), answers))
    if made is None:
        return
    for name in ("city", "year"):
        times = [
            sum(each[name] == value for each in answers) for value in (made.answer[name], answers[made.whose][name])
        ]
        assert times[0] == max(sum(each[name] == other[name] for each in answers) for other in answers) >= times[1]


@given(records)
def test_composing_changes_neither_the_winner_nor_the_groups(answers):
    one, other = selected(Fieldwise(), answers), selected(Fieldwise(compose=True), answers)
    assert one.winner() == other.winner() and one.groups() == other.groups()
    assert one.evidence().confidence == other.evidence().confidence


def test_a_model_is_validated_by_its_own_validators():
    fitting = [invoice("7", 1, 2), invoice("7", 1, 2), invoice("8", 1, 2)]
    made = composed_of(selected(Fieldwise(compose=True), [invoice("8", 1, 2.5), *fitting, invoice("8", 3)]))
    assert made is None or made.answer.total == sum(line.price for line in made.answer.lines)
    # Most say 7, most have lines of 3 and most a total of 4: no such invoice adds up.
    split = [invoice("7", 1, 2), invoice("7", 4), invoice("8", 1, 2, total=3.005), invoice("7", 2, 2)]
    selection = selected(told(Fieldwise(compose=True), {"invoice": Invoice}), split)
    made = composed_of(selection)
    assert made is None or Invoice.model_validate(made.answer.model_dump(by_alias=True))


def test_the_nearest_record_is_returned_where_the_model_refuses_the_composed_one():
    class Pair(pydantic.BaseModel):
        low: int
        high: int
        note: int

        @pydantic.model_validator(mode="after")
        def _ordered(self):
            if self.low > self.high:
                raise ValueError("low is above high")
            return self

    answers = [Pair(low=1, high=2, note=0), Pair(low=5, high=6, note=0), Pair(low=5, high=9, note=1)]
    answers += [Pair(low=0, high=2, note=2), Pair(low=2, high=2, note=3)]  # low 5 and high 2 have most votes
    refused = selected(Fieldwise(compose=True), answers)
    assert composed_of(refused) is None and refused.winner() is not None
    allowed = selected(Fieldwise(compose=True), [answer.model_dump() for answer in answers])
    assert composed_of(allowed).answer == {"low": 5, "high": 2, "note": 0}  # type: ignore[union-attr]


def test_a_field_of_a_type_that_refuses_the_winner_is_as_the_nearest_record_has_it():
    short = Annotated[list[str], pydantic.Field(min_length=2)]
    answers = [Record(tags=["a", one], n=1) for one in "xyz"]
    for tags, expected in ((list[str], ["a"]), (short, None)):
        selector = told(Fieldwise({"tags": ElementVote()}), {"tags": tags, "n": int})
        made = composed_of(selected(selector, answers))
        assert (None if made is None else made.answer["tags"]) == expected


def test_dataclasses_and_dicts_are_put_together_too():
    points = [Point(1, 9), Point(1, 2), Point(8, 2), Point(7, 2)]
    made = composed_of(selected(Fieldwise(compose=True), points[:1] + points[2:] + points[:1]))
    assert made is None or made.answer in (Point(1, 2), Point(1, 9))
    dicts = [{"x": "q", "y": 2, "z": 3}, {"x": 1, "y": "q", "z": 3}, {"x": 1, "y": 2, "z": "q"}]
    assert composed_of(selected(Fieldwise(compose=True), dicts)).answer == {"x": 1, "y": 2, "z": 3}  # type: ignore[union-attr]
    boxes = [Point(3, "q"), Point("q", 4), Point(3, 4)]  # type: ignore[arg-type]
    assert composed_of(selected(Fieldwise(compose=True), boxes)) is None  # the nearest is it


def test_records_within_records_are_put_together_too():
    class Inner(pydantic.BaseModel):
        a: int
        b: int

    class Outer(pydantic.BaseModel):
        inner: Inner
        c: int

    def outer(a, b, c):
        return Outer(inner=Inner(a=a, b=b), c=c)

    answers = [outer(1, 2, 9), outer(1, 8, 3), outer(7, 2, 3)]
    selector = told(Fieldwise(compose=True), {"outer": Outer})
    assert composed_of(selected(selector, answers)).answer == outer(1, 2, 3)  # type: ignore[union-attr]
    assert composed_of(selected(told(Fieldwise(), {"outer": Outer}), answers)) is None


def test_only_what_composes_by_itself_composes_without_being_told_to():
    answers = [Record(tags=["a", one], label=label) for one, label in (("x", 1), ("y", 1), ("z", 2))]
    assert composed_of(selected(Fieldwise({"tags": ElementVote(), "label": Plurality()}), answers)) == Composed(
        Record(tags=["a"], label=1), 0
    )
    assert not may_compose(Fieldwise({"label": Plurality()})) and may_compose(ElementVote())


def test_a_field_that_half_of_the_samples_leave_out_stays_as_the_nearest_has_it():
    selector = Fieldwise({"a": Equal(), "b": Equal(), "c": Equal()}, compose=True)
    answers = [Record(a=1, b=1), Record(a=1, b=2, c=5), Record(a=2, b=1, c=5)]
    made = composed_of(selected(selector, answers))
    assert made is not None and made.answer == Record(a=1, b=1, c=5)
    assert composed_of(selected(selector, [Record(a=1, b=1), Record(a=1, b=1), *answers[1:]])) is None


def test_what_is_no_record_is_not_put_together():
    assert composed_of(selected(Fieldwise(compose=True), [None, None, {"a": 1}])) is None
    assert composed_of(selected(Fieldwise(compose=True), ["x", "y", "y"])) is None


# ---- settings


def test_copies_are_equal_and_read_alike():
    selector = told(Fieldwise({"total": Numbers(tolerance=0.01)}, compose=True), {"invoice": Invoice})
    for other in (copy.deepcopy(selector), pickle.loads(pickle.dumps(selector))):
        assert other == selector and hash(other) == hash(selector)
        assert other.read(invoice("1", 2)).key == selector.read(invoice("1", 2)).key


def test_fields_are_selectors_similarities_or_functions():
    selector = Fieldwise({"a": Plurality(), "b": TokenF1(), "c": lambda one, other: 1.0})
    assert isinstance(selector, Selector) and selector.fields["b"] == Medoid(TokenF1())
    assert isinstance(selector.fields["c"], Medoid)
    for wrong in (3, Plurality, "medoid", None):
        with pytest.raises(TypeError, match=r"^the selector of the field 'a' must be a selector such as Plurality\(\)"):
            Fieldwise({"a": wrong})
    with pytest.raises(TypeError, match="^fields must be a dict of selectors by the names of fields, got 3$"):
        Fieldwise(3)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="^compose must be"):
        Fieldwise(compose="yes")  # type: ignore[arg-type]


class Cents(pydantic.BaseModel):
    price: int
    item: str

    @pydantic.field_validator("price")
    @classmethod
    def _in_cents(cls, price):
        return price * 100


class Renamed(pydantic.BaseModel):
    price: int | None = pydantic.Field(default=None, validation_alias=pydantic.AliasChoices("cost", "price_tag"))
    item: str = ""
    shop: str = ""


class Prices(pydantic.RootModel[dict[str, Any]]):
    pass


@dataclass
class Sevenfold:
    price: int
    item: str

    def __post_init__(self):
        self.price *= 7


@pytest.mark.parametrize(
    "answers",
    [
        [Cents(price=1, item="a"), Cents(price=1, item="b"), Cents(price=2, item="b"), Cents(price=3, item="b")],
        [
            Renamed.model_validate({"cost": cost, "item": item, "shop": shop})
            for cost, item, shop in ((1, "a", "q"), (1, "b", "w"), (2, "b", "w"), (1, "c", "q"))
        ],
        [Prices({"a": 1, "b": 2}), Prices({"a": 1, "b": 3}), Prices({"a": 2, "b": 3}), Prices({"a": 1})],
        [Sevenfold(1, "a"), Sevenfold(1, "b"), Sevenfold(2, "b"), Sevenfold(3, "b")],
    ],
    ids=["a validator that changes it again", "read under another name", "a root", "code that changes it again"],
)
def test_a_record_that_its_type_reads_as_another_one_is_not_composed(answers):
    types = {"sale": type(answers[0])}
    made = composed_of(selected(told(Fieldwise(compose=True), types), answers))
    # What is composed of these is one of what the samples said, in each field.
    assert made is None or all(
        value in [getattr(answer, name) for answer in answers] for name, value in vars(made.answer).items()
    )
