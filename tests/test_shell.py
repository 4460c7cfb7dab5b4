from __future__ import annotations

import argparse
import os
import subprocess
import sys

import pytest

from dynscale_dspy import _shell
from dynscale_dspy._shell import Refused


def options(**given):
    return argparse.Namespace(**{"model": None, "api_base": None, "api_key": None, "max_tokens": None, **given})


@pytest.mark.parametrize(
    ("given", "model", "kwargs"),
    [
        ({"model": "openai/x"}, "openai/x", {}),
        ({"model": "openai/x", "api_base": "http://h/v1"}, "openai/x", {"api_base": "http://h/v1", "api_key": "local"}),
        (
            {"model": "openai/x", "api_base": "http://h/v1", "api_key": "k", "max_tokens": 9},
            "openai/x",
            {"api_base": "http://h/v1", "api_key": "k", "max_tokens": 9},
        ),
    ],
)
def test_a_language_model_is_made_of_what_is_given(given, model, kwargs):
    lm = _shell.language_model(options(**given))
    assert lm.model == model
    assert {name: value for name, value in lm.kwargs.items() if value is not None} == kwargs


def test_what_dspy_refuses_is_refused_in_its_words():
    with pytest.raises(Refused, match=r"--model openai/o1: .*max_tokens"):
        _shell.language_model(options(model="openai/o1", max_tokens=5))


def test_a_message_of_several_lines_is_told_in_one(capsys):
    def run(given: argparse.Namespace) -> None:
        raise Refused("no\n  disk")

    assert _shell.told("demo", run, options()) == 2
    assert capsys.readouterr().err == "dynscale demo: no disk\n"


def test_a_mistake_of_ours_is_not_hidden():
    def run(given: argparse.Namespace) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        _shell.told("demo", run, options())


def test_whoever_reads_may_stop_to():
    code = (
        "import sys; from dynscale_dspy._shell import told; "
        "sys.exit(told('x', lambda options: sys.stdout.write('line\\n' * 100000), None))"
    )
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "w") as closed:
        done = subprocess.run(
            [sys.executable, "-c", code], stdout=closed, stderr=subprocess.PIPE, text=True, timeout=60
        )
    assert done.returncode == 0 and not done.stderr


@pytest.mark.parametrize("value", ["nan", "inf", "-inf", "x", ""])
def test_a_number_is_a_number(value):
    with pytest.raises(argparse.ArgumentTypeError, match="must be a number"):
        _shell.number(value)
    assert _shell.number("-1.5") == -1.5
