"""From the type of an output to the selector that its values are compared and chosen by."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Annotated, Any, Union, get_args, get_origin

import pydantic

from dynscale_dspy.selection.base import Selector
from dynscale_dspy.selection.blends import LISTS, TEXTS, ByValue
from dynscale_dspy.selection.fields import voting_fields
from dynscale_dspy.selection.fieldwise import Fieldwise
from dynscale_dspy.selection.medoid import Medoid
from dynscale_dspy.selection.plurality import Plurality
from dynscale_dspy.selection.similarity import CharacterF

DEEPEST = 4
"""Records within records that are chosen field by field; what is deeper is compared by its values.

So is a record within one of its own type.
"""


def selector_by_type(name: str, annotation: Any) -> Selector:
    """The selector for one output, or one field of a record, of this type.

    ========================================  ==========================================================
    type                                      selector
    ========================================  ==========================================================
    pydantic model, dataclass, ``TypedDict``  ``Fieldwise``, each field by its own type
    ``list``, ``set``, ``tuple[X, ...]``      ``Medoid`` under half equality and half F1 of elements
    ``dict``, ``Any``, a union of several     ``Medoid`` under what each value is
    ``dspy.Code``                             ``Medoid`` under runs of characters
    ``str``                                   ``Medoid`` under half equality and half F1 of words
    all else                                  ``Plurality``
    ========================================  ==========================================================

    ``Optional`` and ``Annotated`` types are as the type inside.

    Args:
        name: The field's name.
        annotation: Its type.

    Example:
        >>> selector_by_type("tags", list[str])
        Medoid(similarity=Average(parts=(Equal(kind='as it is'), ElementF1())))
    """
    return _selector(name, annotation, ())


def is_code(annotation: Any) -> bool:
    """Whether a type holds programs: ``dspy.Code``, in any language. It is known by its name and its module's.

    Args:
        annotation: The type.
    """
    return any(
        kind.__name__ == "Code" and kind.__module__.split(".")[0] == "dspy"
        for kind in getattr(bare(annotation), "__mro__", ())
    )


def is_list(annotation: Any) -> bool:
    """Whether a type holds any number of values of one kind: a list, a set, or a tuple of no fixed length.

    Args:
        annotation: The type.
    """
    kind = _class_of(bare(annotation))
    if kind is None or issubclass(kind, (str, bytes, bytearray)):
        return False
    if issubclass(kind, tuple):
        return kind is tuple and get_args(bare(annotation))[1:] in ((), (...,))
    return issubclass(kind, (list, AbstractSet, Sequence))


def record_fields(annotation: Any) -> Mapping[str, Any] | None:
    """The types of the fields of a record, by name: of a pydantic model, a dataclass or a ``TypedDict``; else None.

    Args:
        annotation: The type.
    """
    kind = bare(annotation)
    if not isinstance(kind, type) or kind.__module__.split(".")[0] == "dspy":
        return None
    if issubclass(kind, pydantic.BaseModel):
        return {name: field.annotation for name, field in kind.model_fields.items()}
    if dataclasses.is_dataclass(kind) or typing.is_typeddict(kind):
        try:
            hints = typing.get_type_hints(kind)
        except Exception:  # names that cannot be looked up here
            return None
        return {field.name: hints[field.name] for field in dataclasses.fields(kind)} if _is_data(kind) else hints
    return None


def is_mapping(annotation: Any) -> bool:
    """Whether a type is a dict of any keys.

    Args:
        annotation: The type.
    """
    kind = _class_of(bare(annotation))
    return kind is not None and issubclass(kind, Mapping)


def bare(annotation: Any) -> Any:
    """A type without ``Annotated``, ``Optional`` and the like; a union of several types as it is.

    Args:
        annotation: The type.

    Example:
        >>> bare(Annotated[int, "metres"] | None), bare(int | str)
        (<class 'int'>, int | str)
    """
    origin = get_origin(annotation)
    if origin is Annotated:
        return bare(get_args(annotation)[0])
    if origin in (Union, types.UnionType):
        some = [part for part in get_args(annotation) if part is not type(None)]
        return bare(some[0]) if len(some) == 1 else annotation
    return getattr(annotation, "__value__", annotation)  # of a type statement


def _selector(name: str, annotation: Any, around: tuple[Any, ...]) -> Selector:
    """The selector for a field of this type in records of these types."""
    kind = bare(annotation)
    if is_code(kind):
        return Medoid(CharacterF())
    if is_list(kind):
        return Medoid(LISTS)
    fields = record_fields(kind)
    if fields:
        voting = voting_fields(fields)
        if len(around) == DEEPEST or kind in around:  # a type with many fields of its own type has no end of them
            return Medoid(ByValue())
        selectors = {field: _selector(field, fields[field], (*around, kind)) for field in voting}
        return Fieldwise().over({field: fields[field] for field in voting}, selectors, whole=annotation)
    if is_mapping(kind) or kind is Any or get_origin(kind) in (Union, types.UnionType):
        return Medoid(ByValue())
    return Medoid(TEXTS) if kind is str else Plurality().typed({name: annotation})


def _class_of(kind: Any) -> type | None:
    origin = get_origin(kind) or kind
    return origin if isinstance(origin, type) and not _is_data(origin) else None


def _is_data(kind: type) -> bool:
    return dataclasses.is_dataclass(kind)


def told_of(names: Iterable[str]) -> str:
    """Names as a sentence lists them: ``a, b and c``."""
    *others, last = names
    return f"{', '.join(others)} and {last}" if others else last
