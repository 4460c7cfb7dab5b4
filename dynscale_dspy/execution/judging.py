"""Asking a judge which of a call's answers wins: calls of their own, which the same budget pays."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import dspy

from dynscale_dspy.execution.drivers import adrive, drive
from dynscale_dspy.reporting import text
from dynscale_dspy.sampling.sample import Sample
from dynscale_dspy.selection.answers import Record
from dynscale_dspy.selection.groups import groups_of, speakers_of
from dynscale_dspy.selection.judge import Judge

if TYPE_CHECKING:
    from dynscale_dspy.execution.call import Call
    from dynscale_dspy.sampling.plan import Plan

logger = logging.getLogger(__name__)


class Hearing:
    """What a judge says of the answers of one call.

    Args:
        judge: The judge.
        plan: The call's plan, which draws no more.
        inputs: The call's inputs by name.
        call: Makes a call of the judge's program with some inputs, in the same pool.
    """

    def __init__(
        self, judge: Judge, plan: Plan, inputs: Mapping[str, Any], call: Callable[[dspy.Module, dict[str, Any]], Call]
    ) -> None:
        self._judge = judge
        self._plan = plan
        self._inputs = inputs
        self._call = call

    def winner(self, winner: Sample) -> Sample:
        """The sample that wins.

        Args:
            winner: The one that wins by votes.
        """
        groups = groups_of(self._plan.selection)
        verdicts = [self._verdict(order) for order in self._judge.orders(groups)]
        return self._elected(winner, verdicts)

    async def awinner(self, winner: Sample) -> Sample:
        """The same from a task."""
        groups = groups_of(self._plan.selection)
        verdicts = [await self._averdict(order) for order in self._judge.orders(groups)]
        return self._elected(winner, verdicts)

    def _verdict(self, order: Sequence[int]) -> int | None:
        try:
            call = self._asked(order)
            with dspy.context(trace=[]):  # the judge's program is no part of the user's
                return _named(call.finish(drive(call.steps(), call.run, call.desk())), order)
        except Exception as error:
            return _without(error)

    async def _averdict(self, order: Sequence[int]) -> int | None:
        try:
            call = self._asked(order)
            with dspy.context(trace=[]):
                return _named(call.finish(await adrive(call.steps(), call.arun, call.desk())), order)
        except Exception as error:
            return _without(error)

    def _asked(self, order: Sequence[int]) -> Call:
        groups = groups_of(self._plan.selection)
        task = "\n".join(f"{name}: {text.said(value)}" for name, value in self._inputs.items())
        candidates = [_shown(groups[at].answer) for at in order]
        return self._call(self._judge.program or _own_program(), {"task": task, "candidates": candidates})

    def _elected(self, winner: Sample, verdicts: Sequence[int | None]) -> Sample:
        if not any(verdict is not None for verdict in verdicts):
            return winner
        groups = groups_of(self._plan.selection)
        elected = groups[self._judge.elected(groups, verdicts)]
        if winner.draw.index in elected.samples:
            return winner
        speaker = speakers_of(elected)[0]  # the answer that the judge has seen
        return next(sample for sample in self._plan.samples if sample.draw.index == speaker)


class Choose(dspy.Signature):
    """Several answers to one task were written independently. Compare them, and say which is the best."""

    task: str = dspy.InputField()
    candidates: list[str] = dspy.InputField()
    best: int = dspy.OutputField(desc="its number in the list, from 1")


@lru_cache(maxsize=1)
def _own_program() -> dspy.Module:
    return dspy.ChainOfThought(Choose)


def _shown(answer: Any) -> str:
    if isinstance(answer, Record):
        return "\n".join(f"{name}: {text.said(value)}" for name, value in answer.items())
    return text.said(answer)


def _named(prediction: Any, order: Sequence[int]) -> int | None:
    """The position that a verdict is for; None if it names no answer that was shown."""
    best = getattr(prediction, "best", None)
    if isinstance(best, str) and best.strip().isdecimal():
        best = int(best.strip()[:9])  # of a signature without types, "task, candidates -> best"
    return order[best - 1] if isinstance(best, int) and not isinstance(best, bool) and 1 <= best <= len(order) else None


def _without(error: Exception) -> None:
    # Its type only: the message may quote what the model said.
    logger.warning("a judge gave no verdict, and the vote stands: %s", type(error).__name__)
