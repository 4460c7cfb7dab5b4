from __future__ import annotations

import contextlib
import json
import sys
import time
from types import SimpleNamespace

import pytest

from dynscale_dspy import lab
from dynscale_dspy.cli import main
from dynscale_dspy.commands import demo
from dynscale_dspy.execution import adapter
from dynscale_dspy.testing import FakeQuestion, FakeServer
from tests.support import ScriptedModel

METHODS = ["plain", "greedy", "uniform", "dynscaling"]


@pytest.mark.timeout(120)
def test_the_demo(tmp_path, capsys):
    out = tmp_path / "rows.json"
    assert main(["demo", "--questions", "12", "--budget", "3", "--threads", "8", "--json", str(out)]) == 0
    rows = json.loads(out.read_text())
    assert [row["method"] for row in rows] == METHODS
    columns = ["method", "accuracy", "se", "samples", "requests", "tokens", "prompt_tokens", "completion_tokens"]
    assert [list(row) for row in rows] == [[*columns, "seconds", "right"]] * 4
    assert all(row["accuracy"] == sum(row["right"]) / 12 for row in rows)
    assert [row["samples"] for row in rows[:3]] == [12, 12, 72] and 12 < rows[3]["samples"] <= 36
    assert all(row["requests"] >= row["samples"] and row["tokens"] > 0 for row in rows)
    printed = capsys.readouterr().out
    for words in ("accuracy", "DynScaling - plain", "DynScaling - uniform voting:", "Who got how many samples"):
        assert words in printed
    assert printed.index("plain ") < printed.index("uniform voting") < printed.index("DynScaling ")


def asked(tmp_path, capsys, chances, *options):
    """The demo on a server whose answers have these chances: its rows, what it printed and the requests' settings."""
    out = tmp_path / "rows.json"
    bank = [
        FakeQuestion(
            question.question, {question.answer: chances[0], "-1": chances[1], "-2": chances[2]}, question.answer
        )
        for question in lab.questions(6, seed=16)
    ]
    with FakeServer(bank, median_latency=0.001) as server:
        arguments = ["demo", "--questions", "6", "--seed", "16", "--budget", "2", "--threads", "1", *options]
        assert main([*arguments, "--json", str(out), "--model", "openai/fake", "--api-base", server.url]) == 0
        return json.loads(out.read_text()), capsys.readouterr().out, server.bodies


@pytest.mark.timeout(120)
@pytest.mark.parametrize(("options", "own"), [((), None), (("--temperature", "0.4"), 0.4)])
def test_the_plain_program_is_asked_as_its_user_asks_it_and_at_temperature_0(tmp_path, capsys, options, own):
    rows, _, bodies = asked(tmp_path, capsys, (0.6, 0.3, 0.1), *options)
    temperatures = [body.get("temperature") for body in bodies]
    single = [own] * 6 + [0] * 6
    greedy = 6 + next(start for start in range(len(bodies)) if temperatures[start : start + 12] == single)
    assert [row["requests"] for row in rows[:2]] == [6, 6]
    assert rows[1]["accuracy"] == 1.0
    seeds = [body["seed"] for body in bodies]
    assert len(set(seeds[greedy : greedy + 6])) == 6 and seeds[greedy - 6 : greedy] == seeds[greedy : greedy + 6]


@pytest.mark.timeout(120)
def test_a_model_that_fails_at_temperature_0_shows_it_in_its_row(tmp_path, capsys, monkeypatch):
    class Picky(ScriptedModel):
        def answer(self, request):
            if request.config.temperature == 0:
                raise ValueError("temperature must be strictly positive")
            return super().answer(request)

    lm = Picky(lambda prompt, number: {"reasoning": "r", "answer": "1"}).lm(temperature=1.0)
    monkeypatch.setattr(demo, "_language_model", lambda options: contextlib.nullcontext(lm))
    out = tmp_path / "rows.json"
    assert main(["demo", "--questions", "14", "--budget", "2", "--threads", "1", "--json", str(out)]) == 0
    assert [row["method"] for row in json.loads(out.read_text())] == METHODS
    assert "DynScaling - plain: " in capsys.readouterr().out


@pytest.mark.timeout(120)
def test_gains_are_over_the_better_plain_run_and_one_that_is_none_is_said(tmp_path, capsys):
    _, printed, _ = asked(tmp_path, capsys, (0.4, 0.3, 0.3))  # temperature 0 is always right, so nothing is better
    assert "DynScaling - plain, temperature 0: " in printed and "DynScaling - plain: " not in printed
    assert "Nothing here is surely better than plain, temperature 0" in " ".join(printed.split())
    _, printed, _ = asked(tmp_path, capsys, (0.3, 0.0, 0.7))  # temperature 0 never is
    assert "DynScaling - plain: " in printed


def test_replies_may_be_bounded(tmp_path, capsys):
    _, _, bodies = asked(tmp_path, capsys, (1.0, 0.0, 0.0), "--max-tokens", "77")
    assert {body.get("max_tokens") or body.get("max_completion_tokens") for body in bodies} == {77}


def test_one_of_a_kind_is_told_in_the_singular(tmp_path, capsys):
    bank = [
        FakeQuestion(question.question, {question.answer: 1.0}, question.answer)
        for question in lab.questions(1, seed=0)
    ]
    with FakeServer(bank, median_latency=0.001) as server:
        options = [
            "--questions",
            "1",
            "--seed",
            "0",
            "--budget",
            "1",
            "--model",
            "openai/fake",
            "--api-base",
            server.url,
        ]
        assert main(["demo", *options]) == 0
    assert "1 question, " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--api-base", "http://127.0.0.1:1/v1"], "--api-base needs --model MODEL: what is the model called there?"),
        (["--json", "gone/out.json"], "--json gone/out.json: there is no folder gone"),
        (["--json", "."], "--json . is a folder: name a file in it"),
        (["--model", "openai/x", "--api-base", "http://127.0.0.1:1/v1"], "openai/x does not answer: "),
    ],
)
def test_what_cannot_be_run_is_told_in_a_line(options, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    # A server that cannot be reached is asked again after pauses, of 14 seconds together.
    pauses: list[float] = []
    monkeypatch.setattr(adapter, "time", SimpleNamespace(**{**vars(time), "sleep": pauses.append}))
    assert main(["demo", "--questions", "2", *options]) == 2
    told = capsys.readouterr().err
    assert told.startswith(f"dynscale demo: {message}") and told.count("\n") == 1


def test_without_rich_it_says_what_to_install(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "rich.console", None)
    assert main(["demo"]) == 2
    told = capsys.readouterr().err
    assert told.startswith("dynscale demo: ") and told.endswith("pip install 'dynscale-dspy[lab]'\n")


@pytest.mark.timeout(240)
def test_the_demo_of_two_models(tmp_path, capsys):
    out = tmp_path / "rows.json"
    arguments = ["demo", "--models", "--questions", "12", "--budget", "4", "--threads", "8", "--json", str(out)]
    assert main(arguments) == 0
    rows = json.loads(out.read_text())
    plain = ["small, plain", "small, temperature 0", "large, plain", "large, temperature 0"]
    assert [row["method"] for row in rows] == [*plain, "large, DynScaling", "small and large, DynScaling"]
    assert [row["samples"] for row in rows[:4]] == [{"small": 12, "large": 0}] * 2 + [{"small": 0, "large": 12}] * 2
    alone, both = rows[4:]
    assert alone["samples"]["small"] == 0 and both["samples"]["small"] >= 12
    unit = rows[2]["dollars"]
    assert 5 * rows[0]["dollars"] < unit  # a token of it costs a tenth
    assert all(unit < row["dollars"] <= 4 * unit for row in (alone, both))
    assert all(row["accuracy"] == sum(row["right"]) / 12 for row in rows)
    printed = " ".join(capsys.readouterr().out.split())
    assert "small and large, DynScaling - large, DynScaling: " in printed
    assert "small and large, DynScaling - large, temperature 0: " in printed or "DynScaling - large, plain: " in printed


def test_the_demo_of_two_models_is_of_those_in_the_box(capsys):
    assert main(["demo", "--models", "--model", "openai/mine"]) == 2
    assert "give one of them" in capsys.readouterr().err
