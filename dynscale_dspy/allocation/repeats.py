r"""Whether samples of a program ever say the same, and what a further one is worth where they do not.

A vote decides only between answers that repeat. While all votes of a call are single, its first sample wins, however
many there are; a sample more is worth something if it may repeat one of them. How often it does is learned for each
program: with r repeats in t such samples the rate is :math:`(r + 1) / (t + 2)` (Laplace's rule of succession); a sample
that could have repeated several counts twice. From 5% up the index of a call stays what it is. Below, a call with three
single votes is worth nothing more; one with fewer is worth less in steps of a quarter, and nothing at 2%.

Where answers are more or less alike, what counts as a repeat is that a sample tells two others apart: the square of the
difference between its similarity to the one that it is most like and the one it is least like. Where all samples are
about equally unlike, as in creative writing, it is near 0, and such calls end alike.

Chosen on recorded samples (52 pools, 10 replays of 2, 4 and 8 samples a query): accuracy at equal budget changed by
+0.008 ± 0.013, -0.012 ± 0.023 and +0.002 ± 0.003 points in a known set, by +0.002 ± 0.009, -0.005 ± 0.020 and
-0.012 ± 0.013 one by one (95%, over replays). Five pools were touched at all, those most where 2% are right.
"""

from __future__ import annotations

import math

from dynscale_dspy.allocation.evidence import Evidence
from dynscale_dspy.allocation.likeness import Likeness
from dynscale_dspy.allocation.tally import Tally

ENOUGH, NONE = 0.05, 0.02
"""The rate from which a sample is worth what the policy says, and that at which it is worth nothing."""
STEPS = 4
"""Levels between worth nothing and worth all: a known set is ranked anew whenever the level changes."""
MEMORY = 100
"""Samples after which what is known counts half, so that a program that changes is noticed."""
CALLS, SAMPLES = 8, 24
"""Calls, and samples beyond their first ones, after which a program is said never to agree with itself."""
SEVERAL = 3
"""Single votes after which a call is worth nothing more, where the rate is below :data:`ENOUGH`."""
LOOK = 16
"""One call in so many is sampled up to :data:`SEVERAL` votes as if nothing was known: else nothing new is learned."""


class Repeats:
    """How often samples of one program repeat an answer of their call while no two of it agree.

    Example:
        >>> known, lone, two = Repeats(), Tally.of("A"), Tally.of("AB")
        >>> known.promise(lone)
        1.0
        >>> for _ in range(48):
        ...     known.tell(lone, two)
        >>> known.promise(lone), known.promise(two), known.promise(Tally.of("AA")), known.never
        (0.0, 0.0, 1.0, True)
    """

    __slots__ = ("_agreed", "_calls", "_repeats", "_samples", "_trials", "level")

    def __init__(self) -> None:
        self._trials = self._repeats = 0.0
        self._calls = self._samples = 0
        self._agreed = False
        self.level = 1.0
        """What a sample is worth where no two agree, as a share of what the policy says."""

    def tell(self, before: Evidence, after: Evidence) -> None:
        """A sample has been added to the votes of a call."""
        if isinstance(after, Likeness):
            if after.told is not None:
                self._count(1, after.told)
            return
        if not (isinstance(before, Tally) and isinstance(after, Tally)):
            return  # votes that are compared otherwise
        if not before.voters or after.voters == before.voters or after.is_spread or not before.all_single:
            return
        repeats = not after.all_single
        self._agreed = self._agreed or repeats
        self._samples += 1
        self._calls += before.voters == 1
        self._count(min(before.voters, 2), repeats)

    def _count(self, trials: float, repeats: float) -> None:
        self._trials += trials
        self._repeats += repeats
        if self._trials > MEMORY:
            self._trials, self._repeats = self._trials / 2, self._repeats / 2
        rate = (self._repeats + 1) / (self._trials + 2)
        self.level = min(1.0, max(0.0, math.ceil((rate - NONE) / (ENOUGH - NONE) * STEPS - 1e-9) / STEPS))

    def promise(self, evidence: Evidence, *, pending: int = 0, looking: bool = False) -> float:
        """The share of its index that a call keeps, from 0 to 1; all once two votes agree, or one tells others apart.

        Args:
            evidence: The call's votes.
            pending: Samples in flight, which are taken to be single votes like the others.
            looking: Whether it is one of the calls that find out.
        """
        if isinstance(evidence, Likeness):
            tells_nothing = evidence.is_flat
        else:
            tells_nothing = isinstance(evidence, Tally) and evidence.all_single
        if not tells_nothing:
            return 1.0
        assert isinstance(evidence, (Likeness, Tally))
        if evidence.voters + pending < SEVERAL:
            return 1.0 if looking else self.level
        return 1.0 if self.level == 1 else 0.0

    @property
    def never(self) -> bool:
        """Whether many samples were drawn and no two ever agreed."""
        return not self._agreed and self._calls >= CALLS and self._samples >= SAMPLES

    @property
    def counts(self) -> tuple[int, int]:
        """Calls with a second vote, and all votes that could have repeated one."""
        return self._calls, self._samples
