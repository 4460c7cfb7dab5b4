"""What a program is made of, as far as DSPy tells: its predictors, what they ask, and whether a sample can be drawn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import dspy

from dynscale_dspy._naming import is_wrapper
from dynscale_dspy.execution.choices_route import Turn
from dynscale_dspy.execution.sample_lm import original
from dynscale_dspy.execution.shared_request import can_share
from dynscale_dspy.selection.labels import labels_of


def signature_of(module: dspy.Module) -> Any:
    """The signature of a predictor, or of a program around one such as ``ChainOfThought``; None for other programs."""
    for owner in (module, getattr(module, "predict", None)):
        signature = getattr(owner, "signature", None)
        if hasattr(signature, "output_fields"):
            return signature
    return None


def lm_of(predictor: dspy.Predict, program: dspy.Module, kwargs: Mapping[str, Any]) -> Any:
    """The language model that a predictor will ask in a call of its program with these arguments."""
    handed_on = predictor is program or type(program) is dspy.ChainOfThought
    return original((kwargs.get("lm") if handed_on else None) or predictor.lm or dspy.settings.lm)


def asks_for_a_rollout(lm: Any, predictor: dspy.Predict, kwargs: Mapping[str, Any]) -> bool:
    """Return True if a call is to be another draw than others with its inputs, as `BestOfN` and optimizers ask for.

    Args:
        lm: The language model that the predictor asks.
        predictor: The only predictor of the program.
        kwargs: The call's arguments.
    """
    asked = {**(getattr(lm, "kwargs", None) or {}), **predictor.config, **(kwargs.get("config") or {})}
    return bool(asked.get("rollout_id"))


def has_aforward(module: dspy.Module) -> bool:
    """Return True if a program can be awaited; other programs run in threads."""
    return hasattr(module, "aforward")


def innermost(program: dspy.Module) -> Any:
    """The predictor inside a ``ChainOfThought``; any other program itself."""
    return getattr(program, "predict", None) if type(program) is dspy.ChainOfThought else program


def is_predictor(module: object) -> bool:
    """Return True for a predictor of DSPy's own class, also where ``wrap`` has scaled it in place."""
    kind = type(module)
    return getattr(kind, "plain", kind) is dspy.Predict


def asks_one_model(program: dspy.Module, lm: Any, adapter: Any) -> bool:
    """Return True if a program asks only this language model, through this adapter, and all three are DSPy's own."""
    return (
        type(innermost(program)) is dspy.Predict
        and type(lm) is dspy.LM
        and type(adapter) in (dspy.ChatAdapter, dspy.JSONAdapter, dspy.XMLAdapter)
    )


LONGEST_LABEL = 100
"""Tokens of a reply, on average, above which a program is taken to reason in it, whatever its signature says."""


def decides_at_once(program: dspy.Module, answers: Mapping[str, Any], lm: Any, written: float) -> bool:
    """Return True if a program answers from a few given labels, with nothing written before that could lead to them.

    Args:
        program: The program.
        answers: The type of each output field that is part of its answer; empty if that is not known.
        lm: The language model that its predictor asks.
        written: Tokens that its samples have written on average; 0 if that is not known. Models that reason by
            themselves are known by it.
    """
    predictor = innermost(program)
    if not is_predictor(predictor) or not answers or written > LONGEST_LABEL:
        return False
    if getattr(lm, "kwargs", {}).keys() & {"reasoning_effort", "reasoning", "thinking"}:
        return False
    outputs: Any = signature_of(predictor)
    before = list(outputs.output_fields)[: len(answers)]
    return set(before) == answers.keys() and are_labels(answers)


def are_labels(answers: Mapping[str, Any]) -> bool:
    """Return True if each field of an answer is one of a few given labels.

    Args:
        answers: The type of each output field that is part of the answer; empty if that is not known.
    """
    return bool(answers) and all(labels_of(kind) is not None for kind in answers.values())


def needs_each_run(program: dspy.Module) -> bool:
    """Return True if no run of a program may be left out: it has callbacks, or a ``forward`` was set on the object."""
    return _is_patched(program) or any(getattr(module, "callbacks", None) for module in (program, innermost(program)))


def _is_patched(program: dspy.Module) -> bool:
    return any(vars(module).keys() & {"forward", "aforward", "acall"} for module in (program, innermost(program)))


def choices_per_request(
    program: dspy.Module,
    predictors: Sequence[dspy.Predict],
    kwargs: Mapping[str, Any],
    most: int,
    lm: Any = None,
    *,
    wait: bool = False,
    turn: Turn | None = None,
) -> int:
    """How many samples of a call may share a request.

    Args:
        program: The program.
        predictors: All of its predictors.
        kwargs: The call's arguments.
        most: What the user allows.
        lm: The language model that is asked in place of the program's own; None for that.
        wait: Whether to wait for what a shared request needs; see :func:`can_share`.
        turn: The call, if it is to be made alike each time.
    """
    if most == 1 or len(predictors) != 1 or is_wrapper(program):
        return 1
    predictor = predictors[0]
    config = predictor.config
    if predictor is program and kwargs.get("config"):
        config = {**config, **kwargs["config"]}
    asked = lm_of(predictor, program, kwargs) if lm is None else lm
    return most if can_share(asked, config, wait=wait, turn=turn) else 1


def check_ready(
    predictors: Sequence[dspy.Predict],
    program: dspy.Module,
    kwargs: Mapping[str, Any],
    *,
    temperature: float | None,
    vary: bool,
    brings_lms: bool = False,
) -> None:
    """Find, before anything is spent, what would make every sample fail or be the same.

    Only what is certain: a program of several parts may choose its language models as it runs, and DSPy raises the same
    error as here where it does not.

    Args:
        predictors: All predictors of the program.
        program: The program.
        kwargs: The call's arguments.
        temperature: What overrides the language models' temperature, if anything does.
        vary: Whether samples must differ.
        brings_lms: Whether samples ask other language models than the program's own.

    Raises:
        ValueError: If a program that is one predictor has no language model, or the temperature that was asked for is
            0 and samples must differ.
    """
    as_dspy_runs_it = type(innermost(program)) is dspy.Predict and not _is_patched(program)
    if (
        as_dspy_runs_it
        and not brings_lms
        and any(lm_of(predictor, program, kwargs) is None for predictor in predictors)
    ):
        raise ValueError(
            "No LM is loaded. Please configure the LM using `dspy.configure(lm=dspy.LM(...))`, e.g. "
            "`dspy.configure(lm=dspy.LM('openai/gpt-4o-mini'))`"
        )
    if vary and temperature == 0:
        raise ValueError(
            "temperature is 0, so every sample would be the same: pass DynScaling(..., temperature=1.0), or None for "
            "the language model's own"
        )
