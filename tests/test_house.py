"""The design's picture of the package, held against its imports: rooms, arrows, no circle, no reaching through."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "dynscale_dspy"

# What each room may import besides itself. Single files at the top are rooms of their own.
LEAVES = {
    *("_ambient", "_cached", "_deprecated", "_fields", "_models", "_moved", "_naming", "_progress", "_shell"),
    *("_words", "errors"),
}
ARROWS: dict[str, set[str]] = {
    **{leaf: set() for leaf in LEAVES},
    "_progress": {"_words"},
    "_models": {"_fields"},
    "__init__": {"_moved"},
    "allocation": {"_deprecated", "_fields"},
    "selection": {"allocation", "_cached", "_fields"},
    "sampling": {"allocation", "selection", "_cached", "_deprecated", "_fields", "errors"},
    "reporting": {"allocation", "selection", "sampling", "_deprecated", "_words", "errors"},
    # Settings name strategies, policies, prices and stores; the pool is made of settings.
    "config": {"allocation", "selection", "sampling", "budget", "_fields", "_models"},
    "budget": {"allocation", "config", "reporting", *LEAVES - {"_moved"}},
    "execution": {"allocation", "selection", "sampling", "budget", "config", "reporting", *LEAVES - {"_moved"}},
    "module": {"allocation", "selection", "sampling", "budget", "config", "execution", *LEAVES - {"_moved"}},
    "wrapping": {"budget", "config", "execution", "module", *LEAVES - {"_moved"}},
    "replay": {"allocation", "selection", "sampling", "reporting", "_cached", "_progress", "_shell", "_words"},
    "tuning": {
        *("allocation", "selection", "sampling", "budget", "config", "execution", "reporting", "replay", "module"),
        *LEAVES - {"_moved"},
    },
    "distributed": {"allocation", "budget", "config", "execution", "module", "reporting", "_naming", "errors"},
    "lab": set(),
    "testing": {"allocation", "selection", "sampling", "budget", "replay"},
    "commands": {
        *("allocation", "budget", "execution", "lab", "module", "sampling", "tuning"),
        *("_progress", "_shell", "_words"),
    },
    "cli": {"commands", "replay", "tuning", "_shell"},
}
PURE = ("allocation", "selection", "sampling")

# Private names of other libraries, and of named tuples. What we use of DSPy's is in tests/compat/test_private_dspy.py.
FOREIGN = {
    "_replace",
    "_fields",
    "_asdict",
    "_completions",
    "_compiled",
    "_engine_spec",
    "_get_running_loop",
    "_cached",
}


def modules() -> dict[str, Path]:
    """Every module by its name below the package."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        name = ".".join(path.relative_to(PACKAGE).with_suffix("").parts)
        found[name.removesuffix(".__init__")] = path
    return found


MODULES = modules()
TREES = {name: ast.parse(path.read_text(encoding="utf-8")) for name, path in MODULES.items()}


def statements(node: ast.AST) -> Iterator[ast.AST]:
    """Every node but what only a type checker sees."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.dump(child.test):
            for other in child.orelse:
                yield other
                yield from statements(other)
            continue
        yield child
        yield from statements(child)


def imports(name: str, *, of: str = "dynscale_dspy") -> set[str]:
    """What a module imports of a package, anywhere in it, in functions too."""
    found = set()
    for node in statements(TREES[name]):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for full in names:
            package, _, rest = full.partition(".")
            if package == of:
                found.add(rest)
    return found


def targets(name: str) -> set[str]:
    """The modules that a module imports."""
    found = set()
    for imported in imports(name):
        parts = imported.split(".")
        for end in range(len(parts), 0, -1):
            candidate = ".".join(parts[:end])
            if candidate in MODULES and candidate != name:
                found.add(candidate)
                break
    return found


def room(name: str) -> str:
    return name.split(".")[0]


@pytest.mark.parametrize("name", MODULES)
def test_arrows_go_one_way(name):
    home = room(name)
    assert home in ARROWS, f"{home} is a new room: say in ARROWS what it may import"
    for target in targets(name):
        assert room(target) == home or room(target) in ARROWS[home], f"{name} must not import {target}"


def test_there_is_no_circle():
    reached: dict[str, set[str]] = {}

    def reach(name: str, path: tuple[str, ...]) -> set[str]:
        assert name not in path, f"a circle: {' -> '.join((*path[path.index(name) :], name))}"
        if name not in reached:
            reached[name] = set()
            for target in targets(name):
                reached[name] |= {target} | reach(target, (*path, name))
        return reached[name]

    for name in MODULES:
        reach(name, ())


@pytest.mark.parametrize("name", [name for name in MODULES if room(name) in PURE])
def test_pure_rooms_know_neither_dspy_nor_the_wire(name):
    for library in ("dspy", "litellm", "asyncio", "threading", "sqlite3", "time"):
        assert not imports(name, of=library), f"{name} imports {library}"


@pytest.mark.parametrize("name", MODULES)
def test_no_class_reaches_for_another_files_private_attributes(name):
    tree = TREES[name]
    own = {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in ("self", "cls")
    }
    own |= {node.name for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))}
    own |= {
        target.id
        for node in ast.walk(tree)
        if isinstance(node, (ast.Assign, ast.AnnAssign))
        for target in (node.targets if isinstance(node, ast.Assign) else [node.target])
        if isinstance(target, ast.Name)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and node.attr.startswith("_") and not node.attr.endswith("__"):
            assert node.attr in own | FOREIGN, f"{name}:{node.lineno} uses .{node.attr}"


@pytest.mark.parametrize("name", MODULES)
def test_no_comprehension_runs_in_the_frame_that_holds_a_lock(name):
    """From Python 3.12 on it is a part of that frame, and an interrupt in it may leave the lock held."""
    for held in ast.walk(TREES[name]):
        if isinstance(held, (ast.With, ast.AsyncWith)) and any("lock" in ast.unparse(item) for item in held.items):
            for node in statements(held):
                assert not isinstance(node, (ast.ListComp, ast.SetComp, ast.DictComp)), f"{name}:{node.lineno}"
