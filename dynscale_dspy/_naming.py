"""Names of programs and of the predictors inside them, as DSPy, reports and budgets use them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import dspy

_NOT_MODULES = frozenset({"history", "callbacks", "demos", "traces", "train", "signature", "lm", "config"})
_PLAIN = (str, int, float, type(None))
"""Types of attributes that hold no predictor, skipped for speed."""
_MARK = "scaled_predictor"


def is_wrapper(module: object) -> bool:
    """Whether a module is a :class:`DynScaling`, with the program in its ``module``.

    The class tells, by having ``scaled_predictor``: other modules, such as ``dspy.BestOfN``, have a ``module`` too.
    """
    return hasattr(type(module), _MARK)


def name_of(module: Any) -> str:
    """The name of a program in reports: its class, and the fields of its predictor if it has exactly one.

    Args:
        module: The program, or a wrapper around it. The wrapper of a predictor that :func:`wrap` scales in place adds
            that predictor's name.

    Example:
        >>> name_of(dspy.Predict("question -> answer"))
        'Predict(question -> answer)'
    """
    label = getattr(module, _MARK) if is_wrapper(module) else None
    program = module.module if is_wrapper(module) else module
    first, *others = [predictor for _, predictor in named_predictors(program)] or [None]
    signature = f"({first.signature.signature})" if first is not None and not others else ""  # type: ignore[union-attr]
    return f"{f'{label}: ' if label else ''}{type(program).__name__}{signature}"


def named_predictors(
    module: dspy.Module, *, into: Callable[[dspy.Module], bool] = lambda part: True
) -> Iterator[tuple[str, dspy.Predict]]:
    """Every predictor inside a module, with its name in DSPy; compiled ones too, which DSPy's own method leaves out.

    ``named_sub_modules`` does not serve here: it also walks the call history, which grows with every call.

    Args:
        module: Where to look.
        into: Which modules inside it to look into.
    """
    seen: set[int] = set()

    def walk(name: str, part: Any) -> Iterator[tuple[str, dspy.Predict]]:
        if id(part) in seen:
            return
        seen.add(id(part))
        kind = type(part)  # asked of the type: a program may hold values whose own code fails
        if issubclass(kind, dspy.Predict) and not is_wrapper(part):
            yield name or "self", part
        if issubclass(kind, dspy.Module):
            if part is not module and not into(part):
                return
            if is_wrapper(part):
                yield from walk(name, part.module)
                return
            for attribute, value in vars(part).items():
                if attribute not in _NOT_MODULES and not issubclass(type(value), _PLAIN):
                    yield from walk(f"{name}.{attribute}" if name else attribute, value)
        else:
            for item, value in _items(part):
                yield from walk(f"{name}{item}", value)

    return walk("", module)


def _items(part: Any) -> list[tuple[str, Any]]:
    """What a container holds, with its names; nothing of what is none, or fails to tell."""
    try:
        if isinstance(part, Mapping):
            return [(f"['{key}']", value) for key, value in part.items()]
        if isinstance(part, (list, tuple)):
            return [(f"[{position}]", value) for position, value in enumerate(part)]
    except Exception:  # of its class
        pass
    return []
