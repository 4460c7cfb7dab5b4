"""The laws hold for every policy of the package, and a policy that breaks one fails the test named after it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import pytest

from dynscale_dspy.allocation.evidence import Detail
from dynscale_dspy.allocation.policies import POLICIES, KnowledgeGradient, Uniform, make_policy
from dynscale_dspy.testing.policies import PolicyLaws

VARIANTS = [
    *POLICIES,
    "optimistic_knowledge_gradient:kappa=2",
    "ucb:uncertainty=entropy",
    "ucb:uncertainty=disagreement:first=1",
    "adaptive_consistency:criterion=dirichlet",
    "pets:options=4",
    "ppr:answers=4",
    "early_stopping:window=3",
    "sprt:concentration=1e6:miss=0.94",
    "knowledge_gradient:first=4",
    "knowledge_gradient:kappa=None:prior=3",
]


class TestEveryPolicy(PolicyLaws):
    @pytest.fixture(autouse=True, params=VARIANTS)
    def _choose(self, request):
        self.spec = request.param

    def policy(self):
        return make_policy(self.spec)


def test_it_is_said_what_to_override():
    with pytest.raises(NotImplementedError, match=r"^override policy\(\) to return the policy under test$"):
        PolicyLaws().policy()


@dataclass(frozen=True)
class ReadsMoreThanItSays(KnowledgeGradient):
    def index(self, evidence, *, pending=0, total=0):
        return super().index(evidence, pending=pending) + getattr(evidence, "valid", 0)


@dataclass(frozen=True)
class Overflows(Uniform):
    def index(self, evidence, *, pending=0, total=0):
        return float(2**evidence.samples)


@dataclass(frozen=True)
class ReadsNames(Uniform):
    needs: ClassVar[Detail] = Detail.COUNTS

    def index(self, evidence, *, pending=0, total=0):
        return 1.0 + ("A" in evidence.votes)


@pytest.mark.parametrize(
    ("law", "broken"),
    [
        ("only_the_top_two_matter_where_declared", ReadsMoreThanItSays()),
        ("index_of_large_counts_is_finite_and_at_least_zero", Overflows()),
        ("names_of_answers_do_not_matter", ReadsNames()),
    ],
)
def test_a_broken_policy_fails_the_law(law, broken):
    class Laws(PolicyLaws):
        def policy(self):
            return broken

    with pytest.raises((AssertionError, OverflowError)):
        getattr(Laws(), f"test_{law}")()
