"""Pools and predictions as HTML, and the same figures in words."""

from __future__ import annotations

import re
from base64 import b64decode
from html.parser import HTMLParser
from xml.etree import ElementTree

import dspy
from hypothesis import given
from hypothesis import strategies as st

from dynscale_dspy import BudgetPool, Cost, DynScaling, Escalate, Integrated, Parallel, Price, Uniform, explain
from dynscale_dspy.reporting import html
from dynscale_dspy.reporting.explanation import Explanation, Votes
from dynscale_dspy.reporting.history import CallRecord, History, Moment, Part
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


def test_a_table_holds_its_cells_as_text_and_marks_what_was_chosen():
    rows = [["<one>", "$1$"], ["two", "2"]]
    made = html.table("Title & more", "quiet", ["", "number"], rows, chosen=[False, True], below=["a note"])
    page = Page(made)
    for words in ("Title & more", "quiet", "number", "<one>", "two", "a note"):
        assert words in page.text
    assert page.tags.count("tr") == 3 and made.count("font-weight:600;text-align") == 4  # the head and the second row


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
    assert page.tags.count("img") >= 2 and not {"svg", "title", "script"} & set(page.tags)


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


def test_several_language_models_are_told_apart_in_words_and_in_html():
    cheap, dear = ScriptedModel(cycle("A", "B")), ScriptedModel(cycle("A"))
    pool = BudgetPool(samples=40, policy=Uniform(), per_call=6)
    both, ladder = {"<cheap>": cheap.lm(), "dear": dear.lm()}, Escalate(upfront=0, beside=0)
    qa = DynScaling(dspy.Predict("question -> answer"), pool, lms=both, sampling=ladder)
    made = explain(qa(question="q"))
    for words in (
        "(<cheap> 2, dear 2)",
        f"drawn by {ladder!r}: from <cheap> to dear, in the order given: no price is known yet",
        "round 0; <cheap>; 1 request",
        "4 samples, 2 for the answer, 4 requests, 40 tokens",
        "2 samples, 2 for the answer, 2 requests, 20 tokens",
    ):
        assert words in str(made) and words in Page(made._repr_html_()).text
    assert "<cheap>" not in made._repr_html_()
    for words in ("by language model", "67%, 4 samples, 4 requests", "33%, 2 samples, 2 requests"):
        assert words in str(pool) and words in Page(pool._repr_html_()).text


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


class Untrusted(HTMLParser):
    """What a notebook shows that it does not trust: no style sheet, no inline pictures, and the text of all the rest.

    Nothing is put between two pieces of text that are not apart by themselves.
    """

    def __init__(self, html):
        super().__init__()
        self.silent, self.text, self.runs, self.images = 0, "", [], []
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.silent += tag == "style"
        if tag == "img":
            self.images.append(dict(attrs))

    def handle_endtag(self, tag):
        self.silent -= tag == "style"

    def handle_data(self, data):
        if not self.silent:
            self.text += data
            self.runs.append(data)


def busy_pool():
    """A pool whose report has every part that there is, and the programs that it knows."""
    pool = BudgetPool(samples=40, tokens=90_000, dollars=5, policy=Uniform(), prices={"scripted/model": Price(1, 2)})
    qa = DynScaling(dspy.ChainOfThought("question -> answer"), budget=pool, sampling=Parallel())
    other = DynScaling(dspy.Predict("question -> answer"), budget=pool, sampling=Parallel(), max_samples=2)
    pool.share(other, 0.5)
    with dspy.context(lm=ScriptedModel(cycle("A", "B", "A")).lm(max_tokens=50)):
        for number in range(3):
            qa(question=f"{number}")
            other(question=f"{number}")
    return pool, (qa, other)


def test_an_untrusted_notebook_shows_charts_as_images_that_say_what_they_show():
    page = Untrusted(busy_pool()[0]._repr_html_())
    words = [image["alt"] for image in page.images]
    assert re.fullmatch(r"calls by samples drawn: 3 calls drew 2, 3 calls drew \d+", words[0])
    assert re.fullmatch(r"samples spent over time: from \d+ to \d+ in [\d.e-]+ s, at most \d+", words[1])
    for image in page.images:
        kind, _, picture = image["src"].partition(",")
        assert kind == "data:image/svg+xml;base64"
        drawn = ElementTree.fromstring(b64decode(picture))
        assert {each.tag.rpartition("}")[2] for each in drawn.iter()} <= {"svg", "rect", "text", "path", "polyline"}


def test_numbers_do_not_run_together_without_styles():
    pool, programs = busy_pool()
    page, now = Untrusted(pool._repr_html_()), pool.statistics()
    lines = [" ".join(line.split()) for line in page.text.splitlines() if line.strip()]
    assert f"samples {now.spent.samples} spent, {40 - now.spent.samples} left" in lines
    assert f"tokens {now.spent.tokens:,} spent, {90_000 - now.spent.tokens:,} left" in lines
    assert "calls by samples drawn" in lines and "samples spent over time" in lines
    assert any(line.startswith("share of Predict(question → answer) 6 of 20 samples, ") for line in lines)
    with dspy.context(lm=ScriptedModel(cycle("12", "12", "7")).lm()):
        made = explain(programs[0](question="q"))
    lines = [" ".join(line.split()) for line in Untrusted(made._repr_html_()).text.splitlines() if line.strip()]
    assert f"12 {made.votes[0].independent} + 0" in lines and f"7 {made.votes[1].independent} + 0" in lines
    assert "votes of samples that saw the inputs alone + of samples that saw earlier ones" in lines
    assert any(re.match(r"#0 (12|7) round 0; 1 request, ", line) for line in lines)
    assert "answer" in lines and "12" in lines  # each field under its name


@given(st.text(alphabet=r"$\()[]{}a1 &<", max_size=30))
def test_nobody_finds_a_formula(words):
    """Neither MathJax of any version nor GitHub's viewer, which goes by delimiters in one run of text."""
    votes = (Votes(words, 2, 1),)
    now = PoolStatistics(
        Cost(samples=3, nanodollars=1), Cost(nanodollars=1), {"dollars": 1.0}, None, 0, 1, 0, None, {3: 1}
    )
    moments = (Moment(0, Cost(), None, 0), Moment(1, Cost(samples=3), None, 1))
    calls = (CallRecord(words, (0,), 1.0, 0.9, Cost()),)
    parts = (Part(words, Cost(nanodollars=1), {"dollars": 0.5}, None),)
    report = PoolReport(now, History(calls, moments, {words: Cost(samples=3, nanodollars=1)}), parts, title=words)
    for shown in (html.explanation(Explanation(votes, 1.0, 0.9, (), 1, Cost(nanodollars=5))), html.pool(report)):
        page = Untrusted(shown)
        assert not [run for run in page.runs if run.count("$") > 1 or ("\\" in run and run != "\\")]
        assert " ".join(words.split()) in " ".join(page.text.split())
        assert 'class="dynscale tex2jax_ignore mathjax_ignore"' in shown
