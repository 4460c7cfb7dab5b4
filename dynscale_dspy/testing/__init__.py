"""For tests: a fake model of known answer distributions behind a real OpenAI-compatible server on loopback.

Also the laws that every policy, selector, strategy and store must keep, as classes for your own tests to inherit.
"""

from dynscale_dspy.testing.fake_model import FakeQuestion, questions
from dynscale_dspy.testing.fake_server import BUSY_FAULTS, FAULTS, PERMANENT_FAULTS, FakeServer, FakeStatistics
from dynscale_dspy.testing.policies import PolicyLaws
from dynscale_dspy.testing.samplers import StrategyLaws
from dynscale_dspy.testing.selectors import SelectorLaws
from dynscale_dspy.testing.stores import StoreLaws

__all__ = [
    "BUSY_FAULTS",
    "FAULTS",
    "PERMANENT_FAULTS",
    "FakeQuestion",
    "FakeServer",
    "FakeStatistics",
    "PolicyLaws",
    "SelectorLaws",
    "StoreLaws",
    "StrategyLaws",
    "questions",
]
