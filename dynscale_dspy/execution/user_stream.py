"""The stream of a user of ``dspy.streamify``: what a call with several samples sends to it, and from where it can.

Samples cannot stream themselves: their chunks would interleave, and all but the winner's would be of answers that lose.
So once the vote is over each of the user's listeners gets the winner's field, in one chunk. A call that draws one
sample only hands the stream on to it instead, and streams as the plain program does.

What tools and modules say of their progress is sent while it happens, of a call's first sample: once, as the plain
program would say it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from typing import Any

import anyio
import anyio.from_thread
import dspy
from dspy.streaming import StatusMessage, StatusMessageProvider, StreamResponse
from dspy.streaming.messages import StatusStreamingCallback
from dspy.utils.callback import BaseCallback
from pydantic_core import to_json, to_jsonable_python

from dynscale_dspy._naming import is_wrapper
from dynscale_dspy.budget.locking import running_loop
from dynscale_dspy.reporting.text import said
from dynscale_dspy.sampling.steps import Notice

logger = logging.getLogger(__name__)


class UserStream:
    """The stream that a call is made in, written to from any thread. No call fails for what cannot be sent.

    Args:
        stream: DSPy's end of it.
        loop: The loop of whoever reads it; None if that cannot be told, and then nothing is sent.

    Attributes:
        has_one_writer: Whether the call draws one sample only, which may then stream itself.
        is_handed_on: Whether it does.
    """

    def __init__(self, stream: Any, loop: asyncio.AbstractEventLoop | None) -> None:
        self._stream = stream
        self._loop = loop
        self._late: set[asyncio.Task[None]] = set()
        self.has_one_writer = False
        self.is_handed_on = False

    @staticmethod
    def here() -> UserStream | None:
        """The stream that a call made here is in; None if nobody streams it."""
        stream = dspy.settings.send_stream
        return None if stream is None else UserStream(stream, _starter() or running_loop())

    def hand_on(self, *, awaited: bool) -> Any:
        """DSPy's end of the stream, for the only sample of a call if it is about to run here; else None.

        Args:
            awaited: Whether it runs in a task, not in a thread.
        """
        if not self.has_one_writer or self._loop is None:
            return None
        # DSPy sends from tasks of the reader's loop, and from threads that this loop has started.
        loop = running_loop()
        if self._loop is not (loop if awaited else None if loop is not None else _starter()):
            return None
        self.is_handed_on = True
        return self._stream

    def notice(self, item: Any) -> Notice:
        """The step that sends something."""
        return Notice(partial(self.post, item), partial(self._send, item))

    def post(self, item: Any) -> None:
        """Send something from any thread, without waiting."""
        if self._loop is None:
            logger.debug("nothing is streamed from a thread that dspy.streamify did not start")
        elif running_loop() is self._loop:
            self._put(item)
        else:
            try:
                self._loop.call_soon_threadsafe(self._put, item)
            except RuntimeError:
                logger.debug("the loop that read a stream is closed")

    def _put(self, item: Any) -> None:
        """Send in the reader's loop, and keep the order: what finds no room waits for its turn."""
        try:
            self._stream.send_nowait(item)
        except anyio.WouldBlock:
            assert self._loop is not None
            task = self._loop.create_task(self._send(item))
            self._late.add(task)
            task.add_done_callback(self._late.discard)
        except Exception as error:
            _not_sent(error)

    async def _send(self, item: Any) -> None:
        if running_loop() is not self._loop:
            self.post(item)
            return
        try:
            await self._stream.send(item)
        except Exception as error:
            _not_sent(error)


def _not_sent(error: Exception) -> None:
    logger.debug("a stream takes no more: %s", type(error).__name__)


def _starter() -> asyncio.AbstractEventLoop | None:
    """The loop that has started this thread for blocking code, as ``dspy.streamify`` does."""
    try:
        return anyio.from_thread.run_sync(asyncio.get_running_loop)
    except RuntimeError:
        return None


def winning_chunks(trace: Iterable[tuple[Any, Any, Any]], listeners: Sequence[Any]) -> Iterator[StreamResponse]:
    """What the user's listeners would have heard of the winner, each field in one chunk.

    A listener hears a predictor's first answer, and later ones only with ``allow_reuse``, as in DSPy. It is told that
    it has heard it: DSPy streams the final prediction to someone who does not ask for it if no listener heard anything.

    Args:
        trace: The winner's, in DSPy's form: predictor, inputs, prediction.
        listeners: The user's.
    """
    for predictor, _, prediction in trace:
        for listener in listeners:
            if not _is_meant(listener.predict, predictor) or listener.signature_field_name not in prediction:
                continue
            if listener.stream_end and not getattr(listener, "allow_reuse", False):
                continue
            listener.stream_start = listener.stream_end = True
            chunk = _written(prediction[listener.signature_field_name])
            yield StreamResponse(listener.predict_name, listener.signature_field_name, chunk, is_last_chunk=True)


def is_listened_to(predictor: Any) -> bool:
    """Whether one of the user's listeners names this very predictor."""
    return any(listener.predict is predictor for listener in dspy.settings.stream_listeners or [])


def _is_meant(named: Any, predictor: Any) -> bool:
    """Whether a listener to this predictor, or to a wrapper of it, hears this one."""
    return _bare(named) is _bare(predictor)


def _bare(module: Any) -> Any:
    """What is inside all wrappers."""
    while is_wrapper(module):
        module = module.module
    return module


def _written(value: Any) -> Any:
    """A field as text, as JSON where it is not text already; of DSPy's types that stream as they are, the value."""
    try:
        plain = to_jsonable_python(value, fallback=str)
        if isinstance(plain, str):
            return plain
        if isinstance(value, dspy.Type) and value.is_streamable():
            return value
        return to_json(plain).decode()
    except Exception:  # of the value's own class
        return said(value)


class FirstSampleStatus(BaseCallback):
    """Sends what a user's provider has to say of a call's first sample, while it runs, in whatever thread that is.

    Args:
        provider: The user's.
        stream: Where its messages go.
        programs: What is sampled. It begins and ends for the user with the call, which DSPy tells of itself.
    """

    def __init__(self, provider: StatusMessageProvider, stream: UserStream, programs: tuple[Any, ...]) -> None:
        self._provider = provider
        self._stream = stream
        self._programs = programs
        self._silent: set[str] = set()

    def within(self, program: Any) -> FirstSampleStatus:
        """The same for the first sample of a call inside the sample, of this program."""
        return FirstSampleStatus(self._provider, self._stream, (*self._programs, program))

    def on_tool_start(self, call_id: str, instance: Any, inputs: dict[str, Any]) -> None:
        """Say that a tool is called; not that an agent ends with DSPy's tool ``finish``."""
        if instance.name != "finish":
            self._say(self._provider.tool_start_status_message(instance, inputs))

    def on_tool_end(self, call_id: str, outputs: Any, exception: BaseException | None = None) -> None:
        """Say that it has returned."""
        if outputs != "Completed.":
            self._say(self._provider.tool_end_status_message(outputs))

    def on_module_start(self, call_id: str, instance: Any, inputs: dict[str, Any]) -> None:
        """Say that a module is called."""
        if any(instance is program for program in self._programs):
            self._silent.add(call_id)
        else:
            self._say(self._provider.module_start_status_message(instance, inputs))

    def on_module_end(self, call_id: str, outputs: Any, exception: BaseException | None = None) -> None:
        """Say that it has returned."""
        if call_id in self._silent:
            self._silent.discard(call_id)
        else:
            self._say(self._provider.module_end_status_message(outputs))

    def on_lm_start(self, call_id: str, instance: Any, inputs: dict[str, Any]) -> None:
        """Say that a language model is asked."""
        self._say(self._provider.lm_start_status_message(instance, inputs))

    def on_lm_end(self, call_id: str, outputs: Any, exception: BaseException | None = None) -> None:
        """Say that it has answered."""
        self._say(self._provider.lm_end_status_message(outputs))

    def _say(self, words: str | None) -> None:
        if words:
            self._stream.post(StatusMessage(words))


def status_callbacks(callbacks: Iterable[Any], stream: UserStream | None, program: Any, *, first: bool) -> list[Any]:
    """Callbacks for a sample, which say how the first one gets on and nothing of the others.

    Args:
        callbacks: Those around the call.
        stream: The stream that the call was made in, if any.
        program: What is sampled.
        first: Whether it is the call's first sample.
    """
    kept = []
    for callback in callbacks:
        if isinstance(callback, StatusStreamingCallback):
            if first and stream is not None:
                kept.append(FirstSampleStatus(callback.status_message_provider, stream, (program,)))
        elif not isinstance(callback, FirstSampleStatus):
            kept.append(callback)
        elif first:
            kept.append(callback.within(program))
    return kept
