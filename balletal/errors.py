"""The errors that balletal raises on purpose. Each says which file or value, what was expected, what was found."""

from collections.abc import Mapping
from typing import Any


class BalletalError(Exception):
    """Base of all errors that a user can act on; the command line prints them without a traceback."""


class _PlacedError(BalletalError):
    """An error about one file, folder or value: where, what was expected there, what was found."""

    def __init__(self, where: str, *, expected: str, found: str) -> None:
        super().__init__(where, expected, found)
        self.where, self.expected, self.found = str(where), expected, found

    def __str__(self) -> str:
        return f"{self.where}: expected {self.expected}, found {self.found}"

    def __reduce__(self) -> tuple[object, ...]:
        # Keyword arguments: pickle's own way would pass them by position. Errors travel between processes.
        return _placed_error, (type(self), *self.args)


class DivergedError(BalletalError):
    """A training whose gradient is no number any more."""


class InputError(_PlacedError):
    """A file, folder or value that the user gave is not what it must be.

    >>> str(InputError("a.json", expected="an ActivityNet file", found="a list"))
    'a.json: expected an ActivityNet file, found a list'
    """


class StorageError(_PlacedError):
    """A disk or bucket refuses or does not answer: no permission, wrong credentials, disk full, server away.

    It says nothing about what a file holds, so it is never a reason to give up one video and go on to the next.
    Names the URI, and never a key or secret.
    """


class ForbiddenError(StorageError):
    """The credentials in use do not open this place."""


class VideoError(InputError):
    """A video that cannot be used. ``kind`` is the stable word that error tables and HTTP answers carry.

    Kinds: ``missing``, ``unreadable`` (may not be read, or is archived), ``empty``, ``not-a-video``,
    ``no-video-stream``, ``unsupported-codec``, ``corrupt``, ``truncated``, ``too-short``, ``too-large`` (more memory,
    pixels or hours than allowed), ``decoder-crashed``, ``timeout`` (decoding took longer than allowed), ``changed``
    (the file is another one than it was when the work began).
    """

    def __init__(self, where: str, kind: str, *, expected: str, found: str) -> None:
        super().__init__(where, expected=expected, found=found)
        self.args = (where, kind, expected, found)
        self.kind = kind

    def __reduce__(self) -> tuple[object, ...]:
        return _video_error, self.args


def _placed_error(kind: type[_PlacedError], where: str, expected: str, found: str) -> _PlacedError:
    return kind(where, expected=expected, found=found)


def _video_error(where: str, kind: str, expected: str, found: str) -> VideoError:
    return VideoError(where, kind, expected=expected, found=found)


class ServiceError(BalletalError):
    """The service answered something else than the result, or nothing.

    Attributes:
        status: of the HTTP answer; None where none came.
        type: what tells problems apart (RFC 9457), such as ``urn:balletal:use-async``; ``urn:balletal:unreachable``
            or ``urn:balletal:timeout`` where no answer came, ``about:blank`` where the answer has no type.
        title, detail: for people.
        request_id: by which the service's log knows the request; empty where there is none.
        more: further members of the problem, such as ``upload_offset``.
        retry_after: seconds after which to ask again, if the service said so.
    """

    def __init__(
        self,
        status: int | None,
        type: str,
        title: str,
        detail: str = "",
        *,
        request_id: str = "",
        more: Mapping[str, Any] | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(status, type, title, detail)
        self.status, self.type, self.title, self.detail = status, type, title, detail
        self.request_id, self.more, self.retry_after = request_id, dict(more or {}), retry_after

    def __str__(self) -> str:
        head = self.title if self.status is None else f"{self.status} {self.title}"
        request = f" (request {self.request_id})" if self.request_id else ""
        return f"{head}: {self.detail}{request}" if self.detail else f"{head}{request}"


class SpecMismatchError(BalletalError):
    """Two things made from different feature specs were about to be joined; both are named."""
