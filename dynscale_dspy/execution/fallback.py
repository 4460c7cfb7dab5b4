"""What a call returns if its confidence is below ``min_confidence``."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import dspy

from dynscale_dspy.errors import LowConfidence
from dynscale_dspy.execution.drivers import in_thread
from dynscale_dspy.reporting.explanation import Explanation, keep


@dataclass(frozen=True)
class Fallback:
    """An unsure answer, and what the user wants instead of it.

    Args:
        on_low: ``"abstain"``, ``"raise"``, a DSPy module or a function.
        prediction: The winner's prediction.
        explanation: How the call came to it.
        min_confidence: The confidence that the module asked for.
    """

    on_low: Any
    prediction: Any
    explanation: Explanation
    min_confidence: float

    def answer(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        """What the call returns.

        Args:
            args: The call's positional inputs.
            kwargs: Its inputs by name.

        Raises:
            LowConfidence: If ``on_low`` is ``"raise"``.
        """
        if not callable(self.on_low):
            return self._without_asking()
        return self._explained(self.on_low(*self._inputs(args), **kwargs))

    async def aanswer(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        """As :meth:`answer`. A function or module that is not async runs in a thread."""
        if not callable(self.on_low):
            return self._without_asking()
        ask: Any = self.on_low
        if self._is_module and hasattr(ask, "aforward"):
            ask = ask.acall
        elif not is_async(ask):
            return await in_thread(lambda: self.answer(args, kwargs))
        return self._explained(await ask(*self._inputs(args), **kwargs))

    @property
    def _is_module(self) -> bool:
        return isinstance(self.on_low, dspy.Module)

    def _inputs(self, args: Sequence[Any]) -> tuple[Any, ...]:
        """A module answers the call anew; a function is also given the winner."""
        return tuple(args) if self._is_module else (self.prediction, *args)

    def _without_asking(self) -> Any:
        if self.on_low == "raise":
            raise LowConfidence(self.prediction, self.explanation, self.min_confidence)
        if not isinstance(self.prediction, dspy.Prediction):
            return None
        return self._explained(dspy.Prediction(**dict.fromkeys(self.prediction.keys())))

    def _explained(self, result: Any) -> Any:
        keep(result, self.explanation)
        return result


def is_async(on_low: Any) -> bool:
    """Whether a call of it returns something to await."""
    return inspect.iscoroutinefunction(on_low) or inspect.iscoroutinefunction(getattr(on_low, "__call__", None))  # noqa: B004


def check_sync(on_low: Any) -> None:
    """Refuse an ``async`` function before anything is spent on a call that cannot await it.

    Raises:
        TypeError: If it is one.
    """
    if not isinstance(on_low, dspy.Module) and is_async(on_low):
        raise TypeError("on_low is an async function: await module.acall(...), or pass a plain function")
