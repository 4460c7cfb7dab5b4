"""Who is next among very many arms: arms in the same state share one place in the order."""

from __future__ import annotations

import heapq
from array import array

from dynscale_dspy.allocation.evidence import Detail
from dynscale_dspy.allocation.policies import Policy
from dynscale_dspy.allocation.tally import AnswerKey, Tally


class Frontier:
    """The arms of a known set, largest index first, for policies that look at the top two answers only.

    Such a policy tells apart a few thousand states at most, however many arms there are. Arms wait in one bucket a
    state; a heap orders the buckets. Taking the best arm and putting it back costs the same for a thousand arms as for
    a million, and an arm takes a few bytes.

    Args:
        policy: One that needs ``Detail.TOP_TWO`` alone and does not depend on the total.
        arms: How many arms; they are numbered from 0, and none is in until it is placed.

    Raises:
        ValueError: If the policy needs more than the top two answers, or the total.

    Example:
        >>> from dynscale_dspy.allocation.policies import KnowledgeGradient
        >>> frontier = Frontier(KnowledgeGradient(), 2)
        >>> frontier.place(0, leader=3, runner_up=0, samples=3)
        >>> frontier.place(1, leader=1, runner_up=1, samples=2)
        >>> frontier.best(), frontier.best()
        (1, 0)
    """

    OUT = -1

    def __init__(self, policy: Policy, arms: int) -> None:
        if policy.needs > Detail.TOP_TWO or policy.depends_on_total:
            raise ValueError(f"a frontier needs a policy of the top two answers alone, got {policy!r}")
        self._policy = policy
        self._state_of = array("i", [self.OUT]) * arms
        self._ids: dict[tuple[int, int, int, int], int] = {}
        self._keys: list[tuple[float, int, int]] = []
        self._buckets: list[array[int]] = []
        self._heap: list[tuple[float, int, int]] = []

    @property
    def states(self) -> int:
        """Distinct states seen so far."""
        return len(self._ids)

    def place(self, arm: int, *, leader: int, runner_up: int, samples: int, pending: int = 0) -> None:
        """Put an arm where it now belongs, wherever it was."""
        key = (leader, runner_up, samples, pending)
        state = self._ids.get(key)
        if state is None:
            state = self._new_state(key)
        self._state_of[arm] = state
        bucket = self._buckets[state]
        if not bucket and self._keys[state][0] < 0:
            heapq.heappush(self._heap, self._keys[state])
        bucket.append(arm)

    def best(self) -> int | None:
        """Take out the arm whose next sample is worth most, or return None if none is worth anything.

        Among equals, arms with fewer samples come first.
        """
        while self._heap:
            state = self._heap[0][2]
            bucket = self._buckets[state]
            while bucket:
                arm = bucket.pop()
                if not bucket:
                    heapq.heappop(self._heap)
                # An arm placed anew left its old entry behind; a state once left is never come back to.
                if self._state_of[arm] == state:
                    self._state_of[arm] = self.OUT
                    return arm
        return None

    def _new_state(self, key: tuple[int, int, int, int]) -> int:
        leader, runner_up, samples, pending = key
        votes: dict[AnswerKey, int] = {name: count for name, count in ((0, leader), (1, runner_up)) if count}
        index = self._policy.index(Tally(votes, samples - leader - runner_up), pending=pending)
        state = len(self._ids)
        self._ids[key] = state
        self._keys.append((-index, samples + pending, state))
        self._buckets.append(array("i"))
        return state
