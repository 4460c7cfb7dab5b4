"""What happened: why an answer won, and what it cost."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import dspy

from dynscale_dspy.allocation.costs import Cost
from dynscale_dspy.allocation.tally import AnswerKey, Tally
from dynscale_dspy.reporting import text
from dynscale_dspy.sampling.plan import Plan
from dynscale_dspy.sampling.sample import Sample

_ATTRIBUTE = "_dynscale"  # a leading underscore keeps it out of the prediction's fields


@dataclass(frozen=True)
class Votes:
    """The votes of one answer.

    Args:
        answer: The answer as first given.
        independent: Votes of samples that saw the inputs alone.
        conditioned: Votes of samples that saw earlier ones.
    """

    answer: Any
    independent: float
    conditioned: float

    @property
    def total(self) -> float:
        """All votes, one each."""
        return self.independent + self.conditioned


@dataclass(frozen=True)
class SampleReport:
    """One sample of a call.

    Args:
        index: Its position, from 0.
        round: 0 for first samples, else one more than the latest it could know.
        shown: Indices of the samples it saw.
        prediction: What the program returned, None if it failed.
        answer: Its answer.
        key: The canonical form of its answer, under which it votes; None if it casts no vote.
        problem: Why it casts no vote (``"failed"``, ``"truncated"``, ``"no answer"``); empty if it does.
        error: The exception, if it failed.
        cost: What it cost.
        usage: Tokens by language model as DSPy's usage tracker reports them; empty where DSPy's cache answered.
        chain: Texts of earlier attempts that its predictors were shown; empty if it saw the inputs alone.
    """

    index: int
    round: int
    shown: tuple[int, ...]
    prediction: Any
    answer: Any
    key: AnswerKey | None
    problem: str
    error: BaseException | None
    cost: Cost
    usage: Mapping[str, list[dict[str, Any]]]
    chain: tuple[str, ...] = ()


@dataclass(frozen=True, repr=False)
class Explanation:
    """How a call came to its answer.

    Args:
        votes: Votes by answer, the winner first.
        agreement: The winner's share of the votes, 0 to 1.
        confidence: Posterior probability that the winner is ahead of the second answer in the long run, 1/2 to 1.
            About the vote, not about the truth: a model that is sure and wrong is confident here.
        samples: Every sample, in order.
        rounds: How many times the call waited for samples before it drew more.
        cost: What the call cost.
        min_confidence: What the module asked for; None if it takes any answer.
    """

    votes: tuple[Votes, ...]
    agreement: float
    confidence: float
    samples: tuple[SampleReport, ...]
    rounds: int
    cost: Cost
    min_confidence: float | None = None

    @property
    def is_low(self) -> bool:
        """Whether the vote was less sure than the module asked for, so that its ``on_low`` decided."""
        return self.min_confidence is not None and self.confidence < self.min_confidence

    @property
    def summary(self) -> str:
        """In a few words, e.g. ``8 samples, 3 answers, 62% agree``."""
        samples, answers = text.count(len(self.samples), "sample"), text.count(len(self.votes), "answer")
        return f"{samples}, {answers}, {self.agreement:.0%} agree"

    @property
    def attributes(self) -> dict[str, Any]:
        """For a tracing span: what :attr:`summary` says and more, as plain values."""
        return {
            "samples": len(self.samples),
            "conditioned": sum(votes.conditioned for votes in self.votes),
            "rounds": self.rounds,
            "answers": len(self.votes),
            "vote": self.votes[0].answer if self.votes else "",
            "votes": self.votes[0].total if self.votes else 0,
            "agreement": self.agreement,
            "confidence": self.confidence,
            "requests": self.cost.requests,
        }

    def __repr__(self) -> str:
        return f"Explanation({self.summary}, confidence {self.confidence:.2f})"

    def __str__(self) -> str:
        return text.explanation(self)

    def _repr_html_(self) -> str:
        from dynscale_dspy.reporting import html

        return html.explanation(self)

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        printer.text(str(self))

    # Predictions are copied deep by optimizers; this is immutable and may be shared.
    def __deepcopy__(self, memo: dict[int, Any]) -> Explanation:
        return self


def explain(prediction: dspy.Prediction) -> Explanation:
    """Votes, agreement, confidence, samples, rounds and cost behind a wrapped program's prediction.

    Args:
        prediction: As a :class:`DynScaling` module returned it.

    Raises:
        ValueError: If it did not come from one, or is a copy (``prediction.copy()`` leaves this behind).
    """
    kept = getattr(prediction, _ATTRIBUTE, None)
    if not isinstance(kept, Explanation):
        raise ValueError(
            "this prediction did not come straight from a DynScaling module, so there is nothing to explain"
        )
    return kept


def attach(prediction: Any, plan: Plan, winner: Sample, *, min_confidence: float | None = None) -> Explanation:
    """Keep the explanation of a call with its prediction, out of sight of fields, metrics and demos; return it."""
    made = explanation(plan, winner, min_confidence=min_confidence)
    keep(prediction, made)
    return made


def keep(prediction: Any, made: Explanation) -> None:
    """Attach an explanation to a prediction that has none."""
    if isinstance(prediction, dspy.Prediction) and not isinstance(getattr(prediction, _ATTRIBUTE, None), Explanation):
        setattr(prediction, _ATTRIBUTE, made)


def explanation(plan: Plan, winner: Sample, *, min_confidence: float | None = None) -> Explanation:
    """How a call stands, given the winner so far."""
    samples = sorted(plan.samples, key=lambda sample: sample.draw.index)
    voters = [sample for sample in samples if sample.key is not None]
    independent = Tally.of(sample.key for sample in voters if not sample.draw.conditioned).votes
    conditioned = Tally.of(sample.key for sample in voters if sample.draw.conditioned).votes
    first = {sample.key: sample for sample in reversed(voters)}
    ranked = sorted(first, key=lambda key: (key != winner.key, -plan.tally.votes[key], first[key].draw.index))
    return Explanation(
        votes=tuple(Votes(first[key].answer, independent.get(key, 0), conditioned.get(key, 0)) for key in ranked),
        agreement=plan.tally.agreement,
        confidence=plan.tally.confidence,
        samples=tuple(
            SampleReport(
                index=sample.draw.index,
                round=sample.draw.round,
                shown=sample.draw.shown,
                prediction=sample.prediction,
                answer=sample.answer,
                key=sample.key,
                problem=sample.problem,
                error=sample.error,
                cost=sample.cost,
                usage=sample.usage,
                chain=tuple(dict.fromkeys(map(str, sample.draw.chain.values()))),
            )
            for sample in samples
        ),
        rounds=len({sample.draw.round for sample in samples}),
        cost=plan.cost,
        min_confidence=min_confidence,
    )
