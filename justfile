# The commands that people use: `just`, then a name. https://just.systems

# What there is.
default:
    @just --list

# All that is needed to work on the package, in the environment that is active.
setup:
    pip install -e ".[dev]"
    pre-commit install

# Lint, format, types.
lint:
    ruff check --fix .
    ruff format .
    pyright

# Tests: all on all cores, or those you name.
test *paths:
    pytest {{ paths }}

# One file, in one process, with output.
one path:
    pytest {{ path }} -n 0 -s

# The documentation, at localhost:8000.
docs:
    mkdocs serve

# The notebooks, run anew.
notebooks:
    python notebooks/execute.py

# Everything, from scratch, as the forge runs it.
ci:
    bash .ci/run

# The versions that .ci/run installs, anew: the newest that go together, for every Python.
pin:
    head -2 .ci/constraints.txt > .ci/new.txt
    uv pip compile --quiet --universal --python-version 3.10 --extra dev --no-annotate --no-header pyproject.toml >> .ci/new.txt
    mv .ci/new.txt .ci/constraints.txt

# A wheel and a source distribution, checked and tried in an environment of their own.
package:
    bash .ci/package
