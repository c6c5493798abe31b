"""Parts of a stored file over HTTP (RFC 9110, 14): one range at a time, in bounded memory, from a disk or a bucket."""

import asyncio
import re
from collections.abc import AsyncIterator
from typing import IO

from fastapi import Request
from starlette.responses import Response, StreamingResponse

from balletal import files
from workflows.serve.problems import Problem

_BLOCK = 1 << 18


def parse_range(header: str | None, size: int) -> tuple[int, int] | None:
    """The range that a ``Range`` header asks for.

    Args:
        size: bytes of the file, at least one.

    Returns:
        First byte, and the one behind the last; None when the whole file is to be sent: no header, one that is no
        single range of bytes (which a server may ignore), or one that makes no sense.

    Raises:
        Problem: 416, nothing of the range is in the file.
    """
    found = re.fullmatch(r"bytes=\s*(\d{0,18})-(\d{0,18})\s*", header or "", re.ASCII | re.IGNORECASE)
    if not found or not any(found.groups()):
        return None
    first, last = found.groups()
    if not first:  # so many bytes from the end
        start, stop = max(0, size - int(last)), size
    else:
        start, stop = int(first), min(size, int(last) + 1) if last else size
        if last and int(last) < start:
            return None
    if start >= size or start >= stop:
        headers = {"Content-Range": f"bytes */{size}"}
        raise Problem(416, "range", "Range not satisfiable", f"The file has {size} bytes.", headers, size=size)
    return start, stop


async def file_response(request: Request, uri: str, size: int, etag: str, headers: dict[str, str]) -> Response:
    """The file, or the range of it that the request asks for; the headers alone for HEAD.

    Args:
        size: bytes of the file.
        etag: strong, in quotes. ``If-None-Match`` and ``If-Range`` are compared with it.

    Raises:
        Problem: 416; 404, it is gone.
        StorageError: it cannot be read.
    """
    headers = headers | {"ETag": etag, "Accept-Ranges": "bytes"}
    told = request.headers.get("if-none-match", "")
    if told.strip() == "*" or etag in (one.strip().removeprefix("W/") for one in told.split(",")):
        return Response(status_code=304, headers=headers)
    wanted = request.headers.get("range") if request.headers.get("if-range", etag) == etag else None
    part = parse_range(wanted, size) if request.method == "GET" else None
    start, stop = part or (0, size)
    status = 206 if part else 200
    if part:
        headers["Content-Range"] = f"bytes {start}-{stop - 1}/{size}"
    headers["Content-Length"] = str(stop - start)
    if request.method == "HEAD":
        return Response(status_code=status, headers=headers)
    try:
        file = await asyncio.to_thread(files.open_file, uri)
    except FileNotFoundError:
        raise Problem(404, "not-found", "No such video", "The video was removed.") from None
    return StreamingResponse(_blocks(file, start, stop), status, headers)


async def _blocks(file: IO[bytes], start: int, stop: int) -> AsyncIterator[bytes]:
    try:
        await asyncio.to_thread(file.seek, start)
        while start < stop:
            block = await asyncio.to_thread(file.read, min(_BLOCK, stop - start))
            if not block:  # shorter than it was: the connection breaks off, as the length that was told is not met
                return
            start += len(block)
            yield block
    finally:
        file.close()
