from __future__ import annotations

import io
import sys

import dspy
import pytest

from dynscale_dspy import DynScaling, _progress
from dynscale_dspy._progress import EVERY, FIRST, Lines, bar, named


class Clock:
    """Seconds that pass when they are told to."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def lines(clock: Clock, total: int | None = 1000, label: str = "vote of 4") -> tuple[Lines, io.StringIO]:
    out = io.StringIO()
    return Lines(total, "sample", label, out, clock), out


def test_a_line_comes_now_and_then_and_one_at_the_end(clock):
    told, out = lines(clock)
    for second in range(1, 41):
        clock.now = float(second)
        told.set_postfix_str(f"{second} tokens", refresh=False)
        told.update(20)
    told.close()
    told.close()
    seconds = [int(line.split(" tokens")[0].rpartition(" ")[2]) for line in out.getvalue().splitlines()]
    assert seconds == [2, 12, 22, 32, 40]
    assert out.getvalue().splitlines()[1] == "vote of 4: 240 of 1,000 samples, 12 tokens, 12 s gone, about 38 s to go"
    assert out.getvalue().splitlines()[-1] == "vote of 4: 800 of 1,000 samples, 40 tokens, 40 s gone"


def test_the_end_is_not_told_twice(clock):
    told, out = lines(clock, 1)
    clock.now = FIRST
    told.update()
    told.close()
    assert out.getvalue() == "vote of 4: 1 of 1 sample, 2 s gone\n"


def test_what_is_over_at_once_says_nothing(clock):
    told, out = lines(clock)
    clock.now = FIRST / 2
    told.update()
    clock.now = EVERY
    told.close()
    assert not out.getvalue()


def test_of_an_unknown_total_only_what_is_done_is_told(clock):
    told, out = lines(clock, None, "")
    clock.now = FIRST
    told.update()
    assert out.getvalue() == "1 sample, 2 s gone\n"


def test_a_bar_is_for_a_terminal(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr(sys, "stderr", Terminal())
    shown = bar(3, "sample", label="plain")
    shown.update()
    shown.close()
    assert "plain" in sys.stderr.getvalue() and "1/3" in sys.stderr.getvalue()
    hidden = bar(3, "sample", hidden=True)
    hidden.update()
    hidden.close()
    assert isinstance(bar(None, "pool", hidden=False), type(shown))


def test_a_batch_in_a_log_tells_how_far_it_is(monkeypatch):
    class Echo(dspy.Module):
        def forward(self, question):
            return dspy.Prediction(answer=question)

    out = io.StringIO()
    monkeypatch.setattr(sys, "stderr", out)
    monkeypatch.setattr(_progress, "FIRST", 0.0)
    with named("plain"):
        DynScaling(Echo(), 2).batch([{"question": "a"}, {"question": "b"}])
    first, *_, last = out.getvalue().splitlines()
    assert first.startswith("plain: 1 of 4 samples, ") and " s gone" in last
    out.truncate(0)
    DynScaling(Echo(), 2).batch([{"question": "a"}], disable_progress_bar=True)
    assert not out.getvalue().strip("\0")
