"""What every route needs: the backend, the data folder, the limits, and who is asking."""

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any
from weakref import WeakValueDictionary

from fastapi import Depends
from starlette.requests import HTTPConnection

from workflows.serve.access import Access
from workflows.serve.backend import Backend
from workflows.serve.data import Data
from workflows.serve.limits import Limits
from workflows.serve.metrics import Metrics
from workflows.serve.sources import Sources

if TYPE_CHECKING:
    from workflows.serve.watch import Watch


@dataclass(frozen=True)
class Context:
    """The parts of one app.

    Attributes:
        sources: the places outside the data folder whose videos a client may name.
        outputs: those that a client may have results copied to.
        watches: of jobs that somebody listens to, by id.
        tended: jobs that are looked after just now, by id.
        localizing: has a place for each request with a video that is taken at the same time.
    """

    backend: Backend
    data: Data
    limits: Limits
    access: Access
    sources: Sources = field(default_factory=Sources)
    outputs: Sources = field(default_factory=Sources)
    metrics: Metrics = field(default_factory=Metrics)
    watches: "WeakValueDictionary[str, Watch]" = field(default_factory=WeakValueDictionary, init=False)
    tended: dict[str, asyncio.Task[None]] = field(default_factory=dict, init=False)
    localizing: asyncio.Semaphore = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "localizing", asyncio.Semaphore(self.limits.max_localize_at_once))


@asynccontextmanager
async def meanwhile(work: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """Do work without end for the length of a ``with`` block: that of a router's lifespan."""
    task = asyncio.create_task(work)
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


def _context(connection: HTTPConnection) -> Context:
    context: Context = connection.app.state.context
    return context


def _owner(connection: HTTPConnection) -> str:
    owner = _context(connection).access.owner(connection)
    connection.state.owner = owner  # for the log
    return owner


Here = Annotated[Context, Depends(_context)]
"""A route's parameter: the parts of the app."""

Owner = Annotated[str, Depends(_owner)]
"""A route's parameter: who is asking. What belongs to another owner is answered as if it were not there (404).

Raises a 401 or 403 :class:`workflows.serve.problems.Problem` by itself."""
