"""One budget for many processes and machines, on Ray (extra ``ray``).

`BudgetPool(...).publish("name")` keeps the budget in a named actor, `BudgetPool.connect("name")` spends from it
anywhere in the cluster, and :func:`run` answers the rows of a Ray dataset with it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dynscale_dspy.distributed.client import LeasedPool, connect
    from dynscale_dspy.distributed.rows import run

__all__ = ["LeasedPool", "connect", "run"]


def __getattr__(name: str) -> Any:
    # Ray takes a second to import, and is not everyone's.
    if name in ("LeasedPool", "connect"):
        from dynscale_dspy.distributed import client

        return getattr(client, name)
    if name == "run":
        from dynscale_dspy.distributed.rows import run

        return run
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
