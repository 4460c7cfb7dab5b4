r"""Whether samples that see earlier attempts check them or follow them, learned without knowing any answer.

A model that is shown two different answers and follows what it is shown says either: two of its samples that saw the
same answers agree by chance, one time in two. A model that checks them says the right one, and so agrees with itself
more often. Of two samples of one call that saw the same m answers, and each said one of those, a follower's agree with
probability :math:`1/m`, a checker's with :math:`1/m + c \, (1 - 1/m)`. One such pair of each call adds the logarithm of
the likelihood ratio to a sum (a sequential test, Wald 1945). While it is not below 0 votes of such samples count, at
:data:`ENOUGH` calls may draw any number of them, and at :data:`GIVE_UP` none are drawn any more. For a follower the
second is ever reached with probability :math:`e^{-2}` at most, for a checker the last with :math:`e^{-2.5}`.

The lift c is that of the lab's model, which checks: .74 of 527 pairs agreed that saw two answers (76 contested calls of
set 30). Where it misleads: a model that errs the same way each time it sees attempts agrees with itself too, and in
calls where a checker is lost it looks like a follower. This is our own, not the paper's.
"""

from __future__ import annotations

import math

LIFT = 0.47
"""How much more often than by chance two samples of a model that checks agree, as a share of what is possible."""
ENOUGH, GIVE_UP = 2.0, -2.5
"""Sums of log likelihood ratios at which calls may draw such samples without limit, and at which none are drawn."""
MOST = 6.0
"""The largest sum, so that a model that changes is noticed."""
AHEAD = 16
"""Samples that may be under way before any has told something."""
ON_TRIAL = 2
"""Samples that see earlier ones which a call draws while it is not known whether such samples check."""


class Trust:
    """What is known of one program's samples that see earlier ones: whether they check those, or follow.

    Attributes:
        evidence: The sum of log likelihood ratios, that they check over that they follow.

    Example:
        >>> trust = Trust()
        >>> trust.counts, trust.earned
        (True, False)
        >>> for _ in range(8):
        ...     trust.tell(agree=True, shown=2)
        >>> trust.counts, trust.earned
        (True, True)
    """

    __slots__ = ("_asked", "_earned", "_has_earned", "_heard", "evidence")

    def __init__(self) -> None:
        self.evidence = 0.0
        self._earned = self._has_earned = False
        self._asked = self._heard = 0

    def tell(self, *, agree: bool, shown: int) -> None:
        """Two samples of a call that saw the same answers have each said one of them.

        Args:
            agree: Whether it was the same one.
            shown: How many answers they saw, 2 or more.
        """
        chance = 1 / shown
        checking = chance + LIFT * (1 - chance)
        ratio = math.log(checking / chance) if agree else math.log((1 - checking) / (1 - chance))
        self.evidence = max(GIVE_UP, min(self.evidence + ratio, MOST))
        # Calls in which a checker is lost come late in a known set: what was earned is not lost to a few of them.
        self._earned = self.evidence >= ENOUGH or (self._earned and self.evidence > GIVE_UP)
        self._has_earned = self._has_earned or self._earned

    def recall(self, evidence: float) -> None:
        """Begin with what was learned elsewhere of the same program."""
        self.evidence = max(GIVE_UP, min(evidence, MOST))
        self._earned = self._has_earned = self.evidence >= ENOUGH

    def asked(self) -> None:
        """A sample that sees earlier ones was drawn."""
        self._asked += 1

    def heard(self) -> None:
        """Such a sample is finished, whatever became of it."""
        self._heard += 1

    @property
    def counts(self) -> bool:
        """Whether votes of such samples count: unless they rather follow than check, as far as is known.

        Once it was clear that they check they do so for good: a model that neither gains nor loses by attempts looks
        like either now and then, and to take back half of all votes would cost more than they can be wrong.
        """
        return self._has_earned or self.evidence >= 0

    @property
    def earned(self) -> bool:
        """Whether it is safe to say that they check, so that calls may draw any number."""
        return self._earned

    @property
    def may_try(self) -> bool:
        """Whether one more such sample may be drawn to find out."""
        return self.evidence > GIVE_UP and self._asked <= 2 * self._heard + AHEAD
