"""What samples cost, and what the next one is expected to: worth is weighed per unit of what runs out first."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from dynscale_dspy import _deprecated

NANO = 10**9
"""Nanodollars in a dollar: money is counted in integers, so that a thousand small prices add up exactly."""


@dataclass(frozen=True, init=False)
class Cost:
    """An amount in every unit at once. Everything is an integer: sums are exact, and a cap is met to the last one.

    Args:
        samples: Runs of a wrapped program.
        requests: Language-model requests those runs made, retries included. An answer from DSPy's cache counts
            as one, so that a warm cache changes no decision.
        prompt_tokens: Tokens read, as reported; 0 for cached answers.
        completion_tokens: Tokens written, hidden reasoning included.
        cached_tokens: Those of the prompt tokens that the provider's prompt cache held.
        nanodollars: Price in billionths of a dollar, where the language model's is known.
        cached_requests: Those of the requests that DSPy's cache answered: they cost no token and no dollar.
        calls: Deprecated: use ``requests``.
        cached_calls: Deprecated: use ``cached_requests``.

    Raises:
        TypeError: If an amount is given under its old name and its new one.

    Example:
        >>> cost = Cost(samples=1, requests=2, prompt_tokens=30, completion_tokens=12, nanodollars=1_500_000)
        >>> cost.tokens, cost.dollars
        (42, 0.0015)
    """

    samples: int = 0
    requests: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    nanodollars: int = 0
    cached_requests: int = 0

    def __init__(
        self,
        samples: int = 0,
        requests: int = 0,
        prompt_tokens: int = 0,
        completion_tokens: int = 0,
        cached_tokens: int = 0,
        nanodollars: int = 0,
        cached_requests: int = 0,
        *,
        calls: int | None = None,
        cached_calls: int | None = None,
    ) -> None:
        # Written out, and past what makes the class frozen: this runs fifty times a sample.
        if calls is not None:
            requests = _deprecated.by_old_name("calls", calls, "requests", requests)
        if cached_calls is not None:
            cached_requests = _deprecated.by_old_name("cached_calls", cached_calls, "cached_requests", cached_requests)
        amounts = self.__dict__
        amounts["samples"] = samples
        amounts["requests"] = requests
        amounts["prompt_tokens"] = prompt_tokens
        amounts["completion_tokens"] = completion_tokens
        amounts["cached_tokens"] = cached_tokens
        amounts["nanodollars"] = nanodollars
        amounts["cached_requests"] = cached_requests

    def __setstate__(self, saved: dict[str, int]) -> None:
        # Pickles of version 0.1 have two amounts under their old names.
        self.__dict__.update({_OLD_NAMES.get(name, name): amount for name, amount in saved.items()})

    @property
    def tokens(self) -> int:
        """Prompt and completion tokens together."""
        return self.prompt_tokens + self.completion_tokens

    @property
    def dollars(self) -> float:
        """Price in dollars."""
        return self.nanodollars / NANO

    def __add__(self, other: Cost) -> Cost:
        if other is NOTHING:
            return self
        if self is NOTHING:
            return other
        return Cost(
            self.samples + other.samples,
            self.requests + other.requests,
            self.prompt_tokens + other.prompt_tokens,
            self.completion_tokens + other.completion_tokens,
            self.cached_tokens + other.cached_tokens,
            self.nanodollars + other.nanodollars,
            self.cached_requests + other.cached_requests,
        )

    def __sub__(self, other: Cost) -> Cost:
        if other is NOTHING:
            return self
        return Cost(
            self.samples - other.samples,
            self.requests - other.requests,
            self.prompt_tokens - other.prompt_tokens,
            self.completion_tokens - other.completion_tokens,
            self.cached_tokens - other.cached_tokens,
            self.nanodollars - other.nanodollars,
            self.cached_requests - other.cached_requests,
        )

    def covers(self, other: Cost) -> bool:
        """Whether it is at least the other amount, in each unit that can be capped.

        Example:
            >>> held = Cost(samples=1, requests=1, prompt_tokens=100)
            >>> held.covers(Cost(requests=1, completion_tokens=100)), held.covers(Cost(requests=2))
            (True, False)
        """
        return (
            self.samples >= other.samples
            and self.requests >= other.requests
            and self.nanodollars >= other.nanodollars
            and self.tokens >= other.tokens
        )

    def at_least(self, other: Cost) -> Cost:
        """The larger amount, unit by unit; neither is below nothing."""
        if self is NOTHING:
            return other
        if self == other:
            return self
        return Cost(
            max(self.samples, other.samples),
            max(self.requests, other.requests),
            max(self.prompt_tokens, other.prompt_tokens),
            max(self.completion_tokens, other.completion_tokens),
            max(self.cached_tokens, other.cached_tokens),
            max(self.nanodollars, other.nanodollars),
            max(self.cached_requests, other.cached_requests),
        )


NOTHING = Cost()
"""What most sums begin with: to add it makes no new amount."""

_OLD_NAMES = {"calls": "requests", "cached_calls": "cached_requests"}
"""Names of version 0.1, which keep working."""
for _old, _new in _OLD_NAMES.items():
    setattr(Cost, _old, _deprecated.alias(_old, _new))

UNITS = ("samples", "requests", "tokens", "nanodollars")
"""What a ledger can cap."""
METERED = ("tokens", "nanodollars")
"""Units whose amount is known only when a request has been answered; before, there is an upper bound at best."""

FREE = 0.01
"""What a sample of a language model counts as that costs no money, in samples of one that does: it takes time."""
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

    __slots__ = ("further", "samples", "total")

    def __init__(self) -> None:
        self.samples = 0
        self.total = NOTHING
        self.further = NOTHING
        """What those cost together that came as further choices of another one's request."""

    def add(self, cost: Cost, saved: Cost | None = None) -> None:
        """One more sample. One that DSPy's cache answered, if only in part, says nothing about the next: it is out.

        Args:
            cost: What it cost.
            saved: What the cache saved, where that is known: then it counts at what it would cost without it.
        """
        if saved is not None and (saved.tokens or saved.nanodollars):
            cost = replace(cost + saved, requests=cost.requests, cached_requests=0)
        if not cost.cached_requests and (cost.requests or cost.tokens or cost.nanodollars):
            self.samples += 1
            self.total += cost
            if not cost.requests:
                self.further += cost

    def mean(self, unit: str) -> float:
        """The average cost in a unit; 0 before there is any."""
        return getattr(self.total, unit) / self.samples if self.samples else 0.0

    def apart(self, unit: str) -> tuple[float, float] | None:
        """What a request costs before it brings a sample, and what each sample adds; None where nothing is known.

        Money tells one from the other once a request has brought several samples; before, it is shared as tokens are.

        Example:
            >>> record = CostRecord()
            >>> record.add(Cost(samples=1, requests=1, prompt_tokens=300, completion_tokens=100))
            >>> record.add(Cost(samples=1, completion_tokens=100))  # a further choice of the same request
            >>> record.apart("tokens")
            (300.0, 100.0)
        """
        total, further = self.total, self.further
        requests = self.samples - further.samples
        if not requests or not total.completion_tokens:
            return None
        whole = getattr(total, unit)
        if unit == "nanodollars" and further.nanodollars:
            written = further.nanodollars / further.samples
        else:
            written = whole * total.completion_tokens / total.tokens / self.samples
        return max(whole - written * self.samples, 0.0) / requests, written

    def expected(self, unit: str, module: CostRecord, prior: float = PRIOR) -> float:
        """What one more sample is expected to cost; see :func:`expected_cost`."""
        return expected_cost(getattr(self.total, unit), self.samples, module.mean(unit), prior)


@dataclass(frozen=True)
class Tariff:
    """What is known of a language model's costs before it was asked.

    Args:
        prompt: Nanodollars for a token that it reads; None if not known.
        completion: Nanodollars for a token that it writes; None if not known.
        most: Tokens that it writes in a request at most; None if nothing bounds them.

    Example:
        >>> cheap = Cost(requests=1, prompt_tokens=100, completion_tokens=50, nanodollars=150)
        >>> Tariff(prompt=10, completion=40, most=80).need(cheap).nanodollars
        4200
    """

    prompt: float | None = None
    completion: float | None = None
    most: int | None = None

    @property
    def is_priced(self) -> bool:
        """Whether it is known what tokens cost."""
        return self.prompt is not None and self.completion is not None

    @property
    def is_free(self) -> bool:
        """Whether it is known to charge nothing."""
        return self.prompt == 0 == self.completion

    def need(self, other: Cost) -> Cost:
        """The most that a sample holds, where one of another language model has held so much at most.

        The last of its requests counts at its bound, those before it at what they came to.
        """
        requests = max(other.requests, 1)
        before = other.completion_tokens * (requests - 1) // requests
        written = other.completion_tokens if self.most is None else before + self.most
        return Cost(
            requests=other.requests,
            prompt_tokens=other.prompt_tokens,
            completion_tokens=written,
            nanodollars=math.ceil(self._money(other.prompt_tokens, written, other.nanodollars)),
        )

    def mean(self, unit: str, others: CostRecord) -> float:
        """What a sample costs on average, where those of other language models have cost so much."""
        if unit != "nanodollars":
            return others.mean(unit)
        return self._money(others.mean("prompt_tokens"), others.mean("completion_tokens"), others.mean(unit))

    def _money(self, prompt: float, completion: float, otherwise: float) -> float:
        if self.prompt is None or self.completion is None:
            return otherwise
        return prompt * self.prompt + completion * self.completion
