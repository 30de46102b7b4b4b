"""What is said of a job before it is sent: by the catalog, by limits, by what answers to its like have taken."""

from __future__ import annotations

import contextlib
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec
import pytest

from batchrunner import dialect
from batchrunner.catalog import Model, Parameter, models
from batchrunner.checks import Looked, problems
from batchrunner.estimate import Outputs
from batchrunner.job import Usage
from batchrunner.jobfile import BadLineError, parse
from batchrunner.simulator.catalog import Catalog

MODEL = Model(
    id="m",
    name="M",
    context_tokens=1_000,
    max_output_tokens=500,
    parameters=(
        Parameter("max_tokens", "integer"),
        Parameter("temperature", "number", min=Decimal(0), max=Decimal(2)),
        Parameter("effort", options=("low", "high")),
        Parameter("modalities", options=("text", "audio")),
        Parameter("tool_choice", options=("auto", "none")),
    ),
)

SMALL = Usage(10, 10)
CHAT = "/v1/chat/completions"


def found(
    body: dict[str, Any],
    *,
    model: Model | None = MODEL,
    catalog: bool = True,
    predicted: Usage = SMALL,
    outputs: Outputs | None = None,
    rpm: int = 50,
    tpm: int = 100_000,
    url: str = CHAT,
) -> list[tuple[str, str, str | None]]:
    """Level, code and parameter of each problem."""
    raw = msgspec.json.encode({"model": "m", "messages": []} | body)
    size = dialect.for_url(url).size(raw)
    job = Looked(url, size, msgspec.json.decode(raw, type=dict[str, msgspec.Raw]), predicted, outputs)
    offered = None if not catalog else {} if model is None else {model.id: model}
    return [(one.level, one.code, one.parameter) for one in problems(job, offered, rpm=rpm, tpm=tpm)]


def changed(**fields: Any) -> Model:
    return msgspec.structs.replace(MODEL, **fields)


def test_a_job_that_nothing_speaks_against() -> None:
    """Nor do parts of the shape, or another spelling of the cap."""
    assert found({"temperature": 1, "effort": "low", "max_completion_tokens": 100, "metadata": {}, "user": "u"}) == []


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({"model": "other"}, ("error", "unknown_model", "model")),
        ({"model": ""}, ("warning", "no_model", "model")),
        ({"temprature": 1}, ("warning", "unknown_parameter", "temprature")),
        ({"temperature": 2.5}, ("warning", "parameter_value", "temperature")),
        ({"temperature": -1}, ("warning", "parameter_value", "temperature")),
        ({"effort": "none"}, ("warning", "parameter_value", "effort")),
        ({"max_tokens": 501}, ("warning", "cap_above_model", None)),
    ],
)
def test_what_the_catalog_speaks_against(body: dict[str, Any], expected: tuple[str, str, str | None]) -> None:
    """Only a model that is not there is certain to fail: catalogs lag behind in all else."""
    assert found(body) == [expected]


EXAMPLES = sorted((Path(__file__).parents[2] / "jobs").glob("*.jsonl"))
#: of examples that are to fail, and the tools of one
EXPECTED = {"changed-before": {"unknown_model"}, "mixed": {"tools_billed"}}


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_no_example_is_warned_of_that_runs(example: Path) -> None:
    """Each is a valid line of its endpoint, and the embedded platform's catalog says so."""
    offered = {model.id: model for model in models(Catalog().list_body())}
    codes = set()
    for raw in example.read_bytes().splitlines():
        with contextlib.suppress(BadLineError):
            line = parse(raw)
            size = dialect.for_url(line.url).size(line.body)
            fields = msgspec.json.decode(line.body, type=dict[str, msgspec.Raw])
            codes |= {one.code for one in problems(Looked(line.url, size, fields, SMALL, None), offered, rpm=50, tpm=0)}
    assert codes == EXPECTED.get(example.stem, set())


@pytest.mark.parametrize(
    ("url", "known"), [("/v1/search", True), ("/v1/videos/generations", True), ("/v1/chat/completion", False), ("/v1/x", False)]
)
def test_a_path_that_nobody_documents(url: str, known: bool) -> None:
    """It may be the server's own; it may be misspelt."""
    assert found({}, url=url) == ([] if known else [("warning", "unknown_url", url)])


def test_the_cap_is_for_each_choice() -> None:
    """A request for several may write as much in each."""
    assert found({"max_tokens": 500, "n": 2}) == [("warning", "unknown_parameter", "n")]


def test_the_models_status_context_and_tools() -> None:
    """Each by itself, in words of the catalog."""
    assert found({}, model=changed(status="offline")) == [("warning", "model_unavailable", None)]
    assert found({}, predicted=Usage(1_001, 1)) == [("warning", "context_exceeded", None)]
    assert found({"max_tokens": 400}, predicted=Usage(600, 1)) == []
    assert found({"max_tokens": 401}, predicted=Usage(600, 1)) == [("warning", "cap_above_context", None)]
    assert found({"max_tokens": 401}, predicted=Usage(1_001, 1)) == [("warning", "context_exceeded", None)]
    (tools,) = models([{"id": "m", "pricing_rows": [{"unit": "tool-call", "name": "search", "price": "1"}]}])
    assert found({"tools": []}, model=tools) == [("warning", "tools_billed", "tools")]


def test_options_are_those_of_each_item_and_an_object_is_not_judged() -> None:
    """What stands in place of a word (a tool's name, a schema) is described nowhere."""
    assert found({"modalities": ["text", "audio"], "tool_choice": {"type": "function", "function": {"name": "f"}}}) == []
    assert found({"modalities": ["text", "video"]}) == [("warning", "parameter_value", "modalities")]
    assert found({"modalities": []}) == []


def test_where_the_catalog_lists_no_parameters_none_is_unknown() -> None:
    """It is not to say that there are none."""
    assert found({"anything": 1}, model=changed(parameters=None)) == []


def test_without_a_catalog_only_limits_speak() -> None:
    """Nobody knows what the server has."""
    assert found({"model": "other"}, catalog=False) == []
    assert found({"model": "other"}, catalog=False, predicted=Usage(100_001, 0)) == [("warning", "above_tpm", None)]
    assert found({}, predicted=Usage(500, 600), tpm=0) == []


@pytest.mark.parametrize(
    ("most", "count", "tpm", "expected"),
    [(40, 50, 10_000, True), (51, 50, 10_000, False), (40, 49, 10_000, False), (40, 50, 1_000_000, False), (40, 50, 0, False)],
)
def test_a_cap_far_above_use_costs_speed(most: int, count: int, tpm: int, expected: bool) -> None:
    """Where enough answers are known, and tokens would be used up before requests."""
    outputs = Outputs(value=10 << 16, count=count, most=most)
    codes = [code for _, code, _ in found({"max_tokens": 500}, outputs=outputs, tpm=tpm)]
    assert codes == (["generous_cap"] if expected else [])


def test_a_value_that_no_decoder_reads_is_not_judged() -> None:
    """A number beyond all bounds is the server's to refuse."""
    fields = {"temperature": msgspec.Raw(b"1e999")}
    size = dialect.for_url(CHAT).size(b'{"model":"m"}')
    assert list(problems(Looked(CHAT, size, fields, SMALL, None), {"m": MODEL}, rpm=0, tpm=0)) == []
