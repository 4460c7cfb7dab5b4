"""``dynscale check`` and ``dynscale record``, run as from a shell."""

from __future__ import annotations

import json

import dspy
import pytest

from dynscale_dspy import _progress
from dynscale_dspy.cli import main

PROGRAM = '''
import dspy
from helper import right


class Sign(dspy.Signature):
    """The sign of a number."""

    number: str = dspy.InputField()
    sign: str = dspy.OutputField()


program = dspy.Predict(Sign)
other = dspy.ChainOfThought(Sign)


def metric(example, prediction):
    return right(example, prediction)


class Own(dspy.Module):
    pass
'''


@pytest.fixture
def folder(tmp_path, monkeypatch):
    (tmp_path / "qa.py").write_text(PROGRAM, encoding="utf-8")
    (tmp_path / "helper.py").write_text("def right(example, prediction):\n    return True\n", encoding="utf-8")
    (tmp_path / "calls.csv").write_text("number,sign\n" + "".join(f"{n},plus\n" for n in range(6)), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def served(fake):
    return ["--model", "openai/fake", "--api-base", fake.url, "--threads", "2"]


@pytest.mark.timeout(120)
def test_a_check_from_a_shell(folder, server, capsys):
    fake = server()
    out = folder / "out.json"
    assert (
        main(["check", "qa.py", "--examples", "calls.csv", *served(fake), "--metric", "metric", "--json", str(out)])
        == 0
    )
    printed = capsys.readouterr().out
    assert printed.startswith("Predict(number -> sign) on 6 calls; the check took ")
    assert "vote of 4" in printed and printed.count("100.0 [") == 5
    told = json.loads(out.read_text(encoding="utf-8"))
    names = ["plain", "greedy", "vote of 4", "Integrated of 4", "Integrated(when='close') of 4"]
    assert [row["name"] for row in told["rows"]] == names
    assert told["sentence"] == printed.splitlines()[-1]
    # Samples that the vote and the greedy run have drawn are in DSPy's cache for the strategies.
    assert told["spent"]["requests"] == 6 * 14
    assert told["spent"]["requests"] - told["spent"]["cached_requests"] == fake.statistics().requests == 6 * 6
    assert "36 requests" in printed and "cache had 48 more" in printed
    assert told["rows"][2]["times"] == pytest.approx(4, rel=0.1)  # what it would have cost without


@pytest.mark.timeout(120)
def test_samples_are_recorded_and_replayed_from_a_shell(folder, server, capsys):
    recording = ["record", "qa.py", "--examples", "calls.csv", *served(server()), "--samples", "4", "--out"]
    assert main([*recording, "mine.jsonl"]) == 0
    assert capsys.readouterr().out == "mine.jsonl: 24 samples of 6 examples\n"
    assert main(["replay", "mine.jsonl", "--budgets", "4", "--policies", "uniform"]) == 0
    assert "mine: score in % by average samples a question" in capsys.readouterr().out
    assert main([*recording, "mine.csv"]) == 2
    assert capsys.readouterr().err == "dynscale record: path must end in .jsonl or .jsonl.gz, got 'mine.csv'\n"


def test_the_language_model_may_be_called_lm_and_its_replies_be_bounded(folder, server, capsys):
    fake = server()
    named = ["--lm", "openai/fake", "--api-base", fake.url, "--threads", "2", "--max-tokens", "99"]
    assert main(["record", "qa.py", "--examples", "calls.csv", *named, "--samples", "2", "--out", "mine.jsonl"]) == 0
    assert {body.get("max_tokens") or body.get("max_completion_tokens") for body in fake.bodies} == {99}


def test_one_of_a_kind_is_told_in_the_singular(folder, server, capsys):
    (folder / "calls.csv").write_text("number,sign\n1,plus\n", encoding="utf-8")
    recording = ["record", "qa.py", "--examples", "calls.csv", *served(server()), "--samples", "2", "--out"]
    assert main([*recording, "mine.jsonl"]) == 0
    assert capsys.readouterr().out == "mine.jsonl: 2 samples of 1 example\n"


def test_how_far_it_is_is_told_without_a_terminal(folder, server, capsys, monkeypatch):
    monkeypatch.setattr(_progress, "FIRST", 0.0)
    assert main(["check", "qa.py", "--examples", "calls.csv", *served(server())]) == 0
    told = capsys.readouterr()
    assert all(f"{way}: 1 of " in told.err for way in ("plain", "greedy", "vote of 4", "Integrated of 4"))
    assert " samples, " in told.err and "s to go" in told.err and "\r" not in told.err


def test_another_program_without_labels_and_with_a_cap(folder, server, capsys):
    (folder / "calls.jsonl").write_text("".join(f'{{"number": "{n}"}}\n' for n in range(6)), encoding="utf-8")
    arguments = ["--name", "other", "--samples", "3", "--budget", "33"]
    assert main(["check", "qa.py", "--examples", "calls.jsonl", *served(server()), *arguments]) == 0
    printed = capsys.readouterr().out
    assert "ChainOfThought(number -> reasoning, sign) on 3 calls, 0 labelled" in printed and "vote of 3" in printed


def test_a_file_that_configures_its_own_language_model(folder, server, capsys):
    fake = server()
    code = f"{PROGRAM}\nprogram.lm = dspy.LM('openai/fake', api_base={fake.url!r}, api_key='k', cache=False)\n"
    (folder / "own.py").write_text(code, encoding="utf-8")
    assert main(["check", "own.py", "--examples", "calls.csv", "--threads", "2"]) == 0
    assert fake.statistics().requests == 84 and "6 calls" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["gone.py"], "there is no file gone.py"),
        (["helper.txt"], "helper.txt is no file of Python: its name must end in .py"),
        (["broken.py"], "broken.py cannot be run: ZeroDivisionError: division by zero"),
        (["qa.py", "--name", "nothing"], "qa.py defines no nothing: --name program is one"),
        (["qa.py", "--name", "metric"], "qa.py has no dspy.Module in metric: --name program is one"),
        (["helper.py"], "helper.py defines no program: write program = dspy.ChainOfThought('question -> answer')"),
        (["qa.py", "--name", "Own"], "Own in qa.py is a class: make one, program = Own()"),
        (["qa.py", "--metric", "exact"], "--metric: qa.py defines no exact"),
        (["qa.py", "--metric", "PI", "--lm", "m"], "--metric: qa.py defines no PI"),
        (
            ["qa.py"],
            "no language model: give --model MODEL such as openai/gpt-4o-mini, or call dspy.configure(lm=...) in qa.py",
        ),
        (
            ["qa.py", "--api-base", "http://127.0.0.1:1/v1"],
            "--api-base needs --model MODEL: what is the",
        ),
        (["qa.py", "--examples", "gone.csv"], "--examples gone.csv cannot be read: No such file or directory"),
        (
            ["qa.py", "--examples", "helper.txt"],
            "--examples helper.txt: examples are read from .jsonl, .json",
        ),
        (["qa.py", "--json", "gone/out.json"], "--json gone/out.json: there is no folder gone"),
        (
            ["qa.py", "--lm", "openai/x", "--samples", "2"],
            "samples must be at least 3, or no vote",
        ),
        (["qa.py", "--lm", "openai/x", "--budget", "12"], "budget is too small: 12 samples, and each"),
        (["qa.py", "--lm", "openai/x", "--dollars", "-1"], "dollars must be"),
        (
            ["qa.py", "--lm", "openai/x", "--examples", "other.csv"],
            "example 0 has no 'number', which is an input",
        ),
    ],
)
def test_what_cannot_be_run_is_told_in_a_line_before_anything_is_spent(folder, capsys, arguments, message):
    (folder / "broken.py").write_text("1 / 0\n", encoding="utf-8")
    (folder / "helper.txt").write_text("x", encoding="utf-8")
    (folder / "other.csv").write_text("text\na\nb\n", encoding="utf-8")
    assert main(["check", "--examples", "calls.csv", *arguments]) == 2
    told = capsys.readouterr().err
    assert told.startswith(f"dynscale check: {message}") and told.count("\n") == 1
    assert dspy.settings.lm is None


def test_an_error_of_the_program_is_told_in_a_line(folder, capsys):
    code = (
        f"{PROGRAM}\n\nclass Fails(dspy.Module):\n    def forward(self, number):\n        raise OSError('no\\ndisk')\n"
    )
    (folder / "fails.py").write_text(f"{code}\n\nprogram = Fails()\n", encoding="utf-8")
    assert main(["check", "fails.py", "--examples", "calls.csv"]) == 2
    assert capsys.readouterr().err == "dynscale check: OSError: no disk\n"
