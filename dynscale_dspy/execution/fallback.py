"""What happens to an answer whose vote is not sure enough."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import dspy

from dynscale_dspy.errors import LowConfidence
from dynscale_dspy.execution.drivers import in_thread
from dynscale_dspy.reporting import explanation as report
from dynscale_dspy.reporting.explanation import Explanation


@dataclass(frozen=True)
class Low:
    """One unsure answer, and what is to be done about it.

    Args:
        on_low: ``"abstain"``, ``"raise"``, a DSPy module or a function.
        prediction: The vote's winner.
        explanation: How the vote went.
        min_confidence: What was asked for.
    """

    on_low: Any
    prediction: Any
    explanation: Explanation
    min_confidence: float

    def settle(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        """What the caller gets.

        Raises:
            LowConfidence: If that is to be raised.
        """
        if isinstance(self.on_low, dspy.Module):
            return self._explained(self.on_low(*args, **kwargs))
        if callable(self.on_low):
            return self._explained(self.on_low(self.prediction, *args, **kwargs))
        return self._in_a_word()

    async def asettle(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        """As :meth:`settle`; what may block runs in a thread."""
        if isinstance(self.on_low, dspy.Module) and hasattr(self.on_low, "aforward"):
            # Its type says `Prediction` where it gives something to await.
            return self._explained(await cast(Any, self.on_low).acall(*args, **kwargs))
        if is_async(self.on_low):
            return self._explained(await cast(Any, self.on_low)(self.prediction, *args, **kwargs))
        if callable(self.on_low):
            return await in_thread(lambda: self.settle(args, kwargs))
        return self._in_a_word()

    def _in_a_word(self) -> Any:
        if self.on_low == "raise":
            raise LowConfidence(self.prediction, self.explanation, self.min_confidence)
        if not isinstance(self.prediction, dspy.Prediction):
            return None
        return self._explained(dspy.Prediction(**dict.fromkeys(self.prediction.keys())))

    def _explained(self, result: Any) -> Any:
        report.keep(result, self.explanation)
        return result


def is_async(on_low: Any) -> bool:
    """Whether calling it gives something to await."""
    return inspect.iscoroutinefunction(on_low) or inspect.iscoroutinefunction(getattr(on_low, "__call__", None))  # noqa: B004


def check_sync(on_low: Any) -> None:
    """Refuse an ``async`` function where nothing can await it, before anything is spent.

    Raises:
        TypeError: If it is one.
    """
    if not isinstance(on_low, dspy.Module) and is_async(on_low):
        raise TypeError("on_low is an async function: await module.acall(...), or pass a plain function")
