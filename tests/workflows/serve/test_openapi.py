"""The API's contract, kept as a file."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.workflows.serve.fakes import FakeBackend
from workflows.serve import openapi
from workflows.serve.app import create_app
from workflows.serve.data import Data


def test_the_document_is_the_kept_one(tmp_path: Path) -> None:
    document = create_app(FakeBackend(), Data(str(tmp_path))).openapi()
    assert openapi.PATH.read_text() == openapi.text(document), "run `make openapi`"


def test_the_document_tells_all() -> None:
    document = create_app(FakeBackend(), Data("")).openapi()
    routes = [operation for operations in document["paths"].values() for operation in operations.values()]
    ids = [operation["operationId"] for operation in routes]
    assert len(set(ids)) == len(ids)
    for operation in routes:
        assert operation["summary"]
        assert operation["tags"], operation["operationId"]
        for parameter in operation.get("parameters", ()):
            assert parameter.get("description"), (operation["operationId"], parameter["name"])
        for status, answer in operation["responses"].items():
            assert answer["description"]
            if int(status) >= 400:
                assert answer["content"] == {
                    "application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}
                }
    assert {} not in list(_schemas(document))


def _schemas(part: Any) -> Iterator[Any]:
    """The schemas of bodies, parameters and answers, also those that are left out where one should be."""
    if isinstance(part, dict):
        for name, value in part.items():
            if name == "content":
                yield from (body.get("schema", {}) for body in value.values())
            if name in ("schema", "items", "additionalProperties"):
                yield value
            yield from _schemas(value)
    elif isinstance(part, list):
        for value in part:
            yield from _schemas(value)
