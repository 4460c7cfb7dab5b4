import inspect
import subprocess
import sys
from typing import Any

import dspy
import pytest

from dynscale_dspy import lab
from dynscale_dspy.lab.model import CHECKPOINTS
from tests.lab.support import QUESTION

ENGINES = ["litellm"] + ["auto"] * ("engine" in inspect.signature(dspy.LM.__init__).parameters)


@pytest.mark.parametrize(
    ("engine", "model", "least"), [*((engine, "large", 18) for engine in ENGINES), ("litellm", "small", 11)]
)
def test_an_unmodified_program_gets_answers_it_can_read(engine: str, model: str, least: int) -> None:
    examples = lab.questions(40, seed=11, level="mixed")
    program = dspy.ChainOfThought("question -> answer")
    right = read = 0
    with lab.serve(engine=engine, model=model, cache=False) as lm:
        program.set_lm(lm)
        pairs: list[Any] = [(program, example) for example in examples]
        run = dspy.Parallel(num_threads=8, max_errors=40, disable_progress_bar=True)
        for example, prediction in zip(examples, run(pairs), strict=True):
            if prediction is not None and prediction.answer:
                read += 1
                right += prediction.answer == example.answer
        # A reply that ChatAdapter cannot read is asked for again with JSONAdapter: few were.
        assert len(lm.history) <= (42 if model == "large" else 46)
    assert read >= 38
    assert right >= least  # three to four standard deviations below what is expected


def test_both_models_are_served_side_by_side_and_told_by_name() -> None:
    with lab.serve(model="small") as small, lab.serve() as large:
        assert (small.model, large.model) == ("openai/lab-arithmetic-small", "openai/lab-arithmetic")
        for lm in (small, large):
            with dspy.context(lm=lm):
                assert dspy.ChainOfThought("question -> answer")(question="2 + 2 =").answer


def test_a_model_of_another_size_is_refused() -> None:
    with pytest.raises(ValueError, match="model must be one of 'large', 'small', got 'medium'"):
        lab.LabServer(model="medium")


def test_the_second_model_is_small() -> None:
    assert sum(path.stat().st_size for path in CHECKPOINTS["small"].iterdir()) < 1_000_000


def test_a_program_with_earlier_attempts_checks_them() -> None:
    program = dspy.ChainOfThought("question -> answer")
    signature: Any = program.predict.signature
    field = dspy.InputField(desc=lab.EARLIER_ATTEMPTS)
    program.predict.signature = signature.append("earlier_attempts", field, type_=str)
    given = [("41+27=68;68-13=65", "65"), ("41+27=68;68-13=65", "65"), ("41+27=68;68-13=55", "55")]
    attempts = "\n\n".join(f"Attempt {i}:\n{steps}\nanswer: {answer}" for i, (steps, answer) in enumerate(given, 1))
    with lab.serve(cache=False, temperature=0) as lm:
        program.set_lm(lm)
        prediction = program(question=QUESTION, earlier_attempts=attempts)
    assert prediction.answer == "55"  # not the majority's
    assert prediction.reasoning.startswith("1:65+13=78;78-27=51/41 no;")
    assert prediction.reasoning.endswith(";3:55+13=68;68-27=41/41 ok")


def test_the_language_model_takes_its_options_from_serve() -> None:
    with lab.serve(temperature=0.5, max_tokens=7, cache=False, num_retries=0) as lm:
        assert (lm.kwargs["temperature"], lm.kwargs["max_tokens"]) == (0.5, 7)
        assert (lm.cache, lm.num_retries) == (False, 0)
        assert lm.kwargs["api_base"].startswith("http://127.0.0.1:")
        assert len(lm("hi", n=3)) == 3


def test_importing_the_lab_imports_no_server() -> None:
    code = (
        "import sys, dynscale_dspy.lab;"
        "assert not {'litellm', 'starlette', 'uvicorn', 'tokenizers', 'safetensors'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


@pytest.mark.parametrize("missing", ["uvicorn", "starlette", "tokenizers", "safetensors"])
def test_a_missing_dependency_is_named(missing: str) -> None:
    code = f"""
import sys
sys.modules[{missing!r}] = None
from dynscale_dspy import lab
try:
    with lab.serve():
        pass
except ImportError as error:
    assert 'pip install "dynscale-dspy[lab]"' in str(error) and {missing!r} in str(error), error
else:
    raise SystemExit("no error")
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
