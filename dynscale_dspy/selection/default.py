"""Which selector a program gets that names none, and what its selector is told of the types of its outputs."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from dynscale_dspy.allocation.evidence import Detail
from dynscale_dspy.selection.base import Choice, Selector
from dynscale_dspy.selection.by_type import (
    bare,
    is_code,
    is_list,
    is_mapping,
    record_fields,
    selector_by_type,
    told_of,
)
from dynscale_dspy.selection.fields import voting_fields
from dynscale_dspy.selection.fieldwise import Fieldwise
from dynscale_dspy.selection.judge import Judge
from dynscale_dspy.selection.lists import ElementVote
from dynscale_dspy.selection.medoid import Medoid
from dynscale_dspy.selection.plurality import Plurality
from dynscale_dspy.selection.rankings import Ranking
from dynscale_dspy.selection.similarity import Words

Rule = Callable[[Mapping[str, Any]], Choice | None]


def _by_field(types: Mapping[str, Any]) -> Choice | None:
    if len(types) < 2:
        return None
    selectors = {name: selector_by_type(name, annotation) for name, annotation in types.items()}
    return Choice(Fieldwise().over(types, selectors), f"{told_of(types)} vote together, each by its type")


def _by_kind(types: Mapping[str, Any]) -> Choice | None:
    for name, annotation in types.items():
        kinds = {
            "is code": is_code(annotation),
            "is a list": is_list(annotation),
            "is a record": bool(record_fields(annotation)) or is_mapping(annotation),
        }
        kind = next((kind for kind, holds in kinds.items() if holds), None)
        if kind is not None:
            return Choice(selector_by_type(name, annotation), f"{name} {kind}")
    return None


def _by_votes(types: Mapping[str, Any]) -> Choice | None:
    is_text = len(types) == 1 and all(bare(annotation) is str for annotation in types.values())
    return Choice(Plurality(ties=Words() if is_text else None).typed(types))


# Asked in order; the first that gives a selector decides. The last one takes everything.
_RULES: tuple[Rule, ...] = (_by_field, _by_kind, _by_votes)


def default_choice(output_types: Mapping[str, Any], *, needs: Detail = Detail.TOP_TWO) -> Choice:
    """The selector for outputs of these types, and why.

    Args:
        output_types: Type of each output field that is part of the answer, by the field's name; empty if unknown.
        needs: What the policy reads of the votes. Plurality offers all; the others the leader and the rival alone, and
            are no default where the policy needs more.

    Example:
        >>> default_choice({"tags": list[str]}).why
        'tags is a list'
        >>> default_choice({"tags": list[str]}, needs=Detail.ORDER).why
        'the policy needs the votes of every answer'
    """
    choice = next(choice for rule in _RULES if (choice := rule(output_types)) is not None)
    if needs > choice.selector.empty().evidence().detail:
        return Choice(Plurality().typed(output_types), "the policy needs the votes of every answer")
    return choice


def default_selector(output_types: Mapping[str, Any]) -> Selector:
    """The selector for outputs of these types.

    Several fields, and one that is a record, are chosen field by field; a list, and code, by what is nearest to the
    others; all else by plurality, which compares values by their types. Between texts with as many votes the one wins
    that has most words in common with all.

    Args:
        output_types: As of :func:`default_choice`.

    Example:
        >>> [type(default_selector(types)).__name__ for types in ({"answer": str}, {"city": str, "year": int})]
        ['Plurality', 'Fieldwise']
    """
    return default_choice(output_types).selector


def told(selector: Selector, output_types: Mapping[str, Any]) -> Selector:
    """A selector that a user has made, told of the types of the outputs if it compares by them.

    Args:
        selector: The selector. Any but those of this library stays as it is.
        output_types: As of :func:`default_choice`.

    Raises:
        ValueError: If it names a field that is no part of the answer.
    """
    if isinstance(selector, (Plurality, Medoid, ElementVote, Ranking, Judge)):
        return selector.typed(output_types)
    return _fields_told(selector, output_types) if isinstance(selector, Fieldwise) else selector


def _fields_told(selector: Fieldwise, output_types: Mapping[str, Any]) -> Selector:
    """This selector for several output fields, for the fields of one that is a record, or for one of any other type."""
    if not output_types:
        return selector  # of a program whose outputs are not known it compares what it is given
    known, whole = dict(output_types), None
    if len(known) == 1:
        (name, annotation), *_ = known.items()
        if set(selector.fields) == {name}:
            return told(selector.fields[name], known)
        if is_mapping(annotation):
            return selector  # its keys are known once it is there
        inner = record_fields(annotation)
        if inner:
            known, whole = dict(inner), annotation
    _check_names(selector, known)
    if whole is None and len(known) == 1:
        return selector
    voting = [name for name in known if name in selector.fields or name in voting_fields(known)]
    given = {name: told(one, {name: known[name]}) for name, one in selector.fields.items()}
    others = {name: selector_by_type(name, known[name]) for name in voting if name not in given}
    return replace(selector, fields=given).over({name: known[name] for name in voting}, others, whole=whole)


def _check_names(selector: Fieldwise, known: Mapping[str, Any]) -> None:
    for name in selector.fields:
        if name not in known:
            close = difflib.get_close_matches(str(name), known, n=1)
            meant = f" (did you mean {close[0]!r}?)" if close else ""
            raise ValueError(
                f"selector names the field {name!r}, which is no part of the answer{meant}: its fields are "
                f"{told_of(map(repr, known))}. A field that explains or rates another one votes if answer= names it"
            )
