import json
import math

import pytest

from dynscale_dspy import Cost, Integrated, Parallel, Uniform
from dynscale_dspy.config import ScalingSettings
from dynscale_dspy.tuning.check_report import Check, CheckRow, concluded
from dynscale_dspy.tuning.paired import Interval
from dynscale_dspy.tuning.verdict import Spending, Way
from tests.reporting.test_html import Page


def row(name, accuracy, gain, changed=(0.0, 0.0, 0.1), *, spending=(1, 1, 30, 10), times=1.0, **settings):
    return CheckRow(
        name=name,
        accuracy=accuracy and Interval(*accuracy),
        gain=gain and Interval(*gain),
        changed=Interval(*changed),
        agreement=None if name in ("plain", "greedy") else 0.625,
        spending=Spending(*spending),
        times=times,
        settings=settings,
    )


GREEDY = row("greedy", (0.6, 0.45, 0.74), None, budget=1, max_samples=1, temperature=0.0)
VOTE = row(
    "vote of 4",
    (0.75, 0.6, 0.86),
    (0.15, 0.01, 0.28),
    (0.2, 0.1, 0.35),
    spending=(4, 1.5, 1200, 40),
    times=8.5,
    budget=4,
    sampling=Parallel(first="own"),
    policy=Uniform(),
    answer=lambda prediction: prediction.answer,
)


SENTENCE = "Four samples a call (vote) gain 15.0 [1.0, 28.0] points over the greedy run for 8.5 times its cost."


def found(*rows, labelled=40, **options):
    usual = {
        "sentence": SENTENCE,
        "recommended": rows[-1],
        "rows": rows,
        "program": "Predict(question -> answer)",
        "calls": 40,
        "labelled": labelled,
        "disagreements": (3, 8),
        "cost_unit": "tokens",
        "spent": Cost(samples=200, requests=100, prompt_tokens=50_000, completion_tokens=2_000),
        "notes": ("Integrated of 4 is left out: it takes about 400 requests, and 12 are left",),
    }
    return Check(**{**usual, **options})


TABLE = """\
Predict(question -> answer) on 40 calls; the check took 100 requests, 52,000 tokens
                      right, %               gain   not as greedy, %  samples  requests  tokens  cost in tokens
  greedy     60.0 [45.0, 74.0]             (base)    0.0 [0.0, 10.0]      1.0       1.0      40           x 1.0
* vote of 4  75.0 [60.0, 86.0]  +15.0 [1.0, 28.0]  20.0 [10.0, 35.0]      4.0       1.5   1,240           x 8.5
  (Integrated of 4 is left out: it takes about 400 requests, and 12 are left)
"""


def test_text_is_a_table_notes_and_a_sentence():
    assert str(found(GREEDY, VOTE)) == TABLE + SENTENCE


def test_replies_from_the_cache_are_told_apart():
    spent = Cost(samples=200, requests=100, prompt_tokens=500, cached_requests=40)
    assert "the check took 60 requests, 500 tokens (DSPy's cache had 40 more)" in str(found(GREEDY, VOTE, spent=spent))


def test_what_is_not_known_has_no_column():
    plain = row("plain", None, None, spending=(1, 1))
    vote = row("vote of 4", None, None, (0.2, 0.1, 0.35), spending=(4, 4))
    told = str(found(plain, vote, labelled=0, notes=(), sentence="So."))
    assert told.splitlines()[0].startswith("Predict(question -> answer) on 40 calls, 0 labelled;")
    assert told.splitlines()[1].split("  ")[-1] == "cost in tokens"
    assert "not as plain, %" in told and "agree, %" in told and "62.5" in told
    for missing in ("right", "gain", "tokens  ", "dollars"):
        assert missing not in told.partition("\n")[2].replace("cost in tokens", "")


def test_scores_of_another_range_and_dollars():
    low = row("greedy", (2.5, 2.0, 3.0), None, spending=(1, 1, 30, 10, 0.5))
    told = str(found(low, labelled=40, cost_unit="dollars"))
    assert "score" in told and "2.5 [2, 3]" in told and "$0.5000" in told and "cost in dollars" in told


def test_html_has_the_same_words_and_the_recommended_row_stands_out():
    shown = found(GREEDY, VOTE)
    html = shown._repr_html_()
    page = Page(html)
    for words in (
        "Four samples a call (vote) gain",
        "right, %",
        "75.0 [60.0, 86.0]",
        "(base)",
        "Integrated of 4 is left",
    ):
        assert words in page.text
    assert html.count("font-weight:600;text-align") == 2 * 8  # the head and one row
    assert "&lt;b&gt;" in found(GREEDY, VOTE, sentence="<b>bold</b>")._repr_html_()


def test_json_holds_every_figure_and_settings_that_can_be_read_again():
    told = json.loads(json.dumps(found(GREEDY, VOTE).as_dict()))
    assert told["recommended"] == "vote of 4" and told["disagreements"] == [3, 8] and told["labelled"] == 40
    assert told["spent"] == {
        **{"samples": 200, "requests": 100, "cached_requests": 0, "tokens": 52_000, "dollars": 0.0}
    }
    greedy, vote = told["rows"]
    assert greedy["gain"] is None and greedy["settings"] == {"budget": 1, "max_samples": 1, "temperature": 0.0}
    assert vote["accuracy"] == {"mean": 0.75, "low": 0.6, "high": 0.86} and vote["agreement"] == 0.625
    assert (vote["samples"], vote["requests"], vote["tokens"], vote["times"]) == (4, 1.5, 1240, 8.5)
    settings = vote["settings"]
    assert settings.pop("budget") == 4 and settings.pop("policy")["name"] == "Uniform"
    assert ScalingSettings.from_json(settings).sampling == Parallel(first="own")
    assert "answer" not in settings  # a function, which JSON cannot hold
    chained = row("Integrated of 4", None, None, budget=4, sampling=Integrated(share=0.5))
    assert found(chained).as_dict()["rows"][0]["settings"]["sampling"]["share"] == 0.5


def way(name, *scores, single=True, changed=None):
    return Way(
        name, f"One {name} request", {"budget": 1}, single, Spending(1, 1), scores, changed or (0.0,) * len(scores)
    )


def test_what_cannot_be_judged_is_not_right_where_another_answer_could_be():
    nothing = math.nan
    ways = [way("plain", 1.0, nothing, nothing), way("greedy", 1.0, 1.0, nothing, changed=(0.0, 0.0, 1.0))]
    made = concluded(ways, own={"answer": "a"}, program="P", spent=Cost(samples=6), notes=["one"])
    assert made.calls == 3 and made.labelled == 2 and made.disagreements == (2,) and made.notes == ("one",)
    assert [each.accuracy.mean for each in made.rows] == [0.5, 1.0]
    assert made.settings == {"answer": "a", "budget": 1} and made.recommended.name == "greedy"


def test_calls_on_which_all_agree_need_no_label():
    ways = [
        way("greedy", 0.0, math.nan, math.nan),
        way("vote", 1.0, math.nan, math.nan, single=False, changed=(1.0, 0, 0)),
    ]
    made = concluded(ways, own={}, program="P", spent=Cost(), notes=())
    assert made.labelled == 1 and made.rows[0].accuracy is None and made.rows[1].gain.mean == pytest.approx(1 / 3)


def test_it_is_short_where_it_is_part_of_something_else():
    shown = found(GREEDY)
    assert repr(shown).startswith("Check('Four samples a call (vote) gain") and "max_samples" in repr(shown)
    assert shown.settings == {"budget": 1, "max_samples": 1, "temperature": 0.0}
    shown.settings["budget"] = 99
    assert shown.settings["budget"] == 1
