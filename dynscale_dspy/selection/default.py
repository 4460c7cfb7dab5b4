"""Which selector a program gets that names none, and what its selector is told of the types of its outputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from dynscale_dspy.selection.base import Selector
from dynscale_dspy.selection.plurality import Plurality

Rule = Callable[[Mapping[str, Any]], Selector | None]

# Asked in order; the first that gives a selector decides. The last one takes everything.
_RULES: tuple[Rule, ...] = (lambda output_types: Plurality().typed(output_types),)


def default_selector(output_types: Mapping[str, Any]) -> Selector:
    """The selector for outputs of these types.

    Args:
        output_types: Type of each output field that is part of the answer, by the field's name; empty if unknown.

    Returns:
        :class:`~dynscale_dspy.selection.plurality.Plurality`, whatever the types; it compares values by them.

    Example:
        >>> default_selector({"answer": str})
        Plurality(without=(), ties=None)
    """
    return next(selector for rule in _RULES if (selector := rule(output_types)) is not None)


def told(selector: Selector, output_types: Mapping[str, Any]) -> Selector:
    """A selector that a user has made, told of the types of the outputs if it compares by them.

    Args:
        selector: The selector. Any but a :class:`~dynscale_dspy.selection.plurality.Plurality` stays as it is.
        output_types: As of :func:`default_selector`.
    """
    return selector.typed(output_types) if isinstance(selector, Plurality) else selector
