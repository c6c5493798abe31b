"""The API's contract: what `GET /openapi.json` tells, kept as `schemas/openapi.json`.

`python -m workflows.serve.openapi` writes that file anew.
"""

import json
import re
from pathlib import Path
from typing import Any, cast

from fastapi import FastAPI
from fastapi.routing import APIRoute

import schemas
from balletal import files
from workflows.serve.access import COOKIE
from workflows.serve.localize import WantedOf
from workflows.serve.models import Inference
from workflows.serve.problems import PROBLEM_SCHEMA

PATH = Path(schemas.__file__).parent / "openapi.json"

_ABOUT = """Finds ballet steps in video: which step, from when to when, how sure.

Times are seconds on a video's presentation clock. Every error is a `Problem` (RFC 9457), whose `type` says which. The
socket `/v1/live`, for cameras, is described in docs/serving.md."""

_ACCESS = {
    "token": {"type": "http", "scheme": "bearer"},
    "session": {"type": "apiKey", "in": "cookie", "name": COOKIE, "description": "of `POST /v1/session`"},
}


class App(FastAPI):
    """An app that describes itself: a docstring's first sentence sums a route up, and schemas are told once."""

    def __init__(self) -> None:
        # The pages of docs_url and redoc_url load scripts from elsewhere; /openapi.json is the same in plain.
        super().__init__(
            title="balletal",
            version="1",
            description=_ABOUT,
            docs_url=None,
            redoc_url=None,
            generate_unique_id_function=_operation_id,
        )

    def openapi(self) -> dict[str, Any]:
        """The OpenAPI document, JSON-able."""
        if self.openapi_schema is None:
            document = super().openapi()
            for operations in document["paths"].values():
                for operation in operations.values():
                    _sum_up(operation)
            components = document["components"]
            components["schemas"] |= _shared()
            components["securitySchemes"] = _ACCESS
            document["security"] = [{}, *({name: []} for name in _ACCESS)]  # {}: where the service has no tokens
        return cast(dict[str, Any], self.openapi_schema)


def _operation_id(route: APIRoute) -> str:
    return route.name


def _sum_up(operation: dict[str, Any]) -> None:
    summary, *rest = re.split(r"\.(?:\s+|$)", operation.pop("description"), maxsplit=1)
    operation["summary"] = " ".join(summary.split())
    if rest and rest[0]:
        operation["description"] = rest[0]


def _shared() -> dict[str, Any]:
    """Schemas that routes refer to and that FastAPI does not see."""
    result = schemas.json_schema("result")
    del result["$schema"]
    read: dict[str, Any] = {}
    for kind in (WantedOf, Inference):
        schema = kind.model_json_schema(ref_template="#/components/schemas/{model}")
        read |= schema.pop("$defs", {}) | {kind.__name__: schema}
    return {"Problem": PROBLEM_SCHEMA, "Result": result} | read


def text(document: dict[str, Any]) -> str:
    """A document as it is kept: the same for the same content."""
    return json.dumps(document, indent=1, sort_keys=True, ensure_ascii=False) + "\n"


def _write() -> None:
    from workflows.serve.app import create_app  # which needs this module
    from workflows.serve.backend import Backend
    from workflows.serve.data import Data

    app = create_app(cast(Backend, None), Data(""))  # neither is looked at
    files.write_bytes(str(PATH), text(app.openapi()).encode())


if __name__ == "__main__":
    _write()
