"""A known set of calls, answered together."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from dynscale_dspy import _progress
from dynscale_dspy.allocation.costs import Cost
from dynscale_dspy.execution.call import Scaled
from dynscale_dspy.execution.desk import BatchDesk
from dynscale_dspy.execution.drivers import drive_known
from dynscale_dspy.execution.known_call import KnownCall, answer_unsure, judge_all
from dynscale_dspy.sampling.batch_plan import coordinate
from dynscale_dspy.sampling.sample import Sample
from dynscale_dspy.sampling.steps import Job

logger = logging.getLogger(__name__)


def answer_all(
    scaled: Scaled,
    inputs: Sequence[Mapping[str, Any]],
    *,
    num_threads: int,
    max_errors: int,
    in_order: bool,
    provide_traceback: bool,
    disable_progress_bar: bool,
) -> tuple[list[Any], dict[int, Exception]]:
    """Answer a known set of calls with the exact bandit.

    Args:
        scaled: The wrapper that is called.
        inputs: The inputs of each call by name; at least one call.
        num_threads: Samples at a time.
        max_errors: If this many samples of every language model fail before any succeeds, the first error is raised.
        in_order: Whether decisions are made in the order of issue, so that they do not depend on timing.
        provide_traceback: Whether to log tracebacks of failed calls.
        disable_progress_bar: Whether to hide the progress bar.

    Returns:
        The predictions in the order of the calls, None for those that failed, and the errors by position.

    Raises:
        BudgetExhausted: If there is not one sample for each call; nothing is spent then.
    """
    calls = [KnownCall(scaled, dict(kwargs)) for kwargs in inputs]
    pool = scaled.pool
    names = [call.name for call in calls] if pool.is_durable else None
    desk = BatchDesk(pool, len(calls), program=scaled.owner, requests=calls[0].requests_guess, keys=names)
    limit = desk.known.limit
    total = int(limit) if limit != float("inf") else None
    lms = scaled.settings.lms
    models = lms if scaled.settings.has_several_lms and lms is not None else ("",)
    progress = _Progress(pool, total, models=models, max_errors=max_errors, hidden=disable_progress_bar)
    try:
        for call in calls:
            call.begin()
        steps = coordinate(
            [call.plan for call in calls],
            desk.known,
            pool.policy,
            # In order, twice as many outstanding as run at once: one slow answer is not to idle the rest.
            window=2 * num_threads if in_order else num_threads,
            narrowing=in_order,
        )
        drive_known(
            steps,
            lambda job, slot: calls[job.call].run(job, slot),
            desk,
            num_threads=num_threads,
            done=progress.done,
            after=lambda jobs, samples: calls[jobs[0].call].embedded(samples),
            in_order=in_order,
        )
        judge_all(calls, num_threads)
        answer_unsure(calls, num_threads)
        return _end(calls, provide_traceback=provide_traceback)
    finally:
        progress.close()
        desk.close()
        for call in calls:
            call.abandon()


def _end(calls: Sequence[KnownCall], *, provide_traceback: bool) -> tuple[list[Any], dict[int, Exception]]:
    results: list[Any] = []
    errors: dict[int, Exception] = {}
    for position, call in enumerate(calls):
        try:
            results.append(call.end())
        except Exception as error:
            # Neither the example nor the error's words: both may hold what does not belong in a log.
            logger.error(
                "every sample of example %d failed, the first with %s",
                position,
                type(error).__name__,
                exc_info=provide_traceback,
            )
            results.append(None)
            errors[position] = error
    return results, errors


class _Progress:
    """Shows how far a known set is, and raises the first error where nothing works.

    Args:
        pool: Notes that a sample has finished.
        total: Samples the set may draw; None if that is not known.
        models: The names of the language models that calls draw from.
        max_errors: Samples of each that may fail before any succeeds.
        hidden: Whether to show nothing.
    """

    def __init__(self, pool: Any, total: int | None, *, models: Iterable[str], max_errors: int, hidden: bool) -> None:
        self._pool = pool
        self._max_errors = max_errors
        self._bar = _progress.bar(total, "sample", hidden=hidden)
        self._spent = Cost()
        self._succeeded = False
        self._first: BaseException | None = None
        self._failures = dict.fromkeys(models, 0)

    def done(self, job: Job, sample: Sample) -> None:
        """Count a finished sample."""
        self._spent += sample.cost
        self._bar.set_postfix_str(_money(self._spent), refresh=False)
        self._bar.update()
        self._pool.note()
        self._succeeded = self._succeeded or sample.error is None
        if sample.error is not None and not self._succeeded:
            self._first = self._first or sample.error
            self._failures[sample.draw.sampler.model] += 1
            if min(self._failures.values()) >= self._max_errors:
                raise self._first

    def close(self) -> None:
        """Leave the bar as it stands."""
        self._bar.close()


def _money(spent: Cost) -> str:
    return f"{spent.tokens:,} tokens" + (f", ${spent.dollars:.4f}" if spent.nanodollars else "")
