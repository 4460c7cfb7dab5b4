"""A wrapped program over the rows of a Ray dataset, by many workers that spend from one published pool."""

from __future__ import annotations

import asyncio
import hashlib
import json
import math
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dspy
import pydantic

from dynscale_dspy._naming import named_predictors
from dynscale_dspy.allocation.costs import Cost
from dynscale_dspy.distributed.client import LeasedPool
from dynscale_dspy.module import DynScaling
from dynscale_dspy.reporting.explanation import explain

if TYPE_CHECKING:
    from ray.data import Dataset

COSTS = ("samples", "requests", "tokens", "dollars")
_PLENTY = 10**6  # a row's scope is there to count, not to cap


def run(
    program: dspy.Module,
    dataset: Dataset,
    pool: LeasedPool,
    *,
    inputs: Sequence[str] | None = None,
    outputs: Sequence[str] | Mapping[str, str] | None = None,
    workers: int | tuple[int, int] = 2,
    in_flight: int = 64,
    rows_per_task: int = 32,
    num_cpus: float = 1.0,
    key: str | None = None,
    checkpoint: str | Path | None = None,
) -> Dataset:
    """Answer every row of a dataset, from one budget.

    Each worker is a Ray actor with one event loop and many calls in flight. Ray Data reads ahead no more than workers
    take (back-pressure), shows progress, and starts a worker again that died, with the rows it had not handed over. A
    row that fails says so in its column and does not fail the job.

    Announce the number of rows first, ``pool.expect(dataset.count())``: then the budget is spread over all of them.

    Args:
        program: A program with wrapped modules, each with ``budget=pool`` or without a budget. DSPy's language model
            and adapter are those set here and now.
        dataset: The rows.
        pool: What :meth:`BudgetPool.share` or :meth:`BudgetPool.connect` returned.
        inputs: Columns that are the program's arguments; by default the input fields of its only predictor.
        outputs: Fields of the prediction to keep as columns, or a mapping from them to names of columns; by default the
            output fields of its only predictor.
        workers: Processes, or the fewest and the most.
        in_flight: Calls at a time in each worker.
        rows_per_task: Rows handed to a worker at a time: what is done again, or found in the checkpoint, if it dies.
        num_cpus: Cores that Ray sets aside for a worker.
        key: The column that names a row, different in each; needed for a checkpoint.
        checkpoint: A folder that all workers can write to. Each answered row is in it before it is handed on; a run
            with the same folder takes it from there and pays nothing. Rows that failed are tried again. It knows
            nothing of the program: take another folder for another program.

    Returns:
        A dataset, computed when it is consumed: the columns of the rows, the outputs (None where all samples failed; a
        model as a dict), ``dynscale_samples``, ``dynscale_requests``, ``dynscale_tokens``, ``dynscale_dollars``,
        ``dynscale_confidence`` and ``dynscale_error`` (empty where there was none).

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If nothing in the program is wrapped, a wrapped module has another budget, columns cannot be told
            from the program, or an argument is out of range.

    Example:
        ```python
        pool = BudgetPool(samples=4 * dataset.count()).expect(dataset.count()).publish("labels")
        qa = DynScaling(dspy.ChainOfThought("question -> answer"), budget=pool)
        run(qa, dataset, pool, key="id", checkpoint="labels/").write_parquet("answers/")
        ```
    """
    if not isinstance(program, dspy.Module):
        raise TypeError(f"program must be a dspy.Module, got {program!r}")
    if not isinstance(pool, LeasedPool):
        raise TypeError(f'pool must be a published one, as pool.publish("name") returns it, got {pool!r}')
    for name, value in (("in_flight", in_flight), ("rows_per_task", rows_per_task)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(f"{name} must be an integer of at least 1, got {value!r}")
    if checkpoint is not None and key is None:
        raise ValueError("a checkpoint needs key=, the column that names a row")
    wrapped: list[Any] = [part for _, part in program.named_sub_modules(DynScaling)]
    if not wrapped:
        raise ValueError("nothing in program is wrapped: pass DynScaling(program) or wrap(program)")
    if any(part.budget_source not in (None, pool) for part in wrapped):
        raise ValueError(
            "a wrapped module has a budget of its own, which each worker would have once: give it budget=pool, or none"
        )
    fields = _Fields(program, inputs, outputs)
    columns = dataset.columns(fetch_if_missing=False)
    for name in [*fields.inputs, *([key] if key else [])]:
        if columns is not None and name not in columns:
            raise ValueError(f"the dataset has no column {name!r}, only {', '.join(columns)}")
    made = [*fields.outputs.values(), *_EXTRAS]
    taken = sorted(set(columns or ()) & set(made))
    if taken:
        raise ValueError(
            f"the dataset has a column {taken[0]!r} already: pass outputs={{'field': 'name of its column'}}"
        )
    import ray
    from ray.data import ActorPoolStrategy

    settings = {name: dspy.settings.get(name) for name in ("lm", "adapter")}
    folder = None
    done = None
    if checkpoint is not None:
        folder = Path(checkpoint).absolute()
        folder.mkdir(parents=True, exist_ok=True)
        done = ray.put(_read(folder.glob("*.jsonl")))
    fewest, most = (workers, workers) if isinstance(workers, int) else workers
    return dataset.repartition(target_num_rows_per_block=rows_per_task).map_batches(
        Answerer,
        fn_constructor_args=(program, pool, fields, settings, in_flight, key, folder, done),
        batch_size=rows_per_task,
        batch_format="numpy",
        # Threads of a worker wait for the rows of a task each, so that its last rows do not idle the rest.
        compute=ActorPoolStrategy(
            min_size=fewest,
            max_size=most,
            enable_true_multi_threading=True,
            max_concurrent_calls_per_actor=math.ceil(in_flight / rows_per_task) + 1,
        ),
        num_cpus=num_cpus,
    )


class Answerer:
    """A worker: answers the rows of batches, many at a time."""

    def __init__(
        self,
        program: dspy.Module,
        pool: LeasedPool,
        fields: _Fields,
        settings: Mapping[str, Any],
        in_flight: int,
        key: str | None,
        folder: Path | None,
        done: Any,
    ) -> None:
        import ray

        self._program = program
        self._pool = pool
        self._fields = fields
        self._settings = settings
        self._key = key
        self._folder = folder
        self._done: dict[str, Any] = {} if done is None else ray.get(done)
        self._loop = asyncio.new_event_loop()
        self._free = asyncio.Semaphore(in_flight)
        threading.Thread(target=self._loop.run_forever, name="dynscale-rows", daemon=True).start()

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """The batch with its answers."""
        size = len(next(iter(batch.values())))
        rows = [{name: _plain(column[i]) for name, column in batch.items()} for i in range(size)]
        with _Log(self._folder, [str(row[self._key]) for row in rows] if self._key else []) as log:
            known = {**log.found, **{name: self._done[name] for name in log.names if name in self._done}}
            futures: list[Future[dict[str, Any]]] = []
            for row in rows:
                name = str(row[self._key]) if self._key else ""
                if name in known:
                    future: Future[dict[str, Any]] = Future()
                    future.set_result(known[name])
                else:
                    future = asyncio.run_coroutine_threadsafe(self._answer(row, name, log), self._loop)
                futures.append(future)
            answers = [future.result() for future in futures]
        return {**batch, **{column: [answer[column] for answer in answers] for column in self._columns}}

    def __del__(self) -> None:
        # Ray lets go of a worker whose work is done.
        self._pool.close()

    @property
    def _columns(self) -> list[str]:
        return [*self._fields.outputs.values(), *_EXTRAS]

    async def _answer(self, row: dict[str, Any], name: str, log: _Log) -> dict[str, Any]:
        arguments = {field: row[field] for field in self._fields.inputs}
        answer: dict[str, Any] = dict.fromkeys(self._columns)
        spent = Cost()
        async with self._free:
            with dspy.context(**self._settings), self._pool.scope(samples=_PLENTY) as scope:
                try:
                    prediction = await self._program.acall(**arguments)
                    for field, column in self._fields.outputs.items():
                        answer[column] = _plain(getattr(prediction, field, None))
                    answer["dynscale_confidence"] = _confidence(prediction)
                    answer["dynscale_error"] = ""
                except Exception as error:
                    answer["dynscale_error"] = f"{type(error).__name__}: {error}"
                spent = scope.statistics().spent
        for unit in COSTS:
            answer[f"dynscale_{unit}"] = getattr(spent, unit)
        if not answer["dynscale_error"]:
            log.add(name, answer)
        return answer


_EXTRAS = (*(f"dynscale_{unit}" for unit in COSTS), "dynscale_confidence", "dynscale_error")


class _Fields:
    """Which columns go in, and what comes out as which column."""

    def __init__(
        self, program: dspy.Module, inputs: Sequence[str] | None, outputs: Sequence[str] | Mapping[str, str] | None
    ) -> None:
        signatures = [predictor.signature for _, predictor in named_predictors(program)]
        for name, given in (("inputs", inputs), ("outputs", outputs)):
            if isinstance(given, str):
                raise TypeError(f"{name} must be a list of names, got {given!r}")
            if given is None and len(signatures) != 1:
                raise ValueError(
                    f"the program has {len(signatures)} predictors: pass {name}=[...], the names of columns"
                )
        self.inputs: list[str] = list(signatures[0].input_fields if inputs is None else inputs)  # type: ignore[union-attr]
        named: Any = signatures[0].output_fields if outputs is None else outputs  # type: ignore[union-attr]
        renamed = outputs if isinstance(outputs, Mapping) else {}
        self.outputs: dict[str, str] = {field: renamed.get(field, field) for field in named}


class _Log:
    """The answered rows of one batch, in a file of its own: each is there before it is handed on."""

    def __init__(self, folder: Path | None, names: list[str]) -> None:
        self.names = names
        self.found: dict[str, Any] = {}
        self._path = None
        if folder is not None:
            digest = hashlib.blake2b("\0".join(sorted(names)).encode("utf-8", "surrogatepass"), digest_size=16)
            self._path = folder / f"{digest.hexdigest()}.jsonl"

    def __enter__(self) -> _Log:
        if self._path is not None:
            self.found = _read([self._path])
            self._file = self._path.open("a", encoding="utf-8")
            self._file.write("\n")  # whatever was cut off by a kill ends here
        return self

    def __exit__(self, *exc: object) -> None:
        if self._path is not None:
            self._file.close()

    def add(self, name: str, answer: Mapping[str, Any]) -> None:
        """One more row is answered. Called in the event loop only."""
        if self._path is not None:
            self._file.write(json.dumps({"key": name, "answer": answer}) + "\n")
            self._file.flush()


def _read(paths: Iterable[Path]) -> dict[str, Any]:
    answers: dict[str, Any] = {}
    for line in _lines(paths):
        try:
            entry = json.loads(line)
        except ValueError:
            continue  # empty, or cut off by a kill: the row is answered again
        answer = entry["answer"]
        if "dynscale_calls" in answer:  # written by version 0.1
            answer["dynscale_requests"] = answer.pop("dynscale_calls")
        answers[entry["key"]] = answer
    return answers


def _lines(paths: Iterable[Path]) -> Iterator[str]:
    for path in paths:
        if path.exists():
            with path.open(encoding="utf-8") as file:
                yield from file


def _plain(value: Any) -> Any:
    """As Arrow and JSON can hold it."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    if value is None or isinstance(value, (str, int, float, bool)):
        return value
    if isinstance(value, (list, tuple)):
        return [_plain(part) for part in value]
    if isinstance(value, Mapping):
        return {str(name): _plain(part) for name, part in value.items()}
    if isinstance(value, dspy.Code):
        return value.code
    if isinstance(value, pydantic.BaseModel):
        return _plain(value.model_dump(mode="json"))
    return str(value)


def _confidence(prediction: Any) -> float | None:
    try:
        return explain(prediction).confidence
    except ValueError:  # a program around wrapped modules makes a prediction of its own
        return None
