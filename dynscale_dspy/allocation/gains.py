r"""What samples of different samplers gain, learned without knowing any answer.

A call can draw samples in several ways, say independent ones and ones that see earlier attempts. Which is worth more
depends on the model and on the state of the vote. Suppose a sample's answer replaced the leading one. Right answers
would be gained at the rate at which samples are right, and lost at the rate at which leaders are:

.. math:: g = P(x = y) - P(\ell = y)

with x the sample's answer, \ell the leading one and y the right one, which nobody knows. In its place a second sample
of the same sampler, x', is asked. Both are alike in distribution, so that

.. math:: g = P(x = x') - P(x = \ell) = P(x \ne \ell) \, [P(x' = x \mid x \ne \ell) - P(x' = \ell \mid x \ne \ell)]

How often does one dissent, and does the next one side with it or with the leader? A model that follows what it is
shown sides with either alike, for each answer is shown once and in random order: it gains nothing. One that checks
repeats itself. Where it misleads: a model that errs the same way each time sides with its own errors. On the lab's
model the estimate and the truth go together (docs/integrated-sampling.md). This is our own, not the paper's.
"""

from __future__ import annotations

import math
import threading

from dynscale_dspy.allocation.costs import Cost, CostRecord
from dynscale_dspy.allocation.evidence import Evidence
from dynscale_dspy.allocation.tally import AnswerKey

ONE_ANSWER = 4
"""The state of a vote with one answer only; otherwise the state is the lead, 3 standing for all above."""

TRUST = 20.0
"""Votes, and second opinions on dissents, that the prior counts for."""

DOUBT = 0.5
"""Standard deviations by which calls differ in what they believe of a sampler, so that all are tried."""

INDEPENDENT = "independent"
"""Name of the sampler whose samples see the inputs alone."""

CONDITIONED = "conditioned"
"""Name of the sampler whose samples see earlier ones of the call."""

_PRIOR: dict[str, tuple[tuple[float, float], ...]] = {
    # For each state: how often one dissents, and how much more the next one sides with it than with the leader.
    # The lab's model on 600 questions, `python examples/benchmarks/factorial.py --part gains --set 21`.
    INDEPENDENT: ((0.74, 0.06), (0.61, -0.10), (0.50, -0.15), (0.36, -0.32), (0.16, -0.37)),
    CONDITIONED: ((0.73, 0.15), (0.60, 0.07), (0.54, 0.10), (0.39, -0.03), (0.13, -0.30)),
}


def state_of(evidence: Evidence) -> int:
    """The state of a vote: how far the leading answer is ahead, or :data:`ONE_ANSWER`.

    Leads of 3 and more are one state. A lead of real weight counts in whole votes, rounded down.

    Example:
        >>> from dynscale_dspy.allocation.tally import Tally
        >>> state_of(Tally.of("AAB")), state_of(Tally.of("AAAABB")), state_of(Tally.of("AA"))
        (1, 2, 4)
    """
    return min(int(evidence.lead - evidence.rival), 3) if evidence.rival else ONE_ANSWER


class _Record:
    """What is known of one sampler: for each state what its samples said, and what they cost."""

    __slots__ = ("cost", "dissents", "opinions", "prior", "sided", "votes")

    def __init__(self, sampler: str) -> None:
        self.prior = _PRIOR.get(sampler, _PRIOR[INDEPENDENT])
        self.votes = [0] * len(self.prior)
        self.dissents = [0] * len(self.prior)
        self.opinions = [0] * len(self.prior)
        self.sided = [0] * len(self.prior)
        self.cost = CostRecord()


class GainEstimator:
    """What is known of the samplers of one program: what their samples change in each state of the vote, and cost.

    Samplers are known by name. Before anything is learned, ``"independent"`` and ``"conditioned"`` start from what the
    lab's model showed; a sampler of any other name starts like ``"independent"``.

    Safe from any thread.

    Example:
        >>> from dynscale_dspy.allocation.tally import Tally
        >>> known, tie = GainEstimator(), Tally.of("AB")
        >>> known.gain(tie, sampler="conditioned") > known.gain(tie, sampler="independent")
        True
        >>> known.prefers("conditioned", "independent", Tally.of("AAA"))  # an answer that nothing contradicts
        False
    """

    def __init__(self) -> None:
        self.lock = threading.Lock()
        """Held for each look and each change; nothing else is done meanwhile."""
        self._records: dict[str, _Record] = {}

    def vote(self, state: int, *, sampler: str, dissents: bool) -> None:
        """A sample has voted, for the leading answer of this state or for another."""
        with self.lock:
            record = self._record(sampler)
            record.votes[state] += 1
            record.dissents[state] += dissents

    def opinion(self, state: int, *, sampler: str, side: int) -> None:
        """The next sample of the same sampler after a dissent in this state has voted.

        Args:
            state: The state in which the first one dissented.
            sampler: Their sampler.
            side: 1 if it voted as the dissenter, -1 as the leader of that time, 0 for neither.
        """
        with self.lock:
            record = self._record(sampler)
            record.opinions[state] += 1
            record.sided[state] += side

    def cost(self, cost: Cost, *, sampler: str) -> None:
        """A sample has cost so much."""
        with self.lock:
            self._record(sampler).cost.add(cost)

    def gain(self, evidence: Evidence, *, sampler: str, belief: float = 0.0) -> float:
        """Right answers that a sample is expected to gain if its answer replaced the leading one; see the module.

        Posterior means, the prior counting for :data:`TRUST` votes and as many second opinions. How far the opinions
        of all states together are from the prior moves it in each: a model that follows does so everywhere.

        Args:
            evidence: The votes so far.
            sampler: What would draw the sample.
            belief: How many standard deviations above its mean the opinions are taken to be.
        """
        state = state_of(evidence)
        with self.lock:
            record = self._record(sampler)
            opinions, sides = record.opinions, record.sided
            dissent, sided = record.prior[state]
            foreseen = sum(count * side for count, (_, side) in zip(opinions, record.prior, strict=True))
            sided += (sum(sides) - foreseen) / (sum(opinions) + TRUST)
            dissent = (record.dissents[state] + TRUST * dissent) / (record.votes[state] + TRUST)
            sided = (sides[state] + TRUST * sided) / (opinions[state] + TRUST)
            sided += belief / math.sqrt(opinions[state] + TRUST)  # a side is between -1 and 1: one is its largest
        return dissent * max(-1.0, min(1.0, sided))

    def prefers(
        self,
        challenger: str,
        incumbent: str,
        evidence: Evidence,
        unit: str | None = None,
        beliefs: tuple[float, float] = (0.0, 0.0),
    ) -> bool:
        """Whether the challenger should draw the next sample: it gains at least as much, per unit of what runs out.

        Where the challenger gains nothing, the incumbent draws. (Independent samples are the incumbent of conditioned
        ones: they cost less, and no chain has influenced them.)

        Args:
            challenger: Name of a sampler.
            incumbent: Name of the sampler that draws otherwise.
            evidence: The votes so far.
            unit: ``"tokens"`` or ``"nanodollars"``, if that runs out first; a sample counts one otherwise.
            beliefs: Of the challenger and of the incumbent; see :meth:`gain`. Calls that draw their own from a
                normal distribution of deviation :data:`DOUBT` try either as often as it may be the better one
                (Thompson sampling, the doubt halved), and stay with it, so that dissents find second opinions.
        """
        gain = self.gain(evidence, sampler=challenger, belief=beliefs[0])
        dearer = 1.0
        if unit is not None:
            with self.lock:
                ours, theirs = self._record(challenger).cost.mean(unit), self._record(incumbent).cost.mean(unit)
            dearer = ours / theirs if theirs and ours else 1.0
        return gain > 0 and gain / dearer >= self.gain(evidence, sampler=incumbent, belief=beliefs[1])

    def _record(self, sampler: str) -> _Record:
        """A sampler's record, made when first asked for; inside the lock."""
        record = self._records.get(sampler)
        if record is None:
            record = self._records[sampler] = _Record(sampler)
        return record


class Dissent:
    """Feeds one call's votes, as they come, into its program's gain estimate.

    Args:
        known: What is known of the program.
    """

    def __init__(self, known: GainEstimator) -> None:
        self._known = known
        # By sampler: the state and leader of the latest dissent, and the dissenting answer.
        self._latest: dict[str, tuple[int, AnswerKey, AnswerKey]] = {}

    def tell(self, key: AnswerKey, evidence: Evidence, leader: AnswerKey | None, *, sampler: str) -> None:
        """A sample has voted.

        Args:
            key: Its answer.
            evidence: The votes before it.
            leader: The leading answer before it; None if there was none.
            sampler: What drew it.
        """
        if (latest := self._latest.pop(sampler, None)) is not None:
            state, against, dissenting = latest
            side = (key == dissenting) - (key == against)
            self._known.opinion(state, sampler=sampler, side=side)
        if leader is None:
            return
        state = state_of(evidence)
        self._known.vote(state, sampler=sampler, dissents=key != leader)
        if key != leader:
            self._latest[sampler] = (state, leader, key)
