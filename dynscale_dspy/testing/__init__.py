"""For tests: a fake model of known answer distributions behind a real OpenAI-compatible server on loopback."""

from dynscale_dspy.testing.fake_model import FakeQuestion, questions
from dynscale_dspy.testing.fake_server import FAULTS, PERMANENT_FAULTS, FakeServer, FakeStatistics

__all__ = ["FAULTS", "PERMANENT_FAULTS", "FakeQuestion", "FakeServer", "FakeStatistics", "questions"]
