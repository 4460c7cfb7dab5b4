"""Status messages in the steps of a call, and the explanation of a call whose plan is at hand."""

from __future__ import annotations

from collections import Counter
from collections.abc import Generator
from typing import Any

from dynscale_dspy.execution.user_stream import UserStream
from dynscale_dspy.reporting.explanation import Explanation, explanation
from dynscale_dspy.reporting.streaming import asking_message, status_message, status_provider
from dynscale_dspy.sampling.plan import Plan
from dynscale_dspy.sampling.sample import Sample
from dynscale_dspy.sampling.steps import Round
from dynscale_dspy.selection.base import Choice, keys_of
from dynscale_dspy.selection.groups import groups_of


def explanation_of(
    plan: Plan,
    winner: Sample,
    *,
    min_confidence: float | None = None,
    choice: Choice | None = None,
    is_composed: bool = False,
) -> Explanation:
    """How a call stands.

    Args:
        plan: The call's plan.
        winner: The winner so far.
        min_confidence: The confidence that the module asked for.
        choice: What says which answer wins.
        is_composed: Whether the answer is put together from several samples'.
    """
    groups, evidence = groups_of(plan.selection), plan.selection.evidence()
    counted = evidence.samples
    agreeing = next((len(group.samples) for group in groups if winner.draw.index in group.samples), 0)
    agreement = agreeing / counted if counted else 0.0
    is_told = getattr(evidence, "probability", None) is not None
    # A judge may have chosen another one than the vote, whose confidence says nothing of it then.
    by_vote = plan.winner().draw.index
    as_voted = by_vote == winner.draw.index or any({by_vote, winner.draw.index} <= {*group.samples} for group in groups)
    return explanation(
        plan.samples,
        groups,
        winner,
        agreement=agreement,
        confidence=plan.confidence if as_voted else agreement,
        cost=plan.cost,
        keys=keys_of(plan.selection.groups()),
        votes={sample.draw.index: plan.counted(sample) for sample in plan.samples},
        min_confidence=min_confidence,
        is_told=is_told,
        calibrated_on=plan.calibrated_on if is_told else 0,
        choice=choice,
        is_composed=is_composed,
        rule=plan.rule,
    )


def with_notices(
    steps: Generator[Any, Any, Any], plan: Plan, stream: UserStream | None = None
) -> Generator[Any, Any, Any]:
    """The steps of a call, with a notice after each round if the user streams a :class:`SamplingStatus`.

    With several language models there is one before each round, too, which says what is asked.

    Args:
        steps: The call's steps.
        plan: The call's plan.
        stream: The user's stream, if there is one.
    """
    provider = status_provider()
    if provider is None or stream is None:
        return (yield from steps)
    reply: Any = None
    outcome: Any = None
    told = 0
    try:
        while True:
            try:
                step = steps.send(reply)
            except StopIteration as stop:
                step, outcome = None, stop.value
            if len(plan.samples) > told:
                told = len(plan.samples)
                message = status_message(provider, explanation_of(plan, plan.winner()))
                if message is not None:
                    yield stream.notice(message)
            if step is None:
                return outcome
            if isinstance(step, Round):
                models = Counter(job.draw.sampler.model for job in step.jobs if job.draw.sampler.model)
                message = asking_message(provider, models)
                if message is not None:
                    yield stream.notice(message)
            reply = yield step
    finally:
        steps.close()
