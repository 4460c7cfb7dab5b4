"""Requests of tasks are charged in a thread, before DSPy tells of them on the event loop."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from dynscale_dspy.execution.books import unblocked
from dynscale_dspy.execution.shared_request import calling

if TYPE_CHECKING:
    from dynscale_dspy.execution.meter import Meter


class PayingLM:
    """Stands where a language model is expected, for a sample that a pool in a file pays. All else is the model's.

    A sample's meter hears of a request in a callback, which cannot be awaited: to charge it there would have the event
    loop wait for the file. So what is asked from a task is charged here, in a thread, and the meter finds it paid.

    Only adapters ask through this. A program that calls a language model itself, as in ``await lm.acall(...)``, still
    has its request charged on the loop: within what is set aside for the sample that takes no file, beyond it does.

    Args:
        lm: The language model that makes the request.
        meter: The sample's meter.
    """

    def __init__(self, lm: Any, meter: Meter) -> None:
        self._lm = lm
        self._meter = meter

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["_lm"], name)

    def __call__(self, prompt: Any = None, *, messages: Any = None, **kwargs: Any) -> Any:
        """Ask from a thread, which may wait."""
        with calling(self._lm, messages):
            return self._lm(prompt, messages=messages, **kwargs)

    async def acall(self, prompt: Any = None, *, messages: Any = None, **kwargs: Any) -> Any:
        """Charge the request in a thread, then make it.

        Raises:
            CallRefused: If it cannot be paid.
        """
        meter = self._meter
        inputs = {"prompt": prompt, "messages": messages, "kwargs": kwargs}
        paid = await unblocked(True, partial(meter.pay, self._lm, inputs, in_task=True), undo=meter.finish)
        try:
            with meter.offering(paid), calling(self._lm, messages):
                return await self._lm.acall(prompt, messages=messages, **kwargs)
        finally:
            await unblocked(True, partial(meter.finish, paid))
