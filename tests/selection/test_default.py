from __future__ import annotations

import re
from typing import Annotated, Any, Literal

import dspy
import pydantic
import pytest

from dynscale_dspy.allocation.evidence import Detail
from dynscale_dspy.selection.base import Choice, Selector
from dynscale_dspy.selection.blends import LISTS, TEXTS, ByValue
from dynscale_dspy.selection.default import default_choice, default_selector, told
from dynscale_dspy.selection.fieldwise import Fieldwise
from dynscale_dspy.selection.lists import ElementVote
from dynscale_dspy.selection.medoid import Medoid
from dynscale_dspy.selection.numbers import Numbers
from dynscale_dspy.selection.plurality import Plurality
from dynscale_dspy.selection.similarity import CharacterF, TokenF1, Words


class Person(pydantic.BaseModel):
    name: str
    age: int
    notes: str = ""


@pytest.mark.parametrize(
    "output_types",
    [
        {},
        {"label": Literal["yes", "no"]},
        {"amount": float},
        {"count": int | None},
        {"flag": bool},
        {"answer": None},
        {"answer": Any},
        {"answer": int | str},
    ],
)
def test_one_value_is_voted_on_as_ever(output_types):
    assert default_choice(output_types) == Choice(Plurality().typed(output_types))


@pytest.mark.parametrize("annotation", [str, str | None, Annotated[str, "short"]])
def test_of_texts_with_as_many_votes_the_one_with_most_words_in_common_wins(annotation):
    selector = default_selector({"answer": annotation})
    assert selector == Plurality(ties=Words())

    def winner(*answers):
        selection = selector.empty()
        for answer in answers:
            selection = selection.add(selector.read(answer))
        return answers[selection.winner()]

    assert winner("Bonn", "the Eiffel tower", "Eiffel tower, Paris") == "the Eiffel tower"
    assert winner("Bonn", "Paris") == winner("Bonn", "Paris", "Rome") == "Bonn"  # the first: none is nearer
    assert winner("12 - 5 + 10", "12 + 5 - 10", "12 + 5 + 10") == "12 - 5 + 10"
    assert winner("Bonn", "the city of Paris", "city of Rome", "Bonn") == "Bonn"


@pytest.mark.parametrize(
    ("output_types", "selector", "why"),
    [
        ({"tags": list[str]}, Medoid(LISTS), "tags is a list"),
        ({"query": dspy.Code["sql"]}, Medoid(CharacterF()), "query is code"),
        ({"facts": dict[str, str]}, Medoid(ByValue()), "facts is a record"),
        (
            {"city": str, "year": int},
            Fieldwise({"city": Medoid(TEXTS), "year": Plurality().typed({"year": int})}),
            "city and year vote together, each by its type",
        ),
    ],
)
def test_others_go_by_their_types(output_types, selector, why):
    choice = default_choice(output_types)
    assert isinstance(choice.selector, Selector) and repr(choice.selector) == repr(selector) and choice.why == why
    assert default_selector(output_types) == choice.selector


def test_of_a_record_the_fields_vote_that_do_not_explain():
    choice = default_choice({"person": Person})
    assert isinstance(choice.selector, Fieldwise) and list(choice.selector.fields) == ["name", "age"]
    assert choice.why == "person is a record" and not choice.selector.composes


def test_nothing_is_composed_by_default():
    for types in ({"tags": list[str]}, {"person": Person}, {"a": list[int], "b": Person}):
        selector = default_selector(types)
        assert not getattr(selector, "composes", False) and not isinstance(selector, ElementVote)


@pytest.mark.parametrize("needs", [Detail.COUNTS, Detail.ORDER])
def test_a_policy_that_reads_all_votes_gets_plurality(needs):
    choice = default_choice({"tags": list[str]}, needs=needs)
    assert choice.selector == Plurality() and choice.why == "the policy needs the votes of every answer"
    assert default_choice({"answer": str}, needs=needs).why == ""


def test_it_compares_by_the_types_of_the_fields():
    assert default_selector({}) == Plurality()
    label = default_selector({"label": Literal["Polish", "polish"]})
    assert label.read("Polish").key != label.read("polish").key  # type: ignore[union-attr]


# ---- a selector of the user's


def test_a_user_s_plurality_is_told_of_the_types_and_keeps_its_settings():
    selector = told(Plurality(without="case"), {"price": float})
    assert isinstance(selector, Plurality) and selector.without == ("case",)
    assert selector.read("3.10").key == selector.read(3.1).key  # type: ignore[union-attr]


def test_any_other_selector_stays_as_it_is():
    class Own:
        def read(self, answer):
            return None

        def empty(self):
            return Plurality().empty()

    own = Own()
    assert told(own, {"answer": str}) is own  # type: ignore[arg-type]
    assert told(Medoid(TokenF1()), {"answer": str}) == Medoid(TokenF1())


def test_fields_that_it_does_not_name_go_by_their_types():
    selector = told(Fieldwise({"name": Plurality(without="case")}), {"name": str, "age": int, "tags": list[str]})
    assert isinstance(selector, Fieldwise) and list(selector.fields) == ["name", "age", "tags"]
    assert selector.fields["name"] == Plurality(without="case") and selector.fields["tags"] == Medoid(LISTS)


def test_for_one_output_it_may_name_that_or_the_fields_of_its_record():
    assert told(Fieldwise({"summary": Medoid(TokenF1())}), {"summary": str}) == Medoid(TokenF1())
    inner = told(Fieldwise({"age": Numbers(tolerance=1)}), {"person": Person})
    assert isinstance(inner, Fieldwise) and inner.fields["age"] == Numbers(tolerance=1)
    assert list(inner.fields) == ["name", "age"] and inner.whole is Person
    nested = told(Fieldwise({"person": Fieldwise({"notes": TokenF1()})}), {"person": Person})
    assert isinstance(nested, Fieldwise) and list(nested.fields) == ["name", "age", "notes"]  # named, so it votes


def test_of_a_program_whose_outputs_are_not_known_it_takes_what_comes():
    selector = Fieldwise({"anything": TokenF1()})
    assert told(selector, {}) is selector
    free = Fieldwise({"colour": TokenF1()})
    assert told(free, {"facts": dict[str, str]}) is free


@pytest.mark.parametrize(
    ("types", "fields"),
    [
        ({"name": str, "age": int}, "'name' and 'age'"),
        ({"person": Person}, "'name', 'age' and 'notes'"),
        ({"name": str}, "'name'"),
    ],
)
def test_a_name_that_is_no_field_is_refused_and_the_nearest_told(types, fields):
    message = (
        "selector names the field 'nane', which is no part of the answer (did you mean 'name'?): its fields are "
        f"{fields}. A field that explains or rates another one votes if answer= names it"
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        told(Fieldwise({"nane": Plurality()}), types)


def test_it_leaves_the_types_alone():
    output_types = {"answer": str, "tags": list[str]}
    default_selector(output_types)
    told(Fieldwise({"answer": Plurality()}), output_types)
    assert output_types == {"answer": str, "tags": list[str]}
