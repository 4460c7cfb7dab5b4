"""The live view of a pool."""

from __future__ import annotations

import io

import dspy
import pytest
from rich.console import Console

from dynscale_dspy import BudgetPool, Cost, DynScaling, Parallel, Uniform
from dynscale_dspy.reporting.history import History
from dynscale_dspy.reporting.live import Watch, in_notebook, table
from dynscale_dspy.reporting.pool_report import PoolReport
from dynscale_dspy.reporting.statistics import PoolStatistics
from tests.support import ScriptedModel, cycle


def test_watching_draws_the_last_state():
    pool, out = BudgetPool(samples=20, policy=Uniform()), io.StringIO()
    qa = DynScaling(dspy.Predict("question -> answer"), budget=pool, sampling=Parallel())
    with dspy.context(lm=ScriptedModel(cycle("A")).lm()):
        with Watch(pool.report, interval=60, console=Console(file=out, force_terminal=True, width=80)) as view:
            qa(question="q")
    view.close()
    assert "1 call answered" in out.getvalue() and "no cap" in out.getvalue()
    with pytest.raises(ValueError, match="interval"):
        pool.watch(interval=0)


def test_in_a_notebook_watching_redraws_one_display_in_place(monkeypatch):
    import IPython
    from IPython.core import display_functions
    from IPython.core.interactiveshell import InteractiveShell

    published = []
    shell = InteractiveShell()
    monkeypatch.setattr(IPython, "get_ipython", lambda: shell)
    assert not in_notebook()  # a shell in a terminal
    shell.kernel = object()
    monkeypatch.setattr(display_functions, "publish_display_data", lambda **kw: published.append(kw))
    monkeypatch.setattr(InteractiveShell, "initialized", classmethod(lambda cls: True))
    monkeypatch.setattr(InteractiveShell, "instance", classmethod(lambda cls: shell))
    pool = BudgetPool(samples=20)
    pool.watch(interval=60).close()
    ids = {message["transient"]["display_id"] for message in published}
    assert len(published) == 2 and len(ids) == 1 and published[1]["update"]
    assert "BudgetPool" in published[0]["data"]["text/html"]


def test_it_draws_whatever_report_it_is_given():
    now = PoolStatistics(Cost(samples=3), Cost(samples=2), {"samples": 9}, None, 1, 4, 0, None, {}, state="paused")
    out = io.StringIO()
    Console(file=out, width=80).print(table(PoolReport(now, History((), (), {}), title="Mine")))
    assert "Mine (paused)" in out.getvalue() and "4 calls answered, 1 open" in out.getvalue()
    row = next(line for line in out.getvalue().splitlines() if "samples" in line)
    assert [cell.strip() for cell in row.split("│")[1:-1]] == ["samples", "3", "2", "4"]
