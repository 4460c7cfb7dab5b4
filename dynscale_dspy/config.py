"""Every setting once: what wrapped programs, pools and scopes can be told, with types, bounds and meanings.

Checking, saving, loading, copying and changing settings all derive from the fields declared here, and so do the tests:
a setting is added with one line in its model and one argument where users give it.
"""

from __future__ import annotations

import functools
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import pydantic

from dynscale_dspy import _fields
from dynscale_dspy._fields import (
    AnswerFields,
    AtLeastOne,
    Count,
    Field,
    Function,
    Money,
    OneOf,
    OneOfWords,
    Path,
    Period,
    Probability,
    Quantile,
    Refused,
    SamplesPerCall,
    Seconds,
    ShareSpent,
    Temperature,
    Unsaved,
    Whole,
    WordOrFunction,
    YesNo,
)
from dynscale_dspy.allocation.policies import POLICIES, KnowledgeGradient, Policy
from dynscale_dspy.budget.prices import Price
from dynscale_dspy.budget.stores.base import Store
from dynscale_dspy.sampling.strategies import Integrated, Parallel, Sequential, Strategy
from dynscale_dspy.selection.base import Selector

if TYPE_CHECKING:
    from typing_extensions import Self

logger = logging.getLogger(__name__)

KEY = "dynscale"
"""Where the settings stand in a saved state, beside the parameters. A plain program that loads the state ignores it."""
DEFAULT_MAX_FAILURES = 50
"""Samples in a row that may fail before a pool stops itself."""
MOST_CHOICES = 8
"""Choices asked of one request unless the user says otherwise."""


@dataclass(frozen=True)
class Prices(_fields.Check):
    """Prices of language models by name. None stands for no prices."""

    def check(self, value: Any) -> dict[str, Price]:
        """The prices in a dict of their own."""
        wanted = "must map model names to Price(prompt=..., completion=...)"
        if value is None:
            return {}
        if not isinstance(value, Mapping):
            raise Refused(f"{wanted}, got {value!r}", TypeError)
        for model, price in value.items():
            if not isinstance(model, str) or not isinstance(price, Price):
                raise Refused(f"{wanted}, got {model!r}: {price!r}", TypeError)
        return dict(value)

    def dump(self, value: Mapping[str, Price]) -> dict[str, Any]:
        """Each price as a dict."""
        return {model: asdict(price) for model, price in value.items()}

    def load(self, saved: Any) -> dict[str, Price]:
        """The prices back."""
        try:
            return self.check({model: Price(**price) for model, price in dict(saved).items()})
        except (TypeError, ValueError) as error:
            raise Refused(f"are unknown to this version: {error!r}, got {saved!r}") from None


@dataclass(frozen=True)
class OfUsers(_fields.Check):
    """An object that implements a protocol, such as a class of the user's does; or None.

    JSON cannot hold it. None is not saved either: a file says nothing of such a setting, so that loading it keeps the
    object of the program that loads it.

    Args:
        protocol: The protocol, checked at run time.
        kind: What it must be, for the error.
    """

    protocol: type
    kind: str

    def check(self, value: Any) -> Any:
        """The object itself."""
        if value is not None and (isinstance(value, type) or not isinstance(value, self.protocol)):
            raise Refused(f"must be {self.kind}, got {value!r}", TypeError)
        return value

    def dump(self, value: Any) -> Any:
        """Raise: it is never saved."""
        raise Unsaved

    def load(self, saved: Any) -> Any:
        """Raise: whatever stands in a file is none."""
        raise Refused(f"cannot be saved, but a file has {saved!r}")


Sampling = Annotated[
    Strategy,
    OneOf(Strategy, "Parallel(), Sequential() or Integrated()", (Parallel, Sequential, Integrated), Integrated),
]
Rule = Annotated[
    Policy, OneOf(Policy, "a Policy such as KnowledgeGradient()", tuple(POLICIES.values()), KnowledgeGradient)
]


class Settings(pydantic.BaseModel):
    """Frozen settings of one kind. Models of them declare fields of the types in :mod:`dynscale_dspy._fields`.

    Raises:
        TypeError: If a setting is unknown or has the wrong type.
        ValueError: If a setting is out of range, or does not fit another.
    """

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid")

    def __init__(self, **settings: Any) -> None:
        try:
            super().__init__(**settings)
        except pydantic.ValidationError as error:
            raise self._refusal(error) from None

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError(f"settings are frozen: settings.replace({name}=...) makes new ones")

    @classmethod
    @functools.cache
    def fields(cls) -> Mapping[str, Field]:
        """How each setting is declared, by name."""
        fields = {}
        for name, info in cls.model_fields.items():
            field = _fields.field_of(info.annotation, info.metadata)
            assert field is not None, f"{cls.__name__}.{name} is not declared with a type of dynscale_dspy._fields"
            fields[name] = field
        return MappingProxyType(fields)

    @classmethod
    def among(cls, arguments: Mapping[str, Any]) -> Self:
        """The settings among a function's arguments, given as ``locals()``; whatever else is there is passed over."""
        return cls(**{name: value for name, value in arguments.items() if name in cls.model_fields})

    def replace(self, **changes: Any) -> Self:
        """These settings with some of them changed.

        Raises:
            TypeError: If a setting is unknown or has the wrong type.
            ValueError: If a setting is out of range, or does not fit another.
        """
        return type(self)(**{**dict(self), **changes})

    def assigned(self, name: str, value: Any) -> Self:
        """These settings with one of them changed, as an assignment does it.

        Only the value itself is checked, not how it fits the others: those that belong together can be assigned one
        after the other.

        Raises:
            TypeError: If the value has the wrong type.
            ValueError: If it is out of range.
        """
        try:
            return self.model_copy(update={name: self.fields()[name].checked(value)})
        except Refused as refused:
            raise refused.of(name) from None

    def to_json(self) -> dict[str, Any]:
        """The settings as JSON values. What JSON cannot hold, a function or a class of the user's, is left out."""
        state = {}
        for name, field in self.fields().items():
            try:
                state[name] = field.dump(getattr(self, name))
            except Unsaved:
                continue
        return state

    @classmethod
    def from_json(cls, state: Any) -> Self:
        """The settings that :meth:`to_json` wrote; those it left out have their defaults."""
        return cls.model_construct().updated(state)

    def updated(self, state: Any) -> Self:
        """These settings with those of a saved state in their place; see :meth:`read`."""
        try:
            return self.replace(**self.read(state))
        except (TypeError, ValueError) as error:
            logger.warning("saved settings do not fit the others and are left as they are: %s", error)
            return self

    @classmethod
    def read(cls, state: Any) -> dict[str, Any]:
        """The settings in a saved state by name.

        What this version does not know or take is logged and left out: a file from elsewhere must never keep a program
        from loading.

        Args:
            state: What :meth:`to_json` of this or another version wrote.
        """
        if not isinstance(state, Mapping):
            logger.warning("saved settings %r are none of this version and left out", state)
            return {}
        settings = {}
        for name, saved in state.items():
            field = cls.fields().get(name)
            if field is None:
                logger.warning("the saved setting %s=%r is unknown to this version and left out", name, saved)
                continue
            try:
                settings[name] = field.load(saved)
            except Refused as refused:
                logger.warning("a saved setting is left out: %s", refused.of(name))
        return settings

    @classmethod
    def _refusal(cls, error: pydantic.ValidationError) -> Exception:
        """The error that users get for the first thing that pydantic found."""
        first = error.errors(include_url=False)[0]
        if first["type"] == "extra_forbidden":
            return TypeError(f"{cls.__name__}() got an unexpected keyword argument {first['loc'][0]!r}")
        refused = first.get("ctx", {}).get("error")
        assert isinstance(refused, Refused)
        return refused.of(*first["loc"])


class ScalingSettings(Settings):
    """How a :class:`~dynscale_dspy.DynScaling` draws samples and answers: its arguments but the program and the budget.

    ``policy`` and ``seed`` are arguments too: they are settings of its private pool, see :data:`PRIVATE`.
    """

    sampling: Sampling = Integrated()
    """What the next sample sees; None for the default."""
    selector: Annotated[Any, OfUsers(Selector, "a selector such as Plurality(), with read() and empty()")] = None
    """Which answer wins; None for the default for the program's types of output."""
    answer: AnswerFields | None = None
    """Names of the output fields that are the answer, or a function of the prediction; None for the default."""
    temperature: Temperature | None = None
    """Overrides the language model's."""
    max_samples: AtLeastOne = 64
    """Most samples one call may take."""
    max_choices: AtLeastOne = MOST_CHOICES
    """Most samples to draw with one request."""
    stop_when_decided: YesNo = False
    """Whether samples in flight are called off once they cannot change the winner."""
    leader: YesNo = False
    """Whether the first sample of a call with long inputs is asked for alone."""
    min_confidence: Probability | None = None
    """The confidence below which ``on_low`` answers; None for never."""
    on_low: Annotated[
        Literal["abstain", "raise"] | Callable[..., Any],
        WordOrFunction(("abstain", "raise"), "a module or a function"),
    ] = "abstain"
    """What happens to an answer below ``min_confidence``: a word, another module, or a function."""

    @pydantic.model_validator(mode="after")
    def _fit(self) -> Self:
        if callable(self.on_low) and self.min_confidence is None:
            raise Refused("on_low needs min_confidence=, the confidence below which to call it, such as 0.9")
        return self

    def to_json(self) -> dict[str, Any]:
        """As for all settings, but ``min_confidence`` and ``on_low`` go together.

        Both are left out if ``on_low`` is a function, and if neither was set: a file that says nothing of them must not
        switch off those of the program that loads it.
        """
        state = super().to_json()
        if "on_low" not in state or (self.min_confidence is None and self.on_low == "abstain"):
            state.pop("on_low", None)
            del state["min_confidence"]
        return state


class ScopeSettings(Settings):
    """The limits of a :meth:`~dynscale_dspy.BudgetPool.scope`; a pool has them too."""

    samples: Count | None = None
    """Cap on samples."""
    requests: Count | None = None
    """Cap on language-model requests, retries included."""
    tokens: Count | None = None
    """Cap on prompt and completion tokens together."""
    dollars: Money | None = None
    """Cap on money, to the billionth of a dollar."""
    deadline: Seconds | None = None
    """Seconds from now after which no sample begins and no request is made."""
    per_call: SamplesPerCall | None = None
    """Samples a call may draw on average."""
    max_per_call: Count | None = None
    """Samples no call may draw more of."""

    @pydantic.model_validator(mode="after")
    def _limited(self) -> Self:
        if all(getattr(self, name) is None for name in ScopeSettings.model_fields if name != "max_per_call"):
            raise Refused(
                "a pool needs a limit: give samples=, requests= or per_call=, or tokens=, dollars= or deadline="
            )
        return self

    @property
    def limits(self) -> dict[str, int | None]:
        """The caps by unit of a ledger, money in billionths of a dollar."""
        caps = {name: getattr(self, name) for name in ("samples", "requests", "tokens")}
        return {**caps, "nanodollars": self.nanodollars}

    def within(self, around: PoolSettings) -> PoolSettings:
        """The settings of a scope with these limits within a pool: what they do not say is the pool's."""
        others = PoolSettings.model_fields.keys() - ScopeSettings.model_fields.keys()
        kept = {name: getattr(around, name) for name in others}
        kept |= dict.fromkeys(PoolSettings.NOT_FOR_SCOPES)
        if self.max_per_call is not None:
            kept["min_per_call"] = min(around.min_per_call, self.max_per_call)
        return PoolSettings(**dict(self), **kept)

    @property
    def nanodollars(self) -> int | None:
        """The cap on money in billionths of a dollar."""
        return None if self.dollars is None else _fields.Dollars.nano(self.dollars)


class PoolSettings(ScopeSettings):
    """How a :class:`~dynscale_dspy.BudgetPool` is made: all its arguments."""

    min_per_call: Count = 1
    """Samples each call draws whatever the price, as long as the caps allow."""
    policy: Rule = KnowledgeGradient()
    """Whom to sample next; None for the default."""
    on_empty: Annotated[Literal["raise", "run_once"], OneOfWords] = "raise"
    """What a call does that finds not even one sample left."""
    strict: YesNo = False
    """Whether requests whose cost has no upper bound are refused."""
    prices: Annotated[Mapping[str, Price], Prices()] = {}
    """Prices by model name, for models whose price nobody else knows."""
    path: Path | None = None
    """A file to keep the budget in."""
    store: Annotated[Any, OfUsers(Store, "a store, with the methods of dynscale_dspy.budget.stores.base.Store")] = None
    """A place of the user's own to keep the budget in."""
    period: Period | None = None
    """The caps are for each such period."""
    clock: Annotated[Callable[[], float], Function(default=time.time)] = time.time
    """Where the time comes from, in seconds since the epoch."""
    warn_at: ShareSpent | None = None
    """The share of any cap at which to call ``on_warning``."""
    on_warning: Annotated[Callable[..., object], Function()] | None = None
    """Called with a :class:`~dynscale_dspy.BudgetWarning`; by default it is logged."""
    max_failures: Count | None = DEFAULT_MAX_FAILURES
    """Samples in a row that may fail before the pool stops itself; None for never."""
    max_concurrency: Count | None = None
    """Most requests of this process under way at once."""
    hedge: Quantile | None = None
    """The quantile of latency after which a second request is made for a slow one."""
    seed: Whole = 0
    """Seeds the order in which attempts are shown."""

    NOT_FOR_SCOPES: ClassVar[frozenset[str]] = frozenset(
        {
            *("path", "store", "period", "warn_at", "on_warning"),
            *("max_failures", "max_concurrency", "hedge"),
        }
    )
    """Settings that only the outermost pool has; what they do there holds for its scopes as well."""
    NOT_FOR_CLIENTS: ClassVar[frozenset[str]] = frozenset(
        {
            *("samples", "requests", "tokens", "dollars", "deadline"),
            *("path", "store", "period", "clock", "warn_at", "on_warning"),
        }
    )
    """Settings that only the pool itself has when it is shared with other processes, not their clients."""

    @pydantic.model_validator(mode="after")
    def _fit(self) -> Self:
        if self.max_per_call is not None and self.max_per_call < self.min_per_call:
            raise Refused(f"max_per_call must be at least min_per_call={self.min_per_call}, got {self.max_per_call!r}")
        if self.path is not None and self.store is not None:
            raise Refused("path= and store= both say where to keep the budget: give one of them")
        if self.on_warning is not None and self.warn_at is None:
            raise Refused("on_warning needs warn_at=, the share of a cap at which to call it, such as 0.8")
        return self

    @property
    def period_seconds(self) -> float | None:
        """How long a period is."""
        return None if self.period is None else _fields.PeriodOfTime.seconds(self.period)

    def leased(self, store: Store) -> PoolSettings:
        """What a client of this pool in another process is made with: its caps are what it leases.

        Args:
            store: Where it keeps what it spends.
        """
        kept = {name: value for name, value in self if name not in self.NOT_FOR_CLIENTS}
        return PoolSettings(**kept, samples=1, store=store)


PRIVATE = ("per_call", "policy", "seed")
"""The settings of a pool that belongs to one module alone, ``DynScaling(program, budget=8)``."""
