from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import pydantic
import pytest

from dynscale_dspy.selection.base import Composed, Composing, Selection, composed_of
from dynscale_dspy.selection.composing import CannotCompose, Composer, ComposingSelection, valid
from dynscale_dspy.selection.plurality import Plurality


@dataclass(frozen=True)
class Joined(Composer):
    """Joins all answers; nothing but the letters of a word may be joined."""

    def put_together(self, ballots, whose):
        if any(not ballot.answer.isalpha() for ballot in ballots):
            raise CannotCompose
        return "".join(ballot.answer for ballot in ballots)


def selected(*answers):
    selection = ComposingSelection(Plurality().empty(), Joined())
    for answer in answers:
        selection = selection.add(None if answer is None else Plurality().read(answer))
    return selection


def test_it_is_a_selection_that_composes():
    assert isinstance(selected(), Selection) and isinstance(selected(), Composing)
    assert not isinstance(Plurality().empty(), Composing) and composed_of(Plurality().empty()) is None


def test_it_selects_as_the_rule_within():
    selection, plain = selected("a", None, "b", "b"), Plurality().empty()
    for answer in ("a", None, "b", "b"):
        plain = plain.add(None if answer is None else Plurality().read(answer))
    assert selection.winner() == plain.winner() == 2
    assert selection.groups() == plain.groups() and selection.evidence() == plain.evidence()
    assert selection.is_settled(0) == plain.is_settled(0)


def test_of_the_samples_that_voted_by_index_and_on_the_nearest():
    selection = selected("c", "b", None, "b")
    assert selection.composed() == selection.composed(favour_conditioned=True) == Composed("cbb", 1)
    late = ComposingSelection(Plurality().empty(), Joined())
    for sample, answer in ((3, "b"), (0, "c"), (1, "b")):
        late = late.add(Plurality().read(answer), sample=sample)
    assert late.composed() == Composed("cbb", 1)


@pytest.mark.parametrize("answers", [(), ("a",), ("a", "b"), (None, None, "a", "b"), ("a", "a", "4")])
def test_the_winners_own_is_returned_of_two_or_fewer_and_where_it_cannot_be(answers):
    assert selected(*answers).composed() is None


def test_values_are_validated_by_their_type():
    assert valid("3", None) == "3" and valid("3", int) == 3
    with pytest.raises(ValueError, match="at least 2"):
        valid([1], Annotated[list[int], pydantic.Field(min_length=2)])
