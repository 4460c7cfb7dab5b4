from __future__ import annotations

from typing import Annotated

import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynscale_dspy.selection.base import Composed, Selector, composed_of
from dynscale_dspy.selection.lists import ElementVote
from dynscale_dspy.testing import SelectorLaws

lists = st.lists(st.lists(st.sampled_from("abcdef"), max_size=5), max_size=7)


def selected(selector, answers, weights=None):
    selection = selector.empty()
    for place, answer in enumerate(answers):
        weight = 1.0 if weights is None else weights[place]
        selection = selection.add(selector.read(answer), sample=place, weight=weight)
    return selection


class TestElementVote(SelectorLaws):
    def selector(self):
        return ElementVote()

    def answers(self):
        return (["a", "b"], ["c", "d"], ["e", "f"])


def test_elements_of_enough_samples_in_the_order_of_the_nearest():
    selection = selected(
        ElementVote(), [["oil", "salt"], ["dill", "oil", "salt", "egg"], ["Egg", "oil"], ["oil", "Egg"]]
    )
    assert composed_of(selection) == Composed(["Egg", "oil", "salt"], 2)  # after its own what it lacks, as first given
    assert composed_of(selected(ElementVote(1.0), [["a", "b"], ["b", "a"], ["a"]])).answer == ["a"]  # type: ignore[union-attr]


def test_nothing_is_put_together_of_one_sample_or_two():
    assert composed_of(selected(ElementVote(), [["a"]])) is None
    assert composed_of(selected(ElementVote(), [["a"], ["b"]])) is None
    assert composed_of(ElementVote().empty()) is None


def test_the_nearest_samples_own_list_is_not_called_composed():
    selection = selected(ElementVote(), [["a", "b"], ["b", "a"], ["c"]])
    assert selection.winner() == 0 and composed_of(selection) is None


@given(lists, st.sampled_from([0.25, 0.5, 1.0]))
def test_each_kept_element_has_its_share_and_no_other_has(answers, share):
    selection = selected(ElementVote(share), answers)
    made = composed_of(selection)
    if made is None:
        return
    shares = {element: sum(element in each for each in answers) / len(answers) for element in "abcdef"}
    assert made.answer == list(dict.fromkeys(made.answer)) and made.whose == selection.winner()
    assert {element for element, of in shares.items() if of >= share} == set(made.answer)
    own = [element for element in dict.fromkeys(answers[made.whose]) if element in made.answer]
    assert made.answer[: len(own)] == own


def test_weights_count():
    kept = composed_of(selected(ElementVote(), [["a", "x"], ["a", "y"], ["c", "z"]], weights=[1, 1, 1]))
    assert kept is not None and kept.answer == ["a"]
    kept = composed_of(selected(ElementVote(), [["a", "x"], ["a", "y"], ["c", "z"]], weights=[1, 1, 4]))
    assert kept is None or "a" not in kept.answer


@pytest.mark.parametrize("kind", [list, tuple, set, frozenset])
def test_it_is_of_the_samples_own_type(kind):
    made = composed_of(selected(ElementVote(), [kind(["a", "x"]), kind(["a", "y"]), kind(["a", "z"])]))
    assert made is not None and made.answer == kind(["a"])


def test_what_the_type_refuses_is_not_put_together():
    answers = [["a", "x"], ["a", "y"], ["a", "z"]]
    two = Annotated[list[str], pydantic.Field(min_length=2)]
    assert composed_of(selected(ElementVote().typed({"tags": two}), answers)) is None
    assert composed_of(selected(ElementVote().typed({"tags": list[str]}), answers)).answer == ["a"]  # type: ignore[union-attr]


def test_where_none_wins_nothing_is_put_together():
    selection = selected(ElementVote(), [None, None, None, ["a"]])
    assert selection.winner() == 0 and composed_of(selection) is None


def test_settings():
    assert isinstance(ElementVote(), Selector)
    with pytest.raises(ValueError, match=r"^share must be a number above 0 and at most 1, got 0$"):
        ElementVote(0)
