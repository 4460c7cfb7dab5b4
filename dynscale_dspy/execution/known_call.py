"""One call of a known set: a module call like any other to DSPy, though all of the set's are open at once."""

from __future__ import annotations

import contextvars
from collections.abc import Generator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from typing import Any

import dspy

from dynscale_dspy import _ambient
from dynscale_dspy.allocation.evidence import falls_short
from dynscale_dspy.execution.call import Call, Scaled
from dynscale_dspy.execution.shared_request import Slot
from dynscale_dspy.sampling.plan import Plan
from dynscale_dspy.sampling.sample import Sample
from dynscale_dspy.sampling.steps import Job


class KnownCall:
    """One call of a known set as DSPy sees it: a module call with its callbacks, callers and usage.

    All of them are open at once while their samples are drawn, so each is a coroutine in a context of its own, begun
    with the batch and resumed at its end. There is no event loop: it waits for nothing but the batch.

    Args:
        scaled: The wrapper that is called.
        kwargs: The call's inputs by name.
    """

    def __init__(self, scaled: Scaled, kwargs: dict[str, Any]) -> None:
        self._call = Call(scaled, (), kwargs, known=True)
        self._scaled = scaled
        self._context = contextvars.copy_context()
        self._coroutine: Any = None
        self._answered: Future[Any] | None = None
        self._winner: Sample | None = None

    @property
    def owner(self) -> dspy.Module:
        """The wrapper that is called."""
        return self._scaled.owner

    @property
    def plan(self) -> Plan:
        """The call's plan."""
        return self._call.plan

    @property
    def name(self) -> bytes | None:
        """A name of the call that outlives the process; see :attr:`Call.name`."""
        return self._call.name

    @property
    def requests_guess(self) -> int:
        """The language-model requests a sample makes, as far as the program tells."""
        return self._call.requests_guess

    def begin(self) -> None:
        """Run DSPy's side of the call up to where its samples are drawn."""
        self._coroutine = self.owner.acall(**self._call.kwargs)
        self._context.run(_ambient.known_call.set, self)
        self._context.run(self._coroutine.send, None)

    async def wait(self) -> Any:
        """What the wrapper does meanwhile: nothing until the batch ends, then hand over the winner."""
        _ambient.known_call.set(None)  # its samples run in copies of this context, and may call the module again
        await _Pause()
        if not self.plan.samples:
            raise self._scaled.pool.admission.exhausted(self.owner, self._call.requests_guess)
        prediction = self._call.finish(self._call.outcome(self._winner or self.plan.winner()))
        return self._call.answer(prediction) if self._answered is None else self._answered.result()

    def run(self, job: Job, slot: Slot | None = None) -> Sample:
        """Draw one sample, inside this call; see :meth:`Call.run`."""
        return self._context.copy().run(self._call.run, job, slot)

    def embedded(self, samples: list[Sample]) -> list[Sample]:
        """These samples with the vectors of their texts, where the selector compares by those."""
        embedding = self._call.embedding
        return samples if embedding is None else self._context.copy().run(embedding.of, samples)

    @property
    def is_unsure(self) -> bool:
        """Whether a function or another module will have to answer in the winner's place."""
        settings = self._scaled.settings
        if settings.min_confidence is None or not callable(settings.on_low) or not self.plan.samples:
            return False
        self.plan.winner()  # its votes count as they do now that all calls are known
        return falls_short(self.plan.confidence, settings.min_confidence)

    @property
    def is_to_be_judged(self) -> bool:
        """Whether a judge will have to say which answer wins."""
        return bool(self.plan.samples) and self._call.hearing is not None

    def judge(self) -> None:
        """Have a judge say which answer wins."""
        winner, hearing = self.plan.winner(), self._call.hearing
        if hearing is not None and winner.error is None:
            self._winner = self._context.copy().run(hearing.winner, winner)

    def answer_in(self, executor: Executor) -> None:
        """Have ``on_low`` asked in another thread, rather than in turn when the batch ends."""
        self._answered = executor.submit(self._answer)

    def end(self) -> Any:
        """The call's prediction.

        Raises:
            BaseException: Its first sample's error, if every sample failed.
        """
        try:
            self._context.run(self._coroutine.send, None)
        except StopIteration as stop:
            return stop.value
        raise RuntimeError("the call waits for something other than its batch")

    def abandon(self) -> None:
        """Leave a call that has not ended; one that has stays as it is."""
        if self._coroutine is not None:
            self._context.run(self._coroutine.close)

    def _answer(self) -> Any:
        winner = self._winner or self.plan.winner()
        if winner.error is not None:
            return None  # the call fails with it
        outcome = self._call.outcome(winner)
        return self._context.copy().run(self._call.answer, outcome.winner.prediction)


def answer_unsure(calls: Sequence[KnownCall], num_threads: int) -> None:
    """Ask a function or another module about all unsure calls side by side."""
    unsure = [call for call in calls if call.is_unsure]
    if not unsure:
        return
    with ThreadPoolExecutor(min(num_threads, len(unsure)), thread_name_prefix="dynscale-on-low") as executor:
        for call in unsure:
            call.answer_in(executor)


def judge_all(calls: Sequence[KnownCall], num_threads: int) -> None:
    """Have judges say which answers win, side by side."""
    open_calls = [call for call in calls if call.is_to_be_judged]
    if not open_calls:
        return
    with ThreadPoolExecutor(min(num_threads, len(open_calls)), thread_name_prefix="dynscale-judge") as executor:
        for future in [executor.submit(call.judge) for call in open_calls]:
            future.result()


class _Pause:
    """Hands control back to whoever drives the coroutine."""

    def __await__(self) -> Generator[None, None, None]:
        yield
