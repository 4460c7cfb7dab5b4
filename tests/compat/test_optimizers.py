"""Every optimizer finds for a wrapped program what it finds for the plain one, and all copies spend from one pool."""

from __future__ import annotations

import hashlib
import json
import random
import re
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import dspy
import pytest
from packaging.version import Version

from dynscale_dspy import BudgetPool, Cost, DynScaling, Uniform, unscaled, wrap
from tests.compat.rows import DSPY
from tests.support import ScriptedModel

CAPITALS = {"Spain": "Madrid", "Italy": "Rome", "Peru": "Lima", "Chad": "Ndjamena", "Fiji": "Suva", "Iran": "Tehran"}
TRAINSET = [dspy.Example(question=f"Capital of {c}?", answer=a).with_inputs("question") for c, a in CAPITALS.items()]

_ASKED = re.compile(r"Respond with the corresponding output fields, starting with the field (.*)", re.DOTALL)
_FIELD = re.compile(r"`\[\[ ## (\w+) ## \]\]`")


def reply(prompt: str, number: int) -> Any:
    """A pure function of the prompt, so that scaling changes no answer: right about every country but two."""
    digest = hashlib.blake2b(prompt.encode(), digest_size=4).hexdigest()
    asked = _ASKED.findall(prompt)
    if not asked:
        return f"```\nThink of the country ({digest}).\n```"
    question = prompt.rpartition("Capital of ")[2].partition("?")[0]
    values = {
        "answer": CAPITALS.get(question, "?") if question not in ("Chad", "Fiji") else "?",
        "module_advice": json.dumps({"predict": f"Think ({digest}).", "answer": f"Think ({digest})."}),
        "draft": f"The capital of {question}.",
    }
    names = [name for name in _FIELD.findall(asked[-1]) if name != "completed"]
    return {name: values.get(name, f"{name} {digest}") for name in names}


def metric(example: Any, prediction: Any, trace: Any = None, pred_name: Any = None, pred_trace: Any = None) -> Any:
    return float(example.answer == prediction.answer)


def with_feedback(
    example: Any, prediction: Any, trace: Any = None, pred_name: Any = None, pred_trace: Any = None
) -> Any:
    score = metric(example, prediction)
    return dspy.Prediction(score=score, feedback="right" if score else f"it is {example.answer}")


def vectorize(texts: list[str]) -> Any:
    import numpy as np

    return np.array([[len(text), text.count("a")] for text in texts], dtype=float)


def labeled(program: Any) -> Any:
    return dspy.LabeledFewShot(k=3).compile(program, trainset=TRAINSET)


def bootstrap(program: Any) -> Any:
    return dspy.BootstrapFewShot(metric=metric, max_bootstrapped_demos=2).compile(program, trainset=TRAINSET)


def random_search(program: Any) -> Any:
    optimizer = dspy.BootstrapFewShotWithRandomSearch(
        metric=metric, max_bootstrapped_demos=2, num_candidate_programs=2, num_threads=1
    )
    return optimizer.compile(program, trainset=TRAINSET)


def knn(program: Any) -> Any:
    embedder = dspy.Embedder(vectorize)
    return dspy.KNNFewShot(2, TRAINSET, embedder, metric=metric, max_bootstrapped_demos=2).compile(program)


def copro(program: Any) -> Any:
    optimizer = dspy.COPRO(metric=metric, breadth=2, depth=1)
    return optimizer.compile(program, trainset=TRAINSET, eval_kwargs={"num_threads": 1, "display_progress": False})


def mipro(program: Any) -> Any:
    optimizer = dspy.MIPROv2(
        metric=metric, auto=None, num_candidates=2, num_threads=1, max_bootstrapped_demos=1, max_labeled_demos=1
    )
    return optimizer.compile(program, trainset=TRAINSET, valset=TRAINSET, num_trials=2, minibatch=False)


def simba(program: Any) -> Any:
    optimizer = dspy.SIMBA(metric=metric, bsize=4, num_candidates=2, max_steps=1, max_demos=2, num_threads=1)
    return optimizer.compile(program, trainset=TRAINSET, seed=0)


def gepa(program: Any) -> Any:
    optimizer = dspy.GEPA(
        metric=with_feedback, max_metric_calls=20, reflection_lm=dspy.settings.lm, num_threads=1, seed=0
    )
    return optimizer.compile(program, trainset=TRAINSET, valset=TRAINSET)


def infer_rules(program: Any) -> Any:
    optimizer = dspy.InferRules(metric=metric, num_candidates=1, num_rules=2, num_threads=1, max_bootstrapped_demos=1)
    return optimizer.compile(program, trainset=TRAINSET, valset=TRAINSET)


def better_together(program: Any) -> Any:
    """A chain of optimizers, the second starting where the first ended."""
    if Version("3.2") > DSPY:
        pytest.skip("before DSPy 3.2 it chains a prompt optimizer with finetuning only")
    program.set_lm(dspy.settings.lm)
    optimizer = dspy.BetterTogether(metric=metric, b=dspy.BootstrapFewShot(metric=metric), c=dspy.LabeledFewShot(k=2))
    return optimizer.compile(program, trainset=TRAINSET, valset=TRAINSET, strategy="b -> c", seed=0, num_threads=1)


OPTIMIZERS = [
    labeled,
    bootstrap,
    random_search,
    knn,
    copro,
    mipro,
    simba,
    gepa,
    infer_rules,
    better_together,
]


class Outer(dspy.Module):
    """A program that contains predictors, wrapped or not."""

    def __init__(self, scale: Callable[[dspy.Module], dspy.Module] = lambda module: module) -> None:
        super().__init__()
        self.draft = scale(dspy.ChainOfThought("question -> draft"))
        self.answer = scale(dspy.ChainOfThought("question, draft -> answer"))

    def forward(self, question: str) -> dspy.Prediction:
        return self.answer(question=question, draft=self.draft(question=question).draft)


def predictor() -> dspy.Module:
    return dspy.Predict("question -> answer")


def thought() -> dspy.Module:
    return dspy.ChainOfThought("question -> answer")


def scaler(pool: BudgetPool) -> Callable[[dspy.Module], dspy.Module]:
    return lambda module: DynScaling(module, budget=pool)


PROGRAMS: dict[str, tuple[Callable[[], dspy.Module], Callable[[BudgetPool], dspy.Module]]] = {
    "a wrapped program": (
        thought,
        lambda pool: DynScaling(thought(), budget=pool),
    ),
    "an outer program": (Outer, lambda pool: Outer(scaler(pool))),
    "wrap(program)": (Outer, lambda pool: wrap(Outer(), budget=pool)),
    "a wrapped predictor": (predictor, lambda pool: DynScaling(predictor(), budget=pool)),
    "wrap(predictor)": (predictor, lambda pool: wrap(predictor(), budget=pool)),
}


def compiled_state(optimize: Callable[[Any], Any], program: dspy.Module) -> tuple[Any, dict[str, Any]]:
    """What an optimizer makes of a program: the compiled one and the parameters in it."""
    random.seed(0)
    compiled = optimize(program)
    for predictor in compiled.predictors():
        predictor.lm = None  # set by BetterTogether; a model inside the process has no state to compare
    state = {name: predictor.dump_state() for name, predictor in compiled.named_predictors()}
    for predictor in state.values():
        predictor.pop("dynscale", None)
    return compiled, state


def pools_of(program: dspy.Module) -> list[BudgetPool]:
    inside = [module for _, module in program.named_sub_modules() if isinstance(module, DynScaling)]
    scaled = [predictor.scaling for _, predictor in program.named_predictors() if hasattr(predictor, "scaling")]
    return [module.pool for module in [*inside, *scaled]]


_plain: dict[Any, tuple[Any, dict[str, Any], int]] = {}


def plainly(optimize: Callable[[Any], Any], make: Callable[[], dspy.Module]) -> tuple[Any, dict[str, Any], int]:
    """The plain program compiled, its parameters, and the requests it took: once for all that is compared with it."""
    if (optimize, make) not in _plain:
        model = ScriptedModel(reply)
        with dspy.context(lm=model.lm(temperature=1.0, max_tokens=500)):
            _plain[optimize, make] = (*compiled_state(optimize, make()), len(model.requests))
    return _plain[optimize, make]


@pytest.mark.parametrize("samples", [2, 1, 0], ids=["scaled", "one sample", "unscaled"])
@pytest.mark.parametrize("kind", PROGRAMS)
@pytest.mark.parametrize("optimize", OPTIMIZERS, ids=lambda optimize: optimize.__name__)
def test_compiling_a_wrapped_program_gives_what_the_plain_one_gets(
    optimize: Callable[[Any], Any], kind: str, samples: int, quiet: None, capsys: Any
) -> None:
    make_plain, make_wrapped = PROGRAMS[kind]
    cheaply = samples == 0
    pool = BudgetPool(per_call=samples or 2, policy=Uniform())
    program = make_wrapped(pool)
    with dspy.context(lm=(model := ScriptedModel(reply)).lm(temperature=1.0, max_tokens=500)):
        plain, expected, wanted = plainly(optimize, make_plain)
        with unscaled() if cheaply else nullcontext():
            compiled, state = compiled_state(optimize, program)
        asked = len(model.requests)
        assert state == expected
        if cheaply:
            assert asked == wanted and pool.statistics().spent == Cost()
        assert pool.statistics().reserved == Cost()
        # The compiled program answers like the plain one, and at whose cost: the pool's, shared through every copy.
        before = pool.statistics().spent
        question = {"question": "Capital of Peru?"}
        assert compiled(**question).toDict().keys() == plain(**question).toDict().keys()
        assert compiled(**question).answer == "Lima"
    assert pool.statistics().spent.samples > before.samples
    found = pools_of(compiled)
    assert found and all(each is pool for each in found)
