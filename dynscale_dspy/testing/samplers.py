"""Laws that any strategy must keep: a class to inherit in a test, so that pytest runs them on your strategy.

Example::

    from dynscale_dspy.testing import StrategyLaws


    class TestMyStrategy(StrategyLaws):
        def strategy(self):
            return MyStrategy()
"""

from __future__ import annotations

import copy
import math
import pickle
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from dynscale_dspy.allocation.costs import Cost
from dynscale_dspy.allocation.learned import Learned
from dynscale_dspy.sampling.plan import Plan
from dynscale_dspy.sampling.sample import Draw, Sample
from dynscale_dspy.sampling.samplers import CallView, Sampler
from dynscale_dspy.sampling.strategies import Strategy
from dynscale_dspy.selection.base import Vote
from dynscale_dspy.selection.plurality import Plurality

SEED = 20260101
ENDS = 24
"""Samples that a call of the laws may draw."""


class Proposal(NamedTuple):
    """What a strategy says of one sample: its sampler, and what that one's chain shows. None: no more samples."""

    sampler: Sampler | None
    shown: tuple[int, ...] = ()

    @property
    def name(self) -> str | None:
        """The sampler's name."""
        return None if self.sampler is None else self.sampler.name


class StrategyLaws:
    """What the plan, the pool and reports rely on in a strategy.

    Override :meth:`strategy`.
    """

    def strategy(self) -> Strategy:
        """A fresh strategy to test."""
        raise NotImplementedError("override strategy() to return the strategy under test")

    # ---- samplers

    def test_samplers_have_names_of_their_own(self) -> None:
        """What is learned of samples is kept by the sampler's name."""
        names = [sampler.name for sampler in self.strategy().samplers]
        assert names and all(isinstance(name, str) and name for name in names), f"samplers are named {names}"
        assert len(set(names)) == len(names), f"two samplers have one name: {names}"

    def test_only_its_own_samplers_are_proposed(self) -> None:
        """Reports and the pool know them before the first sample."""
        strategy = self.strategy()
        own = {sampler.name: sampler for sampler in strategy.samplers}
        for view, learned, seed in self._cases():
            sampler = _proposal(strategy, view, learned, seed).sampler
            if sampler is None:
                continue
            assert sampler.name in own, f"{sampler.name!r} is none of its samplers: {sorted(own)}"
            # Which samples a chain shows may be said with the proposal, so the chains need not be equal.
            one, other = sampler, own[sampler.name]
            assert (one.temperature, one.chain is None) == (other.temperature, other.chain is None), sampler
            assert one.demos == other.demos, sampler
            assert one.lm is other.lm or one.lm == other.lm, sampler

    def test_a_first_sample_is_always_proposed(self) -> None:
        """A call without any sample has no answer."""
        strategy = self.strategy()
        for view, learned, seed in self._cases():
            if view.next_index == 0:
                assert _proposal(strategy, view, learned, seed).sampler is not None, view

    # ---- reproducible

    def test_proposals_are_deterministic(self) -> None:
        """Same call, same seed, same sampler and chain; and so for an equal strategy, a copy, or one loaded from disk.

        Whatever was asked before: one strategy serves all calls at the same time.
        """
        strategy = self.strategy()
        cases = list(self._cases())
        expected = [_seen(_proposal(strategy, *case)) for case in cases]
        for twin in (strategy, self.strategy(), copy.deepcopy(strategy), pickle.loads(pickle.dumps(strategy))):
            found = [_seen(_proposal(twin, *case)) for case in reversed(cases)]
            assert found[::-1] == expected

    def test_copies_are_equal(self) -> None:
        """Settings are saved, compared and copied with the program; language models may be objects of their own."""
        strategy = self.strategy()
        twins = [self.strategy(), copy.copy(strategy)]
        if all(sampler.lm is None for sampler in strategy.samplers):
            twins += [copy.deepcopy(strategy), pickle.loads(pickle.dumps(strategy))]
        for twin in twins:
            assert twin == strategy, f"{twin!r} is not equal to {strategy!r}"

    def test_nothing_is_changed_by_proposing(self) -> None:
        """A strategy looks at what is known of the program; it adds nothing to it."""
        strategy = self.strategy()
        for view, learned, seed in self._cases():
            before = _known(learned)
            _proposal(strategy, view, learned, seed)
            assert _known(learned) == before, view

    # ---- chains

    def test_nothing_is_shown_before_the_first_vote(self) -> None:
        """A sample cannot see what is not there: the first one never does."""
        strategy = self.strategy()
        for view, learned, seed in self._cases():
            if not view.samples:
                assert not _proposal(strategy, view, learned, seed).shown, view

    def test_chains_show_finished_voters_once_each(self) -> None:
        """Every sample shown has voted in the same call, none is shown twice, and there are at most ``length``."""
        strategy = self.strategy()
        for view, learned, seed in self._cases():
            sampler, shown = _proposal(strategy, view, learned, seed)
            _check_shown(sampler, shown, {sample.draw.index for sample in view.samples})

    # ---- how many

    def test_room_is_never_negative(self) -> None:
        """It is a number of samples, and at least one while nothing is in flight, for the call would never begin."""
        strategy = self.strategy()
        for pending in (0, 1, 2, 3, 7, 64, 10_000):
            room = strategy.room(pending)
            assert isinstance(room, int) and not isinstance(room, bool), f"room({pending}) is {room!r}"
            assert room >= (1 if pending == 0 else 0), f"room({pending}) is {room!r}"

    def test_weights_are_above_zero(self) -> None:
        """Every vote counts, and none without end."""
        strategy = self.strategy()
        for sampler in strategy.samplers:
            weight = strategy.weight(sampler)
            assert 0 < weight < math.inf, f"weight of {sampler.name!r} is {weight!r}"

    def test_worths_are_weights_or_nothing(self) -> None:
        """What is known of a program may take a sampler's votes away, or make them count for more; never below 0."""
        strategy = self.strategy()
        for _, learned, _ in self._cases():
            for sampler in strategy.samplers:
                worth = strategy.worth(sampler, learned)
                assert 0 <= worth < math.inf, f"worth of {sampler.name!r} is {worth!r}"

    def test_calls_come_to_an_end(self) -> None:
        """Drawn by a plan, every call has samples, is over by its maximum, and is the same when it is drawn again."""
        for number in range(12):
            assert self._played(number) == self._played(number), f"call {number} differs when it is drawn again"

    def _played(self, number: int) -> list[tuple[str, tuple[int, ...]]]:
        strategy = self.strategy()
        plan = Plan(strategy, seed=SEED, key=number, max_samples=ENDS)
        generator = np.random.default_rng([SEED, number])
        in_flight: list[Draw] = []
        drawn: list[tuple[str, tuple[int, ...]]] = []
        while True:
            for sampler in plan.propose(int(generator.integers(1, 5))):
                draw = plan.draw(sampler)
                _check_shown(draw.sampler, draw.shown, {s.draw.index for s in plan.samples if s.vote is not None})
                in_flight.append(draw)
                drawn.append((draw.sampler.name, draw.shown))
            if not in_flight:
                break
            draw = in_flight.pop(int(generator.integers(len(in_flight))))
            plan.tell(_sample(draw, [None, *"AABC"][int(generator.integers(5))]))
        assert 1 <= len(drawn) <= ENDS
        return drawn

    # ---- what is asked about

    def _cases(self) -> Iterator[tuple[CallView, Learned, int]]:
        """Calls of up to 24 samples, some of which saw others, with every kind of knowledge about the program."""
        known = [_learned(0.0), _learned(0.9), _learned(-0.9)]
        strategy = self.strategy()
        for number, view in enumerate(_views(strategy)):
            yield view, known[number % len(known)], number


def _proposal(strategy: Strategy, view: CallView, learned: Learned, seed: int) -> Proposal:
    sampler = strategy.propose(view, learned, np.random.default_rng([SEED, seed]))
    if sampler is None or sampler.chain is None:
        return Proposal(sampler)
    return Proposal(sampler, tuple(sampler.chain.choose(view, np.random.default_rng([SEED, seed]))))


def _seen(proposal: Proposal) -> tuple[object, ...]:
    sampler = proposal.sampler
    return proposal.name, proposal.shown, None if sampler is None else sampler.temperature


def _check_shown(sampler: Sampler | None, shown: Sequence[int], voters: set[int]) -> None:
    assert len(set(shown)) == len(shown), f"a sample is shown twice: {shown}"
    assert set(shown) <= voters, f"{shown} are shown, and only {sorted(voters)} have voted"
    length = sampler.chain.length if sampler is not None and sampler.chain is not None else 0
    assert len(shown) <= length, f"{len(shown)} samples are shown by a chain of at most {length}"


def _views(strategy: Strategy) -> Iterator[CallView]:
    histories: list[Sequence[str | None]] = [
        [], [None], ["A"], ["A", "B"], ["A", "A"], [None, "A"], ["A", "A", "B"], ["A"] * 4 + ["B"], [None] * 5,
        "ABCDEFGH", ["A"] * 12, ["A", "B"] * 6,
    ]  # fmt: skip
    generator = np.random.default_rng(SEED)
    for length in range(1, ENDS):
        histories.append([(None, *"AAABBC")[int(k)] for k in generator.integers(7, size=length)])
    for answers in histories:
        # Samples drawn later may be finished first: gaps in the indices are samples in flight.
        drawn = len(answers) + int(generator.integers(4)) * bool(answers)
        indices = sorted(int(i) for i in generator.permutation(drawn)[: len(answers)])
        selection = Plurality().empty()
        samples: list[Sample] = []
        for index, answer in zip(indices, answers, strict=True):
            saw_others = bool(samples) and generator.random() < 0.4
            draw = Draw(index, shown=(samples[0].draw.index,), chain={0: "text"}) if saw_others else Draw(index)
            sample = _sample(draw, answer)
            selection = selection.add(sample.vote, sample=index, conditioned=saw_others)
            samples += [sample] if sample.vote is not None else []
        seeing = sum(sample.draw.conditioned for sample in samples) + int(generator.integers(2))
        for ahead in (0, 1, 3):
            unit = [None, "tokens", "nanodollars"][int(generator.integers(3))]
            yield CallView(drawn + ahead, samples, selection, True, unit, seeing, bool(generator.integers(2)))
    yield CallView(0, [], Plurality().empty(), varies=False)


def _sample(draw: Draw, answer: str | None) -> Sample:
    vote = None if answer is None else Vote(answer, answer)
    return Sample(draw, prediction=answer, answer=answer, vote=vote, problem="" if answer else "no answer")


def _learned(side: float) -> Learned:
    """What is known of a program whose conditioned samples check, follow, or are not known yet."""
    learned = Learned()
    if side:
        for _ in range(100):
            learned.trust.tell(agree=side > 0, shown=2)
        for name, tokens in (("independent", 10), ("conditioned", 30)):
            cost = Cost(samples=1, requests=1, prompt_tokens=tokens, nanodollars=tokens)
            learned.costed(name, cost)
    return learned


def _known(learned: Learned) -> tuple[object, ...]:
    """What is known, as values; a record that was only looked at holds nothing."""
    records = {name: (one.need, one.cost.total, one.samples, one.blanks) for name, one in learned.records.items()}
    nothing = (None, Cost(), 0, 0)
    known = {name: one for name, one in records.items() if one != nothing}
    return known, learned.need, learned.cost.total, learned.trust.evidence
