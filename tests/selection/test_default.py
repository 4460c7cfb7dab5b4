from __future__ import annotations

from typing import Literal

import pytest

from dynscale_dspy.selection.base import Selector
from dynscale_dspy.selection.default import default_selector
from dynscale_dspy.selection.plurality import Plurality


@pytest.mark.parametrize(
    "output_types",
    [{}, {"answer": str}, {"label": Literal["yes", "no"]}, {"city": str, "year": int}, {"items": list[str]}],
)
def test_plurality_whatever_the_types(output_types):
    selector = default_selector(output_types)
    assert selector == Plurality() and isinstance(selector, Selector)


def test_it_leaves_the_types_alone():
    output_types = {"answer": str}
    default_selector(output_types)
    assert output_types == {"answer": str}
