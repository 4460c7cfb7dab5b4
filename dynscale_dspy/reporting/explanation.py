"""How a call came to its answer: votes, samples and cost."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import dspy

from dynscale_dspy.allocation.costs import Cost
from dynscale_dspy.allocation.evidence import falls_short
from dynscale_dspy.reporting import html, text
from dynscale_dspy.sampling.sample import Sample
from dynscale_dspy.selection.base import Choice, Group, Vote, keys_of
from dynscale_dspy.selection.groups import AlikeGroup

# The leading underscore keeps it out of the prediction's fields.
_ATTRIBUTE = "_dynscale"


@dataclass(frozen=True)
class Votes:
    """The votes of one answer, or of answers that are much alike where the selector tells how alike answers are.

    Args:
        answer: The answer as one of its samples gave it: the one that speaks for them, if they win.
        independent: Samples that saw the inputs alone.
        conditioned: Samples that saw earlier ones.
        probability: What the language model gave it, where it has told that itself; None where it has not.
        versions: How many different answers there are among them: more than 1 where they are alike and not the same.
        by_model: The votes by language model, where the call draws from several; else empty.
    """

    answer: Any
    independent: float
    conditioned: float
    probability: float | None = None
    versions: int = 1
    by_model: Mapping[str, int] = field(default_factory=dict)

    @property
    def total(self) -> float:
        """All votes."""
        return self.independent + self.conditioned


@dataclass(frozen=True)
class SampleReport:
    """One sample of a call.

    Args:
        index: Its position, from 0.
        round: 0 for first samples, else one more than the latest round finished before it.
        shown: Indices of the samples it saw.
        prediction: What the program returned, None if it failed.
        answer: Its answer.
        key: What its answer is known by: samples with equal keys said the same, as the selector compares them. None if
            it casts no vote. Where votes are calibrated, that of the answer that its vote is for.
        problem: Why it casts no vote (``"failed"``, ``"truncated"``, ``"no answer"``, ``"unreadable"``); empty if it
            does.
        error: The exception, if it failed.
        cost: What it cost.
        usage: Tokens by language model as DSPy's usage tracker reports them; empty if DSPy's cache answered.
        chain: Texts of earlier attempts that its predictors saw; empty if it saw the inputs alone.
        sampler: The name of what drew it, such as ``"independent"``; see :mod:`dynscale_dspy.sampling.samplers`.
        vote: What it says, as the selector reads it and as it counted; None if it casts no vote.
        group: Whose votes it is among: a position in :attr:`Explanation.votes`. None if it casts no vote.
        model: The name of the language model that it asked, where the call draws from several; else empty.
    """

    index: int
    round: int
    shown: tuple[int, ...]
    prediction: Any
    answer: Any
    key: Hashable | None
    problem: str
    error: BaseException | None
    cost: Cost
    usage: Mapping[str, list[dict[str, Any]]]
    chain: tuple[str, ...] = ()
    sampler: str = ""
    vote: Vote | None = field(default=None, repr=False)
    group: int | None = None
    model: str = ""


@dataclass(frozen=True)
class ModelReport:
    """What one of several language models did in a call.

    Args:
        name: What it is called.
        samples: How many samples asked it.
        agreeing: How many of them voted for the winner.
        cost: What they cost.
    """

    name: str
    samples: int
    agreeing: int
    cost: Cost


@dataclass(frozen=True, repr=False)
class Explanation:
    """How a call came to its answer.

    Args:
        votes: Votes by answer, the winner first. Where the selector tells how alike answers are, those that are much
            alike are one (:func:`~dynscale_dspy.selection.groups.groups_of`).
        agreement: The winner's share of the samples, 0 to 1: those that gave its answer, or one much like it. Samples
            that cast no vote count.
        confidence: How likely the winner is right, as far as agreement between samples can tell, 0 to 1; 0 if nobody
            voted. A model that is sure and wrong is confident here. See :mod:`dynscale_dspy.allocation.confidence`;
            a selector that does not compare votes by equality tells its own. Where
            ``is_told``, the language model's own probability of the winner, calibrated if ``calibrated_on`` says so.
        samples: Every sample, in order.
        rounds: How many rounds of samples the call drew, each with the results of those before it known.
        cost: What the call cost.
        min_confidence: The confidence that the module asked for; None if it takes any answer.
        is_told: Whether the language model has told the probability of every answer, so that no votes were needed.
        calibrated_on: Of how many calls the mean is that these probabilities have been divided by; 0 if they are the
            language model's own. The answer may then be another one than the sample's.
        selector: The rule by which the answer won, such as ``Medoid(similarity=TokenF1())``.
        selector_reason: Why this rule, such as ``entities is a list``; empty for plurality by default.
        composed_on: The sample whose prediction was returned with an answer that is put together from several samples';
            None where it was returned as it is.
        winner: The sample whose prediction was returned.
        rule: What has chosen between several language models, such as ``Escalate(first=4, weight=4.0)``, and why so;
            empty where there is one.
    """

    votes: tuple[Votes, ...]
    agreement: float
    confidence: float
    samples: tuple[SampleReport, ...]
    rounds: int
    cost: Cost
    min_confidence: float | None = None
    is_told: bool = False
    calibrated_on: int = 0
    selector: str = ""
    selector_reason: str = ""
    composed_on: int | None = None
    winner: int | None = None
    rule: str = ""

    @property
    def models(self) -> tuple[ModelReport, ...]:
        """What each of several language models did, in the order in which they were asked; empty where there is one."""
        names = dict.fromkeys(sample.model for sample in self.samples if sample.model)
        won = self.votes[0].by_model if self.votes else {}
        reports = []
        for name in names:
            costs = [sample.cost for sample in self.samples if sample.model == name]
            reports.append(ModelReport(name, len(costs), won.get(name, 0), sum(costs, Cost())))
        return tuple(reports)

    @property
    def is_low(self) -> bool:
        """Whether confidence is below what the module asked for, so that its ``on_low`` decided."""
        return self.min_confidence is not None and falls_short(self.confidence, self.min_confidence)

    @property
    def answers(self) -> int:
        """How many different answers samples gave; those that are much alike are one, as in :attr:`votes`."""
        return sum(votes.total > 0 for votes in self.votes)

    @property
    def summary(self) -> str:
        """The outcome in a few words, such as ``8 samples, 3 answers, 62% agree``."""
        return f"{text.count(len(self.samples), 'sample')}, {text.answers(self)}, {text.agreement(self)}"

    @property
    def attributes(self) -> dict[str, Any]:
        """Plain values for a tracing span: the figures of :attr:`summary` and more."""
        return {
            "samples": len(self.samples),
            "conditioned": sum(votes.conditioned for votes in self.votes),
            "rounds": self.rounds,
            "answers": self.answers,
            # An attribute that is None is none: the answer None is told from no answer.
            "vote": ("None" if self.votes[0].answer is None else self.votes[0].answer) if self.votes else "",
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
        return html.explanation(self)

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        printer.text(str(self))

    # Optimizers copy predictions deep. An explanation is immutable, so the copies share it.
    def __deepcopy__(self, memo: dict[int, Any]) -> Explanation:
        return self


def explain(prediction: dspy.Prediction) -> Explanation:
    """Votes, agreement, confidence, samples, rounds and cost behind a wrapped program's prediction.

    Args:
        prediction: As a :class:`DynScaling` module returned it, or a predictor that :func:`wrap` has scaled. What a
            program around them makes of it has no votes of its own: the predictions inside are in DSPy's trace.

    Raises:
        ValueError: If there are no votes in it: it is another value than a prediction, was made by a program around,
            or is a copy (``prediction.copy()`` does not copy the explanation). The message says where to look.

    Example:
        ```python
        program = wrap(Pipeline(), budget=8)
        with dspy.context(trace=[]):
            program(question="What is 17 * 24?")
            for predictor, inputs, made in dspy.settings.trace:
                print(explain(made))
        ```
    """
    kept = getattr(prediction, _ATTRIBUTE, None)
    if not isinstance(kept, Explanation):
        raise ValueError(_where_to_look(prediction))
    return kept


def _where_to_look(value: Any) -> str:
    """What to do instead of explaining a value that has no votes."""
    if isinstance(value, dspy.Prediction):
        return (
            "there are no votes in this Prediction: a DynScaling module, and a predictor scaled by wrap(), put them "
            "into what they return themselves, and this was made by a program around them, without them, or by "
            "copying. Those inside are in DSPy's trace: call the program in `with dspy.context(trace=[]):`, then "
            "explain() the third part of each entry of dspy.settings.trace. Figures of all calls are in pool.history; "
            "the pool of a predictor scaled by wrap() is its .scaling.pool"
        )
    if isinstance(value, dspy.Module):
        return (
            f"a program has no votes, and this is a {type(value).__name__}: explain() takes the Prediction that a call "
            "of it returned. Figures of all calls are in pool.history"
        )
    return (
        f"a value of type {type(value).__name__} has no place for votes: have the program return a dspy.Prediction, "
        "such as dspy.Prediction(answer=...), and explain() that. Figures of all calls are in pool.history"
    )


def keep(prediction: Any, made: Explanation, *, instead_of: Explanation | None = None) -> None:
    """Attach an explanation to a prediction that has none, or this other one. Fields, metrics, demos do not see it."""
    if isinstance(prediction, dspy.Prediction):
        kept = getattr(prediction, _ATTRIBUTE, None)
        if kept is instead_of or not isinstance(kept, Explanation):
            setattr(prediction, _ATTRIBUTE, made)


def explanation(
    samples: Sequence[Sample],
    groups: Sequence[Group],
    winner: Sample,
    *,
    agreement: float,
    confidence: float,
    cost: Cost,
    keys: Mapping[int, Hashable] | None = None,
    votes: Mapping[int, Vote | None] | None = None,
    min_confidence: float | None = None,
    is_told: bool = False,
    calibrated_on: int = 0,
    choice: Choice | None = None,
    is_composed: bool = False,
    rule: str = "",
) -> Explanation:
    """The explanation of a call, finished or under way.

    Args:
        samples: Its samples so far, in any order.
        groups: Its answers, heaviest first.
        winner: The winning sample, whose group comes first in the explanation's votes.
        agreement: The winner's share of the samples.
        confidence: How likely the winner is right.
        cost: What the call has cost.
        keys: What each voting sample's answer is known by, by its index; by default the key of its group.
        votes: Each sample's vote as it counts, by its index; by default as it was read.
        min_confidence: The confidence that the module asked for.
        is_told: Whether the language model has told the probability of every answer.
        calibrated_on: Of how many calls the mean is that they have been divided by.
        choice: What says which answer wins.
        is_composed: Whether the answer is put together from several samples'.
        rule: What has chosen between several language models, and why so.
    """
    keys = keys_of(groups) if keys is None else keys
    votes = {sample.draw.index: sample.vote for sample in samples} if votes is None else votes
    ordered = sorted(samples, key=lambda sample: sample.draw.index)
    groups = sorted(groups, key=lambda group: winner.draw.index not in group.samples)
    groups = [group for group in groups if group.samples or is_told]
    places = {sample: place for place, group in enumerate(groups) for sample in group.samples}
    seeing = {sample.draw.index for sample in samples if sample.draw.conditioned}
    models = {sample.draw.index: sample.draw.sampler.model for sample in samples if sample.draw.sampler.model}
    whole = sum(group.weight for group in groups) if is_told else 0.0
    told = ((each, each.draw.index) for each in ordered)
    return Explanation(
        votes=tuple(_votes(group, winner, seeing, whole, models) for group in groups),
        agreement=agreement,
        confidence=confidence,
        samples=tuple(_report(each, keys.get(at), votes.get(at), places.get(at)) for each, at in told),
        rounds=len({sample.draw.round for sample in ordered}),
        cost=cost,
        min_confidence=min_confidence,
        is_told=is_told,
        calibrated_on=calibrated_on,
        selector="" if choice is None else text.repr_of(choice.selector),
        selector_reason="" if choice is None else choice.why,
        composed_on=winner.draw.index if is_composed else None,
        winner=winner.draw.index,
        rule=rule,
    )


def _report(sample: Sample, key: Hashable | None, vote: Vote | None, group: int | None) -> SampleReport:
    return SampleReport(
        index=sample.draw.index,
        round=sample.draw.round,
        shown=sample.draw.shown,
        prediction=sample.prediction,
        answer=sample.answer,
        key=key,
        problem=sample.problem,
        error=sample.error,
        cost=sample.cost,
        usage=sample.usage,
        chain=tuple(dict.fromkeys(map(str, sample.draw.chain.values()))),
        sampler=sample.draw.sampler.name,
        model=sample.draw.sampler.model,
        vote=vote,
        group=group,
    )


def _votes(group: Group, winner: Sample, seeing: set[int], whole: float, models: Mapping[int, str]) -> Votes:
    """How many samples say so; not what their votes weigh."""
    conditioned = len(seeing.intersection(group.samples))
    by_model = Counter(models[index] for index in sorted(group.samples) if index in models)
    versions = group.versions if isinstance(group, AlikeGroup) else 1
    # Another of the group may have been returned: a judge's choice, or of equally central ones.
    is_winners = versions > 1 and winner.draw.index in group.samples
    return Votes(
        winner.answer if is_winners else group.answer,
        len(group.samples) - conditioned,
        conditioned,
        group.weight / whole if whole else None,
        versions,
        dict(by_model),
    )
