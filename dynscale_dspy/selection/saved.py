"""Selectors and similarities as JSON values, as they stand in a program's saved state."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from dynscale_dspy._fields import Unsaved
from dynscale_dspy.selection.blends import Average, ByValue, SameVote
from dynscale_dspy.selection.fieldwise import Fieldwise
from dynscale_dspy.selection.judge import Judge
from dynscale_dspy.selection.lists import ElementVote
from dynscale_dspy.selection.medoid import Medoid
from dynscale_dspy.selection.numbers import Numbers
from dynscale_dspy.selection.plurality import Plurality
from dynscale_dspy.selection.rankings import Ranking, SameOrder
from dynscale_dspy.selection.similarity import CharacterF, ElementF1, Equal, MeanOver, TokenF1, Words

KNOWN: Mapping[str, type] = {
    kind.__name__: kind
    for kind in (
        *(Plurality, Medoid, Fieldwise, ElementVote, Ranking, Numbers, Judge),
        *(Equal, TokenF1, Words, CharacterF, ElementF1, SameOrder, MeanOver, Average, ByValue, SameVote),
    )
}
"""The classes whose objects are saved, by name."""


def dump(value: Any) -> Any:
    """A selector, a similarity or a setting of one as JSON values: an object as its class's name and its settings.

    What it was told of the types of a program's outputs is not saved: the program tells it again.

    Raises:
        Unsaved: If it is a function, or of a class of the user's own.

    Example:
        >>> dump(Medoid(TokenF1()))
        {'name': 'Medoid', 'similarity': {'name': 'TokenF1'}}
    """
    if value is None or isinstance(value, (str, bool, int, float)):
        return value
    if isinstance(value, (tuple, list)):
        return [dump(one) for one in value]
    if isinstance(value, Mapping):
        return {name: dump(one) for name, one in value.items()}
    kind: Any = type(value)
    if KNOWN.get(kind.__name__) is not kind:
        raise Unsaved
    return {"name": kind.__name__, **{name: dump(getattr(value, name)) for name in _settings(kind)}}


def load(saved: Any) -> Any:
    """What :func:`dump` was given.

    Args:
        saved: What it made of it, in this version or another.

    Raises:
        KeyError: If it names a class that this version does not have.
        TypeError: If it has a setting that this version does not have.
        ValueError: If a setting is out of range.
    """
    if isinstance(saved, list):
        return tuple(load(one) for one in saved)
    if not isinstance(saved, dict):
        return saved
    if not isinstance(saved.get("name"), str):  # a field of that name has a selector, which is no text
        return {name: load(one) for name, one in saved.items()}
    settings = dict(saved)
    kind = KNOWN[settings.pop("name")]
    return kind(**{name: load(one) for name, one in settings.items()})


def _settings(kind: Any) -> list[str]:
    return [field.name for field in dataclasses.fields(kind) if field.init and field.repr]
