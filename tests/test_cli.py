"""What all commands have in common."""

from __future__ import annotations

import argparse
import re

import pytest

from dynscale_dspy.cli import main

COMMANDS = [["demo"], ["check"], ["record"], ["replay"], ["doctor"], ["lab", "serve"]]
ASKING = [["demo"], ["check"], ["record"], ["doctor"]]
"""Those that ask a language model of the user's."""


def told(capsys, *arguments):
    """The status and what is said of arguments that are refused, or of ``--help``."""
    with pytest.raises(SystemExit) as ended:
        main([*arguments])
    return ended.value.code, capsys.readouterr()


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_help_has_one_style(command, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "500")
    status, (out, err) = told(capsys, *command, "--help")
    assert status == 0 and not err
    usage, description, *sections = out.split("\n\n")
    assert usage.startswith(f"usage: dynscale {' '.join(command)} ")
    assert re.fullmatch(r"[A-Z].*\.", description)
    entries = [
        found for section in sections for found in re.findall(r"^  (\S.*?)(?:  +|\n {9,})(\S.*)$", section, re.M)
    ]
    assert len(entries) == sum(line.startswith("  ") and line[2] != " " for line in "\n".join(sections).splitlines())
    for option, words in entries:
        assert not words.endswith("."), words
        assert words[0].islower() or words.startswith("JSON lines"), words
        value = re.search(r"--[\w-]+ (\S+?)(?:,|$)", option)
        assert value is None or re.match(r"\[?[A-Z]+|\{", value[1]), option
        assert "default" in words or not words.startswith("which of"), words


@pytest.mark.parametrize("command", ASKING, ids=" ".join)
def test_each_that_asks_a_language_model_takes_the_same_options_for_it(command, capsys):
    _, (out, _) = told(capsys, *command, "--help")
    assert all(option in out for option in ("--model", "--api-base", "--api-key", "--max-tokens"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "dynscale: the following arguments are required: COMMAND (see dynscale --help)"),
        (["demo", "--questions", "0"], "dynscale demo: argument --questions: must be at least 1, got 0"),
        (["demo", "--questions", "many"], "dynscale demo: argument --questions: must be a whole number, got 'many'"),
        (["demo", "--temperature", "warm"], "dynscale demo: argument --temperature: must be a number, got 'warm'"),
        (["demo", "--max-tokens", "0"], "dynscale demo: argument --max-tokens: must be at least 1, got 0"),
        (["check", "qa.py"], "dynscale check: the following arguments are required: --examples"),
        (["replay", "--budgets", "few", "x"], "dynscale replay: argument --budgets: expected numbers separated by"),
        (["lab"], "dynscale lab: the following arguments are required: COMMAND"),
        (["doctor", "--nothing"], "dynscale: unrecognized arguments: --nothing"),
    ],
)
def test_wrong_arguments_are_told_in_one_line(arguments, message, capsys):
    status, (out, err) = told(capsys, *arguments)
    assert status == 2 and not out
    assert err.startswith(message) and err.count("\n") == 1


def test_an_interrupt_is_no_traceback(monkeypatch, capsys):
    def interrupted(options: argparse.Namespace) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("dynscale_dspy.commands.doctor.run", interrupted)
    assert main(["doctor"]) == 130
    assert capsys.readouterr().err == "dynscale doctor: interrupted\n"
