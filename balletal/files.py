"""Files by URI: a local path or any fsspec URL (``s3://bucket/key``). Writes are atomic."""

import json
import posixpath
import uuid
from collections.abc import Iterable
from typing import Any

import fsspec
from fsspec.implementations.local import LocalFileSystem

from balletal.errors import InputError


def filesystem(uri: str) -> tuple[Any, str]:
    """The fsspec file system of a URI and the path inside it."""
    if "::" in str(uri):
        # Chained URLs let one scheme open files through another, which no command here needs.
        raise InputError(str(uri), expected="a path or a plain URL", found="a chained fsspec URL")
    try:
        fs, path = fsspec.core.url_to_fs(str(uri))
    except (ValueError, ImportError) as error:  # a scheme that is unknown, or whose package is not installed
        raise InputError(str(uri), expected="a path, or a URL that fsspec can open", found=str(error)) from None
    return fs, path


def join(uri: str, *parts: str) -> str:
    """``uri`` with path parts appended, whatever its scheme."""
    return posixpath.join(str(uri), *parts)


def absolute(uri: str) -> str:
    """``uri`` as it reads from any working folder: local paths absolute, other URLs in their file system's form."""
    fs, path = filesystem(uri)
    return path if isinstance(fs, LocalFileSystem) else str(fs.unstrip_protocol(path))


def exists(uri: str) -> bool:
    fs, path = filesystem(uri)
    return bool(fs.exists(path))


def read_bytes(uri: str) -> bytes:
    """The content of a file.

    Raises:
        InputError: the file is missing, is a folder or may not be read.
    """
    fs, path = filesystem(uri)
    try:
        data: bytes = fs.cat_file(path)
    except (FileNotFoundError, NotADirectoryError):
        raise InputError(str(uri), expected="a file", found="nothing there") from None
    except PermissionError as error:
        raise InputError(str(uri), expected="a file that may be read", found=error.strerror or str(error)) from None
    except IsADirectoryError:
        raise InputError(str(uri), expected="a file", found="a folder") from None
    return data


def write_bytes(uri: str, data: bytes) -> None:
    """Write a whole file so that a reader sees either nothing (or the old content) or all of it.

    Local files are written under a temporary name and renamed; object stores make a put visible as a whole.

    Raises:
        InputError: a folder stands there, or no folder can be made for the file.
    """
    fs, path = filesystem(uri)
    if not isinstance(fs, LocalFileSystem):
        fs.pipe_file(path, data)
        return
    if fs.isdir(path):  # moving onto it would put the file into it, under its temporary name
        raise InputError(str(uri), expected="the name of a file to write", found="a folder")
    _make_folder(fs, posixpath.dirname(path))
    temporary = posixpath.join(posixpath.dirname(path), f".{posixpath.basename(path)}.{uuid.uuid4().hex}.tmp")
    try:
        fs.pipe_file(temporary, data)
        fs.mv(temporary, path)
    finally:
        if fs.exists(temporary):
            fs.rm_file(temporary)


def _make_folder(fs: Any, path: str) -> None:
    try:
        fs.makedirs(path, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise InputError(path, expected="a folder, or a place for one", found="a file in its path") from None
    except PermissionError as error:
        raise InputError(path, expected="a folder to write into", found=error.strerror or str(error)) from None


def read_json(uri: str) -> Any:
    """Parse a JSON file.

    Raises:
        InputError: missing, not UTF-8 or not JSON.
    """
    try:
        return json.loads(read_bytes(uri).decode("utf-8-sig"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise InputError(str(uri), expected="a JSON file", found=str(error)) from None


def write_json(uri: str, value: Any) -> None:
    """Write indented JSON atomically. NaN is refused: it is not JSON."""
    write_bytes(uri, (json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode())


def list_files(uri: str, suffixes: Iterable[str] = ()) -> list[str]:
    """Files below a folder (or the one file named), sorted, hidden names left out, as URIs of the same scheme.

    Args:
        suffixes: lower-case endings such as ``.mp4``; none means every file.

    Raises:
        InputError: nothing stands at ``uri``.
    """
    fs, path = filesystem(uri)
    if fs.isfile(path):
        return [str(uri)]
    if not fs.exists(path):
        raise InputError(str(uri), expected="a file or a folder", found="nothing there")
    endings = tuple(suffixes)
    found = sorted(
        name
        for name in fs.find(path)
        if not any(part.startswith(".") for part in name[len(path) :].split("/"))
        and (not endings or name.lower().endswith(endings))
    )
    if isinstance(fs, LocalFileSystem):
        return found
    return [fs.unstrip_protocol(name) for name in found]
