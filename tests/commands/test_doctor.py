from __future__ import annotations

import json
import platform

import pytest

from dynscale_dspy import __version__
from dynscale_dspy.cli import main
from dynscale_dspy.commands import doctor
from dynscale_dspy.lab.server import LabServer

KEYS = ["dynscale_dspy", "python", "platform", "packages", "extras", "engines", "route"]


def rows_of(printed: str) -> list[str]:
    """What was found of a server, without the padding."""
    return [" ".join(line.split()) for line in printed.splitlines() if line.startswith("  ")]


def test_without_a_model_it_says_what_is_installed(capsys):
    assert main(["doctor"]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith(f"dynscale_dspy {__version__}, Python {platform.python_version()}, ")
    assert "dspy 3." in printed and "litellm 1." in printed and "[lab] yes: rich " in printed
    assert "requests are made by " in printed and printed.endswith("--api-base URL\n")


def test_what_is_missing_is_told_with_the_remedy(capsys, monkeypatch):
    versions = {"dspy": "3.4.1", "ray": None}
    monkeypatch.setattr(doctor, "_version", lambda name: versions.get(name, "1.0"))
    assert main(["doctor"]) == 0
    printed = capsys.readouterr().out
    assert "[ray] no: ray missing; pip install 'dynscale-dspy[ray]'\n" in printed


def test_a_server_that_takes_all_of_it(capsys):
    with LabServer(model="small") as server:
        address = server.url
        assert main(["doctor", "--model", f"openai/{server.model_name}", "--api-base", address]) == 0
        printed = capsys.readouterr().out
    assert f"openai/lab-arithmetic-small at {address}, asked by " in printed and ": 6 requests, " in printed
    rows = rows_of(printed)
    assert len(rows) == 6 and not any(" no" in row for row in rows)
    assert "takes n > 1 yes; samples of a call share a request" in rows


def test_a_server_that_refuses_things(server, capsys):
    told = {"error": {"message": "Unsupported parameter: 'seed' is not supported with this model."}}
    fake = server(2, choices="refuse", refused={"seed": (400, told)})
    assert main(["doctor", "--model", "openai/fake", "--api-base", fake.url, "--max-tokens", "50"]) == 0
    printed = capsys.readouterr().out
    n, seed = (
        next(row for row in rows_of(printed) if row.startswith(name)) for name in ("takes n > 1", "takes a seed")
    )
    assert n.startswith("takes n > 1 no; ") and n.endswith("; each sample makes a request of its own")
    assert seed.startswith("takes a seed no; 400: ")
    assert {body.get("max_tokens") or body.get("max_completion_tokens") for body in fake.bodies} == {50}


def test_as_json(server, capsys, tmp_path):
    options = ["doctor", "--model", "openai/fake", "--api-base", server(2).url]
    assert main([*options, "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert list(printed) == KEYS
    assert printed["packages"]["dspy"] and printed["engines"][-1] == "litellm"
    assert printed["route"]["findings"]["n"] == {"able": True, "note": ""}
    out = tmp_path / "report.json"
    assert main([*options, "--json", str(out)]) == 0
    assert "openai/fake at " in capsys.readouterr().out
    assert json.loads(out.read_text(encoding="utf-8"))["route"]["model"] == "openai/fake"


def test_a_server_that_does_not_answer_is_an_error_after_the_report(server, capsys):
    fake = server(2, api_key="right")
    options = ["--model", "openai/fake", "--api-base", fake.url, "--api-key", "wrong-key-of-mine"]
    assert main(["doctor", *options]) == 2
    told = capsys.readouterr()
    (row,) = rows_of(told.out)
    assert row.startswith("answers no; ") and "401" in row
    assert told.err == "dynscale doctor: openai/fake does not answer\n"
    assert "wrong-key-of-mine" not in told.out + told.err


def test_no_key_is_told_though_a_server_repeats_it(server, capsys):
    words = {"error": {"message": "Incorrect API key provided: sk-secret."}}
    fake = server(2, refused={"messages": (401, words)})
    address = fake.url.replace("//", "//user:password@")
    for json_too in ([], ["--json"]):
        arguments = ["--model", "openai/fake", "--api-base", address, "--api-key", "sk-secret", *json_too]
        assert main(["doctor", *arguments]) == 2
        told = capsys.readouterr()
        assert "sk-secret" not in told.out + told.err and "password" not in told.out + told.err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--api-base", "http://127.0.0.1:1/v1"], "--api-base needs --model MODEL: what is the model called there?"),
        (["--json", "gone/out.json"], "--json gone/out.json: there is no folder gone"),
    ],
)
def test_what_cannot_be_run_is_told_in_a_line(options, message, capsys):
    assert main(["doctor", *options]) == 2
    assert capsys.readouterr().err == f"dynscale doctor: {message}\n"
