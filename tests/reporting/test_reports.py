"""Pools and predictions as people see them: HTML, the live view, history, metrics, logs and spans."""

from __future__ import annotations

import io
import logging
import math
from html.parser import HTMLParser

import dspy
import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind
from rich.console import Console

from dynscale_dspy import BudgetExhausted, BudgetPool, Cost, DynScaling, Integrated, Parallel, Uniform, explain
from dynscale_dspy.reporting.history import MOST_CALLS, MOST_MOMENTS, MOST_PROGRAMS, CallRecord, Moment, Recorder
from dynscale_dspy.reporting.live import Watch
from dynscale_dspy.reporting.telemetry import OpenTelemetryCallback
from tests.support import ScriptedModel, cycle, needs_lm_errors


class Page(HTMLParser):
    """Text of a page whose every tag is closed in order."""

    def __init__(self, html):
        super().__init__()
        self.open, self.tags, self.text = [], [], ""
        self.feed(html)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" not in self.open:
            self.text += data + " "


def test_a_pool_shows_every_unit_it_caps_and_who_spent_it():
    pool = BudgetPool(samples=40, tokens=100_000, deadline=600, policy=Uniform())
    qa = DynScaling(dspy.ChainOfThought("question -> answer"), budget=pool, sampling=Parallel())
    other = DynScaling(dspy.Predict("question -> answer"), budget=pool, sampling=Parallel())
    Page(pool._repr_html_())
    with dspy.context(lm=ScriptedModel(cycle("A", "B", "A")).lm(max_tokens=50)):
        qa(question="one")
        other(question="two")
        other(question="three")
    page = Page(pool._repr_html_())
    now = pool.statistics()
    assert f"{now.spent.samples} spent, {40 - now.spent.samples} left" in page.text
    assert f"{now.spent.tokens} spent, {100_000 - now.spent.tokens:,} left" in page.text
    assert "3 calls answered" in page.text and "s left" in page.text and "dollars" not in page.text
    assert "ChainOfThought(question → reasoning, answer)" in page.text and "Predict(question → answer)" in page.text
    assert page.tags.count("svg") >= 2


def test_a_pool_in_words_says_what_its_html_does():
    pool = BudgetPool(samples=40, policy=Uniform(), per_call=4)
    assert str(pool) == repr(pool)  # nothing has happened
    qa = DynScaling(dspy.ChainOfThought("question -> answer"), budget=pool, sampling=Parallel())
    other = DynScaling(dspy.Predict("question -> answer"), budget=pool, sampling=Parallel())
    pool.share(other, 0.25)
    with dspy.context(lm=ScriptedModel(cycle("A", "B", "A")).lm(max_tokens=50)):
        qa(question="one")
        with pool.scope(samples=8):
            other(question="two")
            text, html = str(pool), Page(pool._repr_html_()).text
    for words in (
        "8 spent, 32 left",
        "2 calls answered",
        "50%, 4 samples, 4 LM calls",
        "share of Predict(question -> answer)",
        "4 of 10 samples",
        "4 of 8 samples",
    ):
        assert words in text and words.replace("->", "→") in html
    assert "2 x 4" in text and "samples over time" in text
    assert "scope" not in str(pool)  # it is over


def test_the_curve_of_a_known_set_climbs_while_it_runs():
    pool = BudgetPool(samples=60, policy=Uniform())
    qa = DynScaling(dspy.Predict("question -> answer"), budget=pool, sampling=Parallel())
    with dspy.context(lm=ScriptedModel(cycle("A")).lm()):
        qa.batch([{"question": str(i)} for i in range(20)], num_threads=2, disable_progress_bar=True)
    spent = [moment.spent.samples for moment in pool.history.moments]
    assert spent == sorted(spent) and spent[0] < 10 and len(set(spent)) > 10 and spent[-1] == 60


def test_a_scope_in_an_empty_pool_says_which_is_empty():
    pool = BudgetPool(samples=4, policy=Uniform())
    qa = DynScaling(dspy.Predict("question -> answer"), budget=pool, sampling=Parallel())
    with dspy.context(lm=ScriptedModel(cycle("A")).lm()):
        qa.batch([{"question": "one"}], disable_progress_bar=True)
        with pool.scope(samples=3), pytest.raises(BudgetExhausted, match=r"0 of 3 samples.* within .*4 of 4 samples"):
            qa(question="two")


def test_a_prediction_shows_votes_apart_and_what_samples_saw_and_thought():
    with dspy.context(lm=ScriptedModel(cycle("A", "B", "<script>alert(1)</script>", "A")).lm()):
        qa = DynScaling(dspy.ChainOfThought("question -> answer"), budget=8, sampling=Integrated())
        prediction = qa(question="q")
    made = explain(prediction)
    html = made._repr_html_()
    page = Page(html)
    assert "<script>" not in html and "script" not in page.tags and "<script>alert(1)</script>" in page.text
    for votes in made.votes:
        assert f"{votes.independent} + {votes.conditioned}" in page.text
    shown = [sample for sample in made.samples if sample.chain]
    assert shown and page.text.count("what it was shown") == sum(len(sample.chain) for sample in shown)
    assert all(sample.chain for sample in made.samples if sample.shown)
    assert "thought 0" in page.text and f"confidence {made.confidence:.2f}" in page.text
    text = str(made)
    assert text.count("saw #") == len(shown) and "thought 0" in text and len(text.splitlines()) < 2 * len(made.samples)
    assert "\n" not in repr(made) and made.summary in repr(made)


def test_a_failed_sample_shows_its_error():
    with dspy.context(lm=ScriptedModel(cycle("A", ConnectionError("line is down"))).lm()):
        pool = BudgetPool(per_call=4, policy=Uniform())
        qa = DynScaling(dspy.Predict("question -> answer"), budget=pool, sampling=Parallel())
        page = Page(explain(qa(question="q"))._repr_html_())
        told = str(explain(qa(question="r")))
    assert "no vote: failed" in page.text and "line is down" in page.text
    assert "no vote: failed with " in told and "line is down" not in told


def test_the_history_is_bounded_and_covers_everything():
    recorder, count = Recorder(), 5000
    for number in range(count):
        cost = Cost(samples=1)
        call = CallRecord(f"program {number % 300}", (0,), 1.0, 0.75, cost)
        recorder.add(call, Moment(float(number), Cost(samples=number + 1), None, number + 1))
    history = recorder.history()
    assert len(history.calls) == MOST_CALLS and history.agreement == 1
    assert 100 < len(history.moments) <= MOST_MOMENTS
    assert (history.moments[0].time, history.moments[-1].time) == (0, count - 1)
    assert [m.time for m in history.moments] == sorted(m.time for m in history.moments)
    assert len(history.programs) <= MOST_PROGRAMS + 1
    assert sum(cost.samples for cost in history.programs.values()) == count


def test_each_call_is_in_the_history_once_also_failed_ones_and_in_the_scope_around():
    pool = BudgetPool(per_call=4)
    qa = DynScaling(dspy.Predict("question -> answer"), budget=pool, sampling=Parallel())
    with dspy.context(lm=ScriptedModel(lambda p, n: ValueError("no") if "bad" in p else {"answer": "A"}).lm()):
        with pool.scope(samples=10) as scope:
            qa(question="one")
        qa.batch([{"question": "two"}, {"question": "bad"}], num_threads=1, disable_progress_bar=True)
        with pytest.raises(Exception, match="no($|\nTraceback)"):  # LiteLLM appends where it was raised
            qa(question="bad")
    history, now = pool.history, pool.statistics()
    assert len(history.calls) == now.closed_calls == 4 and len(scope.history.calls) == 1
    assert sum((cost for cost in history.programs.values()), Cost()) == now.spent
    assert {call.answers.count(None) == len(call.answers) for call in history.calls} == {True, False}


def test_metrics_are_plain_numbers_for_each_unit():
    pool = BudgetPool(samples=10, dollars=2, deadline=60)
    metrics = pool.statistics().metrics()
    assert all(type(value) is float and math.isfinite(value) for value in metrics.values())
    assert metrics["dynscale.left.samples"] == 10 and metrics["dynscale.left.dollars"] == 2
    assert "dynscale.left.tokens" not in metrics and 0 < metrics["dynscale.left.seconds"] <= 60


def test_mlflow_takes_the_metrics(tmp_path):
    from mlflow.entities import Metric
    from mlflow.utils.validation import _validate_metric

    for name, value in BudgetPool(samples=10, requests=20, dollars=2).statistics().metrics().items():
        _validate_metric(name, value, 0, 0)
        assert Metric(name, value, 0, 0).value == value


def test_watching_draws_the_last_state():
    pool, out = BudgetPool(samples=20, policy=Uniform()), io.StringIO()
    qa = DynScaling(dspy.Predict("question -> answer"), budget=pool, sampling=Parallel())
    with dspy.context(lm=ScriptedModel(cycle("A")).lm()):
        with Watch(pool, interval=60, console=Console(file=out, force_terminal=True, width=80)) as view:
            qa(question="q")
    view.close()
    assert "1 call answered" in out.getvalue() and "no cap" in out.getvalue()
    with pytest.raises(ValueError, match="interval"):
        pool.watch(interval=0)


def test_in_a_notebook_watching_redraws_one_display_in_place(monkeypatch):
    import IPython
    from IPython.core import display_functions
    from IPython.core.interactiveshell import InteractiveShell

    from dynscale_dspy.reporting import live as watch

    published = []
    shell = InteractiveShell()
    monkeypatch.setattr(IPython, "get_ipython", lambda: shell)
    assert not watch.in_notebook()  # a shell in a terminal
    shell.kernel = object()
    monkeypatch.setattr(display_functions, "publish_display_data", lambda **kw: published.append(kw))
    monkeypatch.setattr(InteractiveShell, "initialized", classmethod(lambda cls: True))
    monkeypatch.setattr(InteractiveShell, "instance", classmethod(lambda cls: shell))
    pool = BudgetPool(samples=20)
    pool.watch(interval=60).close()
    ids = {message["transient"]["display_id"] for message in published}
    assert len(published) == 2 and len(ids) == 1 and published[1]["update"]
    assert "BudgetPool" in published[0]["data"]["text/html"]


def test_the_log_is_structured_quiet_and_without_answers(caplog):
    assert any(isinstance(h, logging.NullHandler) for h in logging.getLogger("dynscale_dspy").handlers)
    with caplog.at_level(logging.DEBUG, "dynscale_dspy"), dspy.context(lm=ScriptedModel(cycle("secret")).lm()):
        DynScaling(dspy.Predict("question -> answer"), budget=4)(question="q")
    (record,) = [record for record in caplog.records if hasattr(record, "dynscale_samples")]
    assert record.dynscale_samples >= 2 and record.dynscale_agreement == 1.0
    assert "secret" not in str(vars(record))


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
