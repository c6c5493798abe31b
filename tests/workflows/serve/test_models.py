from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient
from pydantic import ValidationError

from tests.workflows.serve.fakes import SPEC, FakeBackend, problem
from workflows.serve.models import Inference


def tensor(**changes: Any) -> dict[str, Any]:
    return {"name": "features", "shape": [2, 4], "datatype": "FP32", "data": [0.5] * 8} | changes


def test_models_by_name_and_version(client: TestClient) -> None:
    body = client.get("/v1/models").json()
    assert [(one["name"], one["version"]) for one in body["models"]] == [("fake", "1"), ("fake", "2"), ("other", "1")]
    assert body["default"] == "other@1"
    assert client.get("/v1/models/fake@1").json() == body["models"][0]
    assert client.get("/v1/models/fake").json() == body["models"][1]
    assert body["models"][0] == {
        "name": "fake",
        "version": "1",
        "digest": "1" * 64,
        "labels": ["Pirouette", "Courus"],
        "tags": [],
        "feature": {"extractor": "i3d-rgb", "dim": 4, "stride_s": 1.0, "spec_id": SPEC.spec_id},
        "limits": {"max_localize_s": 30.0},
    }
    for name in ("fake@3", "Fake", "unknown"):
        problem(client.get(f"/v1/models/{name}"), 404, "not-found")
    for name in ("fake@", "a b", "x" * 300):
        problem(client.get(f"/v1/models/{name}"), 422, "bad-parameters")


def test_segments_of_features(client: TestClient, backend: FakeBackend) -> None:
    request = {"id": "7", "inputs": [tensor()], "parameters": {"min_score": 0.25, "stride_s": 1.0}}
    response = client.post("/v2/models/fake@1/infer", json=request)
    assert response.status_code == 200, response.text
    assert response.json() == {
        "model_name": "fake",
        "model_version": "1",
        "id": "7",
        "outputs": [
            {"name": "label", "shape": [1], "datatype": "BYTES", "data": ["Pirouette"]},
            {"name": "start", "shape": [1], "datatype": "FP64", "data": [0.0]},
            {"name": "end", "shape": [1], "datatype": "FP64", "data": [4.0]},
            {"name": "score", "shape": [1], "datatype": "FP64", "data": [0.5]},
        ],
    }
    (asked,) = backend.asked
    assert (asked["model"], asked["min_score"], asked["start_s"].tolist()) == ("fake@1", 0.25, [0.0, 1.0])
    assert asked["features"].dtype == np.float32
    nested = client.post("/v2/models/fake@1/infer", json={"inputs": [tensor(data=[[0.5] * 4, [0.25] * 4])]})
    assert nested.json()["outputs"][2]["data"] == [3.0]
    assert backend.asked[1]["features"].tolist() == [[0.5] * 4, [0.25] * 4]


@pytest.mark.parametrize(
    ("parameters", "input_", "urn"),
    [
        ({}, tensor(shape=[2, 6], data=[0.5] * 12), "spec-mismatch"),
        ({"spec_id": "0" * 12}, tensor(), "spec-mismatch"),
        ({"stride_s": 0.32}, tensor(), "spec-mismatch"),
        ({"mystery": 1}, tensor(), "bad-parameters"),
        ({}, tensor(data=[0.5] * 7), "bad-parameters"),
        ({}, tensor(data=[[0.5] * 3, [0.5] * 5]), "bad-parameters"),
        ({}, tensor(data=[0.5] * 7 + [1e300]), "bad-parameters"),
        ({}, tensor(data=[0.5] * 7 + ["1"]), "bad-parameters"),
        ({}, tensor(data=[0.5] * 7 + [10**400]), "bad-parameters"),
        ({}, tensor(data=[]), "bad-parameters"),
        ({}, tensor(shape=[8]), "bad-parameters"),
        ({}, tensor(shape=[0, 4], data=[]), "bad-parameters"),
        ({}, tensor(datatype="FP64"), "bad-parameters"),
        ({}, tensor(name="pixels"), "bad-parameters"),
    ],
)
def test_other_features_are_refused(client: TestClient, parameters: Any, input_: Any, urn: str) -> None:
    request = {"inputs": [input_], "parameters": parameters}
    body = problem(client.post("/v2/models/fake/infer", json=request), 422, urn)
    assert len(body["detail"]) < 500


@pytest.mark.parametrize(
    "body",
    [
        {"inputs": [tensor(data=[""] * 1000)]},
        {"inputs": [tensor(data=[[0.5, ""]] * 1000)]},
        {"inputs": [tensor()]} | {f"m{n}": 0 for n in range(1000)},
    ],
)
def test_what_is_wrong_a_thousand_times_is_told_a_few_times(client: TestClient, body: dict[str, Any]) -> None:
    """An error takes a hundred times the room of what is wrong."""
    with pytest.raises(ValidationError) as found:
        Inference.model_validate(body)
    assert found.value.error_count() <= 3
    assert len(problem(client.post("/v2/models/fake/infer", json=body), 422, "bad-parameters")["errors"]) <= 3


def test_a_mismatch_names_both(client: TestClient) -> None:
    request = {"inputs": [tensor(shape=[2, 6], data=[0.5] * 12)]}
    body = problem(client.post("/v2/models/fake/infer", json=request), 422, "spec-mismatch")
    assert body["detail"] == "fake@2 reads features of D 4, found 6."


def test_numbers_that_are_none(client: TestClient) -> None:
    text = '{"inputs": [{"name": "features", "shape": [1, 4], "datatype": "FP32", "data": [0, 1, 2, NaN]}]}'
    headers = {"Content-Type": "application/json"}
    problem(client.post("/v2/models/fake/infer", content=text, headers=headers), 422, "bad-parameters")
