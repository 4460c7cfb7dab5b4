from __future__ import annotations

import json

import pytest

from dynscale_dspy._fields import Unsaved
from dynscale_dspy.selection.blends import LISTS, Average, ByValue, SameVote
from dynscale_dspy.selection.default import told
from dynscale_dspy.selection.fieldwise import Fieldwise
from dynscale_dspy.selection.lists import ElementVote
from dynscale_dspy.selection.medoid import Medoid
from dynscale_dspy.selection.numbers import Numbers
from dynscale_dspy.selection.plurality import Plurality
from dynscale_dspy.selection.saved import dump, load
from dynscale_dspy.selection.similarity import CharacterF, ElementF1, Equal, EqualOutputs, Given, MeanOver, TokenF1

SAVED = [
    Plurality(),
    Plurality(without=("case", "number")),
    Numbers(tolerance=0.5, kind="score"),
    ElementVote(0.25),
    Medoid(TokenF1()),
    Medoid(CharacterF(order=3)),
    Medoid(Average((Equal("exact"), ElementF1()))),
    Medoid(MeanOver({"name": TokenF1(), "year": Equal()})),
    Medoid(ByValue(depth=2)),
    Medoid(SameVote(Plurality(without="case"))),
    Fieldwise(compose=True),
    Fieldwise({"name": Plurality(without="case"), "tags": ElementVote(0.3), "sub": Fieldwise({"name": LISTS})}),
]


@pytest.mark.parametrize("selector", SAVED, ids=repr)
def test_what_is_saved_comes_back_from_json(selector):
    assert load(json.loads(json.dumps(dump(selector)))) == selector


def test_what_a_program_tells_of_its_types_is_not_saved():
    selector = Fieldwise({"city": Plurality()}, compose=True)
    assert dump(told(Plurality(), {"price": float})) == dump(Plurality()) and "kinds" not in dump(Plurality())
    assert set(dump(selector)) == {"name", "fields", "compose"}


@pytest.mark.parametrize(
    "selector",
    [Medoid(Given(lambda one, other: 1.0)), Medoid(EqualOutputs(run=eval)), Fieldwise({"a": lambda one, other: 1.0})],
)
def test_functions_are_not_saved(selector):
    with pytest.raises(Unsaved):
        dump(selector)


@pytest.mark.parametrize("junk", [{"name": "Oracle"}, {"name": "Numbers", "mood": 1}, {"name": "Numbers", "kind": "x"}])
def test_what_is_unknown_is_refused(junk):
    with pytest.raises((KeyError, TypeError, ValueError)):
        load(junk)
