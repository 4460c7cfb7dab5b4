"""A budget in memory; what all stores have in common is in tests/testing/test_stores.py."""

from __future__ import annotations

import subprocess
import sys
import textwrap

from dynscale_dspy.allocation.costs import Cost
from dynscale_dspy.budget.stores.base import Store
from dynscale_dspy.budget.stores.memory import MemoryStore


def test_it_is_a_store_that_ends_with_its_process():
    store = MemoryStore()
    assert isinstance(store, Store)
    assert not store.is_durable
    store.settle(store.reserve(Cost(samples=1), {}), Cost(samples=1), (b"call", 1))
    store.close()
    assert store.totals() == (Cost(samples=1), Cost())
    assert store.paid(b"call") == frozenset()


def test_a_child_goes_on_with_a_whole_copy():
    code = """
        import os, threading
        from dynscale_dspy.allocation.costs import Cost
        from dynscale_dspy.budget.stores.memory import MemoryStore
        stores, ended = [MemoryStore() for _ in range(3)], threading.Event()
        def work(store):
            while not ended.is_set():
                store.settle(store.reserve(Cost(samples=1), {}), Cost(samples=1))
        threads = [threading.Thread(target=work, args=(store,)) for store in stores for _ in range(2)]
        for thread in threads:
            thread.start()
        for _ in range(50):
            child = os.fork()
            if not child:
                for store in stores:
                    spent, reserved = store.totals()
                    left = sum(store._held.values(), Cost())
                    store.settle(store.reserve(Cost(samples=1), {}), Cost(samples=1))
                    assert reserved == left and store.totals() == (spent + Cost(samples=1), reserved)
                os._exit(0)
            assert os.waitpid(child, 0)[1] == 0
        ended.set()
        for thread in threads:
            thread.join()
        assert all(store.totals()[1] == Cost() for store in stores)
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=True, timeout=60)
