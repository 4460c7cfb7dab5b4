"""What a call came to, and how it is handed to each of its callers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import dspy

from dynscale_dspy.execution.copies import Copier
from dynscale_dspy.reporting.explanation import Explanation, keep
from dynscale_dspy.sampling.sample import Sample


@dataclass(frozen=True)
class Outcome:
    """What a call came to.

    Args:
        winner: The winning sample; the first that failed, if all did.
        usage: Tokens of all samples by language model, as DSPy's usage tracker reports them.
        explanation: How it came about.
    """

    winner: Sample
    usage: Mapping[str, list[dict[str, Any]]]
    explanation: Explanation

    def copied(self) -> Outcome:
        """The same for another caller, who may change what it gets. The work, and so the usage, is told to each."""
        copier = Copier()
        samples = (
            replace(sample, prediction=copier.copy(sample.prediction), answer=copier.copy(sample.answer))
            for sample in self.explanation.samples
        )
        votes = (replace(votes, answer=copier.copy(votes.answer)) for votes in self.explanation.votes)
        explanation = replace(self.explanation, samples=tuple(samples), votes=tuple(votes))
        prediction = copier.copy(self.winner.prediction)
        keep(prediction, explanation, instead_of=self.explanation)
        trace = tuple((predictor, dict(inputs), copier.copy(output)) for predictor, inputs, output in self.winner.trace)
        winner = replace(self.winner, prediction=prediction, answer=copier.copy(self.winner.answer), trace=trace)
        return Outcome(winner, copier.copy(self.usage), explanation)


def add_to_trace(entries: Iterable[Any]) -> None:
    """Add entries to the trace in DSPy's settings, within its bound: as for a predictor's, the oldest go."""
    trace, most = dspy.settings.trace, dspy.settings.get("max_trace_size")
    if trace is None or most == 0:
        return
    for entry in entries:
        if most is not None and len(trace) >= most:
            trace.pop(0)
        trace.append(entry)


def spoken(trace: Iterable[Any], program: object, speaker: object) -> tuple[Any, ...]:
    """A trace in which the program is who DSPy takes it for.

    Args:
        trace: As the program left it.
        program: The program.
        speaker: The predictor that DSPy takes it for; None for itself.
    """
    if speaker is None:
        return tuple(trace)
    return tuple((speaker if entry[0] is program else entry[0], *entry[1:]) for entry in trace)


@contextmanager
def traced_as(program: object, speaker: object) -> Iterator[None]:
    """Around a plain run of a program: its trace is as :func:`spoken` says."""
    if speaker is None or dspy.settings.trace is None:
        yield
        return
    own: list[Any] = []
    try:
        with dspy.context(trace=own):
            yield
    finally:
        add_to_trace(spoken(own, program, speaker))
