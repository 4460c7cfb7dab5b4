"""Better answers from any DSPy program for a given budget, with no verifier."""

import logging

# DSPy 3.3 leaves a stand-in for NumPy, which is only complete once it is asked for something, before any part of it is.
from numpy import ndarray as _whole_numpy  # noqa: F401

from dynscale_dspy._ambient import unscaled
from dynscale_dspy.allocation.ledger import Cost
from dynscale_dspy.allocation.policies import UCB, KnowledgeGradient, Policy, Uniform
from dynscale_dspy.calibrate import Calibrate
from dynscale_dspy.errors import BudgetExhausted, LowConfidence, StorageError, UnboundedCost
from dynscale_dspy.module import DynScaling
from dynscale_dspy.pool import BudgetPool, BudgetWarning
from dynscale_dspy.prices import Price
from dynscale_dspy.report import explain
from dynscale_dspy.sampling.strategies import Integrated, Parallel, Sequential, Strategy
from dynscale_dspy.status import SamplingStatus
from dynscale_dspy.wrap import unwrap, wrap

# Quiet unless the user's own logging says otherwise.
logging.getLogger(__name__).addHandler(logging.NullHandler())

__version__ = "0.1.0"

__all__ = [
    "UCB",
    "BudgetExhausted",
    "BudgetPool",
    "BudgetWarning",
    "Calibrate",
    "Cost",
    "DynScaling",
    "Integrated",
    "KnowledgeGradient",
    "LowConfidence",
    "Parallel",
    "Policy",
    "Price",
    "SamplingStatus",
    "Sequential",
    "StorageError",
    "Strategy",
    "UnboundedCost",
    "Uniform",
    "explain",
    "unscaled",
    "unwrap",
    "wrap",
]
