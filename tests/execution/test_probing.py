"""A route is tried: servers that take everything, that refuse things, and that do not answer."""

from __future__ import annotations

import pytest

from dynscale_dspy import lab
from dynscale_dspy.execution.probing import LITELLM, NATIVE, Finding, probe, told
from dynscale_dspy.testing import FakeServer
from tests.compat.server import ModelServer
from tests.support import ENGINES, HAS_ENGINES, ScriptedModel, frame


def words(name: str) -> tuple[int, dict]:
    return 400, {"error": {"message": f"Unsupported parameter: '{name}' is not supported with this model."}}


@pytest.mark.parametrize("engine", ENGINES)
def test_the_model_in_the_box_takes_all_of_it(engine):
    with lab.serve(engine=engine, cache=False) as lm:
        route = probe(lm)
    assert route.answers and route.engine == (NATIVE if engine == "auto" else LITELLM)
    assert route.shared == LITELLM
    assert {name: finding.able for name, finding in route.findings.items()} == dict.fromkeys(
        ("answers", "usage", "n", "seed", "logprobs", "prefill"), True
    )
    assert route.findings["seed"] == Finding(True)
    assert route.findings["logprobs"].note == "with 5 alternatives a token"
    assert route.requests == 6 and route.seconds > 0


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("name", ["n", "seed", "logprobs"])
def test_what_a_server_refuses_is_told_in_its_words(server, engine, name):
    fake = server(2, refused={name: words(name)})
    found = probe(fake.lm(engine)).findings
    assert found["answers"].able and found[name].able is False
    assert f"'{name}' is not supported" in found[name].note and found[name].note.startswith("400")
    others = {"n", "seed"} - {name}
    assert all(found[other].able for other in others)


@pytest.mark.parametrize(
    ("options", "name", "finding"),
    [
        ({"choices": "one"}, "n", Finding(False, "1 came back where 2 were asked for")),
        (
            {"fault_rate": 1.0, "faults": ("no_usage",)},
            "usage",
            Finding(False, "tokens are guessed, at the most that they can be"),
        ),
        ({}, "logprobs", Finding(False, "taken, and none come back")),
        ({}, "prefill", Finding(None, "taken, and the reply cannot be read")),
    ],
    ids=["n", "usage", "logprobs", "prefill"],
)
def test_what_a_server_ignores_is_told(server, options, name, finding):
    assert probe(server(2, **options).lm()).findings[name] == finding


def test_a_message_that_ends_with_the_models_own_may_be_refused(server):
    fake = server(2, refused={"continue_final_message": (400, {"error": {"message": "no such setting"}})})
    found = probe(fake.lm("litellm")).findings["prefill"]
    assert found.able is False and "no such setting" in found.note


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(("fault", "status"), [("auth", "401"), ("unknown_model", "404"), ("500", "500")])
def test_of_a_server_that_does_not_answer_nothing_else_is_asked(server, engine, fault, status):
    fake = server(2, fault_rate=1.0, faults=(fault,))
    route = probe(fake.lm(engine))
    assert not route.answers and list(route.findings) == ["answers"]
    assert status in route.findings["answers"].note
    assert route.requests == fake.statistics().requests == 1


def test_where_nobody_listens_that_is_told():
    with FakeServer(1) as gone:
        lm = gone.lm(timeout=5)
    route = probe(lm)
    assert not route.answers and route.findings["answers"].note


@pytest.mark.skipif(not HAS_ENGINES, reason="before DSPy 3.4 there is no engine of the user's own")
def test_an_engine_of_the_users_own_is_not_asked_past_it():
    model = ScriptedModel(lambda prompt, number: "7")
    route = probe(model.lm())
    assert route.engine == "the user's engine" and not route.shared
    assert route.findings["n"].able is False and route.answers
    assert 0 < len(model.requests) <= route.requests


class Begins(ModelServer):
    """Begins a message of its own, whatever the last one of a request is."""

    def answer(self, request):
        return {"role": "assistant", "content": frame({"reasoning": "4 and 3 are 7.", "answer": "7"})}


def test_a_new_message_in_place_of_the_begun_one_is_told():
    running = Begins()
    try:
        assert probe(running.lm()).findings["prefill"] == Finding(False, "taken, and a new message begun")
    finally:
        running.close()


def test_findings_are_values_of_json(server):
    route = probe(server(2).lm())
    assert route.as_dict()["findings"]["answers"] == {"able": True, "note": ""}


def test_an_error_is_told_in_a_line():
    class Failed(Exception):
        status = 418

    assert told(Failed("no\n tea")) == "418: no tea"
    assert told(ValueError()) == "ValueError"
    assert len(told(ValueError("x" * 5000))) == 200
