import json
import threading
from typing import Any

import dspy
import httpx
import pytest

from dynscale_dspy.testing import BUSY_FAULTS, FAULTS, PERMANENT_FAULTS, FakeQuestion, FakeServer, questions

OPEN = FakeQuestion("Heads or tails?", {"heads": 0.5, "tails": 0.5}, "heads")


CLIENT = httpx.Client(limits=httpx.Limits(max_connections=None))


def ask(fake: FakeServer, text: str = OPEN.text, **fields: Any) -> httpx.Response:
    body = {"model": "fake", "messages": [{"role": "user", "content": text}], **fields}
    return CLIENT.post(f"{fake.url}/chat/completions", json=body, headers={"authorization": "Bearer local"})


def content(response: httpx.Response) -> str:
    return response.json()["choices"][0]["message"]["content"]


# ---- samples


def test_the_kth_sample_depends_on_seed_question_and_k_alone(server: Any) -> None:
    other = FakeQuestion("Odd or even?", {"odd": 0.5, "even": 0.5}, "odd")

    def sequence(seed: int, bank: list[FakeQuestion], **options: Any) -> list[str]:
        fake = server(bank, seed=seed, **options)
        answers = []
        for _ in range(12):
            answers.append(content(ask(fake)))
            if other in bank:
                ask(fake, other.text)
        return answers

    alone = sequence(1, [OPEN])
    assert len(set(alone)) == 2
    assert sequence(1, [other, OPEN], median_latency=0.001) == alone
    assert sequence(2, [OPEN]) != alone


def test_at_temperature_0_every_sample_is_the_most_frequent_answer(server: Any) -> None:
    fake = server([FakeQuestion(OPEN.text, {"heads": 0.4, "edge": 0.5, "tails": 0.1}, "heads")])
    assert {content(ask(fake, temperature=0)) for _ in range(12)} == {content(ask(fake, temperature=0.0))}
    assert "edge" in content(ask(fake, temperature=0))
    assert len({content(ask(fake)) for _ in range(12)}) > 1


def test_concurrent_requests_get_the_same_samples_in_some_order(server: Any) -> None:
    fake = server([OPEN], median_latency=0.005, sigma=1)
    sequential = [content(ask(fake)) for _ in range(16)]
    fake.reset()
    concurrent: list[str] = []
    threads = [threading.Thread(target=lambda: concurrent.append(content(ask(fake)))) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(concurrent) == sorted(sequential)


def test_settings_are_refused_alone_or_together(server: Any) -> None:
    fake = server(
        [OPEN], refused={"seed": (422, "no seed"), "temperature+top_p": (400, {"error": "not both"}), "n": (500, {})}
    )
    assert ask(fake, temperature=1.0, n=1).status_code == ask(fake, top_p=0.9, seed=None).status_code == 200
    assert (ask(fake, seed=3).status_code, ask(fake, seed=3).text) == (422, "no seed")
    assert ask(fake, temperature=1.0, top_p=0.9).json() == {"error": "not both"}
    assert ask(fake, n=2).status_code == 500
    assert fake.statistics().samples == 2 and len(fake.bodies) == 6


def test_n_choices_are_the_next_samples_and_share_the_prompt(server: Any) -> None:
    fake = server([OPEN])
    singles = [ask(fake) for _ in range(5)]
    fake.reset()
    together = ask(fake, n=5).json()
    assert [choice["message"]["content"] for choice in together["choices"]] == [content(one) for one in singles]
    assert [choice["index"] for choice in together["choices"]] == [0, 1, 2, 3, 4]
    usage = [one.json()["usage"] for one in singles]
    assert together["usage"]["prompt_tokens"] == usage[0]["prompt_tokens"]
    assert together["usage"]["completion_tokens"] == sum(one["completion_tokens"] for one in usage)
    assert together["usage"]["total_tokens"] == sum(
        together["usage"][k] for k in ("prompt_tokens", "completion_tokens")
    )
    now = fake.statistics()
    assert (now.requests, now.samples, now.delivered, now.per_question) == (1, 5, 5, {OPEN.text: 5})


def test_a_caching_gateway_gives_each_the_first_reply(server: Any) -> None:
    fake, cached = server([OPEN]), server([OPEN], cached=True)
    first = ask(fake).json()
    assert [ask(cached).json() for _ in range(3)] == [first] * 3
    assert ask(fake).json()["id"] != first["id"]
    assert cached.statistics().requests == 3


@pytest.mark.parametrize(
    "adapter", [dspy.ChatAdapter(), dspy.JSONAdapter(), dspy.XMLAdapter()], ids=lambda a: type(a).__name__
)
@pytest.mark.parametrize("engine", ["auto", "litellm"])
def test_replies_are_framed_as_the_adapter_asks(adapter: Any, engine: str, server: Any) -> None:
    fake = server([FakeQuestion("How many?", {"42": 1}, "42")])
    signature = "question -> reasoning, sure: bool, parts: list[int], answer: int"
    demo = dspy.Example(question="How few?", reasoning="None at all.", sure=True, parts=[1], answer=1)
    program = dspy.Predict(signature)
    program.demos = [demo]
    with dspy.context(lm=fake.lm(engine), adapter=adapter):
        prediction = program(question="How many?")
    if isinstance(adapter, dspy.XMLAdapter):
        assert prediction.answer == 42
        return
    assert prediction.toDict() == {
        "reasoning": "Trying it out gives 42.", "sure": False, "parts": [42], "answer": 42
    }  # fmt: skip
    assert fake.statistics().requests == 1


def test_a_prompt_of_no_known_question_is_answered_too(server: Any) -> None:
    fake = server([OPEN])
    assert "unknown" in content(ask(fake, "What is this?"))
    assert fake.statistics().per_question == {"": 1}


def test_an_agent_calls_a_tool_and_finishes(server: Any) -> None:
    def look_up(key: str) -> str:
        """Looks something up."""
        return f"found {key}"

    fake = server([OPEN])
    with dspy.context(lm=fake.lm()):
        prediction = dspy.ReAct("question -> answer", tools=[look_up])(question=OPEN.text)  # type: ignore[arg-type]
    assert prediction.trajectory["observation_0"].startswith("found ")
    assert "observation_2" not in prediction.trajectory
    assert prediction.answer in OPEN.answers
    assert fake.statistics().requests == 3


def test_requests_that_show_earlier_attempts_are_counted_and_sharpened(server: Any) -> None:
    fake = server([FakeQuestion("Likely?", {"yes": 0.6, "no": 0.4}, "yes")], sharpen=30)
    chain = "[[ ## question ## ]]\nLikely?\n\n[[ ## earlier_attempts ## ]]\nAttempt 1:\nanswer: no"
    plain = [content(ask(fake, "Likely?")) for _ in range(20)]
    conditioned = [content(ask(fake, chain)) for _ in range(20)]
    assert len(set(plain)) == 2
    assert len(set(conditioned)) == 1
    assert "yes" in conditioned[0]
    assert fake.statistics().conditioned == 20


# ---- faults


STATUSES = {"429": 429, "429_retry_after": 429, "500": 500, "503": 503, "503_retry_after": 503}
STATUSES |= {"context_length": 400, "auth": 401, "unknown_model": 404}
GOOD = ("slow", "no_usage", "absurd_usage", "usage_of_one")


@pytest.mark.parametrize("fault", [*FAULTS, *PERMANENT_FAULTS, *BUSY_FAULTS])
def test_faults(fault: str, server: Any) -> None:
    fake = server([OPEN], fault_rate=1, faults=[fault], hang=0.05)
    if fault in ("hang", "stall", "reset"):
        with pytest.raises(httpx.ReadError if fault == "reset" else httpx.RemoteProtocolError):
            ask(fake)
    else:
        response = ask(fake)
        assert response.status_code == STATUSES.get(fault, 200)
        assert ("retry-after" in response.headers) == fault.endswith("_retry_after")
        if fault in ("truncated_body", "malformed_json"):
            with pytest.raises(json.JSONDecodeError):
                response.json()
        elif fault == "empty_choices":
            assert response.json()["choices"] == []
        elif fault in ("null_content", "refusal", "content_filter"):
            assert content(response) is None  # type: ignore[comparison-overlap]
        elif fault == "extra_choice":
            assert len(response.json()["choices"]) == 2
        elif fault in GOOD:
            assert any(answer in content(response) for answer in OPEN.answers)
            assert len(response.json()["choices"]) == 1
            assert ("usage" in response.json()) == (fault != "no_usage")
        elif fault == "length":
            assert response.json()["choices"][0]["finish_reason"] == "length"
            assert not any(answer in content(response) for answer in OPEN.answers)
        elif response.status_code == 200:
            assert "[[ ##" not in content(response)
    now = fake.wait_until(lambda now: now.in_flight == 0)
    assert now.faults == {fault: 1}
    assert now.samples == (0 if fault in STATUSES else 1)
    assert now.delivered == (1 if fault in GOOD else 0)


def test_faults_are_as_frequent_as_asked_and_reproducible(server: Any) -> None:
    def statuses(seed: int) -> list[int]:
        fake = server([OPEN], seed=seed, fault_rate=0.3, faults=["500"], median_latency=0)
        return [ask(fake).status_code for _ in range(60)]

    first = statuses(1)
    assert first == statuses(1) != statuses(2)
    assert 8 <= first.count(500) <= 30


def test_a_server_may_want_to_be_left_alone_for_now_long_and_now_not(server: Any) -> None:
    def asked(seed: int) -> list[str]:
        fake = server([OPEN], seed=seed, fault_rate=1, faults=BUSY_FAULTS, retry_after=(0.1, 3600), median_latency=0)
        return [ask(fake).headers["retry-after"] for _ in range(20)]

    assert set(asked(1)) == {"0.1", "3600"}
    assert asked(1) == asked(1) != asked(2)
    with pytest.raises(ValueError, match=r"retry_after must be at least 0, or several such numbers, got \(\)"):
        server([OPEN], retry_after=())


def test_a_refused_request_takes_no_sample(server: Any) -> None:
    clean = server([OPEN])
    faulty = server([OPEN], fault_rate=0.4, faults=["429", "500"])
    delivered = [content(r) for r in (ask(faulty) for _ in range(30)) if r.status_code == 200]
    assert 5 < len(delivered) < 28
    assert delivered == [content(ask(clean)) for _ in delivered]


def test_a_wrong_key_is_refused(server: Any) -> None:
    fake = server([OPEN], api_key="secret")
    assert ask(fake).status_code == 401
    now = fake.statistics()
    assert (now.requests, now.unauthorized, now.samples) == (1, 1, 0)
    fake.reset(api_key="local")
    assert ask(fake).status_code == 200


# ---- counters


def test_held_replies_pile_up(server: Any) -> None:
    fake = server([OPEN])
    threads = [threading.Thread(target=ask, args=(fake,)) for _ in range(20)]
    with fake.held():
        for thread in threads:
            thread.start()
        now = fake.wait_until(lambda now: now.in_flight == 20)
        assert now.delivered == 0
    for thread in threads:
        thread.join()
    now = fake.statistics()
    assert (now.in_flight, now.peak_in_flight, now.delivered, now.connections) == (0, 20, 20, 20)


def test_a_client_that_goes_away_is_counted(server: Any) -> None:
    fake = server([OPEN])
    with fake.held():
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(f"{fake.url}/chat/completions", json={"messages": []}, timeout=0.1)
        now = fake.wait_until(lambda now: now.in_flight == 0)
    assert (now.aborted, now.samples, now.delivered) == (1, 1, 0)
    assert ask(fake).status_code == 200


def test_a_reply_is_streamed_word_by_word(server: Any) -> None:
    fake = server(questions(1))
    body = {"messages": [{"role": "user", "content": fake.questions[0].text}], "stream": True}
    whole = httpx.post(f"{fake.url}/chat/completions", json={**body, "stream": False}).json()
    reply = httpx.post(f"{fake.url}/chat/completions", json={**body, "stream_options": {"include_usage": True}})
    *lines, done = [line.removeprefix("data: ") for line in reply.text.split("\n\n") if line]
    events = list(map(json.loads, lines))
    assert (reply.headers["content-type"], done) == ("text/event-stream", "[DONE]")
    assert len(events) > 3 and events[-1]["usage"]["total_tokens"] > 0
    words = [choice["delta"].get("content", "") for event in events for choice in event["choices"]]
    assert len("".join(words)) == len(whole["choices"][0]["message"]["content"])
    assert "usage" not in httpx.post(f"{fake.url}/chat/completions", json=body).text
    assert fake.statistics().streamed == 2


def test_wait_until_gives_up(server: Any) -> None:
    with pytest.raises(TimeoutError, match="requests=0"):
        server([OPEN]).wait_until(lambda now: now.requests == 1, timeout=0.01)


def test_the_latest_bodies_are_kept(server: Any) -> None:
    fake = server([OPEN], record=2)
    for seed in range(4):
        ask(fake, seed=seed)
    assert [body["seed"] for body in fake.bodies] == [2, 3]


# ---- HTTP


def test_routes_for_other_processes(server: Any) -> None:
    fake = server(questions(3))
    with httpx.Client(base_url=fake.address) as client:  # one connection for all of it
        assert client.get("/v1/models").json()["data"][0]["id"] == "fake"
        bank = client.get("/questions").json()
        assert bank == [{"text": question.text, "answer": question.answer} for question in fake.questions]
        body = {"messages": [{"role": "user", "content": bank[1]["text"]}], "n": 2}
        client.post("/v1/chat/completions", json=body)
        stats = client.get("/stats").json()
        for name, value in {
            "requests": 1,
            "samples": 2,
            "samples_delivered": 2,
            "inflight": 0,
            "max_inflight": 1,
        }.items():
            assert stats[name] == value
        assert stats["per_q"] == {"1": 2}
        assert client.post("/reset", json={"seed": 5, "fault_rate": 1.0}).status_code == 200
        assert client.get("/stats").json()["requests"] == 0
        assert client.get("/questions").json() == bank  # the bank was given
        assert client.post("/reset", json={"speed": 5}).status_code == 400
        assert client.post("/reset", json={"faults": ["flood"]}).status_code == 400
        assert client.post("/v1/chat/completions", content=b"{").status_code == 400
        assert client.get("/nowhere").status_code == 404
        assert client.get("/stats?now").json()["in_flight"] == 0
    assert fake.statistics().connections <= 1


def test_a_numbered_bank_follows_the_seed(server: Any) -> None:
    fake = server(5, seed=1)
    assert fake.questions == questions(5, seed=1)
    fake.reset(seed=2)
    assert fake.questions == questions(5, seed=2)


@pytest.mark.parametrize("options", [{"fault_rate": 2}, {"median_latency": -1}, {"faults": ["flood"]}, {"hang": -1}])
def test_options_are_checked(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        FakeServer(3, **options)


def test_life() -> None:
    fake = FakeServer([OPEN])
    with pytest.raises(RuntimeError, match="not running"):
        fake.address
    with fake:
        address = fake.address
        with pytest.raises(RuntimeError, match="already running"):
            fake.start()
        assert ask(fake).status_code == 200
    fake.stop()
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{address}/stats")
    with fake:  # again
        assert ask(fake).status_code == 200


def test_stopping_cuts_off_requests_under_way() -> None:
    fake = FakeServer([OPEN], median_latency=60, sigma=0).start()
    failures = []

    def client() -> None:
        try:
            ask(fake)
        except httpx.TransportError as error:
            failures.append(error)

    thread = threading.Thread(target=client)
    thread.start()
    fake.wait_until(lambda now: now.in_flight == 1)
    fake.stop()
    thread.join(5)
    assert len(failures) == 1
