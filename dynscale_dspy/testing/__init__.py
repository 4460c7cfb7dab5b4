"""For tests: laws that a store must keep, and a fake model behind a real OpenAI-compatible server on loopback."""

from dynscale_dspy.testing.fake_model import FakeQuestion, questions
from dynscale_dspy.testing.fake_server import FAULTS, PERMANENT_FAULTS, FakeServer, FakeStatistics
from dynscale_dspy.testing.stores import StoreLaws

__all__ = ["FAULTS", "PERMANENT_FAULTS", "FakeQuestion", "FakeServer", "FakeStatistics", "StoreLaws", "questions"]
