"""What happens around every request: its id, a line in the log, headers for browsers, a bound on its body, metrics."""

import logging
import re
import time
import uuid

from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from workflows.serve.limits import Limits
from workflows.serve.metrics import Metrics
from workflows.serve.problems import internal_error, too_large

# A child of Serve's logger, whose handlers write one JSON object a line; elsewhere a logger as any other.
log = logging.getLogger("ray.serve.balletal")

# Asked every few seconds by whoever watches the service.
_UNTOLD = ("/v2/health/live", "/v2/health/ready", "/metrics")

# Bodies that go to disk as they come. All else may be read as JSON, whatever it says it is.
_STREAMED = (b"video/", b"application/octet-stream", b"application/offset+octet-stream")

_REQUEST_ID = re.compile(r"[\w.-]{1,128}", re.ASCII)

HEADERS = {
    # Scripts, pictures and sockets of this host alone; a webcam's and a preview's pictures are blobs.
    "Content-Security-Policy": (
        "default-src 'self'; img-src 'self' blob: data:; media-src 'self' blob:; connect-src 'self' ws: wss:; "
        "object-src 'none'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
    ),
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(self), microphone=(), geolocation=()",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
}
"""Of every answer, unless the route gives its own."""


class Observed:
    """ASGI middleware. A request's id is its own ``X-Request-ID``, else a new one.

    Ray Serve's proxy gives each request one, logs it and sends it back; without a proxy this does.
    """

    def __init__(self, app: ASGIApp, limits: Limits, metrics: Metrics) -> None:
        self.app, self.limits, self.metrics = app, limits, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        request = Request(scope) if scope["type"] == "http" else None
        seen = _Seen(scope, send)
        try:
            await self.app(scope, self._bounded(scope, receive) if request else receive, seen.send)
        except Exception:
            log.exception("request %s failed", seen.request_id)
            if request is None or seen.status:
                raise
            await internal_error(request)(scope, receive, seen.send)
        finally:
            seen.tell(self.metrics)

    def _bounded(self, scope: Scope, receive: Receive) -> Receive:
        """``receive`` that ends a request whose body is larger than any route takes."""
        headers = dict(scope["headers"])
        streamed = headers.get(b"content-type", b"").lower().startswith(_STREAMED)
        limit = self.limits.max_body_bytes if streamed else self.limits.max_json_bytes
        size = 0

        async def bounded() -> Message:
            nonlocal size
            message = await receive()
            size += len(message.get("body", b""))
            if size > limit:
                raise too_large(limit)
            return message

        return bounded


class _Seen:
    """One request as it goes by."""

    def __init__(self, scope: Scope, send: Send) -> None:
        self.scope, self._send = scope, send
        self.status, self.started = 0, time.perf_counter()
        given = dict(scope["headers"]).get(b"x-request-id", b"").decode("latin-1")
        self.given = bool(given)
        self.request_id = given if _REQUEST_ID.fullmatch(given) else uuid.uuid4().hex
        scope.setdefault("state", {})["request_id"] = self.request_id

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            there = {name.lower() for name, _ in message["headers"]}
            wanted = HEADERS if self.given else HEADERS | {"X-Request-ID": self.request_id}
            message["headers"] = [
                *message["headers"],
                *((n.encode(), v.encode()) for n, v in wanted.items() if n.lower().encode() not in there),
            ]
        elif message["type"] == "websocket.accept":
            self.status = 101
        await self._send(message)

    def tell(self, metrics: Metrics) -> None:
        """Count it, and write its line into the log: no query and no header, where secrets could be."""
        seconds = time.perf_counter() - self.started
        state, method = self.scope["state"], self.scope.get("method", "WS")
        route = getattr(self.scope.get("route"), "path", "none")
        metrics.request(method, route, self.status, seconds)
        if problem := state.get("problem"):
            metrics.problem(problem)
        log.log(
            logging.DEBUG if route in _UNTOLD else logging.INFO,
            f"{method} {self.scope['path']} {self.status}",
            extra={
                "request": self.request_id,
                "method": method,
                "route": route,
                "status": self.status,
                "seconds": round(seconds, 4),
                "owner": state.get("owner"),
                "problem": problem,
            },
        )
