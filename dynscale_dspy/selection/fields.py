"""Which output fields vote, and which of their values say something: both go by the fields' names and types."""

from __future__ import annotations

import re
import types
from collections.abc import Callable, Mapping
from decimal import Decimal
from enum import Enum
from functools import lru_cache
from typing import Annotated, Any, Union, get_args, get_origin

import pydantic

from dynscale_dspy.selection.labels import labels_of

# Words in the singular.
_EXPLANATIONS = frozenset(
    {"explanation", "rationale", "justification", "evidence", "reason", "reasoning", "why", "note", "comment"}
    | {"commentary", "analysis", "thought", "thinking", "remark", "critique", "elaboration"}
    | {"feedback", "motivation", "cot", "scratchpad", "monologue", "because"}
)
_SURENESS = frozenset({"confidence", "certainty", "uncertainty", "conf"})
_CERTAINTIES = _SURENESS | {"probability", "likelihood", "prob"}
_SCORES = _CERTAINTIES | {"score", "logprob", "logit"}
_PLURALS = {re.sub("y$", "ie", word) + "s": word for word in _EXPLANATIONS | _SCORES} | {"analyses": "analysis"}
_UNITS = frozenset(
    {"text", "level", "value", "pct", "percent", "percentage", "estimate"}
    | {"step", "steps", "trace", "process", "short", "brief", "summary"}
)
"""Last words of a name that leave its meaning to the word before."""
_LINKS = frozenset({"for", "of", "behind", "in", "that", "against"})
"""Second words of a name that leave its meaning to the first."""
_WORDS = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[^\W\d_]+")


class Absent(Enum):
    """The one value :data:`ABSENT`."""

    ABSENT = "absent"

    def __repr__(self) -> str:
        return self.name


ABSENT = Absent.ABSENT
"""Stands for the answer of a sample that gives none. None is no such sign: it may be the answer."""


def voting_fields(outputs: Mapping[str, Any]) -> list[str]:
    """The output fields that vote where the user names none.

    All of them, but where another field is left that votes:

    * text (also optional, or a list of texts) whose name says that it explains: ``explanation``, ``label_rationale``,
      ``reasons``, ``notes``, ``why``, ...
    * numbers (also optional, or in a list or dict) whose name says that they rate: ``confidence``, ``risk_score``,
      ``probability``, ``likelihood_percent``, ...; of ``confidence``, ``certainty`` and ``probability`` also text, and
      of the first two also labels (``Literal["low", "high"]``).

    They differ from sample to sample where the answer does not, and each sample would be an answer of its own. Of an
    explanation and a score alone, the score votes.

    Args:
        outputs: Type of each field, by name; None where it is not known.

    Example:
        >>> voting_fields({"label": str, "explanation": str, "confidence": float})
        ['label']
        >>> voting_fields({"explanation": str, "score": float}), voting_fields({"explanation": str})
        (['score'], ['explanation'])
    """
    names: list[str] = list(outputs)
    for is_aside in (_explains, _rates):
        kept = [name for name in names if not is_aside(name, outputs[name])]
        names = kept or names
    return names


def allows_none(annotation: Any) -> bool:
    """Return True if None is a value of a field of this type: an Optional one, ``Literal["a", None]``, ``Any``.

    Args:
        annotation: The field's type.
    """
    try:
        return _allows_none(annotation)
    except TypeError:  # it has no hash
        return _allows_none.__wrapped__(annotation)


def said(value: Any, annotation: Any) -> Any:
    """What a field says: its value; None where that is what it says; :data:`ABSENT` where it says nothing.

    None says something where the field's type allows it. Text that is blank says nothing in a ``str``, says None where
    None is allowed, and is what it is where the type lists it (``Literal["", "a"]``). So do ``null`` and ``None``, as
    models write them into an optional text. An empty list or dict is what it is.

    Args:
        value: What the program returned in the field.
        annotation: The field's type; None where it is not known, and then None says nothing.

    Example:
        >>> said(None, int | None) is None, said(None, int), said("", str), said([], list[str])
        (True, ABSENT, ABSENT, [])
    """
    nullable = annotation is not None and allows_none(annotation)
    if value is None:
        return None if nullable else ABSENT
    if not issubclass(type(value), str) or issubclass(type(value), Enum):  # asked of the type: no code of its own runs
        return value
    text = str.__str__(value).strip()
    if nullable and text in ("", "null", "None") and not _lists(annotation, value):
        return None
    return value if text or _lists(annotation, value) else ABSENT


# ---- names


def _explains(name: str, annotation: Any) -> bool:
    words = _words(name)
    named = words[-1] in _EXPLANATIONS or (words[0] in _EXPLANATIONS and not _LINKS.isdisjoint(words[1:2]))
    return (named or words[0] == "why") and _holds(annotation, _is_text)


def _rates(name: str, annotation: Any) -> bool:
    words = _words(name)
    if words[0] in _CERTAINTIES and len(words) > 2 and words[1] in _LINKS:
        words = words[:1]  # "probability_of_spam"
    if words[-1] not in _SCORES:
        return False
    if _holds(annotation, _is_number):
        return True
    if not _SURENESS.isdisjoint(words[-2:]) and labels_of(annotation) is not None:
        return True  # "low", "medium", "high"
    return not _CERTAINTIES.isdisjoint(words[-2:]) and _holds(annotation, _is_text)  # "0.9" of an untyped signature


def _words(name: str) -> list[str]:
    """The words of a field's name, in lower case and singular, without units at its end."""
    words: list[str] = [word.lower() for word in _WORDS.findall(name)] or [name]
    words = [_PLURALS.get(word, word) for word in words]
    while len(words) > 1 and words[-1] in _UNITS:
        words.pop()
    return words


# ---- types


def _holds(annotation: Any, is_kind: Callable[[Any], bool]) -> bool:
    """Whether a field holds values of a kind only: one, an optional one, a list of them, or a dict with such values."""
    if annotation is None or annotation is Any or is_kind(annotation):
        return True
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _holds(inner[0], is_kind)
    if origin in (Union, types.UnionType):
        return all(_holds(part, is_kind) for part in inner if part is not type(None))
    if not isinstance(origin, type) or not inner:
        return False
    if issubclass(origin, Mapping):
        return _holds(inner[-1], is_kind)
    if issubclass(origin, (list, tuple, set, frozenset)):
        return all(_holds(part, is_kind) for part in inner if part is not ...)
    return False


def _is_text(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, str) and not issubclass(kind, Enum)


def _is_number(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, (int, float, Decimal)) and not issubclass(kind, (bool, Enum))


def _lists(annotation: Any, value: str) -> bool:
    """Whether this very text is among the values that a type lists."""
    if annotation is None or _is_text(annotation):
        return False
    if get_origin(annotation) in (Union, types.UnionType, Annotated):
        return any(_lists(part, value) for part in get_args(annotation))
    return value in get_args(annotation) or (
        isinstance(annotation, type) and issubclass(annotation, Enum) and any(value == each for each in annotation)
    )


@lru_cache(maxsize=1024)
def _allows_none(annotation: Any) -> bool:
    try:
        pydantic.TypeAdapter(annotation).validate_python(None, strict=True)
    except Exception:  # None is refused, or pydantic cannot say
        return False
    return True
