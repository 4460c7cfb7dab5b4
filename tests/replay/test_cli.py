import argparse
import json

import pytest

from dynscale_dspy.replay.cli import add_arguments, main
from tests.replay.support import simulated


def run(*arguments):
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return main(parser.parse_args([str(argument) for argument in arguments]))


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "lab__tiny__sums.jsonl.gz"
    simulated(20, 80).save(path)
    return path


def test_prints_a_table_and_writes_json(path, tmp_path, capsys):
    out = tmp_path / "out.json"
    assert run(path, "--policies", "uniform,ucb:exploration=0.1", "--replicates", 3, "--json", out) == 0
    assert "sums: 1 pool, accuracy in %" in capsys.readouterr().out
    written = json.loads(out.read_text())
    assert list(written["records"][0]) == [
        "pool", "policy", "unit", "budget", "mode", "accuracy", "se", "spent", "rounds",
    ]  # fmt: skip
    assert list(written["summaries"][0]) == [
        "group", "policy", "area", "reach_uniform32", "diff_vs_uniform4", "diff_se",
    ]  # fmt: skip
    assert {record["policy"] for record in written["records"]} >= {"uniform", "ucb:exploration=0.1"}


def test_draws_the_picture(path, tmp_path):
    pytest.importorskip("matplotlib")
    out = tmp_path / "out.png"
    assert run(path, "--policies", "knowledge_gradient", "--replicates", 2, "--plot", out) == 0
    assert out.read_bytes()[:4] == b"\x89PNG"


def test_without_matplotlib_it_says_what_to_install(path, monkeypatch, capsys):
    monkeypatch.setitem(__import__("sys").modules, "matplotlib", None)
    assert run(path, "--plot", "out.png") == 2
    assert capsys.readouterr().err == "dynscale replay: --plot needs Matplotlib: pip install 'dynscale-dspy[plots]'\n"


def test_bad_pool_is_one_clear_line(tmp_path, capsys):
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"id": "q", "answers": ["A"]}\n')
    assert run(bad) == 2
    assert capsys.readouterr().err == f"dynscale replay: {bad}:1: no 'gold', and no 'correct' in its place\n"


def test_unknown_policy_is_one_clear_line(path, capsys):
    assert run(path, "--policies", "best") == 2
    assert capsys.readouterr().err.startswith("dynscale replay: unknown policy 'best': choose from ")


def test_skips_are_printed(path, capsys):
    assert run(path, "--policies", "uniform", "--budgets", "1,64", "--replicates", 2) == 0
    assert "skipped: lab__tiny__sums: budget 64: above half of the pool" in capsys.readouterr().out
