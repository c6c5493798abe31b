"""Who may ask: bearer tokens, a cookie session for the page, and the origin of what a browser sends.

Browsers cannot put a token on a `<video>`, an EventSource or a WebSocket, so the page signs in and gets a cookie. What
comes with a cookie comes from any page that a browser is shown, so writes and sockets must come from our own. Without
tokens the same is asked of all: a foreign page must not drive the service on this machine.
"""

import hashlib
import hmac
import os
import re
import secrets
import time
from dataclasses import dataclass, field
from urllib.parse import SplitResult, urlsplit

from starlette.requests import HTTPConnection

from balletal import files
from balletal.errors import InputError
from workflows.serve.problems import Problem

TOKENS = "BALLETAL_TOKENS"
COOKIE = "balletal_session"
SESSION_S = 12 * 3600
LOOPBACK = ("127.0.0.1", "localhost", "::1")
"""Names by which a service that only this machine can reach is called."""

_NAME = re.compile(r"[\w-]{1,64}", re.ASCII)
_SHORTEST = 16
_READS = ("GET", "HEAD", "OPTIONS")


@dataclass(frozen=True)
class Token:
    """What stands for an owner: the sha256 of a token. The token itself is kept nowhere."""

    owner: str
    digest: bytes = field(repr=False)


def read_tokens(text: str, *, where: str) -> tuple[Token, ...]:
    """Tokens from lines ``name token`` or ``name sha256:<hex>``; empty lines and comments (``#``) are passed over.

    A name may have several tokens, so that one can be replaced without a gap.

    Raises:
        InputError: another line; a token that is short enough to be guessed. Tells the line's number, not the line.
    """
    found = []
    for number, line in enumerate(text.splitlines(), 1):
        words = line.split("#", 1)[0].split()
        if not words:
            continue
        expected = f"a name of letters, digits, _ and -, and a token of {_SHORTEST} characters or more"
        place = f"{where}, line {number}"
        if len(words) != 2 or not _NAME.fullmatch(words[0]):
            raise InputError(place, expected=expected, found="another line")
        name, token = words
        if token.startswith("sha256:"):
            if not re.fullmatch(r"[0-9a-f]{64}", token[7:]):
                raise InputError(place, expected="64 hex digits behind sha256:", found=f"{len(token) - 7} characters")
            found.append(Token(name, bytes.fromhex(token[7:])))
        elif len(token) < _SHORTEST:
            raise InputError(place, expected=expected, found=f"a token of {len(token)}")
        else:
            found.append(Token(name, hashlib.sha256(token.encode()).digest()))
    if not found:
        raise InputError(where, expected="lines: name token", found="none")
    return tuple(found)


def tokens_from(uri: str | None) -> tuple[Token, ...]:
    """The tokens of a file, else of the environment's ``BALLETAL_TOKENS``, which holds such lines; else none.

    Raises:
        InputError: as :func:`read_tokens`.
    """
    if uri is not None:
        return read_tokens(files.read_bytes(uri).decode("utf-8", "replace"), where=uri)
    if text := os.environ.get(TOKENS):
        return read_tokens(text, where=TOKENS)
    return ()


def session_secret(folder: str) -> bytes:
    """The key that signs sessions: one for all replicas, in the data folder, made when there is none."""
    uri = files.join(folder, "session.key")
    if not files.exists(uri):
        before = os.umask(0o077)  # for no other user of this machine
        try:
            files.create_bytes(uri, secrets.token_bytes(32))  # of services that start together, the first one's
        finally:
            os.umask(before)
    return files.read_bytes(uri)


@dataclass(frozen=True)
class Access:
    """The rules. No tokens: everyone who reaches the service is the owner ``local``.

    Attributes:
        tokens: of those who may ask.
        secret: signs sessions; the same on all replicas.
        hosts: names by which the service may be called; none: any. Where a service has no tokens and is for this
            machine alone, :data:`LOOPBACK` keeps out pages whose name was made to mean this machine (DNS rebinding).
    """

    tokens: tuple[Token, ...] = ()
    secret: bytes = field(default=b"", repr=False)
    hosts: tuple[str, ...] = ()

    def owner(self, connection: HTTPConnection) -> str:
        """The name of the owner whose token or session came with a request or a socket.

        Raises:
            Problem: 401 without a valid one; 403 where a browser sends what another page made.
        """
        self._require_host(connection)
        if not self.tokens:
            self.require_own_page(connection)
            return "local"
        scheme, _, given = connection.headers.get("authorization", "").partition(" ")
        if scheme:
            token = self._token(given.strip()) if scheme.lower() == "bearer" else None
            if token is None:
                raise _unauthenticated("The token is not known.")
            return token.owner
        if COOKIE not in connection.cookies:
            raise _unauthenticated("Send a token: `Authorization: Bearer TOKEN`, or sign in.")
        owner = self._session(connection.cookies[COOKIE])
        if owner is None:
            raise _unauthenticated("The session has ended. Sign in again.")
        self.require_own_page(connection, strict=True)
        return owner

    def sign_in(self, connection: HTTPConnection, given: str) -> tuple[str, int]:
        """The cookie of a new session, and how many seconds it lasts.

        Raises:
            Problem: 401, the token is not known; 403, see :meth:`owner`.
        """
        self._require_host(connection)
        self.require_own_page(connection)
        token = self._token(given)
        if token is None:
            raise _unauthenticated("The token is not known.")
        expiry = str(int(time.time()) + SESSION_S)
        return f"{token.owner}.{expiry}.{self._signature(token, expiry)}", SESSION_S

    def require_own_page(self, connection: HTTPConnection, strict: bool = False) -> None:
        """Refuse a write or a socket that a page of another origin sent.

        Args:
            strict: refuse also what does not tell, as programs other than browsers do.

        Raises:
            Problem: 403.
        """
        if connection.scope["type"] == "http" and connection.scope["method"] in _READS:
            return
        origin = connection.headers.get("origin")
        site = connection.headers.get("sec-fetch-site")
        if origin is not None:
            own = _parsed(origin).netloc == connection.headers.get("host", "") != ""
        else:
            own = site is not None or not strict
        if not own or site not in (None, "same-origin", "none"):
            raise Problem(403, "forbidden-origin", "Forbidden", "The request comes from another page than this one's.")

    def _require_host(self, connection: HTTPConnection) -> None:
        host = _parsed(f"//{connection.headers.get('host', '')}").hostname
        if self.hosts and host not in self.hosts:
            raise Problem(403, "forbidden-origin", "Forbidden", "The service is not called by this name.")

    def _token(self, given: str) -> Token | None:
        digest, found = hashlib.sha256(given.encode()).digest(), None
        for token in self.tokens:  # all of them, so that time tells nothing
            if hmac.compare_digest(token.digest, digest):
                found = token
        return found

    def _session(self, cookie: str) -> str | None:
        """The owner of a session that still lasts, of a token that still counts."""
        owner, _, rest = cookie.partition(".")
        expiry, _, signature = rest.partition(".")
        valid = any(
            hmac.compare_digest(self._signature(token, expiry).encode(), signature.encode())
            for token in self.tokens
            if token.owner == owner
        )
        return owner if valid and expiry.isdecimal() and int(expiry) > time.time() else None

    def _signature(self, token: Token, expiry: str) -> str:
        return hmac.new(self.secret, token.digest + f"{token.owner}.{expiry}".encode(), "sha256").hexdigest()


def _parsed(url: str) -> SplitResult:
    try:
        return urlsplit(url)
    except ValueError:
        return urlsplit("")


def _unauthenticated(detail: str) -> Problem:
    return Problem(401, "unauthenticated", "Not signed in", detail)
