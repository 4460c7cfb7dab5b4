"""What hears every request of a sample, whatever settings the program makes for itself and whatever thread asks.

A language model tells its own callbacks of each request, in any context and thread. So the one :data:`LISTENER` is put
among the callbacks of each language model that a program can reach, and asks whose request it is: that of the sample
whose settings these are, or where DSPy's settings do not reach (threads that the program starts itself), of one whose
program is at work. Copies of a language model carry it along. Outside samples it does nothing.
"""

from __future__ import annotations

import contextlib
import contextvars
import threading
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import dspy
from dspy.utils.callback import BaseCallback

from dynscale_dspy.budget.throttle import NoTurn
from dynscale_dspy.execution.capabilities import server_of
from dynscale_dspy.execution.connections import open_anew
from dynscale_dspy.execution.hints import CONNECTIONS, hint_of_connections
from dynscale_dspy.execution.meter import Meter, current_meter
from dynscale_dspy.execution.sample_lm import original


class Listener(BaseCallback):
    """Tells the meter of a sample of its requests, and has them pass the pool's throttle. There is one: LISTENER."""

    def __init__(self) -> None:
        self._open: dict[str, tuple[Meter, contextlib.ExitStack | None, Any]] = {}

    @property
    def under_way(self) -> int:
        """Requests of samples that are under way."""
        return len(self._open)

    def on_lm_start(self, call_id: str, instance: Any, inputs: dict[str, Any]) -> None:
        """Charge the request to the sample that makes it, once.

        Raises:
            CallRefused: If it cannot be paid.
        """
        if call_id in self._open:
            return  # DSPy's settings and the language model hold the listener both
        meter = _meter_here()
        if meter is None:
            return
        if meter is not current_meter():
            meter.lent += 1
        payer = meter.payer
        throttle = payer.throttle if payer is not None else None
        with contextlib.ExitStack() as stack:
            if payer is not None and throttle is not None:
                try:
                    stack.enter_context(throttle.passed(model=server_of(instance), patience=meter.patience))
                except NoTurn:
                    raise meter.cut_off() from None
            meter.on_lm_start(call_id, instance, inputs)
            self._open[call_id] = meter, stack.pop_all() if throttle is not None else None, instance
        if len(self._open) > CONNECTIONS:
            hint_of_connections(instance, (lm for _, _, lm in list(self._open.values())))

    def on_lm_end(self, call_id: str, outputs: Any, exception: BaseException | None = None) -> None:
        """Settle it."""
        meter, stack, _ = self._open.pop(call_id, (None, None, None))
        if meter is None:
            return
        try:
            meter.on_lm_end(call_id, outputs, exception)
        finally:
            if stack is not None:
                stack.__exit__(type(exception) if exception else None, exception, None)

    def on_module_start(self, call_id: str, instance: Any, inputs: dict[str, Any]) -> None:
        """Charge a request that DSPy before 3.2 tells of as of a module: one to a language model of a user's own."""
        if isinstance(instance, dspy.BaseLM):
            self.on_lm_start(call_id, instance, inputs)

    def on_module_end(self, call_id: str, outputs: Any, exception: BaseException | None = None) -> None:
        """Settle it."""
        self.on_lm_end(call_id, outputs, exception)

    # Language models are copied, saved and sent to other processes with their callbacks.
    def __copy__(self) -> Listener:
        return self

    def __deepcopy__(self, memo: dict) -> Listener:
        return self

    def __reduce__(self) -> str:
        return "LISTENER"


LISTENER = Listener()


def listen_to(lm: Any) -> None:
    """Have a language model tell the listener of its requests; it stays among the model's callbacks.

    In a forked child it opens connections of its own, too.
    """
    lm = original(lm)
    open_anew(lm)
    callbacks = getattr(lm, "callbacks", None)
    if callbacks is None and isinstance(lm, dspy.BaseLM):  # before DSPy 3.3, one of a user's own class
        callbacks = lm.callbacks = []
    if isinstance(callbacks, list) and LISTENER not in callbacks:
        callbacks.append(LISTENER)


def listen_around(program: dspy.Module, arguments: Mapping[str, Any]) -> None:
    """Listen to the language models that a call of a program can reach without making a new one.

    These are the one in DSPy's settings, here and as threads without a context see them, those in the arguments, and
    those that its modules have as attributes, also in lists, tuples and dicts.

    Args:
        program: The program.
        arguments: The call's arguments by name.
    """
    if current_meter() is None:
        _thread.has_other_work = True  # it calls wrapped programs
    listen_to(dspy.settings.lm)
    listen_to(contextvars.Context().run(lambda: dspy.settings.lm))
    for part in _parts([program, arguments]):
        if issubclass(type(part), dspy.BaseLM):
            listen_to(part)


def _parts(whole: object) -> Iterator[Any]:
    """The modules and language models in something, as deep as modules, lists, tuples and dicts go.

    DSPy's own walk goes through the histories of modules as well, which grow with every call.
    """
    waiting, seen = [whole], {id(whole)}
    while waiting:
        part = waiting.pop()
        kind = type(part)  # asked of the type, and walked as the builtin it is: no code of the part's own runs
        inner: Iterable[Any] = ()
        if issubclass(kind, dspy.Module):
            yield part
            own = dict(object.__getattribute__(part, "__dict__"))  # copied: other threads may run the program
            inner = [value for name, value in own.items() if name not in _NO_PARTS]
        elif issubclass(kind, dspy.BaseLM):
            yield part
        elif issubclass(kind, list):
            inner = list.__iter__(part)  # type: ignore[arg-type]
        elif issubclass(kind, tuple):
            inner = tuple.__iter__(part)  # type: ignore[arg-type]
        elif issubclass(kind, dict):
            inner = list(dict.values(part))  # type: ignore[arg-type]
        for value in inner:
            if issubclass(type(value), _MAY_HOLD) and id(value) not in seen:
                seen.add(id(value))
                waiting.append(value)


_NO_PARTS = frozenset({"history", "callbacks", "demos", "traces", "train", "signature", "config"})
_MAY_HOLD = (dspy.Module, dspy.BaseLM, list, tuple, dict)


# ---- whose request it is

_thread = threading.local()


def _meter_here() -> Meter | None:
    """The meter of the sample that this code runs for, as far as can be told.

    DSPy's settings say so, except in threads that a program starts itself. There it is the program that a module
    belongs to, or if that is in none (a language model called directly, a module just made), whoever runs samples now,
    unless the thread is known to do other work: that of a metric, say, or of another endpoint of a server.
    """
    meter = current_meter()
    if meter is not None:
        return meter
    meters = Meter.under_way()
    if not meters:
        _thread.has_other_work = True
        return None
    first = next(iter(dspy.settings.caller_modules or ()), None)
    mine = [meter for meter in meters if first is not None and _is_within(first, meter.owner)]
    if not mine:
        if threading.current_thread() is threading.main_thread() or getattr(_thread, "has_other_work", False):
            return None
        mine = meters
    # Nothing tells several samples of a program apart here; their pool's books are right whichever pays.
    return min(mine, key=lambda meter: meter.lent)


def _is_within(module: object, owner: object) -> bool:
    return isinstance(owner, dspy.Module) and any(part is module for part in _parts(owner))
