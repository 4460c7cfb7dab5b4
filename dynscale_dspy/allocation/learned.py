"""What is learned of a program's samples, kept apart by the sampler that draws them."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import Any

from dynscale_dspy.allocation.confidence import Agreement
from dynscale_dspy.allocation.costs import NOTHING, Cost, CostRecord, Tariff, expected_cost
from dynscale_dspy.allocation.label_means import LabelMeans
from dynscale_dspy.allocation.modes import Modes
from dynscale_dspy.allocation.peers import Peers
from dynscale_dspy.allocation.repeats import Repeats
from dynscale_dspy.allocation.trust import Trust


class SamplerRecord:
    """What the samples of one sampler have needed, cost and said.

    Args:
        need: The most that one of its samples has held at once, unit by unit: with so much set aside the next one can
            finish. None before one has finished.
        further_need: The same of those that came as further choices of another one's request, which pays for the
            prompt; None before there was one.
        cost: What its samples have cost.
        samples: How many of them have been read.
        blanks: How many of those cast no vote.
        tariff: What is known of its costs beforehand, where it has a language model of its own; else None.
        is_usual: Whether samples of the program are counted in its own; False if its language model is one of several,
            and not the first.
        in_order: Whether its calls tell what samples cost as they read them: a rule that goes by prices would else draw
            by what happens to have finished.
    """

    __slots__ = (
        *("_failed", "_left_out", "blanks", "cost", "further_need"),
        *("in_order", "is_usual", "need", "samples", "tariff"),
    )

    def __init__(self) -> None:
        self.need: Cost | None = None
        self.further_need: Cost | None = None
        self.cost = CostRecord()
        self.samples = 0
        self.blanks = 0
        self.tariff: Tariff | None = None
        self.in_order = False
        self.is_usual = True
        self._failed = 0
        self._left_out = 0

    @property
    def is_lost(self) -> bool:
        """Whether its language model has failed for good several times, and has not answered since."""
        return self._failed >= LOST

    def price(self, usual: CostRecord) -> float | None:
        """What a sample costs in nanodollars, by its samples and its listed price; None where neither tells.

        Args:
            usual: How many tokens a sample has, for the listed price.
        """
        listed = self.tariff.mean("nanodollars", usual) if self.tariff is not None and self.tariff.is_priced else None
        if listed is not None:
            return expected_cost(self.cost.total.nanodollars, self.cost.samples, listed)
        return self.cost.mean("nanodollars") if self.cost.samples >= TELLING else None

    def told(self, *, lost: bool) -> None:
        """Its language model has answered, or failed for good.

        Example:
            >>> record = SamplerRecord()
            >>> for _ in range(LOST):
            ...     record.told(lost=True)
            >>> record.is_lost
            True
            >>> record.told(lost=False)
            >>> record.is_lost
            False
        """
        self._failed = self._failed + 1 if lost else 0

    def read(self, *, blank: bool, of_model: bool) -> None:
        """A sample has been read.

        Args:
            blank: Whether it casts no vote.
            of_model: Whether the record is of one of several language models: if that one mostly cast no votes and now
                casts one, what it did before counts no more, so that it may come back.

        Example:
            >>> record = SamplerRecord()
            >>> for blank in (True, True, True, True, False):
            ...     record.read(blank=blank, of_model=True)
            >>> record.samples, record.blanks
            (1, 0)
        """
        if of_model and not blank and self.samples >= MUTE and 2 * self.blanks > self.samples:
            self.samples = self.blanks = 0
        self.samples += 1
        self.blanks += blank

    def opened(self) -> None:
        """A call begins: every so often one tries a lost language model again."""
        if self.is_lost:
            self._left_out += 1
            if self._left_out % TRIED_AGAIN == 0:
                self._failed = LOST - 1


TELLING = 4
"""Samples that tell what one costs where no price is listed: of reasoning models one may cost thrice another."""
LOST = 3
"""Samples in a row that have failed for good, after which other calls do not ask that language model either."""
TRIED_AGAIN = 32
"""Calls of which one tries a lost language model again."""
MUTE = 4
"""Samples of each of two samplers after which one may be found to cast no votes."""
_LASTING = ("trust", "modes")
"""What is true of a program whatever pool pays."""
_BY_MODEL = ("labels", "peers")
"""The same, kept by language model."""


class Learned:
    """What a pool has learned of one program: a :class:`SamplerRecord` for each sampler, and all together.

    Args:
        records: By sampler.
        need: The most that a sample of any of them has held at once; None before one has finished.
        cost: What samples of all of them have cost.
        usual: What those have cost that samples are counted in; see :attr:`SamplerRecord.is_usual`.
        repeats: Whether its samples ever say the same.
        agreement: How often two samples of a call say the same.
        modes: Whether greedy first samples say what votes come to.
        peers: What its language models say beside each other, where it has several.
        labels: How probable each label is on average; only where votes are calibrated.
        trust: Whether samples that see earlier ones check them or follow them.
        costs_last: Whether what a sample has cost can be told again where DSPy's cache answers.
        ids_tell: Whether equal ids of responses mean equal responses; not where one id was seen on different ones.

    Example:
        >>> learned = Learned()
        >>> learned.needed("independent", Cost(requests=2), index=0)
        >>> learned.need_of("independent").requests, learned.need_of("conditioned").requests
        (2, 2)
    """

    __slots__ = (
        *("_first", "agreement", "cost", "costs_last", "ids_tell", "labels", "modes"),
        *("need", "peers", "records", "repeats", "trust", "usual"),
    )

    def __init__(self) -> None:
        self.records: dict[str, SamplerRecord] = {}
        self.need: Cost | None = None
        self.cost = CostRecord()
        self.usual = CostRecord()
        self.repeats = Repeats()
        self.agreement = Agreement()
        self.modes = Modes()
        self.trust = Trust()
        self.peers = Peers()
        self.labels = LabelMeans()
        self.ids_tell = True
        self.costs_last = False
        self._first: Cost | None = None

    def told(self) -> dict[str, Any]:
        """What has been learned that is true of the program whatever pool pays, as values to save."""
        told = {name: getattr(self, name).evidence for name in _LASTING}
        new = {name: evidence for name, evidence in told.items() if evidence != getattr(Learned(), name).evidence}
        by_model = {name: getattr(self, name).told() for name in _BY_MODEL}
        return {**new, **{name: known for name, known in by_model.items() if known}}

    def recall(self, told: Any) -> None:
        """Begin with what was saved elsewhere. What is no number, or of no known name, is left out.

        Args:
            told: What :meth:`told` gave.

        Example:
            >>> learned, later = Learned(), Learned()
            >>> for _ in range(8):
            ...     learned.trust.tell(agree=True, shown=2)
            >>> later.recall(learned.told())
            >>> later.trust.earned
            True
        """
        for name, evidence in told.items() if isinstance(told, Mapping) else ():
            is_number = isinstance(evidence, (int, float)) and abs(evidence) < math.inf
            if name in _BY_MODEL or (name in _LASTING and is_number):
                getattr(self, name).recall(evidence)

    @property
    def has_models(self) -> bool:
        """Whether its samples are drawn from several language models."""
        return not all(record.is_usual for record in self.records.values())

    def of(self, sampler: str) -> SamplerRecord:
        """The record of a sampler; an empty one before its first sample."""
        record = self.records.get(sampler)
        return record if record is not None else self.records.setdefault(sampler, SamplerRecord())

    def opened(self, samplers: Collection[str]) -> None:
        """A call begins that chooses between these language models."""
        for sampler in samplers:
            record = self.of(sampler)
            record.in_order = True
            record.opened()

    def need_of(self, sampler: str | None, *, first: bool = False, further: bool = False) -> Cost | None:
        """The most that a sample of this sampler has held; of any sampler while this one is unknown.

        If the sampler has a language model of its own, that of others is put at its prices.

        Args:
            sampler: Its name.
            first: Whether it is the first sample of a call.
            further: Whether it may come as a further choice of another one's request. It holds more where it does not.
        """
        record = self.records.get(sampler) if sampler is not None else None
        if further and record is not None and record.further_need is not None:
            return record.further_need
        if record is not None and record.tariff is not None:
            return record.need if record.need is not None or self.need is None else record.tariff.need(self.need)
        if first:
            return self.first_need
        return self.need if record is None or record.need is None else record.need

    @property
    def first_need(self) -> Cost | None:
        """The most that the first sample of a call has held; it sees no earlier ones and so needs less than others."""
        return self._first or self.need

    def mean_of(self, sampler: str | None, unit: str) -> float:
        """What a sample of this sampler costs on average; of any sampler while this one is unknown."""
        record = self.records.get(sampler) if sampler is not None else None
        mean = record.cost.mean(unit) if record is not None else 0.0
        if not mean and record is not None and record.tariff is not None:
            return record.tariff.mean(unit, self.cost)
        return mean or self.cost.mean(unit)

    def is_free(self, sampler: str) -> bool:
        """Whether samples of a language model of its own are known to cost no money.

        Args:
            sampler: Its name.
        """
        record = self.records.get(sampler)
        return record is not None and record.tariff is not None and record.tariff.is_free

    def is_mute(self, sampler: str, *, beside: str) -> bool:
        """Whether samples of one sampler mostly cast no vote, and those of another one mostly do.

        As at a temperature of 0, at which some models go on without end and some servers fail.

        Args:
            sampler: The name of the one.
            beside: That of the other.

        Example:
            >>> learned = Learned()
            >>> one, other = learned.of("greedy"), learned.of("independent")
            >>> one.samples, one.blanks, other.samples = 4, 4, 12
            >>> learned.is_mute("greedy", beside="independent"), learned.is_mute("independent", beside="greedy")
            (True, False)
        """
        one, other = self.records.get(sampler), self.records.get(beside)
        if one is None or other is None or min(one.samples, other.samples) < MUTE:
            return False
        return 2 * one.blanks > one.samples and 4 * other.blanks <= other.samples

    def needed(self, sampler: str, peak: Cost, *, index: int) -> None:
        """A sample that was not cut off has held so much at once.

        Args:
            sampler: What drew it.
            peak: The most it has held.
            index: Its position among the samples of its call.
        """
        self.need = peak.at_least(self.need or peak)
        record = self.of(sampler)
        record.need = peak.at_least(record.need or peak)
        if not peak.requests and peak != NOTHING:
            record.further_need = peak.at_least(record.further_need or peak)
        if index == 0:
            self._first = peak.at_least(self._first or peak)

    def costed(self, sampler: str, cost: Cost, saved: Cost | None = None) -> None:
        """A sample has cost so much.

        Args:
            sampler: What drew it.
            cost: What it cost.
            saved: What DSPy's cache has saved of it, as far as that is known.
        """
        self.cost.add(cost, saved)
        record = self.of(sampler)
        if record.is_usual:
            self.usual.add(cost, saved)
        if not record.in_order:
            record.cost.add(cost, saved)
