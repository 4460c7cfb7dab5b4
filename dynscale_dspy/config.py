"""The settings of wrapped programs, pools and scopes. Each is declared once, with its type, its bounds and its meaning.

Checking, saving, loading, copying and changing settings follow from the declarations here, and so do the tests. To add
a setting, declare a field in its model, and add an argument where users give it.
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
    FlagOrWord,
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
from dynscale_dspy._models import LanguageModels, Models, choices_in
from dynscale_dspy.allocation.policies import POLICIES, KnowledgeGradient, Policy
from dynscale_dspy.budget.prices import Price
from dynscale_dspy.budget.stores.base import Store
from dynscale_dspy.sampling.by_price import ByPrice
from dynscale_dspy.sampling.escalate import ModelStrategy
from dynscale_dspy.sampling.models import NAMES_TAKEN, Choosing, brief
from dynscale_dspy.sampling.samplers import Sampler
from dynscale_dspy.sampling.strategies import Integrated, Parallel, Sequential, Strategy
from dynscale_dspy.selection import saved as saved_selectors
from dynscale_dspy.selection.base import Selector
from dynscale_dspy.selection.fieldwise import Fieldwise

if TYPE_CHECKING:
    from typing_extensions import Self

logger = logging.getLogger(__name__)

KEY = "dynscale"
"""The key of the settings in a program's saved state. A program that is not wrapped ignores it."""
DEFAULT_MAX_FAILURES = 50
"""Samples in a row that may fail before a pool stops itself, by default."""
MOST_CHOICES = 8
"""Most samples to draw with one request, by default."""
BETWEEN_MODELS: type[ModelStrategy] = ByPrice
"""How a call draws from several language models, by default."""


@dataclass(frozen=True)
class Prices(_fields.Check):
    """A check for prices of language models by name. None stands for no prices."""

    def check(self, value: Any) -> dict[str, Price]:
        """The prices, copied into a new dict."""
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
        """The prices that :meth:`dump` wrote."""
        try:
            return self.check({model: Price(**price) for model, price in dict(saved).items()})
        except (TypeError, ValueError) as error:
            raise Refused(f"are unknown to this version: {error!r}, got {saved!r}") from None


@dataclass(frozen=True)
class OfUsers(_fields.Check):
    """A check for an object that implements a protocol, such as one of the user's own class; or for None.

    JSON cannot hold it. None is not saved either: a file then says nothing of the setting, and a program that loads the
    file keeps the object it has.

    Args:
        protocol: The protocol. It must be one that can be checked at run time.
        kind: What the message of the error asks for.
    """

    protocol: type
    kind: str

    def check(self, value: Any) -> Any:
        """The object itself."""
        if value is not None and (isinstance(value, type) or not self._implemented_by(value)):
            raise Refused(f"must be {self.kind}, got {value!r}", TypeError)
        return value

    def _implemented_by(self, value: Any) -> bool:
        if isinstance(value, self.protocol):
            return True
        # From Python 3.12 on that does not see what an object hands on to another one by __getattr__.
        bases = [base for base in self.protocol.__mro__ if getattr(base, "_is_protocol", False)]
        names = {name for base in bases for name in vars(base) if not name.startswith("_")}
        return bool(names) and all(hasattr(value, name) for name in names)

    def dump(self, value: Any) -> dict[str, Any]:
        """Raise: an object of the user's own is never saved."""
        raise Unsaved

    def load(self, saved: Any) -> Any:
        """Refuse it: no file should have one."""
        raise Refused(f"cannot be saved, but a file has {saved!r}")


@dataclass(frozen=True)
class WhichWins(OfUsers):
    """A check for a selector, or for a dict of selectors and similarities by output field; or for None."""

    def check(self, value: Any) -> Any:
        """The selector; of a dict one that chooses field by field."""
        if isinstance(value, Mapping) and value:
            try:
                value = Fieldwise(value)
            except TypeError as error:
                raise Refused(
                    f"must be {self.kind}, or a dict of such by field, got {value!r}: {error}", TypeError
                ) from None
        return super().check(value)

    def dump(self, value: Any) -> dict[str, Any]:
        """The name of its class and its settings, which may be selectors and similarities themselves.

        Raises:
            Unsaved: If it, or one of them, is not of this library.
        """
        if value is None:
            raise Unsaved
        return saved_selectors.dump(value)

    def load(self, saved: Any) -> Any:
        """The object of the named class with the saved settings."""
        try:
            return self.check(saved_selectors.load(dict(saved)))
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise Refused(f"is unknown to this version: {error!r}, got {saved!r}") from None


Sampling = Annotated[
    Strategy | ModelStrategy,
    OneOf(
        (Strategy, ModelStrategy),
        "Parallel(), Sequential() or Integrated(), or with several lms= Escalate() or BestOf()",
        (Parallel, Sequential, Integrated),
        Integrated,
    ),
]
Rule = Annotated[
    Policy, OneOf(Policy, "a Policy such as KnowledgeGradient()", tuple(POLICIES.values()), KnowledgeGradient)
]


class Settings(pydantic.BaseModel):
    """Base class of the models below: settings that are checked when they are made, and frozen.

    A model declares its fields with the types in :mod:`dynscale_dspy._fields`.

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
        """The declaration of each setting, by name."""
        fields = {}
        for name, info in cls.model_fields.items():
            field = _fields.field_of(info.annotation, info.metadata)
            assert field is not None, f"{cls.__name__}.{name} is not declared with a type of dynscale_dspy._fields"
            fields[name] = field
        return MappingProxyType(fields)

    @classmethod
    def among(cls, arguments: Mapping[str, Any]) -> Self:
        """Return the settings that are among the arguments of a function.

        Args:
            arguments: What ``locals()`` gives at the function's begin. Names that are no settings are ignored.
        """
        return cls(**{name: value for name, value in arguments.items() if name in cls.model_fields})

    def replace(self, **changes: Any) -> Self:
        """Return these settings with some of them changed.

        Raises:
            TypeError: If a setting is unknown or has the wrong type.
            ValueError: If a setting is out of range, or does not fit another.
        """
        return type(self)(**{**dict(self), **changes})

    def assigned(self, name: str, value: Any) -> Self:
        """Return these settings with one of them changed. Its value is checked, but not whether it fits the others.

        So settings that depend on each other can be assigned one after the other.

        Raises:
            TypeError: If the value has the wrong type.
            ValueError: If it is out of range.
        """
        try:
            return self.model_copy(update={name: self.fields()[name].checked(value)})
        except Refused as refused:
            raise refused.of(name) from None

    def to_json(self) -> dict[str, Any]:
        """Return the settings as JSON values, without those that JSON cannot hold: functions and users' own objects."""
        state = {}
        for name, field in self.fields().items():
            try:
                state[name] = field.dump(getattr(self, name))
            except Unsaved:
                continue
        return state

    @classmethod
    def from_json(cls, state: Any) -> Self:
        """Return the settings that :meth:`to_json` wrote; those that it left out have their defaults."""
        return cls.model_construct().updated(state)

    def updated(self, state: Any) -> Self:
        """Return these settings, with those in a saved state in place of their own; see :meth:`read`.

        If they do not fit each other, that is logged and these settings are returned unchanged.
        """
        try:
            return self.replace(**self.read(state))
        except (TypeError, ValueError) as error:
            logger.warning("saved settings do not fit the others and are left as they are: %s", error)
            return self

    @classmethod
    def read(cls, state: Any) -> dict[str, Any]:
        """Return the settings in a saved state, by name.

        Settings that are unknown to this version or out of range are logged and left out: a program must load whatever
        the file says.

        Args:
            state: What :meth:`to_json` wrote, in this version or another.
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
        """Return the error that users see for the first problem that pydantic found."""
        first = error.errors(include_url=False)[0]
        if first["type"] == "extra_forbidden":
            return TypeError(f"{cls.__name__}() got an unexpected keyword argument {first['loc'][0]!r}")
        refused = first.get("ctx", {}).get("error")
        assert isinstance(refused, Refused)
        return refused.of(*first["loc"])


class ScalingSettings(Settings):
    """The arguments of :class:`~dynscale_dspy.DynScaling` other than the program and the budget.

    Its ``policy`` and ``seed`` are not among them: they are settings of its private pool, see :data:`PRIVATE`.
    """

    sampling: Sampling = Integrated()
    """Which sampler draws the next sample; None for the default."""
    lms: Annotated[LanguageModels | None, Models(NAMES_TAKEN)] = None
    """The language models to draw samples from, by name, for all predictors or by predictor; None for what the program
    asks by itself."""
    selector: Annotated[Any, WhichWins(Selector, "a selector such as Plurality(), with read() and empty()")] = None
    """Which answer wins; None for the default for the program's types of output."""
    answer: AnswerFields | None = None
    """Names of the output fields that are the answer, or a function of the prediction; None for the default."""
    temperature: Temperature | None = None
    """The temperature of samples; None for the language model's own."""
    max_samples: AtLeastOne = 64
    """Most samples one call may take."""
    max_choices: AtLeastOne = MOST_CHOICES
    """Most samples to draw with one request."""
    stop_when_decided: YesNo = False
    """Whether samples in flight are cancelled once they cannot change the winner."""
    leader: YesNo = False
    """Whether the first sample of a call with long inputs is drawn alone, before the others."""
    probabilities: Annotated[bool | Literal["calibrated"], FlagOrWord(("calibrated",))] = True
    """Whether votes for one of a few labels use the probabilities of labels, where the language model tells them; with
    ``"calibrated"``, over their mean of the program's calls."""
    min_confidence: Probability | None = None
    """The confidence below which ``on_low`` answers; None for never."""
    on_low: Annotated[
        Literal["abstain", "raise"] | Callable[..., Any],
        WordOrFunction(("abstain", "raise"), "a module or a function"),
    ] = "abstain"
    """What a call returns instead of an answer below ``min_confidence``: a word, another module, or a function."""

    @pydantic.model_validator(mode="before")
    @classmethod
    def _by_default(cls, given: Any) -> Any:
        """With several language models the default is to choose between them."""
        if given.get("sampling") is None and choices_in(given.get("lms")) > 1:
            return {**given, "sampling": BETWEEN_MODELS()}
        return given

    @pydantic.model_validator(mode="after")
    def _fit(self) -> Self:
        if told := self._misfit:
            raise Refused(told)
        if callable(self.on_low) and self.min_confidence is None:
            raise Refused("on_low needs min_confidence=, the confidence below which to call it, such as 0.9")
        return self

    def to_json(self) -> dict[str, Any]:
        """Return the settings as JSON values; ``min_confidence`` and ``on_low`` only together.

        Both are left out if ``on_low`` is a function, or if neither was set; so is ``sampling`` if it chooses between
        language models. A program that loads such a file keeps the ones it has.
        """
        state = super().to_json()
        if self.has_several_lms:
            state.pop("sampling", None)
        if "on_low" not in state or (self.min_confidence is None and self.on_low == "abstain"):
            state.pop("on_low", None)
            del state["min_confidence"]
        return state

    def updated(self, state: Any) -> Self:
        """Return these settings, with those in a saved state in place of their own; see :meth:`read`.

        How to choose between language models is kept, as they are themselves.
        """
        if self.has_several_lms and isinstance(state, Mapping):
            state = {name: saved for name, saved in state.items() if name != "sampling"}
        return super().updated(state)

    def assigned(self, name: str, value: Any) -> Self:
        """Return these settings with one of them changed; see :meth:`Settings.assigned`.

        Several language models, or None again, bring the default of ``sampling`` with them where it had its default.
        """
        made = super().assigned(name, value)
        several = made.has_several_lms
        if name == "lms" and self.sampling == (Integrated() if several else BETWEEN_MODELS()):
            made = super(ScalingSettings, made).assigned("sampling", BETWEEN_MODELS() if several else Integrated())
        return made

    @staticmethod
    def of_predictor(name: str, given: Mapping[str, Any], lms: LanguageModels | None) -> dict[str, Any]:
        """The settings of one predictor of a program, of those that are given for the program.

        Args:
            name: The predictor's name.
            given: The settings.
            lms: Those of its ``lms``, by name, for all predictors or by predictor.
        """
        own = None if lms is None else lms.of_predictor(name)
        is_for_others = lms is not None and lms.predictors and choices_in(own) < 2
        rule = given.get("sampling")
        if is_for_others and isinstance(rule, ModelStrategy):
            rule = None  # it chooses for those that have several
        return {**given, "lms": own, "sampling": rule}

    @property
    def has_several_lms(self) -> bool:
        """Whether samples are drawn from several language models."""
        return self.lms is not None and len(self.lms) > 1

    def check_one_lm(self, what: str) -> None:
        """Refuse several language models, for what is meant for one.

        Args:
            what: The beginning of the message, such as ``"check() measures"``.

        Raises:
            ValueError: If there are several.
        """
        if self.has_several_lms:
            raise ValueError(
                f"{what} ways of sampling one language model, and lms has {len(self.lms or ())}: give it a program "
                "with one of them, such as DynScaling(program, lms=[cheap])"
            )

    @property
    def strategy(self) -> Strategy:
        """Which sampler draws the next sample, with the language models that it chooses between.

        Raises:
            ValueError: If ``sampling`` and ``lms`` do not fit each other, as after an assignment.
        """
        if told := self._misfit:
            raise ValueError(told)
        if isinstance(self.sampling, Strategy):
            return self.sampling
        assert self.lms is not None
        return Choosing(self.sampling, tuple(Sampler(name, lm=lm, model=name) for name, lm in self.lms.items()))

    @property
    def _misfit(self) -> str:
        """What is wrong with ``sampling`` beside ``lms``, in words; empty if nothing is."""
        if self.has_several_lms and not isinstance(self.sampling, ModelStrategy):
            return (
                f"lms= with several language models needs a sampling= that chooses between them, such as "
                f"{brief(BETWEEN_MODELS())}, which is the default, got {self.sampling!r}"
            )
        if isinstance(self.sampling, ModelStrategy) and not self.has_several_lms:
            return f"sampling={self.sampling!r} needs lms= with several language models to choose between"
        return ""


class ScopeSettings(Settings):
    """The arguments of :meth:`~dynscale_dspy.BudgetPool.scope`: the limits, which a pool has too."""

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
    """Most samples any call may draw."""

    @pydantic.model_validator(mode="after")
    def _limited(self) -> Self:
        if all(getattr(self, name) is None for name in ScopeSettings.model_fields if name != "max_per_call"):
            raise Refused(
                "a pool needs a limit: give samples=, requests= or per_call=, or tokens=, dollars= or deadline="
            )
        return self

    @property
    def limits(self) -> dict[str, int | None]:
        """The caps by unit, as a ledger takes them: money in billionths of a dollar."""
        caps = {name: getattr(self, name) for name in ("samples", "requests", "tokens")}
        return {**caps, "nanodollars": self.nanodollars}

    def within(self, around: PoolSettings) -> PoolSettings:
        """Return the settings of a scope with these limits inside a pool.

        The scope has the pool's other settings, except for those that only the outermost pool has.

        Args:
            around: The settings of the pool.
        """
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
    """The arguments of :class:`~dynscale_dspy.BudgetPool`."""

    min_per_call: Count = 1
    """Samples that each call draws whatever they are worth, as long as the caps allow."""
    policy: Rule = KnowledgeGradient()
    """The rule that decides which call gets the next sample; None for the default."""
    on_empty: Annotated[Literal["raise", "run_once"], OneOfWords] = "raise"
    """What a call does if not even one sample is left."""
    strict: YesNo = False
    """Whether requests whose cost has no upper bound are refused."""
    prices: Annotated[Mapping[str, Price], Prices()] = {}
    """Prices by the name of the model. They come before any public price list."""
    path: Path | None = None
    """A file to keep the budget in."""
    store: Annotated[Any, OfUsers(Store, "a store, with the methods of dynscale_dspy.budget.stores.base.Store")] = None
    """An object of the user's own to keep the budget in."""
    period: Period | None = None
    """The length of a period, after which the caps begin anew; None for caps that never do."""
    clock: Annotated[Callable[[], float], Function(default=time.time)] = time.time
    """Function that returns the time, in seconds since the epoch; None for the default."""
    warn_at: ShareSpent | None = None
    """The share of a cap that is spent when ``on_warning`` is called."""
    on_warning: Annotated[Callable[..., object], Function()] | None = None
    """Function to call with a :class:`~dynscale_dspy.BudgetWarning`; None to log it."""
    max_failures: Count | None = DEFAULT_MAX_FAILURES
    """Samples in a row that may fail before the pool stops itself; None for never."""
    max_concurrency: Count | None = None
    """Most requests that this process may have under way at once; None for no limit."""
    hedge: Quantile | None = None
    """The quantile of latency after which a slow request is made a second time; None for never."""
    seed: Whole = 0
    """The seed of random choices, such as the order in which earlier samples are shown."""

    NOT_FOR_SCOPES: ClassVar[frozenset[str]] = frozenset(
        {
            *("path", "store", "period", "warn_at", "on_warning"),
            *("max_failures", "max_concurrency", "hedge"),
        }
    )
    """Settings that only the outermost pool has. They hold for its scopes as well."""
    NOT_FOR_CLIENTS: ClassVar[frozenset[str]] = frozenset(
        {
            *("samples", "requests", "tokens", "dollars", "deadline"),
            *("path", "store", "period", "clock", "warn_at", "on_warning"),
        }
    )
    """Settings that stay with a published pool, while its clients in other processes have the others."""

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
        """The length of a period in seconds; None without periods."""
        return None if self.period is None else _fields.PeriodOfTime.seconds(self.period)

    def leased(self, store: Store) -> PoolSettings:
        """Return the settings of a client's pool, in another process. Its caps are what it leases, set later.

        Args:
            store: Where the client's pool keeps what it spends.
        """
        kept = {name: value for name, value in self if name not in self.NOT_FOR_CLIENTS}
        return PoolSettings(**kept, samples=1, store=store)


PRIVATE = ("per_call", "policy", "seed")
"""The settings that the pool of a single module has, ``DynScaling(program, budget=8, policy=..., seed=...)``."""
