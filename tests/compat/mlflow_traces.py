"""Run in a process of its own, for autologging patches DSPy for good: what MLflow recorded, as JSON."""

import asyncio
import json
import os
import sys
from pathlib import Path

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"
os.environ["MLFLOW_DISABLE_TELEMETRY"] = os.environ["DO_NOT_TRACK"] = "true"
os.environ["MLFLOW_ALLOW_FILE_STORE"] = "true"

import dspy
import mlflow

from dynscale_dspy import BudgetPool, DynScaling, Integrated, Uniform, wrap
from tests.support import ScriptedModel, cycle


def main(folder: Path) -> None:
    mlflow.set_tracking_uri(folder.as_uri())
    experiment = mlflow.set_experiment("samples")
    mlflow.dspy.autolog()
    dspy.configure(lm=ScriptedModel(cycle("A", "B", "B")).lm())
    pool = BudgetPool(per_call=3, policy=Uniform())
    sampling = Integrated(independent=2, width=2, when="always")
    qa = DynScaling(dspy.ChainOfThought("question -> answer"), budget=pool, sampling=sampling)
    inside = wrap(dspy.ChainOfThought("question -> answer"), budget=pool, sampling=sampling)
    examples = [dspy.Example(question=f"batch {number}").with_inputs("question") for number in range(2)]

    def recorded() -> list:
        client = mlflow.MlflowClient()
        mlflow.flush_trace_async_logging()
        found = client.search_traces(locations=[experiment.experiment_id], max_results=100)
        traces = [client.get_trace(trace.info.trace_id) for trace in found]
        return [
            [
                {
                    "id": span.span_id,
                    "parent": span.parent_id,
                    "name": span.name,
                    "trace": span.trace_id,
                    "scaling": {
                        name.removeprefix("dynscale."): value
                        for name, value in span.attributes.items()
                        if name.startswith("dynscale.")
                    },
                }
                for span in trace.data.spans
            ]
            for trace in traces
        ]

    ways = {
        "sync": lambda: qa(question="sync"),
        "async": lambda: asyncio.run(qa.acall(question="async")),
        "batch": lambda: qa.batch(examples, num_threads=2, disable_progress_bar=True),
        "Evaluate": lambda: dspy.Evaluate(devset=examples, metric=lambda e, p: 1.0, num_threads=2)(qa),
        "wrap": lambda: inside(question="wrap"),
    }
    seen: set[str] = set()
    output = {}
    for name, way in ways.items():
        way()
        output[name] = [trace for trace in recorded() if trace[0]["trace"] not in seen]
        seen |= {trace[0]["trace"] for trace in output[name]}
    json.dump(output, sys.stdout)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
