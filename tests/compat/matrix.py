"""Drives a row of the table one way, plain and scaled, and compares."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import dspy

from dynscale_dspy import Cost, DynScaling, explain
from dynscale_dspy.selection.answers import canonical
from tests.compat.rows import Plain, Row, Scaled
from tests.compat.server import ModelServer
from tests.support import ENGINES


def _sync(program: dspy.Module, inputs: Sequence[Mapping[str, Any]]) -> list[Any]:
    return [program(**each) for each in inputs]


def _async(program: dspy.Module, inputs: Sequence[Mapping[str, Any]]) -> list[Any]:
    async def main() -> list[Any]:
        return await asyncio.gather(*(program.acall(**each) for each in inputs))

    return asyncio.run(main())


def _examples(inputs: Sequence[Mapping[str, Any]]) -> list[dspy.Example]:
    return [dspy.Example(**each).with_inputs(*each) for each in inputs]


def _batch(program: dspy.Module, inputs: Sequence[Mapping[str, Any]]) -> list[Any]:
    return program.batch(_examples(inputs), num_threads=2, disable_progress_bar=True)


def _evaluate(program: dspy.Module, inputs: Sequence[Mapping[str, Any]]) -> list[Any]:
    evaluate = dspy.Evaluate(
        devset=_examples(inputs), metric=lambda example, prediction: 1.0, num_threads=2, display_progress=False
    )
    return [prediction for _, prediction, _ in evaluate(program).results]


def _parallel(program: dspy.Module, inputs: Sequence[Mapping[str, Any]]) -> list[Any]:
    return dspy.Parallel(num_threads=2, disable_progress_bar=True)([(program, each) for each in _examples(inputs)])


WAYS: dict[str, Callable[[dspy.Module, Sequence[Mapping[str, Any]]], list[Any]]] = {
    "sync": _sync,
    "async": _async,
    "`batch`": _batch,
    "`Evaluate`": _evaluate,
    "`Parallel`": _parallel,
}


class Hole(Exception):
    """The plain program cannot be driven this way either."""


ASYNC_FALLBACK = "[DSPy #10145](https://github.com/stanfordnlp/dspy/pull/10145)"
ASYNC_MODULES = "[DSPy #9235](https://github.com/stanfordnlp/dspy/pull/9235)"
HOLES: Mapping[tuple[str, str], str] = {
    ("`BestOfN` around a wrapper", "async"): ASYNC_MODULES,
    ("`Refine` around a wrapper", "async"): ASYNC_MODULES,
    ("`CodeAct` (local interpreter)", "async"): ASYNC_MODULES,
    ("`CodeAct` in Deno", "async"): ASYNC_MODULES,
    ("`Ensemble` of wrapped programs", "async"): ASYNC_FALLBACK,
}
"""What DSPy itself cannot do, by row and way, and the pull request that would change it."""


_references: dict[Any, tuple[list[Any], list[Any], Exception | None]] = {}


@dataclass(frozen=True)
class Cell:
    """One program under one adapter and engine, driven one way."""

    row: Row
    adapter: str
    engine: str
    way: str

    def run(self, server: ModelServer) -> None:
        """Run it plain and scaled, and compare.

        Raises:
            Hole: If DSPy cannot run the plain program this way.
            AssertionError: If the scaled one differs in more than its answers.
        """
        row, drive = self.row, WAYS[self.way]
        lm = server.lm(self.engine, **row.lm)
        with dspy.context(lm=lm, adapter=row.adapter(self.adapter, server, self.engine)):
            plain, once, plain_error = self._plain(server)
            assert all(_right(row, prediction) for prediction in plain), f"plain: {plain}"
            server.reset()
            scale = Scaled(row.per_call)
            program = row.program(scale, server)
            try:
                predictions = drive(program, row.inputs())
            except Exception as error:
                if plain_error is not None and type(error) is type(plain_error):
                    raise Hole(str(plain_error)) from error
                raise
        pools = [pool.statistics() for pool in scale.pools]
        assert all(pool.reserved == Cost() and pool.open_calls == 0 for pool in pools), pools
        asked = len(server.requests)
        assert len(predictions) == len(plain)
        for prediction, reference in zip(predictions, plain, strict=True):
            assert isinstance(prediction, dspy.Prediction), prediction
            assert _right(row, prediction), f"scaled: {prediction}"
            assert _shape(prediction) == _shape(reference)
            if isinstance(program, DynScaling):
                why = explain(prediction)
                assert [sample.problem for sample in why.samples] == [""] * len(why.samples), why.samples
        spent = sum(pool.spent.requests for pool in pools)
        if row.requests is not None:
            assert asked == row.requests * len(once), f"{asked} requests scaled, {len(once)} plain"
            assert spent == asked
        assert len(once) < asked, f"{asked} requests scaled, {len(once)} plain"
        assert len(once) <= spent <= asked or row.requests is None
        if row.conditioned:
            assert server.conditioned > 0, "no sample saw earlier ones"
        if row.parts is not None:
            assert sum(map(row.parts, server.requests)) * len(once) == sum(map(row.parts, once)) * asked

    def _plain(self, server: ModelServer) -> tuple[list[Any], list[Any], Exception | None]:
        """What the plain program returns, what it asked for, and its error if it cannot be driven this way."""
        awaited = self.way == "async"  # all other ways are synchronous calls in threads
        key = (self.row.name, self.adapter, self.engine, awaited)
        if key not in _references:
            drive, error = (_async if awaited else _sync), None
            server.reset()
            try:
                plain = drive(self.row.program(Plain(), server), self.row.inputs())
            except Exception as failure:
                error = failure
                server.reset()
                plain = _sync(self.row.program(Plain(), server), self.row.inputs())
            _references[key] = plain, server.requests, error
        return _references[key]

    @property
    def name(self) -> str:
        return f"{self.row.name} / {self.adapter} / {self.engine} / {self.way}"


def cells(row: Row, way: str) -> list[Cell]:
    """Every adapter and engine that applies to a row."""
    native = [(adapter, "auto") for adapter in row.adapters if "auto" in ENGINES]
    litellm = [(adapter, "litellm") for adapter in (row.litellm if way in ("sync", "async") else row.litellm[:1])]
    if not native:  # before DSPy 3.4 there is only LiteLLM
        litellm = [(adapter, "litellm") for adapter in row.adapters]
    return [Cell(row, adapter, engine, way) for adapter, engine in [*native, *litellm]]


def _right(row: Row, prediction: Any) -> bool:
    return all(canonical(prediction.get(name)) == canonical(value) for name, value in row.expected.items())


def _shape(prediction: dspy.Prediction) -> list[tuple[str, type]]:
    return [(name, type(prediction[name])) for name in prediction.keys()]  # noqa: SIM118
