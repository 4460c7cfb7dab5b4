"""Which selector a program gets that names none, from the types of its outputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from dynscale_dspy.selection.base import Selector
from dynscale_dspy.selection.plurality import Plurality

Rule = Callable[[Mapping[str, Any]], Selector | None]

# Asked in order; the first that gives a selector decides. The last one takes everything.
_RULES: tuple[Rule, ...] = (lambda output_types: Plurality(),)


def default_selector(output_types: Mapping[str, Any]) -> Selector:
    """The selector for outputs of these types.

    Args:
        output_types: Type of each output field that is part of the answer, by the field's name; empty if unknown.

    Returns:
        :class:`~dynscale_dspy.selection.plurality.Plurality`, whatever the types.

    Example:
        >>> default_selector({"answer": str})
        Plurality()
    """
    return next(selector for rule in _RULES if (selector := rule(output_types)) is not None)
