"""Texts of a call's samples, embedded round by round: requests that the same budget pays, and no samples."""

from __future__ import annotations

import contextvars
import logging
import math
from collections.abc import Callable, Generator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from dynscale_dspy.execution.drivers import in_thread
from dynscale_dspy.execution.threads import Threads
from dynscale_dspy.sampling.sample import Sample
from dynscale_dspy.sampling.steps import Consult, Round, Step
from dynscale_dspy.selection.base import Choice
from dynscale_dspy.selection.embeddings import Passage, Vector, by_embedder, vectors, with_vectors, without_vectors

logger = logging.getLogger(__name__)

_asking = Threads(4, name="dynscale-embedding")


class Embedding:
    """The vectors of one call's texts. Safe from any thread.

    Args:
        pay: Pays for one request; False if that cannot be.
        seconds_left: Seconds for which an answer may be waited for.
    """

    def __init__(self, pay: Callable[[], bool], seconds_left: Callable[[], float]) -> None:
        self._pay = pay
        self._seconds_left = seconds_left
        self._known: dict[tuple[int, str], Vector] = {}
        self._problem = ""

    def steps(self, steps: Generator[Step, Any, Any]) -> Generator[Step, Any, Any]:
        """The steps of a call, in which each round's texts are embedded before its votes are counted.

        Args:
            steps: The call's steps.
        """
        reply: Any = None
        try:
            while True:
                try:
                    step = steps.send(reply)
                except StopIteration as stop:
                    return stop.value
                reply = yield step
                if isinstance(step, Round) and any(job.lease is not None for job in step.jobs):
                    reply = yield Consult(partial(self.of, reply), partial(self.aof, reply))
        finally:
            steps.close()

    def of(self, samples: Sequence[Sample]) -> list[Sample]:
        """The samples with the vectors of their texts; where these cannot be had, as they are."""
        new = [passage for passage in without_vectors(s.vote for s in samples) if self._vector_of(passage) is None]
        for embedder, texts in by_embedder(new):
            try:
                made = self._asked(embedder, texts)
            except Exception as error:
                # Its type only: the message may quote the texts.
                self._fail(type(error).__name__)
            else:
                self._known |= {(id(embedder), text): vector for text, vector in zip(texts, made, strict=True)}
        return [replace(sample, vote=with_vectors(sample.vote, self._vector_of)) for sample in samples]

    async def aof(self, samples: Sequence[Sample]) -> list[Sample]:
        """The same from a task, in a thread: an embedder may block."""
        return await in_thread(partial(self.of, samples))

    def told(self, choice: Choice) -> Choice:
        """The selector, and why it is this one; and that texts are compared by words, where they are."""
        if not self._problem:
            return choice
        said = f"some texts are compared by their words, since they could not be embedded ({self._problem})"
        return replace(choice, why="; ".join(filter(None, (choice.why, said))))

    def _asked(self, embedder: Callable[[list[str]], Any], texts: list[str]) -> list[Vector]:
        left = self._seconds_left()
        if left <= 0 or not self._pay():
            raise Unpaid
        if left == math.inf:
            return vectors(embedder, texts)
        return _asking.submit(contextvars.copy_context().run, vectors, embedder, texts).result(timeout=left)

    def _vector_of(self, passage: Passage) -> Vector | None:
        return self._known.get((id(passage.embedder), passage.text))

    def _fail(self, problem: str) -> None:
        if not self._problem:
            logger.warning("texts could not be embedded, and are compared by their words: %s", problem)
        self._problem = problem


class Unpaid(Exception):
    """The pool cannot pay for a request, or its deadline has passed."""
