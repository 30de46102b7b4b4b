"""What people and Prometheus are told of the sizes of jobs."""

from __future__ import annotations

from batchrunner import advice, estimate
from batchrunner.estimate import Share
from batchrunner.metrics import Metrics, families
from batchrunner.metrics.counting import MODELS_MAX
from tests.unit.test_metrics import samples


def test_errors_of_predictions_by_model() -> None:
    """Of each of the first fifty that had anything to be off by; the others together, weighed by what they used."""
    found = {f"model-{number}": Share(number, 100) for number in range(MODELS_MAX)}
    found |= {"a": Share(10, 100), "b": Share(90, 300), "model-0": Share(0, 0)}
    metrics = Metrics()
    metrics.watch(families.PREDICTIONS, lambda: estimate.Statistics(input=found, output={"m": Share(1, 4)}))
    shown = samples(metrics)
    errors = {labels: value for (name, labels), value in shown.items() if name == "batchrun_input_prediction_error_ratio"}
    assert len(errors) == MODELS_MAX
    assert (errors["model-7",], errors["other",]) == (0.07, 0.25)
    assert shown["batchrun_output_prediction_error_ratio", ("m",)] == 0.25


def test_what_people_are_told_of_once_is_counted() -> None:
    metrics = Metrics()
    metrics.watch(families.ADVICE, lambda: advice.Statistics(oversize=2, generous_caps=1))
    shown = samples(metrics)
    assert (shown["batchrun_oversize_jobs_total", ()], shown["batchrun_generous_caps", ()]) == (2, 1)
