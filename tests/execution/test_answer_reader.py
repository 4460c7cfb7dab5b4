"""Which part of a prediction is the answer."""

from __future__ import annotations

import logging
from typing import Annotated, Any, Literal, Optional

import dspy
import pydantic
import pytest

from dynscale_dspy.execution.answer_reader import AnswerReader
from dynscale_dspy.selection.fields import ABSENT


def read(module, fields, answer=None):
    return AnswerReader(module, answer).read(module, dspy.Prediction(**fields))


def test_reasoning_is_not_an_answer():
    module = dspy.ChainOfThought("question -> answer")
    assert read(module, {"reasoning": "long", "answer": "4"}) == "4"
    # Native reasoning comes after the answer, log-probabilities after everything.
    assert read(module, {"answer": "4", "reasoning": "long", "logprobs": object()}) == "4"


def test_several_answer_fields_vote_together():
    module = dspy.Predict("text -> label: Literal['a', 'b'], amount: float")
    assert read(module, {"label": "a", "amount": 0.5}) == {"label": "a", "amount": 0.5}


def test_what_explains_or_rates_a_label_does_not_vote_unless_it_is_named():
    module = dspy.ChainOfThought("text -> label: Literal['a', 'b'], confidence: float, explanation")
    fields = {"reasoning": "r", "label": "a", "confidence": 0.71, "explanation": "for"}
    assert read(module, fields) == "a"
    assert read(module, fields, answer="confidence") == 0.71
    assert read(module, fields, answer=["label", "explanation"]) == {"label": "a", "explanation": "for"}
    assert AnswerReader(module).left_out == ["confidence", "explanation"]
    assert AnswerReader(module, "label").left_out == []


def test_which_fields_vote_is_said_where_some_do_not(caplog):
    with caplog.at_level(logging.DEBUG, "dynscale_dspy"):
        AnswerReader(dspy.Predict("text -> label, explanation"))
        AnswerReader(dspy.Predict("text -> label"))
    (told,) = caplog.messages
    assert told == (
        "Predict: the votes are about label; explanation explain or rate it and do not vote, unless answer= names them"
    )


def test_a_custom_programs_fields_vote_by_the_same_rule():
    class Program(dspy.Module):
        def __init__(self):
            super().__init__()
            self.classify = dspy.ChainOfThought("text -> label: bool, confidence: float")

    fields = {"label": True, "confidence": 0.5, "note": "n", "city": "Paris"}
    assert read(Program(), fields) == {"label": True, "city": "Paris"}
    assert read(Program(), {"confidence": 0.5}) == 0.5


@pytest.mark.parametrize("kind", [int | None, str | None, Literal["a", None], list[str] | None, Any, type(None)])
def test_none_is_an_answer_where_the_type_allows_it(kind):
    module = dspy.Predict(dspy.Signature({"text": (str, dspy.InputField()), "found": (kind, dspy.OutputField())}))
    for answer in (None, "found"):
        assert read(module, {"found": None}, answer=answer) is None
        assert read(module, {}, answer=answer) is ABSENT


@pytest.mark.parametrize("kind", [int, str, Literal["a", "b"], list[str], dict[str, int], bool])
def test_none_is_no_answer_where_the_type_forbids_it(kind):
    module = dspy.Predict(dspy.Signature({"text": (str, dspy.InputField()), "found": (kind, dspy.OutputField())}))
    assert read(module, {"found": None}) is ABSENT


def test_a_record_of_nones_is_an_answer_where_all_may_be_none():
    module = dspy.Predict("text -> name: Optional[str], phone: Optional[str]")
    assert read(module, {"name": None, "phone": None}) == {"name": None, "phone": None}
    assert read(module, {"name": "Ann", "phone": "null"}) == {"name": "Ann", "phone": None}
    assert read(module, {"name": "Ann"}) == {"name": "Ann"}
    assert read(module, {}) is ABSENT


def test_a_record_of_blanks_is_no_answer():
    module = dspy.Predict("text -> name: str, phone: str")
    assert read(module, {"name": "", "phone": " "}) is ABSENT
    assert read(module, {"name": "Ann", "phone": ""}) == {"name": "Ann"}


def test_a_custom_program_may_answer_none_where_its_predictors_may():
    class Program(dspy.Module):
        def __init__(self):
            super().__init__()
            self.find = dspy.Predict("text -> found: Optional[int]")

    assert read(Program(), {"found": None}) is None
    assert read(Program(), {"city": None}) is ABSENT


@pytest.mark.parametrize(
    ("reply", "is_there"),
    [
        ("[[ ## found ## ]]\nnull", True),
        ("[[##found##]]", True),
        ('{"found": null}', True),
        ("{found : null}", True),
        ({"text": '{"found": null}'}, True),
        ("<found>null</found>", True),
        ("<found/>", True),
        (None, True),
        ("", False),
        ("Sorry, nothing found.", False),
        ('{"founder": null, "unfound": 1}', False),
        ("[[ ## other ## ]] <foundry>", False),
    ],
)
def test_none_for_a_field_that_the_model_left_out_is_no_answer(reply, is_there):
    module = dspy.Predict("text -> found: Optional[int]")
    reply = reply if reply is None else str(reply)  # with log-probabilities DSPy has a dict
    answer = AnswerReader(module).read(module, dspy.Prediction(found=None), reply)
    assert answer is (None if is_there else ABSENT)
    assert AnswerReader(module).read(module, dspy.Prediction(found=3), reply) == 3


def test_none_of_an_answer_function_is_no_answer():
    module = dspy.Predict("text -> found: Optional[int]")
    assert read(module, {"found": None}, answer=lambda p: p.found) is ABSENT


def test_an_agent_answers_with_its_own_signature():
    def search(query: str) -> str:
        """Search."""
        return query

    module = dspy.ReAct("question -> answer", tools=[search])
    assert read(module, {"trajectory": {"thought_0": "..."}, "reasoning": "r", "answer": "4"}) == "4"


def test_a_custom_program_answers_with_what_it_returns():
    class Program(dspy.Module):
        def forward(self, question):
            return dspy.Prediction(reasoning="r", city="Paris")

    assert read(Program(), {"reasoning": "r", "city": "Paris"}) == "Paris"


def test_the_user_may_name_the_answer():
    module = dspy.Predict("text -> label: Literal['a', 'b'], note: str")
    assert read(module, {"label": "a", "note": "whatever"}, answer="label") == "a"
    assert read(module, {"label": "a", "note": "n"}, answer=["label", "note"]) == {"label": "a", "note": "n"}
    assert read(module, {"label": "a", "note": "x y"}, answer=lambda p: len(p.note)) == 3


def test_a_failing_answer_function_costs_the_vote_not_the_call(caplog):
    module = dspy.Predict("text -> label")
    assert read(module, {"label": "a"}, answer=lambda p: 1 / 0) is ABSENT
    assert "casts no vote" in caplog.text


def test_the_words_of_the_answer_functions_error_are_not_logged(caplog):
    module = dspy.Predict("text -> label")
    assert read(module, {"label": "secret"}, answer=lambda p: {}[p.label]) is ABSENT
    assert "KeyError" in caplog.text and "secret" not in caplog.text


def test_a_field_that_does_not_exist_is_refused_before_anything_runs():
    with pytest.raises(ValueError, match=r"answer names 'anwser', which the program does not produce.*'answer'"):
        AnswerReader(dspy.ChainOfThought("question -> answer"), "anwser")


def test_a_field_missing_from_an_unknown_programs_result_is_an_error_not_an_empty_vote():
    class Program(dspy.Module):
        pass

    with pytest.raises(ValueError, match=r"answer names 'city', but the program returned the fields \['town'\]"):
        read(Program(), {"town": "Paris"}, answer="city")


def test_a_signature_of_reasoning_alone_needs_a_hint():
    with pytest.raises(ValueError, match="say which one with answer="):
        AnswerReader(dspy.Predict("question -> reasoning"))


@pytest.mark.parametrize("bad", [5, [], [1], {"a"} - {"a"}])
def test_an_answer_that_names_nothing_is_refused(bad):
    with pytest.raises(TypeError, match="answer must be an output field's name"):
        AnswerReader(dspy.Predict("question -> answer"), bad)


@pytest.mark.parametrize(
    ("answer", "types"),
    [
        (None, {"label": Literal["a", "b"]}),
        ("score", {"score": float}),
        (["score", "label"], {"score": float, "label": Literal["a", "b"]}),
        (lambda prediction: prediction.score, {}),
    ],
    ids=["all", "one", "two", "function"],
)
def test_types_are_those_of_the_answers_fields(answer, types):
    module = dspy.ChainOfThought("text -> label: Literal['a', 'b'], score: float")
    assert AnswerReader(module, answer).output_types == types


def test_types_of_a_program_without_a_signature_are_not_known():
    assert AnswerReader(dspy.Module(), "city").output_types == {}


@pytest.mark.parametrize("fields", [{}, {"answer": None}])
def test_a_sample_that_lacks_the_answer_gives_none(fields):
    assert read(dspy.Predict("question -> answer"), fields) is ABSENT


_ = Literal, Optional  # used by the signatures above, which DSPy resolves by name


def test_an_answer_is_written_where_it_is_read():
    module = dspy.ChainOfThought("text -> label, amount: float, note")
    reader = AnswerReader(module)
    before = dspy.Prediction(reasoning="r", label="a", amount=1.0, note="n")
    made = reader.written(module, before, {"label": "b", "amount": 2.0})
    assert made is not None and reader.read(module, made) == {"label": "b", "amount": 2.0}
    assert (made.reasoning, made.note) == ("r", "n") and type(made) is dspy.Prediction
    assert before.label == "a"  # it is left as it was
    one = AnswerReader(module, "label").written(module, before, "c")
    assert one is not None and (one.label, one.amount) == ("c", 1.0)


def test_a_functions_answer_and_what_is_no_prediction_cannot_be_written():
    module = dspy.Predict("text -> label")
    assert (
        AnswerReader(module, lambda prediction: prediction.label).written(module, dspy.Prediction(label="a"), 1) is None
    )
    assert AnswerReader(module).written(module, {"label": "a"}, "b") is None


def test_a_types_constraints_are_part_of_it():
    signature = dspy.Signature(
        {
            "text": (str, dspy.InputField()),
            "tags": (Annotated[list[str], pydantic.Field(min_length=2)], dspy.OutputField()),
        }
    )
    types = AnswerReader(dspy.Predict(signature)).output_types
    assert AnswerReader(dspy.Predict(signature), ["tags"]).output_types == types
    with pytest.raises(pydantic.ValidationError, match="at least 2"):
        pydantic.TypeAdapter(types["tags"]).validate_python(["a"])


def test_a_signature_whose_fields_are_changed_is_read_as_it_is_then():
    module = dspy.Predict("text -> label: str, note: str")
    assert list(AnswerReader(module).output_types) == ["label"]
    module.signature.output_fields["note"].annotation = int
    assert AnswerReader(module).output_types == {"label": str, "note": int}
