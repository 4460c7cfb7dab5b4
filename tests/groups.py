"""Which tests one process runs, where several do: those that share what takes long to make.

From pytest 9.2 on, pytest-xdist 3.8 no longer hears of the groups that marks name, and shares them out.
"""

from __future__ import annotations

from xdist.scheduler import LoadScopeScheduling

WHOLE = (
    "tests/compat/test_observability.py",  # a process with MLflow
    "tests/distributed/test_ray.py",  # a cluster
    "tests/sampling/test_purity.py",  # a process that forks
)
"""Files that one process runs as a whole."""
MATRIX, OPTIMIZERS = "tests/compat/test_matrix.py", "tests/compat/test_optimizers.py"


def group_of(test: str) -> str:
    """The group of a test by its name; its own name if it has none.

    >>> group_of("tests/distributed/test_ray.py::test_a_client_is_a_pool")
    'tests/distributed/test_ray.py'
    >>> group_of("tests/compat/test_matrix.py::test_it[`ReAct`, text tools-`batch`]")  # runs each plain row once
    'tests/compat/test_matrix.py::test_it[`ReAct`, text tools'
    >>> group_of("tests/compat/test_optimizers.py::test_it[gepa-an outer program-scaled]")  # compiles each once
    'tests/compat/test_optimizers.py::test_it[gepa'
    >>> group_of("tests/test_module.py::test_it[a-b]")
    'tests/test_module.py::test_it[a-b]'
    """
    file = test.partition("::")[0]
    if file in WHOLE:
        return file
    if file == MATRIX:
        return test.rpartition("-")[0] or test
    return test.partition("-")[0] if file == OPTIMIZERS else test


class Grouped(LoadScopeScheduling):
    """Gives each process the next group as soon as it is free, the largest groups first."""

    def _split_scope(self, nodeid: str) -> str:
        return group_of(nodeid)
