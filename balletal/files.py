"""Files by URI: a local path or any fsspec URL (``s3://bucket/key``). Writes are atomic.

Every call tries again while remote storage is away (:mod:`balletal.storage`). What that cannot mend (no permission, no
such bucket, disk full) is a :class:`StorageError` at once. A file that is missing or is a folder is a matter of that
file, not of the storage.
"""

import contextlib
import errno
import io
import json
import os
import posixpath
import re
import shutil
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from pathlib import Path
from typing import IO, Any, NamedTuple, TypeVar, cast

import fsspec
from fsspec.implementations.local import LocalFileSystem

from balletal.errors import InputError, StorageError
from balletal.storage import RemoteFile, call, reason

T = TypeVar("T")


class Version(NamedTuple):
    """What changes with a file's content (:func:`version`), and when it did last, in seconds since 1970, if known."""

    version: str
    modified_s: float | None


# A video is read from a few places at a time (pictures, sound, index), in steps of some 100 kB.
_BLOCK, _BLOCKS = 4 << 20, 4
_WRITABLE = "a place that can be written to"


def filesystem(uri: str) -> tuple[Any, str]:
    """The fsspec file system of a URI and the path inside it. Its own calls do not try again; the functions here do.

    Raises:
        InputError: no file system for such a URI, or one with a password in it.
    """
    if not str(uri):
        raise InputError("''", expected="a path or a URL", found="nothing")
    if Path(uri).is_absolute():  # as it is: what follows would take a name with "::" or "://" in it for a URL
        return (fs := LocalFileSystem()), fs._strip_protocol(str(uri))
    if "::" in str(uri):
        # Chained URLs let one scheme open files through another, which no command here needs.
        raise InputError(str(uri), expected="a path or a plain URL", found="a chained fsspec URL")
    if password := re.match(r"[\w+.-]+://[^@?#]*:[^@?#]*@", str(uri)):
        # URIs are written into tables, logs and messages.
        where = f"{str(uri).partition('://')[0]}://***@{str(uri)[password.end() :]}"
        raise InputError(where, expected="credentials in the environment or a profile", found="a password in the URL")
    try:
        fs, path = fsspec.core.url_to_fs(str(uri), **_options(str(uri)))
    except (ValueError, ImportError) as error:  # a scheme that is unknown, or whose package is not installed
        raise InputError(str(uri), expected="a path, or a URL that fsspec can open", found=str(error)) from None
    if "s3" in fs.protocol:
        fs.retries = 1
    return fs, path


def _options(uri: str) -> dict[str, Any]:
    """botocore and s3fs each try again, one inside the other, partly twice: a server that takes a request and never
    answers would hold one call for half an hour. Listings are not kept: other processes write too."""
    if uri.partition("://")[0] not in ("s3", "s3a"):
        return {}
    configured = fsspec.config.conf.get("s3", {}).get("config_kwargs", {})
    return {"config_kwargs": {**configured, "retries": {"total_max_attempts": 1}}, "use_listings_cache": False}


def _call(uri: str, fs: Any, function: Callable[..., T], *args: Any, **kwargs: Any) -> T:
    return call(uri, function, *args, local=isinstance(fs, LocalFileSystem), **kwargs)


@contextlib.contextmanager
def _told(uri: str, expected: str) -> Iterator[None]:
    """What a disk refuses, as a StorageError."""
    try:
        yield
    except OSError as error:
        raise StorageError(uri, expected=expected, found=reason(error)) from None


def join(uri: str, *parts: str) -> str:
    """``uri`` with path parts appended, whatever its scheme."""
    return posixpath.join(str(uri), *parts)


def absolute(uri: str) -> str:
    """``uri`` as it reads from any working folder: local paths absolute, other URLs in their file system's form."""
    fs, path = filesystem(uri)
    return path if isinstance(fs, LocalFileSystem) else str(fs.unstrip_protocol(path))


def exists(uri: str) -> bool:
    """Whether a file or folder stands there.

    Raises:
        StorageError: the storage cannot say.
    """
    return _info(uri) is not None


def is_file(uri: str) -> bool:
    """Whether a file stands there. Raises as :func:`exists`."""
    info = _info(uri)
    return info is not None and info["type"] != "directory"


def _info(uri: str) -> dict[str, Any] | None:
    fs, path = filesystem(uri)
    try:
        return cast(dict[str, Any], _call(uri, fs, fs.info, path))
    except (FileNotFoundError, NotADirectoryError):
        return None


def version(uri: str) -> str:
    """What changes with a file's content: its etag, else ``<mtime>-<size>``; ``missing`` when it is not there.

    Raises:
        StorageError: the storage cannot say.
    """
    # One that was listed and is gone, or a link to nothing: reading it will tell.
    info = _info(uri)
    return "missing" if info is None else _version(info)


def _modified(info: dict[str, Any]) -> Any:
    return info.get("mtime") or info.get("LastModified") or info.get("updated") or info.get("created")


def _modified_s(info: dict[str, Any]) -> float | None:
    at = _modified(info)
    return at.timestamp() if isinstance(at, datetime) else float(at) if isinstance(at, int | float) else None


def _version(info: dict[str, Any]) -> str:
    etag = info.get("ETag") or info.get("etag")
    if etag:
        return str(etag).strip('"')
    return f"{_modified(info) or ''}-{info['size']}"


def read_bytes(uri: str) -> bytes:
    """The content of a file.

    Raises:
        InputError: the file is missing, is a folder or may not be read.
        StorageError: the storage cannot be read.
    """
    fs, path = filesystem(uri)
    try:
        return cast(bytes, _call(uri, fs, fs.cat_file, path))
    except (FileNotFoundError, NotADirectoryError):
        raise InputError(str(uri), expected="a file", found="nothing there") from None
    except PermissionError as error:
        raise InputError(str(uri), expected="a file that may be read", found=error.strerror or str(error)) from None
    except IsADirectoryError:
        raise InputError(str(uri), expected="a file", found="a folder") from None


def open_file(uri: str) -> IO[bytes]:
    """A file opened for reading from any place in it; reads of a remote one try again as every call here does.

    Raises:
        OSError: the file is missing, is a folder or may not be read, as ``open`` has it.
        StorageError: the storage cannot be read, now or at a later read.
    """
    fs, path = filesystem(uri)
    if isinstance(fs, LocalFileSystem):  # fsspec's own file object is a layer of Python around every read
        if Path(path).exists() and not (Path(path).is_file() or Path(path).is_dir()):
            # Opening a pipe would wait for whoever writes into it.
            raise OSError(errno.EINVAL, "a pipe or device, no file", path)
        return cast(IO[bytes], _call(uri, fs, Path(path).open, "rb"))
    options = {"block_size": _BLOCK, "cache_type": "blockcache", "cache_options": {"maxblocks": _BLOCKS}}
    return cast(IO[bytes], RemoteFile(uri, _call(uri, fs, fs.open, path, "rb", **options)))


def write_bytes(uri: str, data: bytes) -> None:
    """Write a whole file so that a reader sees either nothing (or the old content) or all of it, whatever happens.

    Local files are written under a temporary name, to the disk itself, and renamed; object stores make a put visible
    as a whole.

    Raises:
        InputError: a folder stands there, or no folder can be made for the file.
        StorageError: no permission, no space, no such bucket, no answer.
    """
    fs, path = filesystem(uri)
    with _told(uri, _WRITABLE):
        if isinstance(fs, LocalFileSystem):
            _write_local(uri, path, io.BytesIO(data))
        else:
            _call(uri, fs, fs.pipe_file, path, data)


def create_bytes(uri: str, data: bytes) -> bool:
    """Write a whole file where none stands; of several that try at once, on whatever machines, one does.

    Remote storage must know conditional writes (``If-None-Match``), as S3 does.

    Returns:
        Whether this call wrote it. A remote write whose answer was lost counts as another's.

    Raises:
        InputError, StorageError: as :func:`write_bytes`.
    """
    fs, path = filesystem(uri)
    with _told(uri, _WRITABLE):
        try:
            if isinstance(fs, LocalFileSystem):
                _write_local(uri, path, io.BytesIO(data), create=True)
            else:
                _call(uri, fs, fs.pipe_file, path, data, mode="create")
        except FileExistsError:
            return False
    return True


def move_file(local: Path, uri: str) -> None:
    """Put a local file where it belongs, a rename if that is on the same disk; otherwise as :func:`put_file`."""
    fs, path = filesystem(uri)
    if isinstance(fs, LocalFileSystem):
        with contextlib.suppress(OSError), local.open("rb") as file:  # another disk, no folder: copying does or tells
            os.fsync(file.fileno())
            local.replace(path)
            return
    put_file(local, uri)
    local.unlink()


def put_file(local: Path, uri: str) -> None:
    """Copy a local file, not through memory; otherwise as :func:`write_bytes`."""
    fs, path = filesystem(uri)
    with _told(uri, _WRITABLE):
        if isinstance(fs, LocalFileSystem):
            with local.open("rb") as source:
                _write_local(uri, path, source)
        else:
            _call(uri, fs, fs.put_file, str(local), path)


def _write_local(uri: str, path: str, source: IO[bytes], *, create: bool = False) -> None:
    target = Path(path)
    folder = target.parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise InputError(str(folder), expected="a folder, or a place for one", found="a file in its path") from None
    temporary = folder / f".{target.name}.{uuid.uuid4().hex}.tmp"
    try:
        with temporary.open("xb") as file:
            shutil.copyfileobj(source, file, _BLOCK)
            file.flush()
            os.fsync(file.fileno())  # or a machine that fails could leave the new name with nothing behind it
        if create:
            os.link(temporary, target)  # which fails where something stands
        else:
            temporary.replace(target)
    except IsADirectoryError:
        raise InputError(uri, expected="the name of a file to write", found="a folder") from None
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def remove(uri: str) -> None:
    """Remove a file, if it is there.

    Raises:
        StorageError: it cannot be removed.
    """
    fs, path = filesystem(uri)
    with _told(uri, "a file that can be removed"), contextlib.suppress(FileNotFoundError, NotADirectoryError):
        _call(uri, fs, fs.rm_file, path)


def remove_folder(uri: str) -> None:
    """Remove a folder with all that is in it, if it is there. Raises as :func:`remove`."""
    fs, path = filesystem(uri)
    with _told(uri, "a folder that can be removed"), contextlib.suppress(FileNotFoundError, NotADirectoryError):
        _call(uri, fs, fs.rm, path, recursive=True)


def read_json(uri: str, *, unique: bool = False) -> Any:
    """Parse a JSON file.

    Args:
        unique: refuse an object that names a key twice, of which the last would silently count.

    Raises:
        InputError: missing, not UTF-8 or not JSON; with ``unique``, a key that is named twice.
    """

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            [(twice, _)] = Counter(key for key, _ in pairs).most_common(1)
            raise InputError(str(uri), expected="each name once", found=f"{twice} twice")
        return found

    try:
        return json.loads(read_bytes(uri).decode("utf-8-sig"), object_pairs_hook=once if unique else None)
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise InputError(str(uri), expected="a JSON file", found=str(error)) from None


def write_json(uri: str, value: Any) -> None:
    """Write indented JSON atomically. NaN is refused: it is not JSON."""
    write_bytes(uri, (json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode())


def list_names(uri: str) -> list[str]:
    """Names of files and folders directly in a folder, sorted; none where there is no folder.

    Raises:
        StorageError: the storage cannot say.
    """
    return sorted(map(_name, _listed(uri, detail=False)))


def list_sizes(uri: str) -> dict[str, int]:
    """Names of the files directly in a folder, and their bytes. Raises as :func:`list_names`."""
    return {_name(info["name"]): info["size"] for info in _listed(uri, detail=True) if info["type"] == "file"}


def iter_versions(uri: str) -> Iterator[tuple[str, str]]:
    """Name and :func:`version` of each file directly in a folder, in any order. Raises as :func:`list_names`."""
    fs, path = filesystem(uri)
    if isinstance(fs, LocalFileSystem):  # one after the other: fsspec would make a dictionary for each of a million
        with contextlib.suppress(FileNotFoundError, NotADirectoryError), _call(uri, fs, os.scandir, path) as entries:
            for entry in entries:
                if entry.is_file():
                    about = entry.stat()
                    yield entry.name, _version({"mtime": about.st_mtime, "size": about.st_size})
        return
    for info in _listed(uri, detail=True):
        if info["type"] == "file":
            yield _name(info["name"]), _version(info)


def _listed(uri: str, *, detail: bool) -> list[Any]:
    fs, path = filesystem(uri)
    fs.invalidate_cache(path)  # other processes write too
    try:
        found = _call(uri, fs, fs.ls, path, detail=detail)
    except (FileNotFoundError, NotADirectoryError):
        return []
    # A bucket may hold an object that stands for the folder itself.
    return [one for one in found if (one["name"] if detail else one).rstrip("/") != path.rstrip("/")]


def _name(path: str) -> str:
    return path.rstrip("/").rsplit("/", 1)[-1]


def list_files(uri: str, suffixes: Iterable[str] = ()) -> list[str]:
    """Files below a folder (or the one file named), sorted, hidden names left out, as URIs of the same scheme.

    Args:
        suffixes: lower-case endings such as ``.mp4``; none means every file.

    Raises:
        InputError: nothing stands at ``uri``.
        StorageError: the storage cannot say.
    """
    return list(list_versions(uri, suffixes))


def list_versions(uri: str, suffixes: Iterable[str] = ()) -> dict[str, Version]:
    """The :class:`Version` of each file that :func:`list_files` gives, from one listing. Raises as that does."""
    fs, path = filesystem(uri)
    fs.invalidate_cache(path)
    info = _info(uri)
    if info is None:
        raise InputError(str(uri), expected="a file or a folder", found="nothing there")
    if info["type"] != "directory":
        return {str(uri): Version(_version(info), _modified_s(info))}
    endings = tuple(suffixes)
    local = isinstance(fs, LocalFileSystem)
    # A local listing tells of a link, not of the file that it leads to.
    listed = _call(uri, fs, fs.find, path, detail=not local)
    found = sorted(
        name
        for name in listed
        if not any(part.startswith(".") for part in name[len(path) :].split("/"))
        and (not endings or name.lower().endswith(endings))
    )
    if local:
        infos = {name: _info(name) for name in found}
    else:
        infos = {fs.unstrip_protocol(name): listed[name] for name in found}
    return {
        name: Version(_version(info), _modified_s(info)) if info else Version("missing", None)
        for name, info in infos.items()
    }
