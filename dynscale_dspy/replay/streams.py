"""Random orders of a pool's samples, shared by all policies, and what a policy would see along each of them."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dynscale_dspy._cached import cached_property
from dynscale_dspy.allocation.evidence import Detail
from dynscale_dspy.allocation.policies import OrderedTally, Policy
from dynscale_dspy.allocation.tally import AnswerKey, Tally
from dynscale_dspy.replay.pools import Pool

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


class Streams:
    """One stream of samples for each replicate and question: a random half of the question's pool, in random order.

    Who leads is the rule of :class:`~dynscale_dspy.selection.plurality.Plurality`, computed for all streams at once.
    Where several answers lead, plurality takes the one sampled first. In a random order each of them is that equally
    often, so they share the credit.

    Arrays have shape ``(replicates, questions, samples + 1)``; entry n is after n samples.

    Attributes:
        room: For each question, the most samples it may draw: half of its pool.
        cap: The largest room.
        credit: Chance that the vote is right: the share of right answers among those that lead.
        leader: Votes of the leading answer.
        runner_up: Votes of the second answer.
        arrival: For each replicate, the random order in which questions come, also for breaking ties.

    Args:
        pool: The recorded samples.
        replicates: Independent random orders.
        seed: With the pool's name it fixes them all.
    """

    def __init__(self, pool: Pool, *, replicates: int, seed: int = 0) -> None:
        self.pool = pool
        self.replicates = replicates
        self.questions = len(pool.questions)
        self.room = np.array([len(question.answers) // 2 for question in pool.questions])
        self.cap = int(self.room.max())
        generator = np.random.default_rng([seed, zlib.crc32(pool.name.encode())])
        self._draw(generator)
        self._watch(generator)
        self.arrival = np.argsort(generator.random((replicates, self.questions)), axis=1)

    def _draw(self, generator: np.random.Generator) -> None:
        """Shuffle each question's samples for each replicate."""
        shape = (self.replicates, self.questions, self.cap)
        self._codes = np.full(shape, -1, dtype=np.int32)
        known = max(len(set(question.answers)) for question in self.pool.questions)
        self._right = np.zeros((self.questions, known), dtype=bool)
        self._answers = known
        self._names: list[list[str]] = []
        tokens = np.zeros((*shape[:2], self.cap + 1)) if self.pool.has_tokens else None
        for q, question in enumerate(self.pool.questions):
            self._names.append(sorted({answer for answer in question.answers if answer is not None}))
            names = {answer: code for code, answer in enumerate(self._names[-1])}
            for answer in question.right & names.keys():
                self._right[q, names[answer]] = True
            codes = np.array([-1 if answer is None else names[answer] for answer in question.answers])
            room = self.room[q]
            order = np.argsort(generator.random((self.replicates, len(codes))), axis=1)[:, :room]
            self._codes[:, q, :room] = codes[order]
            if tokens is not None:
                cost = np.array(question.tokens, dtype=float)
                tokens[:, q, 1 : room + 1] = np.cumsum(cost[order], axis=1)
                tokens[:, q, room + 1 :] = tokens[:, q, room : room + 1]
        self.tokens = tokens

    def _watch(self, generator: np.random.Generator) -> None:
        """Walk along all streams at once and note what a policy would see."""
        rows = self.replicates * self.questions
        codes = self._codes.reshape(rows, self.cap)
        right = np.tile(self._right, (self.replicates, 1))
        counts = np.zeros((rows, self._answers), dtype=np.int32)
        every = np.arange(rows)
        # A multiset of counts hashes to the sum of a random word for each count, updated as one count grows.
        words = generator.integers(0, 2**63, size=self.cap + 2, dtype=np.uint64)
        words[0] = 0
        empty_word = generator.integers(0, 2**63, dtype=np.uint64)
        shape = (rows, self.cap + 1)
        leader, runner_up, tied = (np.zeros(rows, dtype=np.int32) for _ in range(3))
        right_tied = np.zeros(rows, dtype=np.int32)
        digest = np.zeros(rows, dtype=np.uint64)
        streak, latest = np.zeros(rows, dtype=np.int32), np.full(rows, -1)
        self.credit = np.zeros(shape)
        self.leader, self.runner_up = np.zeros(shape, dtype=np.int32), np.zeros(shape, dtype=np.int32)
        self._digest = np.zeros(shape, dtype=np.uint64)
        self._streak, self._latest_count = np.zeros(shape, dtype=np.int32), np.zeros(shape, dtype=np.int32)
        for n in range(self.cap):
            code = codes[:, n]
            voted = code >= 0
            answer = np.where(voted, code, 0)
            before = counts[every, answer]
            after = before + voted
            counts[every, answer] = after
            digest = digest + np.where(voted, words[after] - words[before], empty_word)
            good = right[every, answer]
            ahead = voted & (after > leader)
            level = voted & (after == leader) & ~ahead
            runner_up = np.where(voted & (before == runner_up) & (before < leader), after, runner_up)
            right_tied = np.where(ahead, good, right_tied + (level & good))
            tied = np.where(ahead, 1, tied + level)
            leader = np.where(ahead, after, leader)
            streak = np.where(voted, np.where((code == latest) & (streak > 0), streak + 1, 1), 0)
            latest = code
            self.leader[:, n + 1], self.runner_up[:, n + 1] = leader, runner_up
            self.credit[:, n + 1] = right_tied / np.maximum(tied, 1)
            self._digest[:, n + 1] = digest
            self._streak[:, n + 1], self._latest_count[:, n + 1] = streak, np.where(voted, after, 0)
        full = (self.replicates, self.questions, self.cap + 1)
        for name in ("credit", "leader", "runner_up", "_digest", "_streak", "_latest_count"):
            setattr(self, name, getattr(self, name).reshape(full))

    def answers(self, replicate: int, question: int) -> list[str | None]:
        """What the samples of one stream say, in order."""
        codes = self._codes[replicate, question, : self.room[question]].tolist()
        names = self._names[question]
        return [None if code < 0 else names[code] for code in codes]

    def views(self, policy: Policy) -> Views:
        """The distinct states that this policy can tell apart."""
        if policy.needs == Detail.TOP_TWO:
            return self._top_two_views
        return self._ordered_views if policy.needs == Detail.ORDER else self._count_views

    @cached_property
    def _top_two_views(self) -> Views:
        width = self.cap + 1
        n = np.broadcast_to(np.arange(width), self.leader.shape)
        keys = (n * width + self.leader) * width + self.runner_up
        keys, _, ids = _unique(keys)
        n, a, b = keys // width**2, keys // width % width, keys % width
        tallies = [_top_two_tally(*state) for state in zip(n.tolist(), a.tolist(), b.tolist(), strict=True)]
        return Views(ids, tallies)

    @cached_property
    def _count_views(self) -> Views:
        _, first, ids = _unique(self._digest)
        return Views(ids, [Tally(*self._counts(position)) for position in first.tolist()])

    @cached_property
    def _ordered_views(self) -> Views:
        width = np.uint64(self.cap + 1)
        order = self._streak.astype(np.uint64) * width + self._latest_count.astype(np.uint64)
        _, first, ids = _unique(self._digest + order * np.uint64(0x9E3779B97F4A7C15))
        codes, streaks = self._codes.reshape(-1, self.cap), self._streak.ravel()
        tallies: list[Tally] = []
        for position in first.tolist():
            row, n = divmod(position, self.cap + 1)
            latest = int(codes[row, n - 1]) if n else -1
            votes, empty = self._counts(position)
            tallies.append(OrderedTally(votes, empty, None if latest < 0 else latest, int(streaks[position])))
        return Views(ids, tallies)

    def _counts(self, position: int) -> tuple[dict[AnswerKey, int], int]:
        row, n = divmod(position, self.cap + 1)
        votes: dict[AnswerKey, int] = {}
        for code in self._codes.reshape(-1, self.cap)[row, :n].tolist():
            votes[code] = votes.get(code, 0) + 1
        return votes, votes.pop(-1, 0)


class Views:
    """Distinct states, and which of them each stream is in after n samples.

    Args:
        ids: Position in ``tallies`` for each replicate, question and number of samples.
        tallies: What a policy sees in each state.
    """

    def __init__(self, ids: Ints, tallies: list[Tally]) -> None:
        self.ids = ids
        self.tallies = tallies

    def table(self, function: Callable[[Tally], Any]) -> Floats:
        """A function of the tally, for every state once."""
        return np.array([function(tally) for tally in self.tallies], dtype=float)


def _top_two_tally(n: int, a: int, b: int) -> Tally:
    votes = {}
    if a:
        votes[0] = a
    if b:
        votes[1] = b
    return Tally(votes, n - a - b)


def _unique(keys: NDArray[Any]) -> tuple[NDArray[Any], Ints, Ints]:
    values, first, inverse = np.unique(keys.ravel(), return_index=True, return_inverse=True)
    return values, first, inverse.reshape(keys.shape)
