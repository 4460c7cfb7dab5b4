"""Attributes on spans that the user's own tracing has opened."""

from __future__ import annotations

import sys
import types

import dspy
import pytest
from opentelemetry.sdk.trace import TracerProvider

from dynscale_dspy import BudgetPool, DynScaling
from dynscale_dspy.reporting.tracing import SpanMark, annotate
from tests.support import ScriptedModel


@pytest.fixture
def tracer():
    return TracerProvider().get_tracer("test")


def test_attributes_are_plain_short_and_prefixed(tracer):
    with tracer.start_as_current_span("call") as span:
        annotate({"samples": 4, "vote": "x" * 1000, "shown": (0, 1), "problem": None, "sure": True})
    assert dict(span.attributes) == {
        "dynscale.samples": 4,
        "dynscale.vote": "x" * 200,
        "dynscale.shown": (0, 1),
        "dynscale.problem": "",
        "dynscale.sure": True,
    }
    annotate({"samples": 4})  # no span is open: nothing happens


def test_a_mark_is_on_the_first_module_call_alone(tracer):
    mark = SpanMark(
        started=lambda: {"index": 3},
        ended=lambda outputs, exception: {"answer": outputs, "error": type(exception).__name__},
    )
    with tracer.start_as_current_span("sample") as outer:
        mark.on_module_start("1", None, {})
        with tracer.start_as_current_span("inside") as inner:
            mark.on_module_start("2", None, {})
            mark.on_module_end("2", "B", None)
        mark.on_module_end("1", "A", ValueError())
    assert dict(outer.attributes) == {"dynscale.index": 3, "dynscale.answer": "A", "dynscale.error": "ValueError"}
    assert not inner.attributes


class Broken:
    """A tracing library of which nothing works."""

    @property
    def get_current_span(self):
        raise RuntimeError("this tracer is broken")


@pytest.mark.parametrize(
    "library", [types.ModuleType("opentelemetry.trace"), Broken()], ids=["half-imported", "broken"]
)
def test_a_tracing_library_that_fails_costs_its_attributes_and_no_sample(monkeypatch, library):
    """Another thread may be importing it: LiteLLM does, at its first request."""
    monkeypatch.setitem(sys.modules, "opentelemetry.trace", library)
    annotate({"samples": 4})
    qa = DynScaling(dspy.Predict("question -> answer"), BudgetPool(samples=4), max_samples=2)
    with dspy.context(lm=ScriptedModel(lambda prompt, number: {"answer": "42"}).lm()):
        assert qa(question="?").answer == "42"
