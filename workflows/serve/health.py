"""Whether the service is up, and what it takes."""

import asyncio
from typing import Literal

from fastapi import APIRouter, Response
from pydantic import BaseModel

from workflows.serve.context import Here, Owner
from workflows.serve.limits import Limits
from workflows.serve.problems import Problem

router = APIRouter(tags=["service"])


class Live(BaseModel):
    live: Literal[True] = True


class Ready(BaseModel):
    ready: Literal[True] = True


@router.get("/v2/health/live")
async def live() -> Live:
    """The process answers."""
    return Live()


@router.get("/v2/health/ready")
async def ready(here: Here) -> Ready:
    """Videos can be sent."""
    if not await here.backend.ready():
        raise Problem(503, "not-ready", "Not ready", "The models are not loaded yet. Try again later.")
    return Ready()


@router.get("/v1/limits")
async def limits(here: Here, owner: Owner) -> Limits:
    """What a client may cost."""
    return here.limits


_TEXT = {"content": {"text/plain": {"schema": {"type": "string"}}}}


@router.get("/metrics", response_class=Response, responses={200: _TEXT})
async def metrics(here: Here, owner: Owner) -> Response:
    """Metrics in Prometheus' text format."""
    text = await asyncio.to_thread(here.metrics.registry.text)
    return Response(text, media_type="text/plain; version=0.0.4; charset=utf-8")
