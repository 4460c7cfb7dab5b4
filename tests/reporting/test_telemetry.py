"""OpenTelemetry spans."""

from __future__ import annotations

import dspy
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind

from dynscale_dspy import BudgetPool, DynScaling, Parallel, Uniform
from dynscale_dspy.reporting.telemetry import OpenTelemetryCallback
from tests.support import ScriptedModel, cycle, needs_lm_errors


@needs_lm_errors
def test_spans_follow_the_genai_conventions():
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    lm = ScriptedModel(cycle("A", ConnectionError("secret"), "A")).lm(temperature=0.7)
    qa = DynScaling(
        dspy.ChainOfThought("question -> answer"), budget=BudgetPool(per_call=3, policy=Uniform()), sampling=Parallel()
    )
    with dspy.context(lm=lm, callbacks=[OpenTelemetryCallback(provider)]):
        qa(question="q")
        qa.batch([{"question": "r"}], num_threads=2, disable_progress_bar=True)
    spans = {span.context.span_id: span for span in exporter.get_finished_spans()}
    chats = [span for span in spans.values() if span.name == "chat model"]
    assert len(chats) == 6 and {span.kind for span in chats} == {SpanKind.CLIENT}
    for span in chats:
        assert span.attributes["gen_ai.operation.name"] == "chat"
        assert span.attributes["gen_ai.provider.name"] == "scripted"
        assert span.attributes["gen_ai.request.model"] == "model"
        assert span.attributes["gen_ai.request.temperature"] == 0.7
        if span.status.is_ok:
            assert span.attributes["gen_ai.usage.input_tokens"] == 7
            assert span.attributes["gen_ai.usage.output_tokens"] == 3
        root = span
        while root.parent is not None:
            root = spans[root.parent.span_id]
        assert root.name == "DynScaling" and root.attributes["dynscale.samples"] == 3
    failed = [span for span in chats if not span.status.is_ok]
    assert len(failed) == 2 and all("error.type" in span.attributes for span in failed)
    assert "secret" not in str([span.to_json() for span in spans.values()])
