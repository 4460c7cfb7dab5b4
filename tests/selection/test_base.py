from __future__ import annotations

import re
from dataclasses import dataclass

import pytest

from dynscale_dspy.allocation.evidence import Detail, TopTwo
from dynscale_dspy.allocation.policies import POLICIES, EarlyStopping, KnowledgeGradient
from dynscale_dspy.selection.base import Group, Selection, check_policy
from dynscale_dspy.selection.plurality import Plurality


@dataclass(frozen=True)
class Offers:
    """A selector whose evidence has this detail."""

    detail: Detail

    def read(self, answer):
        return Plurality().read(answer)

    def empty(self) -> Selection:
        detail = self.detail

        @dataclass(frozen=True)
        class Shown(TopTwo):
            @property
            def detail(self) -> Detail:
                return detail

        class Of:
            def evidence(self):
                return Shown()

        return Of()  # type: ignore[return-value]


def test_a_group_weighs_what_both_kinds_of_its_samples_do():
    assert Group("A", "a", independent=1.5, conditioned=2, samples=(0, 1)).weight == 3.5


@pytest.mark.parametrize("policy", [make() for make in POLICIES.values()], ids=POLICIES)
def test_plurality_feeds_every_policy(policy):
    check_policy(policy, Plurality())


@pytest.mark.parametrize("policy", [make() for make in POLICIES.values()], ids=POLICIES)
@pytest.mark.parametrize("offered", Detail)
def test_a_policy_is_refused_where_it_needs_more_than_is_offered(policy, offered):
    selector = Offers(offered)
    if policy.needs <= offered:
        check_policy(policy, selector)
    else:
        with pytest.raises(ValueError, match=f"^{re.escape(repr(policy))} needs "):
            check_policy(policy, selector)


def test_the_message_names_both_and_the_remedy():
    with pytest.raises(
        ValueError,
        match=r"^EarlyStopping\(first=1, window=5\) needs the order of the votes \(Detail.ORDER\), and Offers\(detail="
        r".*\) offers only the weights of the two leading answers \(Detail.TOP_TWO\): choose a policy that needs no "
        r"more, such as KnowledgeGradient\(\), or a selector that offers it, such as Plurality\(\)$",
    ):
        check_policy(EarlyStopping(), Offers(Detail.TOP_TWO))
    check_policy(KnowledgeGradient(), Offers(Detail.TOP_TWO))
