"""How a sample of one of several language models is drawn."""

from __future__ import annotations

import pytest

from dynscale_dspy.allocation.learned import Learned
from dynscale_dspy.sampling.escalate import Escalate
from dynscale_dspy.sampling.plan import Plan
from dynscale_dspy.sampling.sample import Draw, Sample
from dynscale_dspy.sampling.ways import INDEPENDENT, Ways
from tests.sampling.models import MODELS
from tests.sampling.support import make_view
from tests.support import vote

SMALL, LARGE, _ = MODELS


def trusted(agree: bool = True) -> Learned:
    learned = Learned()
    for _ in range(12):
        learned.trust.tell(agree=agree, shown=2)
    return learned


def said(*answers: str, model=SMALL) -> list[Sample]:
    return [Sample(Draw(i, sampler=model), answer=a, vote=vote(a)) for i, a in enumerate(answers)]


def test_the_first_sample_of_each_model_is_greedy():
    view = make_view(said("A", "A"))._replace(asked=frozenset({"small"}))
    assert Ways().take(SMALL, view, Learned()) == SMALL
    first = Ways().take(LARGE, view, Learned())
    assert (first.name, first.temperature, first.model, first.chain) == ("large, greedy", 0.0, "large", None)
    assert INDEPENDENT.take(LARGE, view, Learned()) == LARGE


def test_where_answers_contradict_each_other_a_trusted_model_sees_them():
    view = make_view(said("A", "B"))
    seeing = Ways().take(LARGE, view, trusted())
    assert (seeing.name, seeing.temperature, seeing.model) == ("large, conditioned", 0.0, "large")
    assert seeing.chain is not None
    assert Ways().take(LARGE, view._replace(seeing=1), trusted()).temperature is None, "one at temperature 0"
    assert Ways(first="own").take(LARGE, view, trusted()).temperature is None
    assert Ways().take(LARGE, view, trusted(), may_see=False).chain is None
    assert Ways().take(LARGE, make_view(said("A", "A")), trusted()).chain is None, "there is nothing to weigh"
    assert Ways().take(LARGE, view._replace(at_once=True), trusted()).chain is None


def test_a_model_has_a_vote_that_counts_before_others_are_on_trial():
    view = make_view(said("A", "B"))
    assert Ways().take(LARGE, view, Learned()).chain is None
    asked = view._replace(asked=frozenset({"large"}))
    on_trial = Ways().take(LARGE, asked, Learned())
    assert on_trial.chain is not None
    assert on_trial.temperature is None
    assert Ways().take(LARGE, asked._replace(seeing=2), Learned()).chain is None
    assert Ways().take(LARGE, asked, trusted(agree=False)).chain is None
    assert Ways(sees="never").take(LARGE, asked, Learned()).chain is None


def test_all_samplers_are_named_and_proposals_are_among_them():
    for ways in (Ways(), INDEPENDENT, Ways(sees="always"), Ways(first="own")):
        names = [sampler.name for sampler in ways.of(LARGE)]
        assert len(set(names)) == len(names)
        for answers in ("AB", "AA", ""):
            for learned in (Learned(), trusted()):
                assert ways.take(LARGE, make_view(said(*answers)), learned).name in names


def test_the_dear_model_sees_what_the_cheap_one_said_and_the_cheap_one_sees_nothing():
    plan = Plan(Escalate(first=2, upfront=0).over([SMALL, LARGE]), seed=0, key=0, max_samples=9, learned=trusted())
    names = []
    for answer in "ABBAAA":
        [sampler] = plan.propose()
        draw = plan.draw(sampler)
        names.append(sampler.name)
        assert bool(draw.shown) == (sampler.chain is not None)
        plan.tell(Sample(draw, answer=answer, vote=vote(answer)))
    assert names == ["small, greedy", "small", "large, conditioned", *["small"] * 3]


def test_votes_on_trial_do_not_count_until_they_are_found_to_be_checks():
    strategy = Escalate().over([SMALL, LARGE])
    seeing = next(sampler for sampler in strategy.samplers if sampler.name == "large, conditioned")
    assert strategy.worth(seeing, trusted(agree=False)) == 0
    assert strategy.worth(seeing, trusted()) == 4
    assert Escalate(ways=Ways(sees="always")).over([SMALL, LARGE]).worth(seeing, trusted(agree=False)) == 4


@pytest.mark.parametrize(("setting", "value"), [("first", "cold"), ("sees", "sometimes")])
def test_unknown_words_are_refused(setting, value):
    with pytest.raises(ValueError, match=setting):
        Ways(**{setting: value})
