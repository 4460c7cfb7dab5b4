from __future__ import annotations

import pytest

from dynscale_dspy.allocation.costs import Cost
from dynscale_dspy.budget.stores.base import Store, fits


@pytest.mark.parametrize(
    ("change", "limits", "fitting"),
    [
        (Cost(samples=1), {}, True),
        (Cost(samples=1), {"samples": None}, True),
        (Cost(samples=1), {"samples": 6}, True),
        (Cost(samples=1), {"samples": 5}, False),
        (Cost(prompt_tokens=2, completion_tokens=3), {"tokens": 35}, True),
        (Cost(prompt_tokens=2, completion_tokens=3), {"tokens": 34}, False),
        (Cost(samples=1), {"samples": 6, "tokens": 3}, True),  # tokens are over, and it adds none
        (Cost(samples=-1, prompt_tokens=-5), {"samples": 1, "tokens": 3}, True),
        (Cost(), {"samples": 0}, True),
    ],
)
def test_a_change_fits_if_no_unit_that_it_increases_passes_its_limit(change, limits, fitting):
    assert fits(change, limits, Cost(samples=3, prompt_tokens=20), Cost(samples=2, completion_tokens=10)) is fitting


def test_what_lacks_a_method_is_no_store():
    assert not isinstance(object(), Store)
