"""One local cluster for all of these, which takes a few seconds to start.

Where samples may share a request every worker imports LiteLLM, for seconds each. So all but one of these, the rows of a
data set, count a request a sample, as the tests of one process do.
"""

from __future__ import annotations

import asyncio
import logging
import os
import pickle
import signal
import threading

import dspy
import pytest
import ray

from dynscale_dspy import BudgetExhausted, BudgetPool, DynScaling, Price, Sequential, Uniform, explain
from dynscale_dspy.distributed import LeasedPool, lease_supply, run
from dynscale_dspy.distributed import client as client_module
from dynscale_dspy.selection import (
    ElementVote,
    EqualOutputs,
    Fieldwise,
    Judge,
    Medoid,
    Numbers,
    Plurality,
    TokenF1,
)
from dynscale_dspy.testing import questions
from tests.support import one_each, until


@pytest.fixture(scope="module")
def cluster():
    ray.init("local", num_cpus=3, include_dashboard=False, logging_level=logging.ERROR, log_to_driver=False)
    ray.data.DataContext.get_current().enable_progress_bars = False
    yield
    ray.shutdown()


@pytest.fixture
def published(cluster):
    """Publishes pools, and ends them after the test."""
    clients: list[LeasedPool] = []

    def publish(pool: BudgetPool, name: str) -> LeasedPool:
        clients.append(pool.publish(name))
        return clients[-1]

    yield publish
    for client in clients:
        client.end()


async def ask_all(qa, texts, at_a_time=16):
    free = asyncio.Semaphore(at_a_time)

    async def ask(text):
        async with free:
            return await qa.acall(question=text)

    return await asyncio.gather(*map(ask, texts), return_exceptions=True)


@ray.remote(num_cpus=1)
class Worker:
    def __init__(self, lm):
        self.lm = lm

    def pid(self):
        return os.getpid()

    def ask(self, program, texts):
        with dspy.context(lm=self.lm):
            answers = asyncio.run(ask_all(program, texts))
        return [None if isinstance(answer, BaseException) else answer.answer for answer in answers]

    def close(self, name):
        BudgetPool.connect(name).close()


def test_two_workers_spend_one_budget_to_the_last_sample(published, server):
    bank = questions(60, seed=1)
    server = server(bank)
    pool = BudgetPool(samples=200)
    client = published(pool, "two")
    program = one_each(dspy.Predict("question -> answer"), budget=client)
    workers = [Worker.remote(server.lm(cache=False)) for _ in range(2)]
    texts = [question.text for question in bank]
    answers = ray.get([worker.ask.remote(program, texts[i::2]) for i, worker in enumerate(workers)])
    ray.get([worker.close.remote("two") for worker in workers])
    now = client.statistics()
    assert now.spent.samples == server.statistics().samples <= 200
    assert now.reserved.samples == now.open_calls == 0
    assert sum(answer is not None for part in answers for answer in part) == now.closed_calls
    assert sum(n * calls for n, calls in now.samples_per_call.items()) == now.spent.samples
    with dspy.context(lm=server.lm(cache=False)), pytest.raises(BudgetExhausted, match="published as 'two'"):
        one_each(dspy.Predict("question -> answer"), budget=pool)(question=texts[0])


@pytest.mark.parametrize("by_predictor", [False, True])
def test_workers_draw_from_the_language_models_that_a_program_brings(published, server, by_predictor):
    bank = questions(12, seed=2)
    servers = {"cheap": server(bank), "dear": server(bank, seed=3)}
    lms = {
        name: each.lm(model=f"openai/{name}", max_tokens=100, api_key="local", cache=False)
        for name, each in servers.items()
    }
    prices = {"openai/cheap": Price(0.1, 0.4), "openai/dear": Price(1, 4)}
    client = published(BudgetPool(samples=90, dollars=0.02, strict=True, prices=prices), "models")
    lms = {"self": lms} if by_predictor else lms
    program = one_each(dspy.Predict("question -> answer"), budget=client, lms=lms)
    workers = [Worker.remote(None) for _ in range(2)]
    texts = [question.text for question in bank]
    ray.get([worker.ask.remote(program, texts[i::2]) for i, worker in enumerate(workers)])
    ray.get([worker.close.remote("models") for worker in workers])
    now, counted = client.statistics(), {name: each.statistics() for name, each in servers.items()}
    assert all(each.samples for each in counted.values())
    assert now.spent.samples == sum(each.samples for each in counted.values()) <= 90
    at_prices = (
        prices[f"openai/{name}"].nanodollars(each.prompt_tokens, each.completion_tokens)
        for name, each in counted.items()
    )
    assert now.spent.nanodollars == sum(at_prices) <= 20_000_000
    assert now.reserved.samples == now.open_calls == 0


def test_the_end_of_a_budget_counts_what_its_holders_have_not_told(cluster, server):
    bank = questions(8, seed=6)
    server = server(bank)
    client = BudgetPool(samples=60).publish("ending")
    worker = Worker.remote(server.lm(cache=False))
    program = one_each(dspy.Predict("question -> answer"), budget=client)
    ray.get(worker.ask.remote(program, [question.text for question in bank]))
    ray.kill(worker)  # before it has told what it spent, and without closing its client
    final = client.end()
    assert 8 <= server.statistics().samples <= final.spent.samples <= 60
    assert final.reserved.samples == 0


def test_a_client_is_a_pool(published, server):
    bank = questions(20, seed=2)
    server = server(bank)
    client = published(BudgetPool(samples=100, seed=3), "client").expect(25)
    assert BudgetPool.connect("client") is client
    assert pickle.loads(pickle.dumps(client)) is client
    assert client.seed == 3 and client.policy == BudgetPool(samples=1).policy
    qa = one_each(dspy.Predict("question -> answer"), budget=client)
    with dspy.context(lm=server.lm(cache=False)):
        qa(question=bank[0].text)
        qa.batch([{"question": question.text} for question in bank[1:]], disable_progress_bar=True)
        with client.scope(samples=2) as scope:
            qa(question="Something else?")
        assert scope.statistics().spent.samples <= 2
        client.stop()
        with pytest.raises(BudgetExhausted, match="stopped"):
            qa(question=bank[0].text)
        client.resume()
        assert client.statistics().state == "open"
        qa(question=bank[0].text)
    until(lambda: client.statistics().reserved.samples == 0, 60)  # idle, it gives back what it has in hand
    assert client.statistics().spent.samples == server.statistics().samples <= 100
    with pytest.raises(ValueError, match="is itself a client"):
        client.publish("again")
    with pytest.raises(ValueError, match="a client cannot reserve a part"):
        client.reserve_for(qa, 0.5)
    with pytest.raises(ValueError, match="already"):
        BudgetPool(samples=5).publish("client")
    with pytest.raises(LookupError, match="'nothing'"):
        BudgetPool.connect("nothing")
    client.close()
    with dspy.context(lm=server.lm()), pytest.raises(BudgetExhausted, match="closed"):
        qa(question=bank[0].text)
    assert BudgetPool.connect("client") is not client


def test_rows_are_answered_once_though_a_worker_and_the_coordinator_are_killed(published, server, tmp_path):
    bank = questions(120, seed=4)
    server = server(bank, median_latency=0.2)
    client = published(BudgetPool(samples=360).expect(120), "rows")
    # Rows that cannot be answered fail alone.
    rows = [{"id": i, "question": question.text} for i, question in enumerate(bank)]
    dataset = ray.data.from_items(rows, override_num_blocks=4)
    qa = DynScaling(Marked(tmp_path / "pids"), budget=client)
    killed = threading.Event()

    def chaos():
        until(lambda: server.statistics().samples > 60, 60)
        pids = {int(path.name) for path in (tmp_path / "pids").iterdir()}
        os.kill(min(pids), signal.SIGKILL)
        until(lambda: server.statistics().samples > 120, 60)
        ray.kill(client._actor, no_restart=False)
        killed.set()

    (tmp_path / "pids").mkdir()
    thread = threading.Thread(target=chaos)
    thread.start()
    options = {"inputs": ["question"], "outputs": ["answer"], "key": "id", "checkpoint": tmp_path / "rows"}
    with dspy.context(lm=server.lm(cache=False)):
        answered = run(qa, dataset, client, rows_per_task=16, in_flight=16, **options).take_all()
    thread.join()
    assert killed.is_set()
    assert sorted(row["id"] for row in answered) == list(range(120))
    failed = [row for row in answered if row["dynscale_error"]]
    assert failed == []
    client.reconcile()
    until(lambda: client.statistics().reserved.samples == 0, 60)
    spent, made = client.statistics().spent, server.statistics()
    # What the dead worker had under way counts, whether or not it had been asked for: 16 calls of a few samples each.
    assert made.requests <= spent.samples <= 360
    assert spent.samples - made.requests < 16 * 8
    assert sum(row["dynscale_samples"] for row in answered) <= spent.samples
    # Once more: everything is there, and nothing is paid.
    with dspy.context(lm=server.lm(cache=False)):
        again = run(qa, dataset, client, rows_per_task=16, in_flight=16, **options).take_all()
    key = lambda row: row["id"]  # noqa: E731
    assert [row["answer"] for row in sorted(again, key=key)] == [row["answer"] for row in sorted(answered, key=key)]
    assert server.statistics().requests == made.requests


def test_an_actor_that_is_cut_off_keeps_nobody_waiting(published, server, monkeypatch):
    monkeypatch.setattr(lease_supply, "LONGEST_WAIT", 1.0)
    monkeypatch.setattr(client_module, "LONGEST_WAIT", 1.0)
    bank = questions(40, seed=7)
    server = server(bank)
    client = published(BudgetPool(samples=400), "cut off")
    qa = one_each(dspy.Predict("question -> answer"), budget=client)
    pid = ray.get(client._actor.__ray_call__.remote(lambda actor: os.getpid()))
    with dspy.context(lm=server.lm(cache=False)):
        qa(question=bank[0].text)
        os.kill(pid, signal.SIGSTOP)  # as where a network is cut: it lives, and says nothing
        try:
            ended = asyncio.run(ask_all(qa, [question.text for question in bank[1:]], at_a_time=39))
            with pytest.raises(TimeoutError, match="has not answered for 1 s: its machine is down, or cut off"):
                client.statistics()
        finally:
            os.kill(pid, signal.SIGCONT)
        errors = {str(end).partition(": ")[0] for end in ended if isinstance(end, BaseException)}
        assert errors == {"the published pool 'cut off' has not answered for 1 s"}
        until(lambda: is_answered(qa, bank[1].text), 60)
    until(lambda: client.statistics().reserved.samples == 0, 60)
    assert client.statistics().spent.samples == server.statistics().samples


def is_answered(qa, text):
    try:
        return bool(qa(question=text).answer)
    except BudgetExhausted:
        return False


def test_a_failed_row_does_not_fail_the_job(published, server):
    server = server(questions(8, seed=5))
    client = published(BudgetPool(samples=40), "failures")
    dataset = ray.data.from_items([{"question": q.text, "answer": "?"} for q in questions(8, seed=5)])
    qa = one_each(Picky(), budget=client)
    with dspy.context(lm=server.lm(cache=False)):
        with pytest.raises(ValueError, match="column 'answer' already"):
            run(qa, dataset, client)
        rows = run(qa, dataset, client, outputs={"answer": "said"}, workers=1).take_all()
    assert [row["dynscale_error"] for row in rows if row["said"] is None] == ["ValueError: no 0003"]
    assert sum(row["said"] is not None for row in rows) == 7
    assert all(row["dynscale_samples"] >= 1 for row in rows)


def test_a_budget_in_a_file_outlives_its_cluster(published, server, tmp_path):
    bank = questions(10, seed=6)
    server = server(bank)
    client = BudgetPool(samples=60, path=tmp_path / "budget.sqlite").expect(20).publish("lasting")
    with dspy.context(lm=server.lm(cache=False)):
        qa = one_each(dspy.Predict("question -> answer"), budget=client)
        for question in bank[:5]:
            qa(question=question.text)
        ray.kill(client._actor, no_restart=True)
        client.close()
    until(lambda: _gone("lasting"), 60)
    again = published(BudgetPool(samples=60, path=tmp_path / "budget.sqlite"), "lasting")
    again.sweep()
    now = again.statistics()
    assert (now.spent.samples, now.reserved.samples) == (server.statistics().samples, 0)
    with dspy.context(lm=server.lm(cache=False)):
        one_each(dspy.Predict("question -> answer"), budget=again)(question=bank[5].text)


def _gone(name):
    try:
        BudgetPool.connect(name)
    except LookupError:
        return True
    except ray.exceptions.RayActorError:
        pass
    return False


def outputs_of(code):
    return [word for word in code.split() if word.isdigit()]


class LikesSnow(dspy.Module):
    """A judge of the weather."""

    def forward(self, task, candidates):
        return dspy.Prediction(best=1 + next(at for at, told in enumerate(candidates) if "snow" in told))


TEXTS = ("rain is expected", "a new bridge", "the new bridge", "a new bridge is voted for")
LISTS = (["x"], ["a", "b"], ["a"], ["a", "b", "c"])
PAIRS = tuple({"summary": text, "label": label} for text, label in zip(TEXTS, "YXxX", strict=True))
EVERY = [
    (None, TEXTS),
    (Medoid(), TEXTS),
    (Medoid(lambda one, other: len({*one} & {*other}) / len({*one} | {*other})), TEXTS),
    (Medoid(EqualOutputs(run=outputs_of)), ("x = 1", "y = 2", "print", "z = 2")),
    (ElementVote(), LISTS),
    (Numbers(tolerance=0.5), (3.0, 9.5, 9.0, 9.25)),
    (Fieldwise(compose=True), PAIRS),
    ({"summary": TokenF1(), "label": Plurality(without="case")}, PAIRS),
    (Judge(LikesSnow(), selector=Medoid()), ("rain is expected", "a new bridge", "snow all week", "the market closed")),
]


class Says(dspy.Module):
    """Says one thing after the other."""

    def __init__(self, values):
        super().__init__()
        self.values, self.said = values, 0

    def forward(self, question):
        value = self.values[self.said % len(self.values)]
        self.said += 1
        return dspy.Prediction(**value) if isinstance(value, dict) else dspy.Prediction(answer=value)

    async def aforward(self, question):
        return self.forward(question)


def told_by(programs):
    """What is returned and told of a call of each, as plain values."""
    found = []
    for program in programs:
        prediction = program(question="q")
        told = explain(prediction)
        totals = [votes.total for votes in told.votes]
        found.append((dict(prediction.items()), totals, told.confidence, told.winner, told.composed_on, told.summary))
    return found


def saying(selector, values, budget=None):
    policy = Uniform() if budget is None else None
    return DynScaling(Says(values), budget or 4, policy=policy, selector=selector, sampling=Sequential())


@pytest.mark.filterwarnings("ignore:a BudgetPool in memory is")
def test_a_worker_finds_the_winner_that_is_found_here_whatever_the_selector(cluster):
    programs = [saying(selector, values) for selector, values in EVERY]
    sent = ray.remote(num_cpus=0)(told_by).remote(programs)
    here = told_by([saying(selector, values) for selector, values in EVERY])
    assert ray.get(sent) == here
    answers = [prediction for prediction, *_ in here]
    assert answers[1] == {"answer": "a new bridge"} and answers[4] == {"answer": ["a", "b"]}
    assert answers[8] == {"answer": "snow all week"}  # the judge has been heard there, too


def test_rows_hold_answers_of_any_kind_with_their_confidence(published):
    client = published(BudgetPool(samples=200, per_call=4, policy=Uniform()), "any kind")
    dataset = ray.data.from_items([{"question": f"q{number}"} for number in range(2)])
    values = [{**pair, "tags": tags, "city": {"name": "Bern"}} for pair, tags in zip(PAIRS, LISTS, strict=True)]
    program = saying(Fieldwise(), values, client)
    rows = run(program, dataset, client, inputs=["question"], outputs=list(values[0]), workers=1).take_all()
    assert len(rows) == 2
    for row in rows:
        assert row["dynscale_error"] == "" and 0 < row["dynscale_confidence"] <= 1
        assert {**row, "tags": list(row["tags"])}.items() >= next(
            v for v in values if v["label"] == row["label"]
        ).items()


def test_what_run_cannot_do_is_refused_before_anything_is_spent(published):
    client = published(BudgetPool(samples=40), "refusals")
    dataset = ray.data.from_items([{"text": "?"}])
    plain = dspy.Predict("question -> answer")
    with pytest.raises(ValueError, match="nothing in program is wrapped"):
        run(plain, dataset, client)
    with pytest.raises(ValueError, match="budget of its own"):
        run(DynScaling(plain, budget=4), dataset, client)
    with pytest.raises(TypeError, match="pool must be a published one"):
        run(DynScaling(plain), dataset, BudgetPool(samples=4))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="no column 'question', only text"):
        run(DynScaling(plain), dataset, client)
    with pytest.raises(ValueError, match="needs key="):
        run(DynScaling(plain), dataset, client, checkpoint="somewhere")
    with pytest.raises(ValueError, match="in_flight must be"):
        run(DynScaling(plain), dataset, client, in_flight=0)


class Marked(dspy.Module):
    """Tells where it runs."""

    def __init__(self, folder):
        super().__init__()
        self.answer = dspy.Predict("question -> answer")
        self.folder = folder

    async def aforward(self, question):
        (self.folder / str(os.getpid())).touch()
        return await self.answer.acall(question=question)


class Picky(dspy.Module):
    def __init__(self):
        super().__init__()
        self.answer = dspy.Predict("question -> answer")

    async def aforward(self, question):
        if "0003" in question:
            raise ValueError("no 0003")
        return await self.answer.acall(question=question)
