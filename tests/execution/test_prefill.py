"""Chains that begin the model's own message, on servers of each kind."""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import dspy
import pytest

from dynscale_dspy import DynScaling, Sequential, Uniform, explain
from dynscale_dspy.execution import prefill
from dynscale_dspy.execution.capabilities import Capability
from dynscale_dspy.execution.prefill import FLAGS, StartedMessage
from dynscale_dspy.sampling.chain import CHECKING

SECOND = "checked\n\n[[ ## answer ## ]]\nC\n\n[[ ## completed ## ]]"
WHOLE = f"[[ ## reasoning ## ]]\n{SECOND}"


def first(number):
    return f"[[ ## reasoning ## ]]\nthought\n\n[[ ## answer ## ]]\n{'AB'[number % 2]}\n\n[[ ## completed ## ]]"


def continues(messages, body):
    return SECOND


def echoes(messages, body):
    return messages[-1]["content"] + SECOND


def opens_a_turn(messages, body):
    return WHOLE


def opens_a_turn_with_words(messages, body):
    return f"Let me see.\n\n{WHOLE}"


def refuses(messages, body):
    return None


def rambles(messages, body):
    return "no format at all"


@contextlib.contextmanager
def serving(behaviour):
    """A server whose replies to a begun message are `behaviour`'s; the requests it got are its `requests`."""
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            messages = body["messages"]
            with lock:
                server.requests.append(body)
                number = len(server.requests) - 1
            if messages[-1]["role"] == "assistant":
                content = behaviour(messages, body)
            elif "earlier_attempts" in messages[-1]["content"]:
                content = WHOLE
            else:
                content = first(number)
            payload = {"id": "1", "object": "chat.completion", "created": 0, "model": "m"}
            payload["choices"] = [
                {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": content}}
            ]
            payload["usage"] = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
            if content is None:
                payload = {"error": {"message": "the last message must be the user's", "type": "invalid_request_error"}}
            data = json.dumps(payload).encode()
            self.send_response(200 if content is not None else 400)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *arguments):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.requests = []
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def ask(server):
    options = {"cache": False, "num_retries": 0, "temperature": 1.0, "api_key": "local"}
    lm = dspy.LM("openai/m", api_base=f"http://127.0.0.1:{server.server_port}/v1", **options)
    sampling = Sequential(rendering="prefill")
    qa = DynScaling(dspy.ChainOfThought("question -> answer"), 3, policy=Uniform(), sampling=sampling)
    with dspy.context(lm=lm):
        return explain(qa(question="q"))


def begun(server):
    return [body["messages"][-1]["role"] == "assistant" for body in server.requests]


@pytest.mark.parametrize("behaviour", [continues, echoes])
def test_the_model_goes_on_with_the_chain(behaviour):
    with serving(behaviour) as server:
        report = ask(server)
    assert begun(server) == [False, True, True]
    body = server.requests[1]
    message = body["messages"][-1]["content"]
    assert message.startswith("[[ ## reasoning ## ]]\nAttempt 1:\nthought\nanswer: ")
    assert message.endswith(CHECKING)
    assert FLAGS.items() <= body.items()
    assert all("earlier_attempts" not in message["content"] for message in body["messages"])
    for sample in report.samples[1:]:
        assert (sample.prediction.reasoning, sample.answer) == ("checked", "C")  # what is shown is not its own
        assert sample.shown


@pytest.mark.parametrize("behaviour", [opens_a_turn, opens_a_turn_with_words, refuses])
def test_a_server_that_cannot_is_asked_by_a_field_from_then_on(behaviour):
    with serving(behaviour) as server:
        report = ask(server)
    extra = [False] if behaviour is refuses else []  # a refusal cost a request, and its sample was asked again
    assert begun(server) == [False, True, *extra, False]
    assert "earlier_attempts" in server.requests[-1]["messages"][-1]["content"]
    assert not FLAGS.keys() & server.requests[-1].keys()
    assert [sample.answer for sample in report.samples[1:]] == ["C", "C"]


def test_a_refusal_is_kept_once_a_request_in_its_place_was_answered(monkeypatch):
    class Refusal(Exception):
        status_code = 400

    class Model:
        model = "m"

    capability, lm = Capability(), Model()
    monkeypatch.setattr(prefill, "CONTINUED_MESSAGE", capability)
    started = StartedMessage(dspy.ChatAdapter(), lm, "thought")
    assert started.failed(Refusal())
    assert StartedMessage.possible(dspy.ChatAdapter(), lm)  # it may have been the content
    started.gave_way()
    assert not StartedMessage.possible(dspy.ChatAdapter(), lm)


def test_a_reply_that_cannot_be_read_is_asked_for_again_with_a_field():
    with serving(rambles) as server:
        report = ask(server)
    assert begun(server) == [False, True, False, True, False]
    assert [sample.answer for sample in report.samples[1:]] == ["C", "C"]


def test_other_adapters_get_a_field():
    class Own(dspy.ChatAdapter):
        """May write its replies in any way."""

    with serving(continues) as server, dspy.context(adapter=Own()):
        ask(server)
    assert begun(server) == [False, False, False]
    assert "earlier_attempts" in server.requests[-1]["messages"][-1]["content"]


def test_it_works_from_tasks():
    async def ask_async(server):
        lm = dspy.LM(
            "openai/m",
            api_base=f"http://127.0.0.1:{server.server_port}/v1",
            api_key="local",
            cache=False,
            num_retries=0,
        )
        sampling = Sequential(rendering="prefill")
        qa = DynScaling(dspy.ChainOfThought("question -> answer"), 3, policy=Uniform(), sampling=sampling)
        with dspy.context(lm=lm):
            return explain(await qa.acall(question="q"))

    with serving(continues) as server:
        report = asyncio.run(ask_async(server))
    assert begun(server) == [False, True, True]
    assert report.samples[2].answer == "C"
