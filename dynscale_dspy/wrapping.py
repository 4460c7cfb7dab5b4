"""``wrap`` and ``unwrap``: scale the predictors of an existing program without replacing them."""

from __future__ import annotations

import functools
import logging
import types
from collections.abc import Callable, Iterable
from typing import Any, ClassVar, TypeVar, cast

import dspy

from dynscale_dspy import _ambient
from dynscale_dspy._naming import named_predictors
from dynscale_dspy.budget.pool import BudgetPool
from dynscale_dspy.budget.source import BudgetSource
from dynscale_dspy.config import KEY, PRIVATE, ScalingSettings
from dynscale_dspy.execution.run import is_sample_of
from dynscale_dspy.module import DynScaling

logger = logging.getLogger(__name__)

Program = TypeVar("Program", bound=dspy.Module)


def wrap(
    program: Program,
    budget: BudgetSource | float | None = None,
    *,
    predictors: str | Iterable[str] | None = None,
    **settings: Any,
) -> Program:
    """Scale every predictor inside a program, or only those named. The program itself is changed, and returned.

    :class:`DynScaling` samples a whole program and votes on its result; this votes on the output of each predictor
    before the program goes on. Predictors stay the objects they are, under their own names, with their demos and
    state. Only their class changes, to a subclass whose objects have their :class:`DynScaling` as ``scaling``
    (``torch.nn.utils.parametrize`` does the same with layers). Optimizers, traces, ``save`` and ``load`` see what they
    saw before.

    Args:
        program: The program. Predictors inside its :class:`DynScaling` modules are left to those.
        budget: A pool; or a number, the samples a call of a predictor may take on average, of one pool for them all;
            or None for the pool of the enclosing ``with BudgetPool(...):``.
        predictors: A name or names, as in ``program.named_predictors()``. By default all that have an answer to vote
            on.
        settings: Any other argument of :class:`DynScaling`; ``policy`` and ``seed`` only with a number as budget. With
            ``lms`` by predictor each draws from its own, and others ask what they ask by themselves.

    Raises:
        TypeError: If ``program`` is not a ``dspy.Module``, or an argument is unknown or has the wrong type.
        ValueError: If a name is unknown, a predictor is scaled already, or a setting does not fit. Nothing is changed
            then.

    Example:
        >>> program = wrap(dspy.ChainOfThought("question -> answer"), budget=BudgetPool(samples=100))
        >>> print(*(name for name, _ in program.named_predictors()))
        predict
    """
    if not isinstance(program, dspy.Module):
        raise TypeError(f"program must be a dspy.Module, got {program!r}")
    for name in settings:
        if name not in ScalingSettings.model_fields and name not in _OF_PRIVATE_POOL:
            raise TypeError(f"wrap() got an unexpected keyword argument {name!r}")
    found = dict(named_predictors(program, into=lambda part: not isinstance(part, DynScaling)))
    if isinstance(predictors, str):
        predictors = [predictors]
    chosen = list(found) if predictors is None else list(predictors)
    for name in chosen:
        if name not in found:
            raise ValueError(f"predictors names {name!r}, but this program has {sorted(found)}")
        if isinstance(found[name], _Scaled):
            raise ValueError(f"the predictor {name!r} is scaled already: unwrap(program) first")
    lms = ScalingSettings(lms=settings.get("lms")).lms
    if lms is not None:
        lms.check_predictors(chosen, "those to scale are")
    if isinstance(budget, (int, float)) and not isinstance(budget, bool):
        # One pool for all predictors: what one does not need goes to the others.
        own = {name: settings.pop(name) for name in _OF_PRIVATE_POOL if name in settings}
        budget = BudgetPool(per_call=budget, **own)
    scalings = {}
    for name in chosen:
        try:
            scalings[name] = DynScaling(found[name], budget, **ScalingSettings.of_predictor(name, settings, lms))
            scalings[name].scaled_predictor = name
        except ValueError as error:
            is_named = predictors is not None or (lms is not None and name in lms.predictors)
            if is_named or "looks like an answer" not in str(error):
                raise
            logger.info("the predictor %r is left as it is: %s", name, error)
    if not scalings:
        raise ValueError(f"there is nothing to scale in {type(program).__name__}: its predictors are {sorted(found)}")
    for name, scaling in scalings.items():
        predictor = found[name]
        predictor.__class__ = _scaled_class(type(predictor))
        setattr(predictor, _SCALING, _Hidden(scaling))
    return program


def unwrap(program: Program) -> Program:
    """Undo :func:`wrap`: every scaled predictor is a plain one again. The program is changed, and returned.

    :class:`DynScaling` modules stay; their program is their ``module``.

    Args:
        program: The program.

    Example:
        >>> program = wrap(dspy.ChainOfThought("question -> answer"), budget=8)
        >>> type(unwrap(program).predict) is dspy.Predict
        True
    """
    for _, predictor in named_predictors(program):
        if isinstance(predictor, _Scaled):
            plain: Any = predictor
            plain.__class__ = predictor.plain
            vars(plain).update(vars(plain).pop(_SCALING).replaced)
    return program


_SCALING = "_dynscale_scaling"
_OF_PRIVATE_POOL = tuple(name for name in PRIVATE if name != "per_call")


class _Hidden:
    """Holds the scaling of a predictor, so that DSPy does not find it: it looks for modules among attributes.

    Args:
        scaling: The scaling.
    """

    def __init__(self, scaling: DynScaling) -> None:
        self.scaling = scaling
        self.replaced: dict[str, Any] = {}
        """What was put in the place of its methods, by name."""


class _Method:
    """``forward`` or ``aforward`` of a scaled predictor: scales a call; in a sample of that call it is the plain one.

    Optimizers put a method of their own in its place while they run, which calls this one. It then is what a call of
    the predictor means, once a call: the samples do not come by it again.

    Args:
        scaled: The method that scales.
    """

    def __init__(self, scaled: Callable[..., Any]) -> None:
        self._scaled = scaled
        self._name = scaled.__name__

    def __get__(self, predictor: Any, owner: type) -> Any:
        if predictor is None:
            return self._scaled
        hidden: _Hidden = vars(predictor)[_SCALING]
        if is_sample_of(hidden.scaling):
            return _plain(predictor, self._name)
        return hidden.replaced.get(self._name) or types.MethodType(self._scaled, predictor)

    def __set__(self, predictor: Any, method: Any) -> None:
        replaced = vars(predictor)[_SCALING].replaced
        if method == types.MethodType(self._scaled, predictor):
            replaced.pop(self._name, None)
        else:
            replaced[self._name] = method

    def __delete__(self, predictor: Any) -> None:
        replaced = vars(predictor)[_SCALING].replaced
        if self._name not in replaced:
            raise AttributeError(self._name)
        del replaced[self._name]


def _plain(predictor: Any, name: str) -> Any:
    """A method of a scaled predictor as it was before: of its own class, unless the object had one of its own."""
    return vars(predictor).get(name) or getattr(super(_Scaled, predictor), name)


class _Scaled:
    """Base class of scaled predictors, beside the predictor's own class.

    Their calls go through a :class:`DynScaling`, whose samples are plain runs of the same predictor.
    """

    plain: ClassVar[type[dspy.Predict]]

    @property
    def scaling(self) -> DynScaling:
        """The :class:`DynScaling` that has the settings and the pool."""
        return self.__dict__[_SCALING].scaling

    @_Method
    def forward(self, **kwargs: Any) -> Any:
        """Answer a call."""
        if _ambient.is_unscaled():
            return _plain(self, "forward")(**kwargs)
        return DynScaling.forward(self.scaling, **kwargs)

    @_Method
    async def aforward(self, **kwargs: Any) -> Any:
        """As :meth:`forward`, in a task."""
        if _ambient.is_unscaled():
            return await _plain(self, "aforward")(**kwargs)
        return await DynScaling.aforward(self.scaling, **kwargs)

    def dump_state(self, json_mode: bool = True) -> dict[str, Any]:
        """The predictor's own state, and beside it the scaling settings."""
        return {**super().dump_state(json_mode=json_mode), KEY: self.scaling.dump_settings()}  # type: ignore[misc]

    def load_state(self, saved: dict[str, Any], **options: Any) -> Any:
        """Load a state saved with or without scaling."""
        settings = saved.get(KEY)
        loaded = super().load_state({k: v for k, v in saved.items() if k != KEY}, **options)  # type: ignore[misc]
        if settings:
            self.scaling.load_settings(settings)
        return loaded

    def __reduce__(self) -> tuple[Any, ...]:
        # The class is made on demand, so it is saved by what it is made of.
        return _rebuild, (self.plain,), cast(dspy.Module, self).__getstate__()


@functools.cache
def _scaled_class(plain: type[dspy.Predict]) -> type[dspy.Predict]:
    # Under the same name: optimizers that show a program's source to a model know `Predict` by it.
    names = {"__module__": plain.__module__, "__qualname__": plain.__qualname__, "__doc__": plain.__doc__}
    metaclass: Any = type(plain)
    return metaclass(plain.__name__, (_Scaled, plain), {**names, "plain": plain})


def _rebuild(plain: type[dspy.Predict]) -> dspy.Predict:
    return object.__new__(_scaled_class(plain))
