import threading
from concurrent.futures import Future

import numpy as np
import pytest

from dynscale_dspy import lab
from dynscale_dspy.lab.engine import Completion, Engine, EngineClosedError, Sampling
from dynscale_dspy.lab.model import Llama
from dynscale_dspy.lab.tokenizer import ChatTokenizer
from tests.lab.support import chat, encode
from tests.support import until

BABBLE = [{"role": "user", "content": "zzz"}]  # untrained ground: replies run on


def sample(engine: Engine, prompt: list[int], n: int = 1, **options: object) -> list[Completion]:
    return engine.submit(prompt, Sampling(**options), n).result(timeout=20)  # type: ignore[arg-type]


def wait_until_idle(engine: Engine) -> None:
    until(lambda: engine.load() == (0, 0))


def test_a_seed_decides_the_reply_whatever_else_is_in_the_batch(model: Llama, tokenizer: ChatTokenizer) -> None:
    prompts = [encode(tokenizer, chat(example.question)) for example in lab.questions(12, 3)]
    solo = Engine(model, tokenizer, batch_size=1)
    alone = [sample(solo, prompt, n=2, seed=i, max_tokens=60) for i, prompt in enumerate(prompts)]
    solo.close()
    for batch_size in (5, 64):
        crowd = Engine(model, tokenizer, batch_size)
        options = [Sampling(seed=i, max_tokens=60) for i in range(len(prompts))]
        futures = [crowd.submit(*pair, n=2) for pair in reversed(list(zip(prompts, options, strict=True)))]
        together = [future.result(timeout=20) for future in reversed(futures)]
        crowd.close()
        assert [[c.text for c in pair] for pair in together] == [[c.text for c in pair] for pair in alone]


def test_samples_follow_the_model_and_its_temperature(engine: Engine, tokenizer: ChatTokenizer) -> None:
    """Frequencies of the first token after a prefix against the probabilities reported for it."""
    text = "[[ ## reasoning ## ]]\n41+27=68;68-13=5"
    messages = [*((m["role"], m["content"]) for m in chat()), ("assistant", text[:-4])]
    prompt = tokenizer.encode_chat(messages, open_turn=False, continue_last=True)
    reported = sample(engine, prompt, max_tokens=1, temperature=0, top_logprobs=20)[0].logprobs[0].top
    for temperature in (1.0, 3.0):
        draws = 1500
        completions = sample(engine, prompt, draws, max_tokens=1, temperature=temperature, seed=4)
        tokens = [c.logprobs[0].token for c in completions if c.logprobs]  # one that ends at once has none
        weights = np.exp(np.array([logprob for _, logprob in reported]) / temperature)
        if temperature == 1.0:
            assert weights.sum() == pytest.approx(1, abs=1e-3)
        shares = weights / weights.sum()
        seen = np.array([tokens.count(token) for token, _ in reported])
        inside = seen.sum()
        assert inside > draws / 2
        # Each count is binomial; five standard deviations and one for rounding.
        spread = 5 * np.sqrt(inside * shares * (1 - shares)) + 1
        assert (np.abs(seen - inside * shares) <= spread).all()


def test_top_p_keeps_the_likeliest_tokens_only(engine: Engine, tokenizer: ChatTokenizer) -> None:
    prompt, temperature = encode(tokenizer, chat()), 8.0  # so hot that many tokens have a chance
    top = sample(engine, prompt, temperature=0, max_tokens=1, top_logprobs=352)[0].logprobs[0].top
    weights = np.exp(np.array([logprob for _, logprob in top]) / temperature)
    share = float(weights[:3].sum() / weights.sum()) - 1e-6  # the third token reaches it
    completions = sample(engine, prompt, 300, max_tokens=1, temperature=temperature, top_p=share, seed=0)
    assert {c.logprobs[0].token for c in completions if c.logprobs} == {token for token, _ in top[:3]}
    hot = sample(engine, prompt, 300, max_tokens=1, temperature=8.0, seed=0)
    assert len({c.logprobs[0].token for c in hot if c.logprobs}) > 3


def test_greedy_replies_do_not_depend_on_the_seed(engine: Engine, tokenizer: ChatTokenizer) -> None:
    prompt = encode(tokenizer, chat())
    replies = [sample(engine, prompt, temperature=0.0, seed=seed)[0] for seed in (1, 2, None)]
    assert {reply.text for reply in replies} == {
        "[[ ## reasoning ## ]]\n41+27=68;68-13=55\n\n[[ ## answer ## ]]\n55\n\n[[ ## completed ## ]]"
    }
    assert replies[0].finish_reason == "stop"


def test_more_choices_than_the_batch_holds_take_turns(model: Llama, tokenizer: ChatTokenizer) -> None:
    small = Engine(model, tokenizer, batch_size=3)
    completions = sample(small, encode(tokenizer, chat()), n=10, seed=1)
    assert len(completions) == 10 and all(c.text.endswith("[[ ## completed ## ]]") for c in completions)
    small.close()


def test_long_prompts_are_admitted_a_few_at_a_time(engine: Engine, tokenizer: ChatTokenizer) -> None:
    prompts = [[i, *([7] * 700)] for i in range(5)]
    futures = [engine.submit(prompt, Sampling(max_tokens=2, seed=0)) for prompt in prompts]
    assert all(future.result(timeout=20)[0].token_count <= 2 for future in futures)


def test_choices_of_a_long_prompt_read_it_once(
    engine: Engine, tokenizer: ChatTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = []
    forward = engine._model.forward

    def counting(cache: object, rows: object, chunks: list[tuple[int, ...]]) -> object:
        read.extend(chunk for chunk in chunks if len(chunk) > 1)
        return forward(cache, rows, chunks)  # type: ignore[arg-type]

    monkeypatch.setattr(engine._model, "forward", counting)
    sample(engine, [7] * 1500, n=8, max_tokens=2, seed=0)
    assert [len(chunk) for chunk in read] == [1500]


def test_a_reply_ends_where_the_context_does(engine: Engine) -> None:
    prompt = [7] * (engine.context - 3)
    completion = sample(engine, prompt, temperature=0)[0]
    assert completion.token_count <= 3
    with pytest.raises(ValueError, match=f"1 to {engine.context - 1} tokens, this one {engine.context}"):
        engine.submit([7] * engine.context, Sampling())
    with pytest.raises(ValueError, match="this one 0"):
        engine.submit([], Sampling())


def test_cancelling_frees_the_batch(engine: Engine, tokenizer: ChatTokenizer) -> None:
    prompt = encode(tokenizer, BABBLE)
    futures = [engine.submit(prompt, Sampling(temperature=5.0), n=40) for _ in range(4)]  # runs on for long
    until(lambda: engine.load()[0] == 64)
    for future in futures:
        assert future.cancel()
    wait_until_idle(engine)
    assert sample(engine, encode(tokenizer, chat()), seed=1)[0].text  # and goes on working


def test_closing_fails_what_is_unfinished(model: Llama, tokenizer: ChatTokenizer) -> None:
    engine = Engine(model, tokenizer)
    future = engine.submit(encode(tokenizer, BABBLE), Sampling(temperature=5.0), n=100)
    engine.close()
    with pytest.raises(EngineClosedError, match="was closed"):
        future.result(timeout=5)
    with pytest.raises(EngineClosedError, match="is closed"):
        engine.submit([7], Sampling())


def test_a_fault_in_a_step_reaches_the_callers(
    engine: Engine, tokenizer: ChatTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    future = engine.submit([10_000], Sampling())  # no such token: the embedding has no row for it
    with pytest.raises(IndexError):
        future.result(timeout=5)
    assert sample(engine, encode(tokenizer, chat()), seed=1)[0].text


class Steps:
    """Counts the steps of an engine, for tests that let it go on by so many."""

    def __init__(self, engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
        self._made = 0
        self._changed = threading.Condition()
        forward = engine._model.forward

        def counting(*step: object) -> object:
            with self._changed:
                self._made += 1
                self._changed.notify_all()
            return forward(*step)  # type: ignore[arg-type]

        monkeypatch.setattr(engine._model, "forward", counting)

    def submitted(self, future: Future[list[Completion]]) -> None:
        """Take note of a request: an engine whose requests are all done makes no step."""
        future.add_done_callback(self._notify)

    def let_go_on(self, steps: int, futures: list[Future[list[Completion]]]) -> None:
        """Wait until so many more steps have begun, or none is left to make."""
        with self._changed:
            target = self._made + steps
            idle_or_there = lambda: self._made >= target or all(future.done() for future in futures)  # noqa: E731
            assert self._changed.wait_for(idle_or_there, timeout=20)

    def _notify(self, _: object) -> None:
        with self._changed:
            self._changed.notify_all()


def test_random_traffic_leaves_nothing_behind(
    engine: Engine, tokenizer: ChatTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Requests of all kinds come, go and are cancelled at random times; the survivors match a quiet run."""
    random, steps = np.random.default_rng(5), Steps(engine, monkeypatch)
    prompts = [encode(tokenizer, chat(example.question)) for example in lab.questions(40, 6, "mixed")]
    jobs = []
    for i, prompt in enumerate(prompts):
        temperature, max_tokens = float(random.choice([0, 0.7, 1.3])), int(random.integers(1, 60))
        jobs.append((prompt, Sampling(temperature=temperature, max_tokens=max_tokens, seed=i)))
    futures = []
    for prompt, sampling in jobs:
        futures.append(engine.submit(prompt, sampling, int(random.integers(1, 6))))
        steps.submitted(futures[-1])
        if random.random() < 0.3:
            futures[int(random.integers(len(futures)))].cancel()
        steps.let_go_on(int(random.geometric(0.25)) - 1, futures)
    survivors = [(i, future.result(timeout=20)) for i, future in enumerate(futures) if not future.cancelled()]
    wait_until_idle(engine)
    assert len(survivors) > 10
    for i, completions in survivors:
        quiet = sample(engine, jobs[i][0], len(completions), **vars(jobs[i][1]))
        assert [c.text for c in quiet] == [c.text for c in completions]
