"""What a sample is expected to cost: worth is weighed per unit of what runs out first."""

from __future__ import annotations

from dynscale_dspy.allocation.ledger import Cost

PRIOR = 2.0
"""Samples' worth of belief that a call costs what calls of its module cost on average."""


def expected_cost(total: float, samples: int, module_mean: float, prior: float = PRIOR) -> float:
    r"""Posterior mean cost of one more sample of an arm.

    .. math:: \hat c = \frac{\sum_i c_i + m\,\bar c}{n + m}

    Args:
        total: What the arm's finished samples cost together.
        samples: How many they are.
        module_mean: What a sample of the arm's module costs on average.
        prior: The weight m of that average, in samples.

    Example:
        >>> expected_cost(300, 1, module_mean=100)  # one sample of 300 where 100 is usual
        166.66666666666666
    """
    return (total + prior * module_mean) / (samples + prior)


def relative_cost(expected: float, reference: float, gamma: float = 1.0) -> float:
    r"""What an index is divided by: :math:`(\hat c / \bar c)^\gamma`, 1 where nothing is known.

    Relative to the pool's own mean, so that the online price, which is paid per average sample, keeps its scale.

    Example:
        >>> relative_cost(200, 100), relative_cost(200, 0)
        (2.0, 1.0)
    """
    if expected <= 0 or reference <= 0:
        return 1.0
    return (expected / reference) ** gamma


class CostRecord:
    """What some samples have cost: their number and their sum.

    Example:
        >>> record = CostRecord()
        >>> record.add(Cost(samples=1, prompt_tokens=100)); record.add(Cost(samples=1, prompt_tokens=300))
        >>> record.mean("tokens")
        200.0
    """

    __slots__ = ("samples", "total")

    def __init__(self) -> None:
        self.samples = 0
        self.total = Cost()

    def add(self, cost: Cost) -> None:
        """One more sample. One that DSPy's cache answered in part says nothing about the next, and is left out."""
        if not cost.cached_calls:
            self.samples += 1
            self.total += cost

    def mean(self, unit: str) -> float:
        """The average cost in a unit; 0 before there is any."""
        return getattr(self.total, unit) / self.samples if self.samples else 0.0

    @property
    def completion_share(self) -> float:
        """What the tokens a sample writes are of all a request for it alone takes; 1 where nothing is known.

        Example:
            >>> record = CostRecord()
            >>> record.add(Cost(samples=1, calls=1, prompt_tokens=300, completion_tokens=100))
            >>> record.add(Cost(samples=1, completion_tokens=100))  # a further choice of the same request
            >>> record.completion_share
            0.25
        """
        if not self.samples or not self.total.calls or not self.total.tokens:
            return 1.0
        written = self.total.completion_tokens / self.samples
        return written / (written + self.total.prompt_tokens / self.total.calls)

    def expected(self, unit: str, module: CostRecord, prior: float = PRIOR) -> float:
        """What one more sample is expected to cost; see :func:`expected_cost`."""
        return expected_cost(getattr(self.total, unit), self.samples, module.mean(unit), prior)
