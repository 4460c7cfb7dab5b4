"""The laws hold for the package's strategies and for others, and a broken one fails the law named after it."""

from __future__ import annotations

import inspect
import warnings
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest

from dynscale_dspy import Integrated, Parallel, Sequential, Strategy
from dynscale_dspy.sampling.best_of import BestOf
from dynscale_dspy.sampling.by_price import ByPrice
from dynscale_dspy.sampling.escalate import Escalate
from dynscale_dspy.sampling.samplers import ALONE, PLAIN, ChainSpec, Sampler, conditioned
from dynscale_dspy.testing import StrategyLaws
from tests.sampling.models import MODELS

OWN = [
    Parallel(),
    Parallel(first="greedy", demos="permuted"),
    Sequential(),
    Sequential(length=3),
    *(Integrated(when=when) for when in ("close", "contested", "always", "learned")),
    Integrated(when="learned", share=0.5, independent=1),
    Integrated(when="always", length=2, width=2, repeats=True, shuffle=False, share=0.3),
    Integrated(independent=5, rendering="prefill", predictors="last", max_tokens=50),
    *(rule.over(MODELS) for rule in (Escalate(), Escalate(upfront=0, beside=0, learn=False), BestOf(), ByPrice())),
]


class TestEveryStrategy(StrategyLaws):
    @pytest.fixture(autouse=True, params=OWN, ids=repr)
    def _choose(self, request):
        self.chosen = request.param

    def strategy(self):
        return replace(self.chosen)


with warnings.catch_warnings(record=True) as told:
    warnings.simplefilter("always")

    @dataclass(frozen=True)
    class ShowsTwo(Strategy):
        """Written for version 0.1: every third sample sees two others."""

        max_tokens: int = 500

        def shown(self, samples, tally, index, generator):
            if index % 3 != 2 or tally.leader - tally.runner_up > 1:
                return ()
            return tuple(int(i) for i in generator.permutation([sample.draw.index for sample in samples])[:2])


def test_a_strategy_of_version_0_1_is_told_when_it_is_defined():
    assert [warning.category for warning in told] == [DeprecationWarning]
    assert str(told[0].message).startswith(
        "ShowsTwo.shown(samples, tally, index, generator) is deprecated: use propose("
    )
    assert told[0].filename == __file__


class TestAStrategyOfVersion01(StrategyLaws):
    def strategy(self):
        return ShowsTwo()


class LanguageModel:
    """Stands for one: not equal to its copies."""


@dataclass(frozen=True)
class AsksAnother(Strategy):
    """Every third sample asks another language model, which samples around it are shown to."""

    other: Any
    chain: ChainSpec = field(default_factory=lambda: ChainSpec(length=2))

    @property
    def samplers(self):
        second = Sampler("second", lm=self.other, temperature=0.3, chain=self.chain)
        return (PLAIN, ALONE, second)

    def propose(self, view, learned, rng):
        plain, alone, second = self.samplers
        if not view.varies:
            return plain
        return second if view.next_index % 3 == 2 else alone

    def weight(self, sampler):
        return 1.5 if sampler.name == "second" else 1.0


ANOTHER = LanguageModel()


class TestAStrategyThatAsksAnotherModel(StrategyLaws):
    def strategy(self):
        return AsksAnother(ANOTHER)


def test_it_is_said_what_to_override():
    with pytest.raises(NotImplementedError, match=r"^override strategy\(\) to return the strategy under test$"):
        StrategyLaws().strategy()


# ---- broken strategies


SEEING = conditioned(ChainSpec(length=2))


@dataclass(frozen=True)
class Sound(Strategy):
    """Keeps every law; the broken ones change one thing."""

    @property
    def samplers(self):
        return (ALONE, SEEING)

    def propose(self, view, learned, rng):
        return SEEING if view.samples and view.next_index % 2 else ALONE


class TestTheSoundOne(StrategyLaws):
    def strategy(self):
        return Sound()


class SameNameTwice(Sound):
    @property
    def samplers(self):
        return (ALONE, SEEING, Sampler("independent", temperature=0.5))


class NamesNothing(Sound):
    @property
    def samplers(self):
        return ()


class ProposesAStranger(Sound):
    def propose(self, view, learned, rng):
        return Sampler("stranger") if view.next_index == 4 else ALONE


class ChangesASampler(Sound):
    def propose(self, view, learned, rng):
        return replace(ALONE, temperature=0.1 * view.next_index) if view.next_index else ALONE


class NeverBegins(Sound):
    def propose(self, view, learned, rng):
        return ALONE if view.samples else None


class RollsItsOwnDice(Sound):
    def propose(self, view, learned, rng):
        return SEEING if view.samples and np.random.default_rng().random() < 0.5 else ALONE


class Remembers(Sound):
    def propose(self, view, learned, rng):
        vars(self)["asked"] = vars(self).get("asked", 0) + 1
        return SEEING if view.samples and vars(self)["asked"] % 5 == 0 else ALONE


class WritesIntoWhatIsKnown(Sound):
    def propose(self, view, learned, rng):
        learned.of("independent").samples += 1
        return ALONE


class EqualToNone(Sound):
    def __eq__(self, other):
        return self is other

    __hash__ = None  # type: ignore[assignment]


class InventsSamples(ChainSpec):
    def choose(self, view, rng):
        return (0,)


class RepeatsASample(ChainSpec):
    def choose(self, view, rng):
        return (view.samples[0].draw.index,) * 2


class ShowsAll(ChainSpec):
    def choose(self, view, rng):
        return tuple(sample.draw.index for sample in view.samples)


class ShowsTheOneInFlight(ChainSpec):
    def choose(self, view, rng):
        return (max(view.next_index - 1, 0),)


@dataclass(frozen=True)
class Chained(Sound):
    chain: ChainSpec = field(default_factory=ChainSpec)

    @property
    def samplers(self):
        return (ALONE, conditioned(self.chain))

    def propose(self, view, learned, rng):
        return self.samplers[1] if view.samples or not isinstance(self.chain, RepeatsASample) else ALONE


class NegativeRoom(Sound):
    def room(self, pending):
        return 2 - pending


class NoRoom(Sound):
    def room(self, pending):
        return 0


class HalfARoom(Sound):
    def room(self, pending):
        return 4 / (1 + pending)  # type: ignore[return-value]


class NoWeight(Sound):
    def weight(self, sampler):
        return float(sampler.chain is None)


class EndlessWeight(Sound):
    def weight(self, sampler):
        return float("inf")


class WorthLessThanNothing(Parallel):
    def worth(self, sampler, learned):
        return -1.0


class EndsBeforeItBegins(Sound):
    def propose(self, view, learned, rng):
        return None


@pytest.mark.parametrize(
    ("law", "broken"),
    [
        ("samplers_have_names_of_their_own", SameNameTwice()),
        ("samplers_have_names_of_their_own", NamesNothing()),
        ("only_its_own_samplers_are_proposed", ProposesAStranger()),
        ("only_its_own_samplers_are_proposed", ChangesASampler()),
        ("a_first_sample_is_always_proposed", NeverBegins()),
        ("proposals_are_deterministic", RollsItsOwnDice()),
        ("proposals_are_deterministic", Remembers()),
        ("nothing_is_changed_by_proposing", WritesIntoWhatIsKnown()),
        ("copies_are_equal", EqualToNone()),
        ("nothing_is_shown_before_the_first_vote", Chained(InventsSamples())),
        ("chains_show_finished_voters_once_each", Chained(InventsSamples())),
        ("chains_show_finished_voters_once_each", Chained(RepeatsASample())),
        ("chains_show_finished_voters_once_each", Chained(ShowsAll(length=2))),
        ("chains_show_finished_voters_once_each", Chained(ShowsTheOneInFlight())),
        ("room_is_never_negative", NegativeRoom()),
        ("room_is_never_negative", NoRoom()),
        ("room_is_never_negative", HalfARoom()),
        ("weights_are_above_zero", NoWeight()),
        ("weights_are_above_zero", EndlessWeight()),
        ("worths_are_weights_or_nothing", WorthLessThanNothing()),
        ("calls_come_to_an_end", NoRoom()),
        ("calls_come_to_an_end", EndsBeforeItBegins()),
        ("calls_come_to_an_end", RollsItsOwnDice()),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_a_broken_strategy_fails_the_law(law: str, broken: Strategy):
    class Laws(StrategyLaws):
        def strategy(self):
            return broken if law == "proposals_are_deterministic" else replace(broken)  # type: ignore[type-var]

    with pytest.raises(AssertionError):
        getattr(Laws(), f"test_{law}")()


def test_every_law_is_broken_by_one():
    laws = {name for name, _ in inspect.getmembers(StrategyLaws, inspect.isfunction) if name.startswith("test_")}
    [cases] = [mark for mark in test_a_broken_strategy_fails_the_law.pytestmark if mark.name == "parametrize"]
    assert {f"test_{law}" for law, _ in cases.args[1]} == laws
