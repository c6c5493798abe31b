"""Which places outside the data folder a client may name: folders and prefixes of buckets that the operator listed.

A URI from a request is an instruction to this machine to open something. So only two forms are taken, and both are
compared whole: ``s3://bucket/key`` below a listed prefix, and an absolute path below a listed folder, links followed.
"""

import re
from dataclasses import dataclass
from pathlib import Path

from balletal.errors import InputError
from workflows.serve.problems import Problem

# No user, port, query or fragment, no escape, nothing that a shell or fsspec gives a meaning.
_S3 = re.compile(r"s3://([a-z0-9][a-z0-9.-]{1,61}[a-z0-9])(?:/([^\x00-\x1f\x7f\\?#]*))?")
MAX_LENGTH = 2048


@dataclass(frozen=True)
class Sources:
    """An allow-list; empty, it allows nothing.

    Args:
        allowed: ``s3://bucket``, ``s3://bucket/prefix`` or absolute local folders. A prefix ends at a slash:
            ``s3://b/a`` covers ``s3://b/a/x`` and not ``s3://b/ab``.

    Raises:
        InputError: one of another form.
    """

    allowed: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for place in self.allowed:
            if _bucket_and_key(place) is None and _local(place) is None:
                raise InputError(place, expected="s3://bucket/prefix or an absolute folder", found="another form")

    def require(self, uri: str) -> str:
        """A URI that may be read, in the one form that it has: local links are followed.

        Every file that a listing of an allowed folder gives has to be asked for too, as it may be a link.

        Raises:
            Problem: 422. It is the same for all that is not allowed, whether something is there or not.
        """
        found = self._find(uri) if len(uri) <= MAX_LENGTH else None
        if found is None:
            detail = "The service does not read from this place. Upload the video, or ask for the place to be allowed."
            raise Problem(422, "forbidden-uri", "Place not allowed", detail)
        return found

    def allows(self, uri: str) -> bool:
        """Whether :meth:`require` gives it back."""
        try:
            self.require(uri)
        except Problem:
            return False
        return True

    def _find(self, uri: str) -> str | None:
        if (wanted := _bucket_and_key(uri)) is not None:
            listed = filter(None, map(_bucket_and_key, self.allowed))
            inside = any(bucket == wanted[0] and wanted[1][: len(key)] == key for bucket, key in listed)
            return f"s3://{wanted[0]}/{'/'.join(wanted[1])}" if inside else None
        path = _local(uri)
        folders = list(filter(None, map(_local, self.allowed)))
        reals = [folder.resolve() for folder in folders]
        # By name first: of a path elsewhere nothing is looked at, not even where its links lead.
        if path is None or not any(path.is_relative_to(folder) for folder in folders + reals):
            return None
        try:
            real = path.resolve()
        except (OSError, RuntimeError, ValueError):  # a link to itself, a name that is too long or no text
            return None
        return str(real) if any(real.is_relative_to(folder) for folder in reals) else None


def _bucket_and_key(uri: str) -> tuple[str, tuple[str, ...]] | None:
    found = _S3.fullmatch(uri)
    if not found or "::" in uri:
        return None
    parts = (found[2] or "").strip("/").split("/") if (found[2] or "").strip("/") else []
    return None if any(part in ("", ".", "..") for part in parts) else (found[1], tuple(parts))


def _local(uri: str) -> Path | None:
    if "::" in uri or "://" in uri or re.search(r"[\x00-\x1f\x7f]", uri) or not uri.startswith("/"):
        return None
    return None if any(part in (".", "..") for part in uri.split("/")) else Path(uri)
