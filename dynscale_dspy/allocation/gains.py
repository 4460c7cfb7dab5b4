r"""What seeing earlier attempts changes, learned without knowing any answer.

A call can draw two kinds of samples, independent ones and ones that see earlier attempts. Which is worth more depends
on the model and on the state of the vote. Suppose a sample's answer replaced the leading one. Right answers would be
gained at the rate at which samples are right, and lost at the rate at which leaders are:

.. math:: g = P(x = y) - P(\ell = y)

with x the sample's answer, \ell the leading one and y the right one, which nobody knows. In its place a second sample
of the same kind, x', is asked. Both are alike in distribution, so that

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
from dynscale_dspy.allocation.tally import AnswerKey, Tally

ONE_ANSWER = 4
"""The state of a vote with one answer only; otherwise the state is the lead, 3 standing for all above."""

TRUST = 20.0
"""Votes, and second opinions on dissents, that the prior counts for."""

DOUBT = 0.5
"""Standard deviations by which calls differ in what they believe of a kind of sample, so that both are tried."""

_PRIOR: dict[bool, tuple[tuple[float, float], ...]] = {
    # For each state: how often one dissents, and how much more the next one sides with it than with the leader.
    # The lab's model on 600 questions, `python examples/benchmarks/factorial.py --part gains --set 21`.
    False: ((0.74, 0.06), (0.61, -0.10), (0.50, -0.15), (0.36, -0.32), (0.16, -0.37)),
    True: ((0.73, 0.15), (0.60, 0.07), (0.54, 0.10), (0.39, -0.03), (0.13, -0.30)),
}


def state_of(tally: Tally) -> int:
    """The state of a vote: how far the leading answer is ahead, 3 standing for all above, or :data:`ONE_ANSWER`.

    Example:
        >>> state_of(Tally.of("AAB")), state_of(Tally.of("AAAABB")), state_of(Tally.of("AA"))
        (1, 2, 4)
    """
    return min(tally.leader - tally.runner_up, 3) if tally.runner_up else ONE_ANSWER


class Conditioning:
    """What is known of a program's two kinds of samples: what they change in each state of the vote, what they cost.

    Safe from any thread.

    Example:
        >>> known = Conditioning()
        >>> known.gain(Tally.of("AB"), conditioned=True) > known.gain(Tally.of("AB"), conditioned=False)
        True
        >>> known.favours_conditioned(Tally.of("AAA"))  # an answer that nothing contradicts
        False
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._votes = {kind: [0] * len(prior) for kind, prior in _PRIOR.items()}
        self._dissents = {kind: [0] * len(prior) for kind, prior in _PRIOR.items()}
        self._sided = {kind: [0] * len(prior) for kind, prior in _PRIOR.items()}
        self._opinions = {kind: [0] * len(prior) for kind, prior in _PRIOR.items()}
        self._costs = {kind: CostRecord() for kind in _PRIOR}

    def vote(self, state: int, *, conditioned: bool, dissents: bool) -> None:
        """A sample has voted, for the leading answer of this state or for another."""
        with self._lock:
            self._votes[conditioned][state] += 1
            self._dissents[conditioned][state] += dissents

    def opinion(self, state: int, *, conditioned: bool, side: int) -> None:
        """The next sample of its kind after a dissent in this state has voted.

        Args:
            state: The state in which the first one dissented.
            conditioned: Their kind.
            side: 1 if it voted as the dissenter, -1 as the leader of that time, 0 for neither.
        """
        with self._lock:
            self._opinions[conditioned][state] += 1
            self._sided[conditioned][state] += side

    def cost(self, cost: Cost, *, conditioned: bool) -> None:
        """A sample has cost so much."""
        with self._lock:
            self._costs[conditioned].add(cost)

    def gain(self, tally: Tally, *, conditioned: bool, belief: float = 0.0) -> float:
        """Right answers that a sample is expected to gain if its answer replaced the leading one; see the module.

        Posterior means, the prior counting for :data:`TRUST` votes and as many second opinions. How far the opinions
        of all states together are from the prior moves it in each: a model that follows does so everywhere.

        Args:
            tally: The votes so far.
            conditioned: The kind of sample.
            belief: How many standard deviations above its mean the opinions are taken to be.
        """
        state = state_of(tally)
        dissent, sided = _PRIOR[conditioned][state]
        with self._lock:
            opinions, sides = self._opinions[conditioned], self._sided[conditioned]
            foreseen = sum(count * side for count, (_, side) in zip(opinions, _PRIOR[conditioned], strict=True))
            sided += (sum(sides) - foreseen) / (sum(opinions) + TRUST)
            dissent = (self._dissents[conditioned][state] + TRUST * dissent) / (self._votes[conditioned][state] + TRUST)
            sided = (sides[state] + TRUST * sided) / (opinions[state] + TRUST)
            sided += belief / math.sqrt(opinions[state] + TRUST)  # a side is between -1 and 1: one is its largest
        return dissent * max(-1.0, min(1.0, sided))

    def favours_conditioned(
        self, tally: Tally, unit: str | None = None, beliefs: tuple[float, float] = (0.0, 0.0)
    ) -> bool:
        """Whether the next sample should see earlier ones: it gains more, per unit of what runs out first.

        Where neither gains, the next sample is an independent one: it costs less, and no chain has influenced it.

        Args:
            tally: The votes so far.
            unit: ``"tokens"`` or ``"nanodollars"``, if that runs out first; a sample counts one otherwise.
            beliefs: Of independent and of conditioned samples; see :meth:`gain`. Calls that draw their own from a
                normal distribution of deviation :data:`DOUBT` try either kind as often as it may be the better one
                (Thompson sampling, the doubt halved), and stay with it, so that dissents find second opinions.
        """
        gain = self.gain(tally, conditioned=True, belief=beliefs[1])
        dearer = 1.0
        if unit is not None:
            with self._lock:
                alone, seeing = self._costs[False].mean(unit), self._costs[True].mean(unit)
            dearer = seeing / alone if alone and seeing else 1.0
        return gain > 0 and gain / dearer >= self.gain(tally, conditioned=False, belief=beliefs[0])


class Dissent:
    """One call's votes, as they come, told to what is known of its program.

    Args:
        known: What is known of the program.
    """

    def __init__(self, known: Conditioning) -> None:
        self._known = known
        # By kind: the state and leader of the latest dissent, and the dissenting answer.
        self._latest: dict[bool, tuple[int, AnswerKey, AnswerKey]] = {}

    def tell(self, key: AnswerKey, tally: Tally, leader: AnswerKey | None, *, conditioned: bool) -> None:
        """A sample has voted.

        Args:
            key: Its answer.
            tally: The votes before it.
            leader: The leading answer before it; None if there was none.
            conditioned: Whether it saw earlier samples.
        """
        if (latest := self._latest.pop(conditioned, None)) is not None:
            state, against, dissenting = latest
            side = (key == dissenting) - (key == against)
            self._known.opinion(state, conditioned=conditioned, side=side)
        if leader is None:
            return
        state = state_of(tally)
        self._known.vote(state, conditioned=conditioned, dissents=key != leader)
        if key != leader:
            self._latest[conditioned] = (state, leader, key)
