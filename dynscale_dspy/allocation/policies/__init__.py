"""Policies: what one more sample of an arm is worth, from the evidence of its votes alone.

A policy is a value without state. It sees weights of votes, never answers' text, and decides the same in a live
program, in a replay and in a simulation. Rules that rank arms and rules that say when to stop share one interface: the
largest index goes first, and an index of 0 is a stop.
"""

from dynscale_dspy.allocation.policies.base import ExploringPolicy, OrderedTally, Policy
from dynscale_dspy.allocation.policies.ranking import (
    PETS,
    PPR,
    UCB,
    BlendASC,
    KnowledgeGradient,
    LowestConfidence,
    OptimalStopping,
    OptimisticKnowledgeGradient,
    Uniform,
)
from dynscale_dspy.allocation.policies.registry import POLICIES, make_policy
from dynscale_dspy.allocation.policies.stopping import SPRT, AdaptiveConsistency, BestOfInfinity, EarlyStopping

__all__ = [
    "PETS",
    "POLICIES",
    "PPR",
    "SPRT",
    "UCB",
    "AdaptiveConsistency",
    "BestOfInfinity",
    "BlendASC",
    "EarlyStopping",
    "ExploringPolicy",
    "KnowledgeGradient",
    "LowestConfidence",
    "OptimalStopping",
    "OptimisticKnowledgeGradient",
    "OrderedTally",
    "Policy",
    "Uniform",
    "make_policy",
]
