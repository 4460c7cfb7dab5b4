import asyncio
import socket
import time
from typing import Any

import httpx
import pytest

from dynscale_dspy.lab.server import LabServer
from dynscale_dspy.lab.tokenizer import ChatTokenizer
from tests.lab.support import chat, encode
from tests.support import until


def ask(server: LabServer, **fields: Any) -> dict[str, Any]:
    body = {"model": server.model_name, "messages": chat(), **fields}
    response = httpx.post(f"{server.url}/chat/completions", json=body, timeout=20)
    assert response.status_code == 200, response.text
    return response.json()


def texts(answer: dict[str, Any]) -> list[str]:
    return [choice["message"]["content"] for choice in answer["choices"]]


def load(server: LabServer) -> tuple[int, int]:
    health = httpx.get(f"{server.url.removesuffix('/v1')}/health").json()
    assert health["status"] == "ok"
    return health["running"], health["waiting"]


def test_the_reply_has_openais_form(lab_server: LabServer, tokenizer: ChatTokenizer) -> None:
    answer = ask(lab_server, temperature=0)
    assert answer["object"] == "chat.completion"
    assert answer["model"] == lab_server.model_name
    assert answer["id"].startswith("chatcmpl-")
    assert abs(answer["created"] - time.time()) < 60
    text = "[[ ## reasoning ## ]]\n41+27=68;68-13=55\n\n[[ ## answer ## ]]\n55\n\n[[ ## completed ## ]]"
    assert answer["choices"] == [
        {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop", "logprobs": None}
    ]
    prompt, completion = len(encode(tokenizer, chat())), len(tokenizer.encode(text))
    assert answer["usage"] == {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
    }


def test_usage_counts_the_prompt_once_and_the_tokens_of_all_choices(lab_server: LabServer) -> None:
    one = ask(lab_server, temperature=0)["usage"]
    four = ask(lab_server, temperature=0, n=4)["usage"]
    assert four["prompt_tokens"] == one["prompt_tokens"]
    assert four["completion_tokens"] == 4 * one["completion_tokens"]
    assert four["total_tokens"] == four["prompt_tokens"] + four["completion_tokens"]


def test_a_seed_reproduces_all_choices_and_they_differ(lab_server: LabServer) -> None:
    hot = {"n": 8, "temperature": 6.0, "max_tokens": 30}
    first, again, other = (texts(ask(lab_server, seed=seed, **hot)) for seed in (-7, -7, 8))
    assert first == again != other
    assert len(set(first)) > 4
    assert texts(ask(lab_server, seed=-7, **{**hot, "n": 3})) == first[:3]
    assert texts(ask(lab_server, **hot)) != texts(ask(lab_server, **hot))
    assert [choice["index"] for choice in ask(lab_server, **hot)["choices"]] == list(range(8))


def test_max_tokens_cuts_the_reply(lab_server: LabServer) -> None:
    for limit in ({"max_tokens": 5}, {"max_completion_tokens": 5}, {"max_tokens": 50, "max_completion_tokens": 5}):
        answer = ask(lab_server, n=2, temperature=0, **limit)
        assert [choice["finish_reason"] for choice in answer["choices"]] == ["length", "length"]
        assert answer["usage"]["completion_tokens"] == 10
        assert texts(answer)[0] == "[[ ## reasoning ## ]]\n41+"


@pytest.mark.parametrize("stop", ["68;", ["zzz", "68;"], ["55", "8;6", "68;"], ["\n\n[[ ## answer", "=68;68"]])
def test_stop_strings_cut_before_the_earliest(lab_server: LabServer, stop: Any) -> None:
    whole = texts(ask(lab_server, temperature=0))[0]
    answer = ask(lab_server, temperature=0, stop=stop, logprobs=True)
    (choice,) = answer["choices"]
    stops = [stop] if isinstance(stop, str) else stop
    # The earliest end decides when sampling stops; of the strings complete by then, the earliest start cuts.
    end = min(whole.index(text) + len(text) for text in stops if text in whole)
    assert (
        choice["message"]["content"] == whole[: min(whole[:end].index(text) for text in stops if text in whole[:end])]
    )
    assert choice["finish_reason"] == "stop"
    kept = b"".join(bytes(entry["bytes"]) for entry in choice["logprobs"]["content"]).decode()
    assert choice["message"]["content"].startswith(kept)
    assert answer["usage"]["completion_tokens"] >= len(choice["logprobs"]["content"])


def test_logprobs_are_those_of_the_text(lab_server: LabServer) -> None:
    answer = ask(lab_server, n=3, seed=1, temperature=1.5, max_tokens=40, logprobs=True, top_logprobs=5)
    counts = 0
    for choice in answer["choices"]:
        content = choice["logprobs"]["content"]
        counts += len(content)
        assert "".join(entry["token"] for entry in content) == choice["message"]["content"]
        for entry in content:
            assert entry["logprob"] <= 0
            assert bytes(entry["bytes"]).decode() == entry["token"]
            top = [other["logprob"] for other in entry["top_logprobs"]]
            assert len(top) == 5 and top == sorted(top, reverse=True) and max(top) <= 0
            named = {other["token"]: other["logprob"] for other in entry["top_logprobs"]}
            assert named.get(entry["token"], entry["logprob"]) == entry["logprob"] <= top[0]
    assert counts == answer["usage"]["completion_tokens"]


def test_logprobs_do_not_depend_on_the_temperature(lab_server: LabServer) -> None:
    cold, hot = (
        ask(lab_server, temperature=temperature, max_tokens=1, logprobs=True)["choices"][0]["logprobs"]["content"][0]
        for temperature in (0, 1e-4)
    )
    assert cold == hot and cold["top_logprobs"] == []


def test_a_final_assistant_message_is_continued(lab_server: LabServer) -> None:
    opening = {"role": "assistant", "content": "[[ ## reasoning ## ]]\n41+27=69;"}
    flags = {"continue_final_message": True, "add_generation_prompt": False}
    answer = ask(lab_server, messages=[*chat(), opening], temperature=0, **flags)
    assert texts(answer) == ["69-13=56\n\n[[ ## answer ## ]]\n56\n\n[[ ## completed ## ]]"]
    without = ask(lab_server, messages=[*chat(), opening], temperature=0, max_tokens=60)
    assert without["usage"]["prompt_tokens"] == answer["usage"]["prompt_tokens"] + 2  # the end and a new turn


def test_contents_may_come_in_parts_and_nulls_count_as_left_out(lab_server: LabServer) -> None:
    parts = [
        {
            "role": m["role"],
            "content": [{"type": "text", "text": m["content"][:9]}, {"type": "text", "text": m["content"][9:]}],
        }
        for m in chat()
    ]
    options = {"n": None, "stop": None, "seed": None, "temperature": 0, "response_format": {"type": "json_object"}}
    assert texts(ask(lab_server, messages=parts, **options)) == texts(ask(lab_server, temperature=0.0))


USER = {"role": "user", "content": "hi"}
BAD = [
    ({"messages": None}, "messages", "messages is required"),
    ({"messages": []}, "messages", "non-empty list"),
    ({"messages": "hi"}, "messages", "non-empty list"),
    ({"messages": ["hi"]}, "messages[0]", "must be an object"),
    ({"messages": [USER, {"role": "oracle", "content": "hi"}]}, "messages[1].role", "one of system, user, assistant"),
    ({"messages": [{"content": "hi"}]}, "messages[0].role", "not null"),
    ({"messages": [{"role": "user"}]}, "messages[0].content", "a string or a list of text parts"),
    ({"messages": [{"role": "user", "content": 5}]}, "messages[0].content", "a string or a list of text parts"),
    ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages[0].content", "text parts"),
    ({"model": None}, "model", "model is required"),
    ({"model": 4}, "model", "model must be a string, not 4"),
    ({"n": 0}, "n", "n must be an integer from 1 to 128, not 0"),
    ({"n": 129}, "n", "from 1 to 128"),
    ({"n": 1.5}, "n", "an integer"),
    ({"n": True}, "n", "an integer"),
    ({"temperature": -0.1}, "temperature", "a number of at least 0, not -0.1"),
    ({"temperature": "hot"}, "temperature", 'not "hot"'),
    ({"temperature": True}, "temperature", "a number"),
    ({"top_p": 0}, "top_p", "above 0 and at most 1"),
    ({"top_p": 1.1}, "top_p", "above 0 and at most 1"),
    ({"max_tokens": 0}, "max_tokens", "at least 1"),
    ({"max_tokens": "5"}, "max_tokens", "an integer"),
    ({"max_completion_tokens": -1}, "max_completion_tokens", "at least 1"),
    ({"seed": 1.0}, "seed", "an integer, not 1.0"),
    ({"stop": ""}, "stop", "non-empty string"),
    ({"stop": [1]}, "stop", "non-empty string"),
    ({"stop": {"a": 1}}, "stop", "non-empty string"),
    ({"stop": list("abcde")}, "stop", "at most 4"),
    ({"logprobs": 1}, "logprobs", "true or false"),
    ({"logprobs": True, "top_logprobs": 21}, "top_logprobs", "from 0 to 20"),
    ({"top_logprobs": 2}, "top_logprobs", "needs logprobs"),
    ({"stream": True}, "stream", "not supported"),
    ({"continue_final_message": True}, "continue_final_message", "needs add_generation_prompt to be false"),
    ({"continue_final_message": True, "add_generation_prompt": False}, "continue_final_message", "the assistant's"),
]


@pytest.mark.parametrize(("fields", "param", "message"), BAD, ids=lambda value: str(value)[:50])
def test_bad_input_is_refused_with_a_reason(
    lab_server: LabServer, fields: dict[str, Any], param: str, message: str
) -> None:
    body = {"model": lab_server.model_name, "messages": [USER], **fields}
    response = httpx.post(f"{lab_server.url}/chat/completions", json=body)
    assert response.status_code == 400
    error = response.json()["error"]
    assert message in error["message"]
    assert (error["type"], error["param"], error["code"]) == ("invalid_request_error", param, None)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "not valid JSON"),
        (b"{", "not valid JSON"),
        (b"\xff\xfe", "not valid JSON"),
        (b"[" * 100_000, "not valid JSON"),
        (b"[1]", "must be a JSON object"),
        (b'{"model": "\\ud800"}', "not valid Unicode"),
        (b'{"model": "lab-arithmetic", "temperature": NaN, "messages": []}', "temperature must be a number"),
        (b'{"model": "lab-arithmetic", "temperature": 1e999, "messages": []}', "temperature must be a number"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_bodies_that_are_no_json_object_are_refused(lab_server: LabServer, body: bytes, message: str) -> None:
    response = httpx.post(f"{lab_server.url}/chat/completions", content=body)
    assert response.status_code == 400
    assert message in response.json()["error"]["message"]


def test_overlong_messages_are_refused(lab_server: LabServer) -> None:
    body = {"model": lab_server.model_name, "messages": [{"role": "user", "content": "7" * 2045}]}
    response = httpx.post(f"{lab_server.url}/chat/completions", json=body)
    assert response.status_code == 400
    error = response.json()["error"]
    assert error["code"] == "context_length_exceeded"
    assert "maximum context length is 2048 tokens, and the messages came to 2048 tokens" in error["message"]
    body["messages"] = [{"role": "user", "content": "7" * 2044}]  # room for one token
    answer = httpx.post(f"{lab_server.url}/chat/completions", json=body, timeout=20).json()
    assert answer["usage"]["total_tokens"] <= 2048


def test_what_is_not_there_is_404(lab_server: LabServer) -> None:
    body = {"model": "gpt-9", "messages": [USER]}
    response = httpx.post(f"{lab_server.url}/chat/completions", json=body)
    assert response.status_code == 404
    assert response.json()["error"]["code"] == "model_not_found"
    assert "'gpt-9' does not exist" in response.json()["error"]["message"]
    elsewhere = httpx.get(f"{lab_server.url}/engines")
    assert elsewhere.status_code == 404
    assert "/v1/engines is not served here" in elsewhere.json()["error"]["message"]
    assert httpx.get(f"{lab_server.url}/chat/completions").status_code == 405


def test_the_models_are_listed(lab_server: LabServer) -> None:
    (model,) = httpx.get(f"{lab_server.url}/models").json()["data"]
    assert (model["id"], model["object"]) == (lab_server.model_name, "model")


async def test_many_at_once_get_what_each_gets_alone(lab_server: LabServer) -> None:
    async with httpx.AsyncClient(timeout=25, limits=httpx.Limits(max_connections=32)) as client:

        async def one(seed: int) -> str:
            body = {"model": lab_server.model_name, "messages": chat(), "seed": seed, "max_tokens": 60}
            response = await client.post(f"{lab_server.url}/chat/completions", json=body)
            return response.json()["choices"][0]["message"]["content"]

        together = await asyncio.gather(*(one(seed) for seed in range(32)))
        alone = [await one(seed) for seed in range(0, 32, 4)]
    assert together[::4] == alone


def test_a_client_that_hangs_up_frees_its_place(lab_server: LabServer) -> None:
    body = {"model": lab_server.model_name, "messages": [USER], "temperature": 5.0, "n": 128}
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(f"{lab_server.url}/chat/completions", json=body, timeout=0.5)
    until(lambda: load(lab_server) == (0, 0), timeout=4.5)


async def test_stopping_answers_what_is_under_way() -> None:
    server = LabServer().start()
    url, body = server.url, {"model": server.model_name, "messages": [USER], "temperature": 5.0, "n": 128}
    async with httpx.AsyncClient(timeout=20) as client:
        pending = asyncio.create_task(client.post(f"{url}/chat/completions", json=body))
        await asyncio.to_thread(until, lambda: load(server)[0] > 0)
        await asyncio.to_thread(server.stop)
        response = await pending
    assert response.status_code == 503
    assert response.json()["error"]["type"] == "server_error"
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{url}/models")


def test_the_server_starts_and_stops_in_order() -> None:
    server = LabServer()
    with pytest.raises(RuntimeError, match="not running"):
        _ = server.url
    server.stop()  # stopping what does not run is no error
    with server:
        first = server.url
        with pytest.raises(RuntimeError, match="already running"):
            server.start()
    with server:  # and may start again
        assert httpx.get(f"{server.url}/models").status_code == 200
    with pytest.raises(RuntimeError, match="not running"):
        _ = server.url
    assert first.startswith("http://127.0.0.1:")


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "", "example.org", "192.168.0.1"])
def test_only_loopback_addresses_are_bound(host: str) -> None:
    with pytest.raises(ValueError, match="binds to a loopback address only"):
        LabServer(host=host)


def test_a_port_that_is_taken_is_an_error() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(OSError):
            LabServer(port=taken.getsockname()[1]).start()
