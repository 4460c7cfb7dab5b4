"""Old names that still work, and say what the new ones are."""

from __future__ import annotations

import inspect
import warnings

import pytest

from dynscale_dspy._deprecated import alias, renamed, warn


@renamed(calls="requests", dollar="dollars")
def cap(requests: int | None = None, *, dollars: float | None = None) -> tuple[int | None, float | None]:
    """What is capped."""
    return requests, dollars


class Pool:
    """One with an attribute that was renamed."""

    lasting = alias("lasting", "is_durable")

    def __init__(self) -> None:
        self.is_durable = True


def test_an_old_argument_goes_where_the_new_one_does_and_warns():
    with pytest.warns(DeprecationWarning) as told:
        assert cap(calls=3, dollar=0.5) == (3, 0.5)
    assert [str(warning.message) for warning in told] == [
        "calls= is deprecated: use requests=",
        "dollar= is deprecated: use dollars=",
    ]


def test_new_arguments_warn_of_nothing():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert cap(3, dollars=0.5) == cap(requests=3, dollars=0.5) == (3, 0.5)
        assert cap() == (None, None)


def test_an_old_argument_that_is_none_is_passed_on_too():
    with pytest.warns(DeprecationWarning, match="^calls= is deprecated"):
        assert cap(calls=None) == (None, None)


def test_one_argument_under_both_names_is_refused():
    with pytest.raises(TypeError, match="^requests= was given twice: as calls=, its old name, as well$"):
        cap(requests=1, calls=2)


def test_a_wrapped_function_keeps_its_name_words_and_signature():
    assert (cap.__name__, cap.__doc__) == ("cap", "What is capped.")
    assert list(inspect.signature(cap).parameters) == ["requests", "dollars"]


def test_an_old_attribute_gives_the_new_one_and_cannot_be_set():
    pool = Pool()
    with pytest.warns(DeprecationWarning, match=r"^\.lasting is deprecated: use \.is_durable$"):
        assert pool.lasting is True
    pool.is_durable = False
    with pytest.warns(DeprecationWarning):
        assert pool.lasting is False
    with pytest.raises(AttributeError):
        pool.lasting = True
    assert Pool.lasting.__doc__ == "Deprecated: use :attr:`is_durable`."


def test_the_warning_points_at_the_line_that_used_the_old_name():
    def old() -> None:
        warn("old()", "new()")

    for use in (old, lambda: cap(calls=1), lambda: Pool().lasting):
        with pytest.warns(DeprecationWarning) as told:
            use()
        assert [warning.filename for warning in told] == [__file__]
