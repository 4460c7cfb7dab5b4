"""Pools and predictions as HTML, and the same figures in words."""

from __future__ import annotations

from html.parser import HTMLParser

import dspy

from dynscale_dspy import BudgetPool, Cost, DynScaling, Integrated, Parallel, Uniform, explain
from dynscale_dspy.reporting import html
from dynscale_dspy.reporting.history import History, Part
from dynscale_dspy.reporting.pool_report import PoolReport
from dynscale_dspy.reporting.statistics import PoolStatistics
from tests.support import ScriptedModel, cycle


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
        "50%, 4 samples, 4 requests",
        "share of Predict(question -> answer)",
        "4 of 10 samples",
        "4 of 8 samples",
    ):
        assert words in text and words.replace("->", "→") in html
    assert "2 x 4" in text and "samples over time" in text
    assert "scope" not in str(pool)  # it is over


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


def test_a_failed_sample_shows_the_type_of_its_error():
    """A provider's message may quote the key, and notebooks are shared."""
    with dspy.context(lm=ScriptedModel(cycle("A", ConnectionError("line is down"))).lm()):
        pool = BudgetPool(per_call=4, policy=Uniform())
        qa = DynScaling(dspy.Predict("question -> answer"), budget=pool, sampling=Parallel())
        page = Page(explain(qa(question="q"))._repr_html_())
        told = str(explain(qa(question="r")))
    assert "no vote: failed with " in page.text and "line is down" not in page.text
    assert "no vote: failed with " in told and "line is down" not in told


def test_a_report_without_a_pool_is_enough():
    now = PoolStatistics(Cost(samples=3), Cost(), {"samples": 9}, None, 0, 1, 0, None, {3: 1}, state="paused")
    part = Part("share of <Mine>", Cost(samples=2), {"samples": 4}, 7.0)
    page = Page(html.pool(PoolReport(now, History((), (), {"<Mine>": Cost(samples=3)}), (part,), title="Mine & yours")))
    assert "Mine & yours" in page.text and "paused" in page.text and "3 spent, 6 left" in page.text
    assert "share of <Mine>" in page.text and "2 of 4 samples, 7 s left" in page.text
