"""The tool that runs DSPy's own tests tells which of them pass plain and fail scaled."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.compat import dspy_suite

TESTS = """
import dspy
from dspy.utils import DummyLM


def made():
    return dspy.Predict("question -> answer")


def test_an_answer():
    with dspy.context(lm=DummyLM([{"answer": "4"}])):
        assert made()(question="q").answer == "4"


def test_of_an_exact_class():
    assert type(made()) is dspy.Predict


def test_of_a_wrapper():
    assert not hasattr(made(), "scaling_settings")


def test_that_fails_plain_too():
    assert False
"""


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "__init__.py").touch()
    (tmp_path / "tests" / "test_it.py").write_text(TESTS, encoding="utf-8")
    return tmp_path


@pytest.mark.timeout(300)
def test_each_way_is_run_and_compared_with_plain(tree: Path) -> None:
    outcomes = {way: dspy_suite.run(way, tree, []) for way in dspy_suite.WAYS}
    failed = {
        way: {name.partition("::")[2] for name, (outcome, _) in found.items() if outcome == "failed"}
        for way, found in outcomes.items()
    }
    always = {"test_that_fails_plain_too"}
    assert failed == {
        "plain": always,
        "wrap": always | {"test_of_an_exact_class"},
        "DynScaling": always | {"test_of_an_exact_class", "test_of_a_wrapper"},
    }
    table, explained = dspy_suite.render(outcomes)
    assert not explained
    assert "| plain | 3 | 1 | 0 |  |\n| `wrap` | 2 | 2 | 0 | 1 |\n| `DynScaling` | 1 | 3 | 0 | 2 |" in table
    assert "| `tests/test_it.py::test_of_a_wrapper` | `DynScaling` | not explained: " in table
    assert "| `tests/test_it.py::test_of_an_exact_class` | `wrap`, `DynScaling` | not explained: " in table


def test_differences_that_are_explained_are_no_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dspy_suite, "EXPLAINED", {"tests/a.py::test_it": "looks at it"})
    plain = {"tests/a.py::test_it[1]": ("passed", ""), "tests/a.py::test_new": ("failed", "")}
    table, explained = dspy_suite.render({"plain": plain, "wrap": {"tests/a.py::test_it[1]": ("failed", "no")}})
    assert explained
    assert table.endswith("| `tests/a.py::test_it[1]` | `wrap` | looks at it |")


def test_a_test_that_was_not_run_is_a_difference() -> None:
    table, explained = dspy_suite.render({"plain": {"a::b": ("passed", "")}, "wrap": {}})
    assert not explained and "the test was not run" in table


def test_a_tree_without_tests_is_said(tmp_path: Path) -> None:
    assert dspy_suite.run("plain", tmp_path, []) == {}
