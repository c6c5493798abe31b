"""Calls of storage that may be away: which errors pass, how long to try again, and what to say when it does not help.

Servers restart, buckets throttle. A call tries again for :data:`PATIENCE_S`, after random exponential waits, so that a
hundred workers do not come back at one moment.
"""

import errno
import io
import logging
from collections.abc import Callable
from typing import Any, TypeVar

import tenacity

from balletal.errors import ForbiddenError, InputError, StorageError

T = TypeVar("T")

PATIENCE_S = 120.0
"""How long one call waits for storage that does not answer."""

_LONGEST_WAIT_S = 8.0
# Attempts that fail before a person is told that something is waited for.
_QUIET_ATTEMPTS = 3
CLIENTS = ("botocore", "aiobotocore", "s3fs", "gcsfs", "adlfs", "azure", "aiohttp", "urllib3")
"""Packages whose errors are storage's. By name: importing what raises them would load every client library."""

_AWAY = frozenset(
    (
        *("ConnectionError", "TimeoutError", "HTTPClientError", "ResponseParserError"),
        *("ClientConnectionError", "ClientPayloadError", "IncompleteRead", "IncompleteReadError"),
    )
)
_REPLACED = "FileExpired"
_AWAY_STATUS = frozenset((408, 429, 500, 502, 503, 504))
_AWAY_CODES = frozenset(
    (
        *("SlowDown", "RequestTimeout", "InternalError", "ServiceUnavailable", "IncompleteBody"),
        "ConditionalRequestConflict",  # several writers of one object at once
    )
)
_AWAY_ERRNO = frozenset((errno.EBUSY, getattr(errno, "EREMOTEIO", errno.EBUSY)))

_log = logging.getLogger(__name__)
_listeners: list[Callable[[float], None]] = []


def tell_of_waiting(listener: Callable[[float], None]) -> None:
    """Have ``listener(seconds)`` called whenever a call here is about to wait that long before it tries again."""
    _listeners.append(listener)


def call(uri: str, function: Callable[..., T], *args: Any, local: bool = False, **kwargs: Any) -> T:
    """``function(*args, **kwargs)``, which does something with ``uri``; again while the storage is away.

    Args:
        local: a disk: it is not away, and a file that may not be read says nothing about other files.

    Raises:
        FileNotFoundError, FileExistsError, IsADirectoryError, NotADirectoryError: as the function does.
        PermissionError: this one file may not be read.
        InputError: the file is another one than was opened.
        StorageError: everything else; ForbiddenError where the credentials do not do.
    """

    def wait(state: tenacity.RetryCallState) -> None:
        seconds = state.next_action.sleep if state.next_action else 0.0
        if state.attempt_number == _QUIET_ATTEMPTS and state.outcome:
            _log.warning("%s: %s; trying again for %g s", uri, reason(state.outcome.exception()), PATIENCE_S)
        for listener in _listeners:
            listener(seconds)

    retrying = tenacity.Retrying(
        retry=tenacity.retry_if_exception(_is_away),
        wait=tenacity.wait_random_exponential(multiplier=0.2, max=_LONGEST_WAIT_S),
        stop=tenacity.stop_after_delay(PATIENCE_S),
        before_sleep=wait,
        reraise=True,
    )
    try:
        return function(*args, **kwargs) if local else retrying(function, *args, **kwargs)
    except (FileNotFoundError, FileExistsError, IsADirectoryError, NotADirectoryError, PermissionError) as error:
        code = _code(error)
        if code == "InvalidObjectState":
            raise PermissionError(errno.EACCES, "an archived object, to be restored first", uri) from None
        if code == "NoSuchBucket":
            raise StorageError(uri, expected="a bucket that exists", found="none of that name") from None
        if isinstance(error, PermissionError) and not local:
            expected = "a place that the credentials in use open"
            raise ForbiddenError(uri, expected=expected, found=f"no permission ({reason(error)})") from None
        raise
    except Exception as error:
        if isinstance(error, OSError) and error.errno == errno.ELOOP:  # a link to itself leads nowhere
            raise FileNotFoundError(errno.ENOENT, "a link to itself", uri) from None
        if type(error).__name__ == _REPLACED:
            raise InputError(uri, expected="the file that was opened", found="another in its place") from None
        if _code(error) == "PreconditionFailed":
            raise FileExistsError(errno.EEXIST, "an object stands there", uri) from None
        if "Credential" in type(error).__name__:
            expected = "credentials in the environment or a profile"
            raise StorageError(uri, expected=expected, found=f"none ({reason(error)})") from None
        if isinstance(error, OSError) or type(error).__module__.partition(".")[0] in CLIENTS:
            expected = f"storage that answers within {PATIENCE_S:g} s" if _is_away(error) else "storage that works"
            raise StorageError(uri, expected=expected, found=reason(error)) from None
        raise


class RemoteFile(io.RawIOBase):
    """An open file of remote storage whose reads try again."""

    def __init__(self, uri: str, file: Any) -> None:
        self._uri, self._file = uri, file

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        return call(self._uri, self._file.read, size)  # one that fails leaves the position where it was

    def readinto(self, buffer: Any) -> int:
        content = self.read(len(buffer))
        buffer[: len(content)] = content
        return len(content)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return int(self._file.seek(offset, whence))

    def tell(self) -> int:
        return int(self._file.tell())

    def close(self) -> None:
        self._file.close()
        super().close()


def _is_away(error: BaseException) -> bool:
    """Whether the same call may do better later. Asked of errors of remote storage alone."""
    if "CERTIFICATE" in str(error).upper() or type(error).__name__ == _REPLACED:
        return False
    response = getattr(error.__cause__, "response", None) or getattr(error, "response", None)
    if isinstance(response, dict):
        status = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
        return status in _AWAY_STATUS or _code(error) in _AWAY_CODES
    if any(kind.__name__ in _AWAY for kind in type(error).__mro__):
        return True
    return isinstance(error, OSError) and error.errno in _AWAY_ERRNO


def _code(error: BaseException) -> str:
    """The server's word for an error, such as ``AccessDenied``; empty where it gave none."""
    response = getattr(error.__cause__, "response", None) or getattr(error, "response", None)
    return str(response.get("Error", {}).get("Code", "")) if isinstance(response, dict) else ""


def reason(error: BaseException | None) -> str:
    """What went wrong in words that hold no credentials: a server's message may repeat what it was sent."""
    if error is None:
        return "nothing"
    if code := _code(error):
        return code
    if type(error).__module__ == "builtins" and isinstance(error, OSError) and error.strerror:
        return error.strerror
    return type(error).__name__
