"""The versions that `.ci/run` installs, held against what `pyproject.toml` asks for."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # pytest brings it

ROOT = Path(__file__).parent.parent
PYTHONS = ("3.10.0", "3.11.0", "3.12.0", "3.13.0")


def asked() -> list[Requirement]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = [text for each in project["optional-dependencies"].values() for text in each]
    requirements = [Requirement(text) for text in project["dependencies"] + extras]
    return [requirement for requirement in requirements if requirement.name != project["name"]]


def pinned(python: str) -> dict[str, str]:
    lines = (ROOT / ".ci" / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = [Requirement(line) for line in lines if not line.startswith("#")]
    machine = {"python_full_version": python, "python_version": python.rpartition(".")[0], "sys_platform": "linux"}
    here = [pin for pin in pins if pin.marker is None or pin.marker.evaluate(machine)]
    return {canonicalize_name(pin.name): str(pin.specifier).removeprefix("==") for pin in here}


@pytest.mark.parametrize("python", PYTHONS)
def test_every_dependency_has_one_version_that_the_project_allows(python: str) -> None:
    pins = pinned(python)
    wrong = [
        f"{requirement} has {pins.get(canonicalize_name(requirement.name))}"
        for requirement in asked()
        if not requirement.specifier.contains(pins.get(canonicalize_name(requirement.name), "0"))
    ]
    assert wrong == []


def test_what_is_pinned_names_no_place_to_get_it_from() -> None:
    text = (ROOT / ".ci" / "constraints.txt").read_text(encoding="utf-8")
    assert "://" not in text and "file:" not in text
