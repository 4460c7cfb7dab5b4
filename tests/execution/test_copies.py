from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable
from typing import Any

import dspy
import numpy as np
import pydantic
import pytest

from dynscale_dspy.execution.copies import Copier


class Model(pydantic.BaseModel):
    tags: list[str]


@dataclasses.dataclass
class Record:
    tags: list[str]


class Plain:
    def __init__(self, tags: list[str]) -> None:
        self.tags = tags


class Slotted:
    __slots__ = ("tags",)

    def __init__(self, tags: list[str]) -> None:
        self.tags = tags


VALUES: dict[str, tuple[Any, Callable[[Any], Any], Any]] = {
    "list": (["a"], lambda value: value.append("b"), ["a"]),
    "dict": ({"a": {"b": 1}}, lambda value: value["a"].update(b=2), {"a": {"b": 1}}),
    "set": ({"a"}, lambda value: value.add("b"), {"a"}),
    "tuple": ((["a"],), lambda value: value[0].append("b"), (["a"],)),
    "model": (Model(tags=["a"]), lambda value: value.tags.append("b"), Model(tags=["a"])),
    "dataclass": (Record(["a"]), lambda value: value.tags.append("b"), Record(["a"])),
    "array": (np.zeros(2), lambda value: value.fill(1), np.zeros(2)),
    "record": (dspy.Example(a=["a"]), lambda value: value.a.append("b"), dspy.Example(a=["a"])),
}


@pytest.mark.parametrize("kind", VALUES)
def test_what_one_user_changes_does_not_show_in_the_others(kind: str) -> None:
    value, change, before = VALUES[kind]
    first = dspy.Prediction(value=value)
    second = Copier().copy(first)
    change(first.value)
    assert np.all(second.value == before) and not np.all(first.value == before)
    first.answer = "new"
    assert "answer" not in second


@pytest.mark.parametrize("kind", [Plain, Slotted])
def test_so_for_objects_of_the_users_own_classes(kind: type) -> None:
    first = dspy.Prediction(value=kind(["a"]))
    second = Copier().copy(first)
    first.value.tags.append("b")
    assert second.value.tags == ["a"]


def test_completions_are_copied_with_the_fields_they_are() -> None:
    first = dspy.Prediction.from_completions([{"tags": ["a"]}, {"tags": ["b"]}])
    second = Copier().copy(first)
    assert second.completions.tags == [["a"], ["b"]] and second.completions.tags[0] is second.tags
    assert second.tags is not first.tags


def test_programs_language_models_and_methods_are_shared() -> None:
    program, lm = dspy.Predict("a -> b"), dspy.LM("fake/model")
    tool = dspy.Tool(program.get_config, name="tool")
    first = dspy.Prediction(program=program, inside=[{"lm": lm}, program.get_config], tool=tool)
    second = Copier().copy(first)
    assert second.program is program and second.inside[0]["lm"] is lm and second.inside is not first.inside
    assert second.inside[1].__self__ is program and second.tool.func.__self__ is program


def test_what_cannot_be_copied_is_shared_and_hinders_nothing_else() -> None:
    class Refuses:
        def __deepcopy__(self, memo: Any) -> Any:
            raise RuntimeError("no")

    values = {"lock": [threading.Lock()], "thread": threading.current_thread(), "refuses": Refuses()}
    first = dspy.Prediction(**values, tags=["a"])
    second = Copier().copy(first)
    assert second is not first and second.tags is not first.tags
    assert all(second[name] is value for name, value in values.items())
    assert Copier().copy(values["lock"]) is values["lock"]


def test_records_that_have_themselves_copied_in_a_way_that_fails_are_copied_all_the_same() -> None:
    class Refuses(dspy.Prediction):
        def __copy__(self) -> Any:
            raise RuntimeError("no")

        def __reduce_ex__(self, protocol: Any) -> Any:
            raise RuntimeError("no")

    first = Refuses(tags=["a"], inside=Refuses(tags=["b"]))
    second = Copier().copy(first)
    assert type(second) is Refuses and second.tags == ["a"] and second.inside.tags == ["b"]
    assert second.tags is not first.tags and second.inside is not first.inside


def test_records_in_records_are_copied_as_deep_as_python_goes() -> None:
    first = dspy.Prediction(tags=["a"])
    for _ in range(900):
        first = dspy.Prediction(inside=first)
    second = Copier().copy(first)
    assert second is not first and second.inside.inside is not first.inside.inside


def test_what_is_too_large_is_shared() -> None:
    large = [[number] for number in range(100_001)]
    assert Copier().copy(large) is large


def test_one_object_is_one_object_in_the_copies() -> None:
    tags = ["a"]
    copier = Copier()
    first, second = copier.copy(dspy.Prediction(tags=tags)), copier.copy([tags])
    assert first.tags is second[0] is copier.copy(tags)


def test_plain_values_are_themselves() -> None:
    assert Copier().copy("text") == "text" and Copier().copy(None) is None
