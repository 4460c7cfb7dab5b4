"""Where tests are, and what they wait for."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

TESTS = Path(__file__).parent
PACKAGE = TESTS.parent / "dynscale_dspy"
MODULES = sorted(path.relative_to(PACKAGE) for path in PACKAGE.rglob("*.py") if path.name != "__init__.py")
SOURCES = sorted(path.relative_to(TESTS) for path in TESTS.rglob("*.py"))


def test_every_module_has_its_tests_where_it_is_itself() -> None:
    mirrors = {module: module.with_name(f"test_{module.name.removeprefix('_')}") for module in MODULES}
    missing = [
        f"dynscale_dspy/{module} has no tests/{mirror}"
        for module, mirror in mirrors.items()
        if not (TESTS / mirror).is_file()
    ]
    assert not missing, "\n".join(missing)


def test_no_test_sleeps() -> None:
    """Tests wait for what they need: an event, a future, a server's counters, a condition (:func:`support.until`).

    A model or a server that takes its time is no test that waits: FakeServer has ``median_latency`` and
    ``held()``, a scripted model may wait for a :class:`threading.Event`.
    """
    slept = [
        f"tests/{source}:{line} waits for some time instead of for a condition"
        for source in SOURCES
        for line in sleeps((TESTS / source).read_text(encoding="utf-8"))
    ]
    assert not slept, "\n".join(slept)


def sleeps(code: str) -> Iterator[int]:
    """Lines on which code sleeps for more than 0 seconds, or waits for an event that it makes for the purpose."""
    for node in ast.walk(ast.parse(code)):
        if not isinstance(node, ast.Call) or not (node.args or node.keywords):
            continue
        match node.func:
            case ast.Name("sleep") | ast.Attribute(attr="sleep"):
                nothing = node.args and isinstance(node.args[0], ast.Constant) and node.args[0].value == 0
                if not nothing:
                    yield node.lineno
            case ast.Attribute(value=ast.Call(func=ast.Name(maker) | ast.Attribute(attr=maker)), attr="wait"):
                if maker in ("Event", "Condition"):
                    yield node.lineno


def test_sleeps_are_found_however_they_are_written() -> None:
    code = """
time.sleep(0.1)
await asyncio.sleep(delay)
sleep(1)
await anyio.sleep(seconds=1)
threading.Event().wait(0.1)
Event().wait(timeout=0.1)
await asyncio.sleep(0)
await asyncio.sleep(0, "result")
await asyncio.Event().wait()
released.wait(10)
monkeypatch.setattr(time, "sleep", pauses.append)
"""
    assert sorted(sleeps(code)) == [2, 3, 4, 5, 6, 7]
