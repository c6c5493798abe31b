"""What every route needs: the backend, the data folder, the limits, and who is asking."""

from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends
from starlette.requests import HTTPConnection

from workflows.serve.access import Access
from workflows.serve.backend import Backend
from workflows.serve.data import Data
from workflows.serve.limits import Limits


@dataclass(frozen=True)
class Context:
    """The parts of one app."""

    backend: Backend
    data: Data
    limits: Limits
    access: Access


def _context(connection: HTTPConnection) -> Context:
    context: Context = connection.app.state.context
    return context


def _owner(connection: HTTPConnection) -> str:
    return _context(connection).access.owner(connection)


Here = Annotated[Context, Depends(_context)]
"""A route's parameter: the parts of the app."""

Owner = Annotated[str, Depends(_owner)]
"""A route's parameter: who is asking. What belongs to another owner is answered as if it were not there (404).

Raises a 401 or 403 :class:`workflows.serve.problems.Problem` by itself."""
