"""What samples of one call take, and what one more of them is worth."""

from __future__ import annotations

from collections.abc import Sequence

from dynscale_dspy.allocation.costs import FREE, METERED, NOTHING, Cost, CostRecord, expected_cost, relative_cost
from dynscale_dspy.allocation.evidence import Evidence
from dynscale_dspy.allocation.requests import PricedSizes
from dynscale_dspy.budget.accounts import Ledger
from dynscale_dspy.budget.payer import Payer
from dynscale_dspy.budget.shortages import lacking


class Needs:
    """What samples of one call take, as far as known: pacing goes by it. Nothing here takes a lock.

    Args:
        payer: The pool that pays.
        program: Whose samples these are.
        requests: A guess of the requests that one makes, until one has finished.

    Attributes:
        learned: What is known of all samples of the program.
        ledger: What they are charged to.
    """

    def __init__(self, payer: Payer, program: object | None, requests: int) -> None:
        self.payer = payer
        self.ledger: Ledger = payer.ledger_for(program)
        self._program = payer.program(program)
        self.learned = self._program.learned
        self._requests_guess = requests
        self._records: dict[str, CostRecord] = {}
        self._looks = False

    @property
    def is_measured(self) -> bool:
        """Whether a sample of this program has finished, so that it is known what one takes."""
        return self.learned.need is not None

    @property
    def has_shared(self) -> bool:
        """Whether a request has brought several samples of this program."""
        return any(record.further_need is not None for record in self.learned.records.values())

    @property
    def has_models(self) -> bool:
        """Whether its samples are drawn from several language models."""
        return self.learned.has_models

    def requests_each(self, sampler: str = "") -> int:
        """Requests to set aside for one sample: the most one has made, or the guess before any has finished."""
        need = self.learned.need_of(sampler)
        return max(need.requests, 1) if need is not None else self._requests_guess

    def each(self, unit: str) -> float:
        """What one sample takes of a unit: requests at most, tokens and dollars on average; 0 if not known yet.

        Of several language models it is a sample of the first: a mean over all moves as others are asked.
        """
        if unit == "samples":
            return 1
        if unit == "requests":
            return self.requests_each()
        accounts = self.payer.accounts
        return self.learned.usual.mean(unit) or self.learned.cost.mean(unit) or accounts.record.mean(unit)

    def bounds(self, unit: str) -> tuple[float, float]:
        """The most that a first sample, and any sample, takes of tokens or nanodollars."""
        need, first = self.metered(self.learned.need), self.metered(self.learned.first_need)
        return getattr(first, unit), getattr(need, unit)

    def fits(self, sampler: str, *, first: bool) -> bool:
        """Whether a sample would fit if what is in flight turned out to cost no tokens and no money.

        Args:
            sampler: What would draw it.
            first: Whether it would be the first of its call.
        """
        need = self.need(sampler, first=first)
        return all(self.ledger.unspent(unit) >= getattr(need, unit) for unit in METERED)

    def lacking(self) -> str:
        """Which caps forbid its first sample, in words; empty if none does."""
        return lacking(self.ledger, self.amount("", None, first=True, metered=True), "a first sample needs {}")

    def amount(self, sampler: str, requests: int | None, *, first: bool, metered: bool, further: bool = False) -> Cost:
        """What to set aside for the next sample."""
        # As many requests as a sample is known to make, so that one that is let in can finish; a guess may be too
        # high, and is no reason to refuse.
        each = self.requests_each(sampler)
        if requests is not None or self.is_measured:
            aside = requests or each
        else:
            aside = max(1, int(min(each, self.ledger.remaining("requests"))))
        amount = Cost(samples=1, requests=aside)
        if metered:
            amount += self.need(sampler, first=first, further=further)
        return amount

    def need(self, sampler: str, *, first: bool, further: bool = False) -> Cost:
        """Tokens and dollars to set aside for the next sample."""
        return self.metered(self.learned.need_of(sampler, first=first, further=further))

    def metered(self, need: Cost | None) -> Cost:
        """Tokens and dollars to set aside for one sample; at least one of each, so that none begins on nothing."""
        tokens, money = self.ledger.capped("tokens"), self.ledger.capped("nanodollars")
        if not tokens and not money:
            return NOTHING
        need = need or NOTHING
        return Cost(
            prompt_tokens=max(need.tokens, 1) if tokens else 0, nanodollars=max(need.nanodollars, 1) if money else 0
        )

    @property
    def counts_requests(self) -> bool:
        """Whether a cap limits requests, in their number or by what they cost."""
        return self.ledger.capped("requests") or self.ledger.capped("tokens") or self.ledger.capped("nanodollars")

    def relative_cost(self, sampler: str = "") -> float:
        """Expected cost of this call's next sample over what one usually costs in this pool, in what runs out first.

        1 where that is samples or requests, or nothing is known.
        """
        unit = self.payer.accounts.binding_unit
        if unit is None:
            return 1.0
        if unit == "nanodollars" and self.learned.is_free(sampler):
            return FREE
        record = self._records.get(sampler) or CostRecord()
        mean = self.learned.mean_of(sampler, unit)
        expected = expected_cost(getattr(record.total, unit), record.samples, mean)
        accounts = self.payer.accounts
        return relative_cost(expected, accounts.usual.mean(unit) or accounts.record.mean(unit))

    def counts_as(self, sampler: str) -> float:
        """How many samples one of this sampler counts as in the pace of calls: by its cost, where that sets it."""
        if self.learned.of(sampler).is_usual:
            return 1.0
        unit = self.payer.pacing.tightest(self)
        if unit not in METERED:
            return 1.0
        if unit == "nanodollars" and self.learned.is_free(sampler):
            return FREE
        return relative_cost(self.learned.mean_of(sampler, unit), self.each(unit))

    @property
    def beyond_usual(self) -> float:
        """What its samples count as, less their number."""
        return sum(
            (self.counts_as(sampler) - 1) * record.samples
            for sampler, record in self._records.items()
            if not self.learned.of(sampler).is_usual
        )

    def request_sizes(self, samplers: Sequence[str], together: int) -> PricedSizes | None:
        """How large the next request is to be; None where each of its samples is weighed by itself.

        Args:
            samplers: What would draw its samples.
            together: How many at most may come from it.
        """
        if together == 1 or not samplers or not self.payer.policy.is_gain or self.has_models:
            return None
        unit, pacing = self.payer.accounts.binding_unit, self.payer.pacing
        record = self.learned.of(samplers[0]).cost
        record = record if record.samples else self.learned.cost
        if unit is not None and not (pacing.paced and pacing.tightest(self) not in METERED):
            return PricedSizes.of(record, unit, self.each(unit))
        # Where tokens or dollars last for all calls that were announced there is nothing to save.
        counts = self.counts_prompts and (unit is None or pacing.expected is None)
        return PricedSizes.counted(record, pacing.per_call_of(self)) if counts else None

    def share_alone(self, together: int) -> float:
        """What to multiply the index of a sample by that has a request of its own, where others share theirs.

        Args:
            together: How many at most may come from its request.
        """
        if together > 1 or not self.has_shared or not self.payer.policy.is_gain or self.has_models:
            return 1.0
        if self.payer.accounts.binding_unit is not None or not self.counts_prompts:
            return 1.0
        sizes = PricedSizes.counted(self.learned.cost, self.payer.pacing.per_call_of(self))
        return sizes.alone if sizes is not None else 1.0

    @property
    def counts_prompts(self) -> bool:
        """Whether prompts count though calls are given samples: samples are not capped, and costs will be known anew.

        Where they would not be, a second run that DSPy's cache answers would decide otherwise, and ask anew.
        """
        return self.learned.costs_last and not self.ledger.capped("samples")

    def in_requests(self, sizes: PricedSizes, credit: float, samples: int = 0) -> tuple[float, float]:
        """Samples that a request may bring for a credit, and what one for so many counts as in the pace of calls."""
        if self.payer.pacing.tightest(self) in METERED:
            return sizes.room(credit), sizes.cost(samples)
        return credit, samples

    def worth(self, evidence: Evidence, sampler: str, ahead: int) -> float:
        """The index of a sample that has so many before it, at what it costs."""
        policy = self.payer.policy
        worth = policy.index(evidence, pending=ahead, total=self.payer.drawn + ahead)
        if policy.is_gain:
            promise = self.learned.repeats.promise(evidence, pending=ahead, looking=self._looks)
            worth *= promise / self.relative_cost(sampler)
        return worth

    def costed(self, sampler: str, cost: Cost, saved: Cost) -> None:
        """A sample that ran has cost so much, and so much less than without DSPy's cache."""
        self._records.setdefault(sampler, CostRecord()).add(cost, saved)
        self.learned.costed(sampler, cost, saved)
