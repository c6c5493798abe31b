"""The HTTP API over a backend. Knows HTTP and no Ray."""

from fastapi import FastAPI

from workflows.serve import health, jobs, live, localize, models, page, session, videos
from workflows.serve.access import Access
from workflows.serve.backend import Backend
from workflows.serve.context import Context
from workflows.serve.data import Data
from workflows.serve.limits import Limits
from workflows.serve.metrics import Metrics
from workflows.serve.observe import Observed
from workflows.serve.openapi import App
from workflows.serve.problems import answers, install_problems
from workflows.serve.sources import Sources

_ROUTERS = (health, session, models, localize, videos, jobs, live, page)


def create_app(
    backend: Backend,
    data: Data,
    limits: Limits | None = None,
    access: Access | None = None,
    sources: Sources | None = None,
    outputs: Sources | None = None,
    metrics: Metrics | None = None,
) -> FastAPI:
    """The app. Every error that it answers is `application/problem+json`.

    A router that has work to do while the app runs has a ``lifespan``; ``app.state.context`` is there by then.
    """
    app = App()
    places = sources or Sources(), outputs or Sources()
    context = Context(backend, data, limits or Limits(), access or Access(), *places, metrics or Metrics())
    app.state.context = context
    install_problems(app)
    app.add_middleware(Observed, limits=context.limits, metrics=context.metrics)
    for module in _ROUTERS:
        app.include_router(module.router, responses=answers(400, 401, 403, 405, 413, 422, 500, 503))
    return app
