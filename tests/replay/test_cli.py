import json

import pytest

from dynscale_dspy.cli import main
from tests.replay.support import simulated
from tests.replay.test_models import pool


def run(*arguments):
    return main(["replay", *map(str, arguments)])


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


def test_a_file_that_is_not_there_is_one_clear_line(tmp_path, capsys):
    assert run(tmp_path / "gone.jsonl") == 2
    assert capsys.readouterr().err == f"dynscale replay: {tmp_path / 'gone.jsonl'}: No such file or directory\n"


def test_a_folder_that_is_not_there_is_said_before_minutes_of_work(path, capsys):
    assert run(path, "--json", "gone/out.json") == 2
    assert capsys.readouterr().err == "dynscale replay: --json gone/out.json: there is no folder gone\n"


def test_unknown_policy_is_one_clear_line(path, capsys):
    assert run(path, "--policies", "best") == 2
    assert capsys.readouterr().err.startswith("dynscale replay: unknown policy 'best': choose from ")


def test_skips_are_printed(path, capsys):
    assert run(path, "--policies", "uniform", "--budgets", "1,64", "--replicates", 2) == 0
    assert "skipped: lab__tiny__sums: budget 64: above half of the pool" in capsys.readouterr().out


@pytest.fixture
def scored(tmp_path):
    path = tmp_path / "mine.jsonl"
    rows = [
        {"id": number, "samples": ["red wine", "a red wine", "beer", "red wine"] * 2, "scores": [1, 0.9, 0, 1] * 2}
        for number in range(6)
    ]
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return path


def test_outputs_with_scores_are_replayed_under_rules_of_winning(scored, tmp_path, capsys):
    out = tmp_path / "out.json"
    assert run(scored, "--budgets", "2,4", "--replicates", 2, "--json", out) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("mine: score in % by average samples a question, and points over a random sample\n")
    assert "medoid, words; knowledge_gradient" in printed and "best of all" in printed
    rows = json.loads(out.read_text(encoding="utf-8"))
    assert {row["selector"] for row in rows} >= {"random", "best of all", "plurality", "medoid, words"}
    assert next(row["score"] for row in rows if row["selector"] == "random") == pytest.approx(0.725)


@pytest.mark.parametrize(
    "options", [("--unit", "tokens"), ("--mode", "online"), ("--rounds", 3), ("--share",), ("--plot", "x.png")]
)
def test_what_scores_are_not_replayed_with_is_said(scored, options, capsys):
    assert run(scored, *options) == 2
    assert options[0] in capsys.readouterr().err


def test_scores_and_right_answers_are_replayed_apart(scored, path, capsys):
    assert run(scored, path) == 2
    assert "replay them apart" in capsys.readouterr().err


def test_a_file_of_scores_that_cannot_be_read_is_named(scored, capsys):
    scored.write_text('{"id": 1, "samples": ["x"], "scores": [7]}', encoding="utf-8")
    assert run(scored) == 2
    assert "mine.jsonl:1" in capsys.readouterr().err


class TestSeveralModels:
    @pytest.fixture
    def paths(self, tmp_path):
        paths = [tmp_path / f"lab__{model}__sums.jsonl.gz" for model in ("weak", "strong")]
        for path, share in zip(paths, (0.4, 0.8), strict=True):
            pool(path.name.split("__")[1], share, questions=6).save(path)
        return paths

    def test_compares_them_and_writes_json(self, paths, tmp_path, capsys):
        out = tmp_path / "out.json"
        assert run(*paths, "--models", "weak,strong", "--prices", "1,10", "--replicates", 2, "--json", out) == 0
        told = capsys.readouterr().out
        assert "sums: weak, strong (a sample costs 1 : 10)" in told
        for way in ("KG weak", "KG strong", "uniform strong", "Escalate", "BestOf", "hindsight (not a policy)"):
            assert way in told
        assert {row["way"] for row in json.loads(out.read_text())["rows"]} >= {
            "Escalate",
            "ladder",
            "BestOf",
            "ByPrice",
        }

    def test_draws_accuracy_against_cost(self, paths, tmp_path):
        pytest.importorskip("matplotlib")
        out = tmp_path / "out.png"
        assert run(*paths, "--models", "weak,strong", "--prices", "1,10", "--replicates", 1, "--plot", out) == 0
        assert out.read_bytes()[:4] == b"\x89PNG"

    def test_every_pair_in_either_order_by_default(self, paths, capsys):
        assert run(*paths, "--prices", "1,10", "--replicates", 1, "--budgets", 1, "--strategies", "ladder") == 0
        told = capsys.readouterr().out
        assert "sums: weak, strong (" in told and "sums: strong, weak (" in told

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["--models", "weak,strong"], "--models needs --prices"),
            (["--prices", "1,10", "--strategies", "luck"], "no strategy 'luck'"),
            (["--prices", "1,10", "--models", "weak,none"], "no questions that these models have all answered"),
            (["--prices", "1,2,3", "--models", "weak,strong"], "one price a model is needed"),
            (["--prices", "1,0"], "prices must be above 0"),
        ],
    )
    def test_says_what_is_wrong(self, paths, capsys, arguments, message):
        assert run(*paths, *arguments) == 2
        assert message in capsys.readouterr().err
