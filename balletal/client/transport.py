"""Requests to a service: what is tried again, and what becomes of an answer that is not the result."""

import contextlib
import logging
import re
from collections.abc import Iterator
from http import HTTPStatus
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import requests
import tenacity
from pydantic import BaseModel, ValidationError
from requests.auth import AuthBase

from balletal.errors import InputError, ServiceError
from balletal.storage import reason

T = TypeVar("T", bound=BaseModel)

_log = logging.getLogger(__name__)

UNREACHABLE, TIMEOUT = "urn:balletal:unreachable", "urn:balletal:timeout"
_TIMEOUT_S = (10.0, 300.0)
"""To connect, and until an answer comes: a video that is localized on a CPU takes its time."""
_LONGEST_WAIT_S = 8.0
_QUIET_ATTEMPTS = 3
"""That fail before a person is told that something is waited for."""
_LONGEST_RETRY_AFTER_S = 60.0
_AWAY = (502, 503)

# What Ray Serve and proxies answer, without a problem document.
_PLAIN = {
    408: TIMEOUT,
    499: "urn:balletal:cancelled",
    502: UNREACHABLE,
    503: "urn:balletal:busy",
    504: TIMEOUT,
}
_MEMBERS = ("type", "title", "status", "detail", "request_id")


class _Page(BaseModel):
    next_page_token: str | None = None


class _Bearer(AuthBase):
    """Puts the token on requests. As an ``auth`` of its own, because a `.netrc` would replace a plain header."""

    def __init__(self, token: str) -> None:
        self._token = token

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        request.headers["Authorization"] = f"Bearer {self._token}"
        return request


class _Nobody(AuthBase):
    """No token, whatever a `.netrc` says."""

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        return request


class Http:
    """Requests to one service, over connections that are kept. Not for several threads at the same time.

    Args:
        url: such as ``https://host:8000/prefix``.
        token: of those that the service knows. It goes to this service alone: redirections are errors.
        patience_s: how long is waited in all to try a request again that the service was too busy for, or whose
            connection was lost. A service that has never answered is not waited for.

    Raises:
        InputError: another URL, or a token that no header can hold. Tells neither the token nor a URL's password.
    """

    def __init__(self, url: str, token: str | None, patience_s: float) -> None:
        self.url, self._patience_s, self._met = _checked(url), patience_s, False
        if token is not None and not re.fullmatch(r"[\x21-\x7e]+", token):
            raise InputError("token", expected="printable ASCII without spaces", found="something else")
        self.session = requests.Session()
        self.session.auth = _Nobody() if token is None else _Bearer(token)

    def send(self, method: str, path: str, *, file: Path | None = None, **how: Any) -> requests.Response:
        """Send a request, again while the service is away.

        Args:
            file: its body, opened for each try.
            how: as :meth:`requests.Session.request` takes it.

        Raises:
            ServiceError: another answer than 2xx, or none.
        """
        for attempt in self.attempts():
            with attempt:
                return self.send_once(method, path, file=file, **how)
        raise AssertionError("tenacity reraises")

    def send_once(self, method: str, path: str, *, file: Path | None = None, **how: Any) -> requests.Response:
        """As :meth:`send`, and not again."""
        with contextlib.ExitStack() as stack:
            if file is not None:
                how["data"] = stack.enter_context(file.open("rb"))
            try:
                answer = self.session.request(method, self.url + path, timeout=_TIMEOUT_S, allow_redirects=False, **how)
                if not 200 <= answer.status_code < 300:
                    answer.content  # noqa: B018  what a stream says of its error may be cut short as well
            except requests.ReadTimeout:
                detail = f"{self.url}: it took longer than {_TIMEOUT_S[1]:g} s"
                raise ServiceError(None, TIMEOUT, "No answer in time", detail) from None
            except requests.RequestException as error:
                # Without the error's own words, and without it as a cause: it holds the request and its headers.
                raise ServiceError(None, UNREACHABLE, "No answer", f"{self.url}: {_why(error)}") from None
        self._met = True
        # A line that is cut within the headers leaves some of them, and what follows looks like an empty body.
        whole = any(name in answer.headers for name in ("Content-Length", "Transfer-Encoding"))
        if not whole and answer.status_code != 204:
            raise ServiceError(None, UNREACHABLE, "No answer", f"{self.url}: it was cut short")
        if not 200 <= answer.status_code < 300:
            raise service_error(answer)
        return answer

    def attempts(self) -> tenacity.Retrying:
        """``for attempt in attempts(): with attempt: ...`` tries the block again while the service is away."""
        return tenacity.Retrying(
            retry=tenacity.retry_if_exception(self._is_away),
            wait=_wait_s,
            stop=lambda state: state.idle_for >= self._patience_s,  # waiting alone: a piece on a slow line takes long
            before_sleep=self._warn,
            reraise=True,
        )

    def _warn(self, state: tenacity.RetryCallState) -> None:
        if state.attempt_number == _QUIET_ATTEMPTS and state.outcome:
            _log.warning("%s; trying again for %g s", state.outcome.exception(), self._patience_s)

    def pages(self, path: str, kind: type[T], **params: Any) -> Iterator[T]:
        """The pages of a list; there is at least one."""
        token: str | None = None
        while True:
            answer = self.send("GET", path, params=params | {"page_token": token})
            yield parsed(kind, answer)
            before, token = token, parsed(_Page, answer).next_page_token
            if token is None:
                return
            if token == before:
                raise foreign(answer, "the same page again and again")

    def _is_away(self, error: BaseException) -> bool:
        if not isinstance(error, ServiceError):
            return False
        return error.status in _AWAY or (error.type == UNREACHABLE and self._met)


def _wait_s(state: tenacity.RetryCallState) -> float:
    """As long as the service says, and some more by chance, so that many clients do not come back at one moment."""
    error = state.outcome.exception() if state.outcome else None
    told = (error.retry_after or 0.0) if isinstance(error, ServiceError) else 0.0
    jitter = tenacity.wait_random_exponential(multiplier=0.2, max=_LONGEST_WAIT_S)
    return min(told, _LONGEST_RETRY_AFTER_S) + jitter(state)


def _checked(url: str) -> str:
    expected = "http://host:port or https://host, without a user, query or fragment"
    try:
        parts = urlsplit(url)
        good = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        good = False
    if not good or parts.username is not None or parts.query or parts.fragment:
        found = "another form" if "@" in url else repr(url)  # a password may be in it
        raise InputError("the service's URL", expected=expected, found=found)
    return url.rstrip("/")


def _why(error: BaseException) -> str:
    """The system's own words, else the innermost error's kind."""
    seen: BaseException | None = error
    while seen is not None:
        if type(seen).__module__ == "builtins" and isinstance(seen, OSError) and seen.strerror:
            return seen.strerror
        error, seen = seen, seen.__cause__ or seen.__context__
    return reason(error)


def service_error(answer: requests.Response) -> ServiceError:
    """What an answer other than 2xx says."""
    body: Any = None
    if "json" in answer.headers.get("content-type", ""):
        with contextlib.suppress(ValueError):
            body = answer.json()
    status = answer.status_code
    if not isinstance(body, dict):
        plain = answer.headers.get("content-type", "").startswith("text/plain")
        # A 500 in plain text is Ray Serve's, of a replica that died at work.
        kind = UNREACHABLE if plain and status == 500 else _PLAIN.get(status, "about:blank")
        body = {"type": kind, "detail": answer.text.strip()[:200] if plain else ""}
    after = answer.headers.get("retry-after", "")
    return ServiceError(
        status,
        str(body.get("type", "about:blank")),
        str(body.get("title") or _phrase(status)),
        str(body.get("detail") or f"{answer.request.method} {answer.request.path_url.partition('?')[0]}"),
        request_id=str(body.get("request_id") or answer.headers.get("x-request-id", "")),
        more={name: value for name, value in body.items() if name not in _MEMBERS},
        retry_after=float(after) if after.isdecimal() else None,
    )


def _phrase(status: int) -> str:
    return next((one.phrase for one in HTTPStatus if one.value == status), "Client Closed Request")


def parsed(kind: type[T], answer: requests.Response) -> T:
    """The body of an answer.

    Raises:
        ServiceError: it is another one, as of a server that is not this service.
    """
    try:
        return kind.model_validate_json(answer.content)
    except ValidationError as error:
        raise foreign(answer, f"no {kind.__name__} ({error.error_count()} members are not as they must be)") from None


def foreign(answer: requests.Response, found: str) -> ServiceError:
    """Says that an answer is not one of this service."""
    detail = f"{answer.url.partition('?')[0]}: expected an answer of balletal's service, found {found}"
    return ServiceError(answer.status_code, "about:blank", "Unknown answer", detail)


def checked_id(given: str) -> str:
    """An id, as it may be put into a path.

    Raises:
        InputError: no id can be like that.
    """
    if not re.fullmatch(r"[\w-]+", given, re.ASCII):
        raise InputError(repr(given), expected="an id", found="another form")
    return given
