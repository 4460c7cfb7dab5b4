from __future__ import annotations

import json
import subprocess
import sys

import pytest

from dynscale_dspy import lab
from dynscale_dspy.cli import main


@pytest.mark.timeout(120)
def test_the_demo(tmp_path, capsys):
    out = tmp_path / "rows.json"
    assert main(["demo", "--questions", "12", "--budget", "3", "--threads", "8", "--json", str(out)]) == 0
    rows = json.loads(out.read_text())
    assert [row["method"] for row in rows] == ["single", "uniform", "dynscaling"]
    columns = ["method", "accuracy", "se", "samples", "requests", "tokens"]
    assert [list(row) for row in rows] == [[*columns, "prompt_tokens", "completion_tokens", "seconds"]] * 3
    assert [row["samples"] for row in rows] == [12, 72, 36]
    assert all(row["requests"] >= row["samples"] and row["tokens"] > 0 for row in rows)
    printed = capsys.readouterr().out
    for words in ("accuracy", "dynscaling - uniform:", "Who got how many samples"):
        assert words in printed


@pytest.mark.timeout(120)
def test_the_demo_on_ones_own_model(tmp_path):
    out = tmp_path / "rows.json"
    with lab.serve() as lm:
        arguments = ["demo", "--questions", "4", "--budget", "2", "--json", str(out)]
        assert main([*arguments, "--model", lm.model, "--api-base", lm.kwargs["api_base"]]) == 0
    assert [row["samples"] for row in json.loads(out.read_text())] == [4, 16, 8]


def test_an_address_without_a_model(capsys):
    assert main(["demo", "--api-base", "http://127.0.0.1:1/v1"]) == 2
    assert "--api-base needs --model NAME" in capsys.readouterr().err


def test_numbers_out_of_range(capsys):
    with pytest.raises(SystemExit):
        main(["demo", "--questions", "0"])
    assert "must be at least 1, got 0" in capsys.readouterr().err


def test_serving_the_lab_from_a_shell():
    import httpx

    process = subprocess.Popen(
        [sys.executable, "-m", "dynscale_dspy.cli", "lab", "serve", "--port", "0"], stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        address = line.split(" at ")[1].split()[0]
        models = httpx.get(f"{address}/models", timeout=10).json()
        assert models["data"][0]["id"] in line
    finally:
        process.terminate()
        process.wait(10)
