"""Language models by name: the value of the setting ``lms``, and the check for what users give."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import dspy

from dynscale_dspy._fields import Check, Refused, Unsaved

WANTED = "must be a list of language models, or a dict of them by name, such as [cheap, dear]"


class ByPredictor(Mapping[str, Any]):
    """One choice where predictors have language models of their own: what each of them asks together with the others.

    It never changes; copies share the models.

    Args:
        models: By the name of the predictor, the name of its language model and the model.
    """

    def __init__(self, models: Mapping[str, tuple[str, Any]]) -> None:
        self._models = dict(models)

    def __getitem__(self, predictor: str) -> Any:
        return self._models[predictor][1]

    def __iter__(self) -> Iterator[str]:
        return iter(self._models)

    def __len__(self) -> int:
        return len(self._models)

    def __hash__(self) -> int:
        return hash(tuple(self))

    def __repr__(self) -> str:  # by name only: a language model's settings may hold a key
        return f"{{{', '.join(f'{predictor}: {name}' for predictor, (name, _) in self._models.items())}}}"

    def __copy__(self) -> ByPredictor:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> ByPredictor:
        return self

    @property
    def names(self) -> Mapping[str, str]:
        """The name of each language model, by predictor."""
        return {predictor: name for predictor, (name, _) in self._models.items()}


class LanguageModels(Mapping[str, Any]):
    """Some language models by name, in the order in which they were given. It never changes; copies share the models.

    Args:
        models: The language models by name; where predictors have models of their own, a :class:`ByPredictor` for each.
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
        if not self.predictors:
            return f"[{', '.join(self)}]"
        told = []
        for predictor in self.predictors:
            names = dict.fromkeys(each.names[predictor] for each in self.values())
            told.append(f"{predictor}: [{', '.join(names)}]")
        return f"{{{', '.join(told)}}}"

    # As one in DSPy's settings, a language model is the same for a program and its copies.
    def __copy__(self) -> LanguageModels:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> LanguageModels:
        return self

    @property
    def only(self) -> Any:
        """The language model, if there is one alone; else None."""
        return next(iter(self.values())) if len(self) == 1 else None

    @property
    def predictors(self) -> tuple[str, ...]:
        """The names of the predictors that have language models of their own; empty where all ask the same."""
        first = next(iter(self.values()))
        return tuple(first) if isinstance(first, ByPredictor) else ()

    def of_predictor(self, predictor: str) -> LanguageModels | None:
        """The language models of one predictor, for it alone; None if it keeps the program's own.

        Args:
            predictor: Its name.
        """
        if not self.predictors:
            return self
        if predictor not in self.predictors:
            return None
        return LanguageModels({each.names[predictor]: each[predictor] for each in self.values()})

    def check_predictors(self, found: Iterable[str], what: str = "this program has") -> None:
        """Refuse names of predictors that there are not.

        Args:
            found: The names that there are.
            what: What the message says of them.

        Raises:
            ValueError: If there is no predictor of a name.
        """
        found = list(found)
        for name in self.predictors:
            if name not in found:
                raise ValueError(f"lms gives language models to a predictor {name!r}, but {what} {found}")


def choices_in(given: Any) -> int:
    """Between how many language models a value for ``lms`` chooses, if it is one.

    Example:
        >>> choices_in(["cheap", "dear"]), choices_in({"answer": ["cheap", "dear"], "plan": ["cheap"]})
        (2, 2)
    """
    if isinstance(given, LanguageModels) or not isinstance(given, Mapping) or not _is_by_predictor(given):
        return len(given) if isinstance(given, (Mapping, list, tuple)) else 0
    return max(len(each) for each in given.values() if isinstance(each, _SEVERAL))


_SEVERAL = (list, tuple, Mapping)


def _is_by_predictor(given: Mapping[Any, Any]) -> bool:
    return any(isinstance(each, _SEVERAL) for each in given.values())


@dataclass(frozen=True)
class Models(Check):
    """A check for language models, in a list, by name, or by predictor; or for None. JSON cannot hold them.

    Args:
        taken: Names that they may not have.
    """

    taken: tuple[str, ...] = ()

    def check(self, value: Any) -> LanguageModels | None:
        """The language models by name. Those of a list are called what their provider calls them."""
        if value is None or isinstance(value, LanguageModels):
            return value
        if isinstance(value, Mapping) and _is_by_predictor(value):
            return self._by_predictor(value)
        return LanguageModels(self._named(value))

    def _named(self, value: Any) -> dict[str, Any]:
        """Language models by name, of a list or a dict of them."""
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
        return dict(given)

    def _by_predictor(self, value: Mapping[Any, Any]) -> LanguageModels:
        """What predictors ask together: the first of each one's, the second, and so on; the only one each time."""
        for predictor, own in value.items():
            if not isinstance(predictor, str):
                raise Refused(
                    f"must have names of predictors, as in program.named_predictors(), got {predictor!r}", TypeError
                )
            if not isinstance(own, _SEVERAL):
                raise Refused(
                    f"has lists of language models by predictor, and {own!r} for {predictor!r}: write {{{predictor!r}: "
                    "[lm]}",
                    TypeError,
                )
            if not own:
                raise Refused(f"has no language model for {predictor!r}: leave it out, and it asks the program's own")
        given = {predictor: list(self._named(own).items()) for predictor, own in value.items()}
        most = max(map(len, given.values()))
        for predictor, own in given.items():
            if len(own) not in (1, most):
                raise Refused(
                    f"has {len(own)} language models for {predictor!r} and {most} for another predictor: give each of "
                    "them as many, which are asked together in their order, or one"
                )
        choices = [
            ByPredictor({predictor: own[min(place, len(own) - 1)] for predictor, own in given.items()})
            for place in range(most)
        ]
        chosen = [predictor for predictor, own in given.items() if len(own) == most]
        names = _apart([" + ".join(dict.fromkeys(each.names[name] for name in chosen)) for each in choices])
        return LanguageModels(dict(zip(names, choices, strict=True)))

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
    return _apart([str(getattr(lm, "model", None) or type(lm).__name__) for lm in models])


def _apart(given: list[str]) -> list[str]:
    """These names, with a number where one is taken."""
    names: list[str] = []
    for base in given:
        name, number = base, 1
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
