"""Which language models the samples of a call ask: the program's own, or those that were given in its place."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import dspy

from dynscale_dspy._models import ByPredictor, LanguageModels
from dynscale_dspy.execution.asks import asked_by
from dynscale_dspy.execution.choices_route import Turn
from dynscale_dspy.execution.concessions import is_unproven
from dynscale_dspy.execution.introspection import (
    asks_for_a_rollout,
    choices_per_request,
    decides_at_once,
    lm_of,
)
from dynscale_dspy.execution.meter import current_meter


@dataclass(frozen=True)
class Asked:
    """The language models that the samples of a call ask, as far as that is known before they do.

    What goes for one of them is asked of each: a call of several is as careful as the one that needs most care.

    Args:
        program: The program.
        predictors: All of its predictors.
        kwargs: The call's arguments.
        own: What its only predictor would ask by itself; None where that is not known.
        given: What samples ask in its place; None for nothing.
    """

    program: dspy.Module
    predictors: Sequence[dspy.Predict]
    kwargs: Mapping[str, Any]
    own: Any
    given: LanguageModels | None

    @classmethod
    def by(
        cls,
        program: dspy.Module,
        predictors: Sequence[dspy.Predict],
        kwargs: Mapping[str, Any],
        given: LanguageModels | None,
    ) -> Asked:
        """Those of a call that is made here."""
        own = lm_of(predictors[0], program, kwargs) if len(predictors) == 1 else None
        around = current_meter()
        if own is not None and around is not None and around.asks is not None:
            own = asked_by(around.asks, predictors[0]) or own  # all parts of a program move together
        if given is not None and given.predictors and len(predictors) == 1:
            given = given.of_predictor(given.predictors[0])  # its name was checked: it is the only one
        return cls(program, predictors, kwargs, own, given)

    @property
    def several(self) -> bool:
        """Whether samples choose between them."""
        return self.given is not None and len(self.given) > 1

    @property
    def instead(self) -> Any:
        """The only one that was given; None if none was, or several."""
        return self.given.only if self.given is not None else None

    @property
    def only(self) -> Any:
        """The one that all samples ask; None if there are several, or it is not known."""
        return None if self.several else self.own if self.instead is None else self.instead

    @property
    def by_name(self) -> Mapping[str, Any]:
        """Each by the name of its samplers; a single one by none."""
        return self.given if self.several and self.given is not None else {"": self.only}

    @property
    def all(self) -> list[Any]:
        """Every one, whichever predictor asks it."""
        return [
            lm for each in self.by_name.values() for lm in (each.values() if isinstance(each, ByPredictor) else [each])
        ]

    @property
    def is_unproven(self) -> bool:
        """Whether one may refuse the temperature that samples add."""
        return any(is_unproven(lm, {}) for lm in self.all)

    @property
    def wants_a_draw(self) -> bool:
        """Whether the call is to be another draw than others with its inputs."""
        lms = (self.own, *self.all)
        return len(self.predictors) == 1 and any(asks_for_a_rollout(lm, self.predictors[0], self.kwargs) for lm in lms)

    def decide_at_once(self, types: Mapping[str, Any], written: float) -> bool:
        """Whether the program answers from a few given labels with each of them, without reasoning first.

        Args:
            types: The type of each output field that is part of the answer.
            written: Tokens that samples have written on average.
        """
        return all(decides_at_once(self.program, types, lm, written) for lm in self.all)

    def sharing(self, most: int, *, wait: bool = False, turn: Turn | None = None) -> dict[str, int]:
        """How many samples may share a request, by the name of each for which that is more than one.

        Args:
            most: What the user allows.
            wait: Whether to wait for what a shared request needs.
            turn: The call, if it is to be made alike each time.
        """
        found = {
            name: choices_per_request(self.program, self.predictors, self.kwargs, most, lm, wait=wait, turn=turn)
            for name, lm in self.by_name.items()
            if not isinstance(lm, ByPredictor)  # of several predictors, which share none
        }
        return {name: choices for name, choices in found.items() if choices > 1}
