"""`balletal app`: a Streamlit page for a service that runs somewhere. No model is loaded and no Ray started."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import requests
import typer
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from balletal.client import Client, ServiceError
from balletal.errors import InputError
from workflows.console import run
from workflows.request import HERE, TOKEN, URL, TokenFile, Url, connect, token_of

PAGE = Path(__file__).with_name("page.py")

_HOST = "127.0.0.1"
_CONFIG = {
    "server.address": _HOST,
    "server.headless": True,
    "server.fileWatcherType": "none",
    "server.maxUploadSize": 1024,  # MB; Streamlit holds them in memory
    "browser.gatherUsageStats": False,
    "client.showErrorDetails": "none",  # of errors that nobody foresaw; the terminal has them
    "client.toolbarMode": "minimal",
    "theme.light.primaryColor": "#9a3d50",  # those of the service's page
    "theme.dark.primaryColor": "#e0909f",
}
_ASKED = ("range", "if-range")
_PASSED = (
    *("content-type", "content-length", "content-range", "accept-ranges", "etag", "last-modified"),
    *("cache-control", "cross-origin-resource-policy", "x-content-type-options"),
)
_PIECE_BYTES = 1 << 18


def video(request: Request) -> Response:
    """A video of the service, by ranges. No <video> can send a token, and no page may show another origin's videos."""
    asked = {name: request.headers[name] for name in _ASKED if name in request.headers}
    client = connect(os.environ[URL], None)
    try:
        answer = client.content(request.path_params["video_id"], asked)
    except (ServiceError, InputError) as error:
        client.close()
        return Response(status_code=getattr(error, "status", 404) or 502)
    passed = {name: answer.headers[name] for name in _PASSED if name in answer.headers}
    return StreamingResponse(_pieces(client, answer), answer.status_code, passed)


def _pieces(client: Client, answer: requests.Response) -> Iterator[bytes]:
    with client, answer:
        yield from answer.iter_content(_PIECE_BYTES)


def application() -> Any:
    """The page and the videos that it shows, as a Streamlit App; it asks the service of the environment.

    Raises:
        InputError: Streamlit is not installed.
    """
    try:
        import streamlit as st
    except ModuleNotFoundError:
        raise InputError("balletal app", expected="Streamlit: pip install 'balletal[app]'", found="none") from None
    # Nobody else's page may reach it by a name that was made to mean this machine (DNS rebinding).
    own = Middleware(TrustedHostMiddleware, allowed_hosts=[_HOST, "localhost"])
    return st.App(PAGE, routes=[Route("/videos/{video_id}", video)], middleware=[own])


def main(
    url: Url = HERE,
    token_file: TokenFile = None,
    port: Annotated[int, typer.Option(min=1, max=65535, help="Of the page, on this machine alone.")] = 8501,
) -> None:
    """Show a running service's videos and steps in a Streamlit page."""
    app = application()
    connect(url, token_file).close()  # what is wrong with these is told before anything starts
    os.environ[URL] = url
    if token := token_of(token_file):
        os.environ[TOKEN] = token
    app.run(config=_CONFIG | {"server.port": port})


if __name__ == "__main__":
    run(main)
