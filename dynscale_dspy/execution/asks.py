"""What a sample asks in place of the program's own language model: one for all predictors, or one for each of some."""

from __future__ import annotations

import copy
from typing import Any

import dspy

from dynscale_dspy._models import ByPredictor
from dynscale_dspy._naming import named_predictors
from dynscale_dspy.execution.introspection import innermost, is_predictor
from dynscale_dspy.execution.sample_lm import original


class PredictorsAsk:
    """What the predictors of a program ask in one sample, where they have language models of their own.

    Args:
        choice: What each asks, by name.
        program: The program.
        around: What the sample around this one asks, which goes for predictors that are left out; None for nothing.
    """

    def __init__(self, choice: ByPredictor, program: dspy.Module, around: Any) -> None:
        self._around = around
        self._any = original(next(iter(choice.values())))
        self._stand_in: Any = None
        self._by_id: dict[int, Any] = {}
        self._by_signature: dict[int, list[Any]] = {}
        for name, predictor in named_predictors(program):
            self._by_id[id(predictor)] = asked = original(choice.get(name))
            self._by_signature.setdefault(id(predictor.signature), []).append(asked)

    def of(self, predictor: Any) -> Any:
        """What a predictor asks; None for its own.

        A copy that the program makes as it runs, such as those of ``dspy.BestOfN``, is known by its signature.
        """
        asked = self._by_id.get(id(predictor))
        if asked is None and id(predictor) not in self._by_id:
            (asked,) = alike if len(alike := self._by_signature.get(id(_signature_of(predictor)), ())) == 1 else (None,)
        return asked if asked is not None else asked_by(self._around, predictor)

    def beside(self, lm: Any) -> Any:
        """What DSPy's settings are to hold: DSPy calls no predictor where they hold none, whatever it asks here.

        Args:
            lm: The program's own; None for none.
        """
        around = None if isinstance(self._around, PredictorsAsk) else self._around
        lm = lm if around is None else around
        if lm is None:
            lm = self._stand_in = copy.copy(self._any)
        return lm

    def check(self, lm: Any) -> None:
        """Raise what DSPy does if a predictor that is left out has none of its own either.

        Args:
            lm: What it would ask.

        Raises:
            ValueError: If that is what stands in DSPy's settings for none.
        """
        if self._stand_in is not None and lm is self._stand_in:
            raise ValueError(
                "No LM is loaded. Please configure the LM using `dspy.configure(lm=dspy.LM(...))`, or name this "
                "predictor in lms="
            )


def asks_in(program: dspy.Module, chosen: Any, around: Any) -> Any:
    """What the samples of a program ask in place of its own: a language model, a :class:`PredictorsAsk`, or None.

    Args:
        program: The program.
        chosen: What this sample was drawn from; None for the program's own.
        around: What the sample around it asks; None for nothing.
    """
    if isinstance(chosen, ByPredictor):
        asks: Any = PredictorsAsk(chosen, program, around)
    else:  # all parts of a program move together: those scaled by themselves ask what the sample around asks
        asks = around if chosen is None else original(chosen)
    lone = innermost(program)
    return asks.of(lone) if isinstance(asks, PredictorsAsk) and is_predictor(lone) else asks


def asked_by(asks: Any, predictor: Any) -> Any:
    """What a predictor asks in a sample; None for its own.

    Args:
        asks: What :func:`asks_in` gave.
        predictor: The predictor.
    """
    return asks.of(predictor) if isinstance(asks, PredictorsAsk) else asks


def _signature_of(predictor: Any) -> Any:
    return vars(predictor).get("signature") if isinstance(predictor, dspy.Predict) else None
