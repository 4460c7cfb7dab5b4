from __future__ import annotations

from typing import Literal

import pytest

from dynscale_dspy.selection.base import Selector
from dynscale_dspy.selection.default import default_selector, told
from dynscale_dspy.selection.plurality import Plurality


@pytest.mark.parametrize(
    "output_types",
    [{}, {"answer": str}, {"label": Literal["yes", "no"]}, {"city": str, "year": int}, {"items": list[str]}],
)
def test_plurality_whatever_the_types(output_types):
    selector = default_selector(output_types)
    assert isinstance(selector, Plurality) and isinstance(selector, Selector) and selector.without == ()


def test_it_compares_by_the_types_of_the_fields():
    assert default_selector({"answer": str}) == default_selector({}) == Plurality()
    label = default_selector({"label": Literal["Polish", "polish"]})
    assert label.read("Polish").key != label.read("polish").key  # type: ignore[union-attr]


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


def test_it_leaves_the_types_alone():
    output_types = {"answer": str}
    default_selector(output_types)
    assert output_types == {"answer": str}
