"""Language models by name: the value of the setting ``lms``, and the check for what users give."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import dspy

from dynscale_dspy._fields import Check, Refused, Unsaved

WANTED = "must be a list of language models, or a dict of them by name, such as [cheap, dear]"


class LanguageModels(Mapping[str, Any]):
    """Some language models by name, in the order in which they were given. It never changes; copies share the models.

    Args:
        models: The language models by name.
    """

    def __init__(self, models: Mapping[str, Any]) -> None:
        self._models = dict(models)

    def __getitem__(self, name: str) -> Any:
        return self._models[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._models)

    def __len__(self) -> int:
        return len(self._models)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, LanguageModels) and list(self.items()) == list(other.items())

    def __hash__(self) -> int:
        return hash(tuple(self))

    def __repr__(self) -> str:  # by name only: a language model's settings may hold a key
        return f"[{', '.join(self)}]"

    # As one in DSPy's settings, a language model is the same for a program and its copies.
    def __copy__(self) -> LanguageModels:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> LanguageModels:
        return self

    @property
    def only(self) -> Any:
        """The language model, if there is one alone; else None."""
        return next(iter(self.values())) if len(self) == 1 else None


@dataclass(frozen=True)
class Models(Check):
    """A check for language models, in a list or by name; or for None. JSON cannot hold them.

    Args:
        taken: Names that they may not have.
    """

    taken: tuple[str, ...] = ()

    def check(self, value: Any) -> LanguageModels | None:
        """The language models by name. Those of a list are called what their provider calls them."""
        if value is None or isinstance(value, LanguageModels):
            return value
        if isinstance(value, Mapping):
            given = list(value.items())
        elif isinstance(value, (list, tuple)):
            given = list(zip(_names(value), value, strict=True))
        else:
            raise Refused(f"{WANTED}, got {value!r}", TypeError)
        if not given:
            raise Refused(f"{WANTED}, got {value!r}; None is for the program's own language model")
        for name, lm in given:
            self._check_one(name, lm, value)
        self._check_apart(given)
        return LanguageModels(dict(given))

    def _check_one(self, name: Any, lm: Any, value: Any) -> None:
        if not isinstance(name, str) or not name.strip():
            raise Refused(f"must have names of text for language models, got {name!r}", TypeError)
        if name in self.taken:
            raise Refused(f"names a language model {name!r}, which is what a way of sampling is called: choose another")
        if isinstance(lm, str):
            raise Refused(f"{WANTED}, got {lm!r} in it: pass dspy.LM({lm!r})", TypeError)
        if not isinstance(lm, dspy.BaseLM):
            raise Refused(f"{WANTED}, got {value!r}", TypeError)

    @staticmethod
    def _check_apart(given: list[tuple[str, Any]]) -> None:
        for place, (name, lm) in enumerate(given):
            for other, earlier in given[:place]:
                if lm is earlier:
                    raise Refused(f"has one language model twice, as {other!r} and {name!r}: give each of them once")
                if _are_equal(lm, earlier):
                    warnings.warn(
                        f"the language models {other!r} and {name!r} in lms are the same, with the same settings: "
                        "nothing is gained by choosing between them",
                        UserWarning,
                        stacklevel=2,
                    )

    def dump(self, value: Any) -> Any:
        """Raise: language models, and the keys in them, are never saved."""
        raise Unsaved

    def load(self, saved: Any) -> Any:
        """Refuse them: no file should have any."""
        raise Refused(f"cannot be saved, but a file has {saved!r}")


def _names(models: list[Any] | tuple[Any, ...]) -> list[str]:
    """A name for each language model of a list: what its provider calls it, with a number where that is taken."""
    names: list[str] = []
    for lm in models:
        name = base = str(getattr(lm, "model", None) or type(lm).__name__)
        number = 1
        while name in names:
            number += 1
            name = f"{base} ({number})"
        names.append(name)
    return names


def _are_equal(one: Any, other: Any) -> bool:
    """Whether two language models of DSPy's own class ask the same model in the same way."""
    if type(one) is not dspy.LM or type(other) is not dspy.LM:
        return False
    return all(getattr(one, name, None) == getattr(other, name, None) for name in _TOLD_BY)


_TOLD_BY = ("model", "model_type", "kwargs", "_engine_spec")
