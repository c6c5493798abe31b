"""The client: what the service is, its videos, and localizing while one waits."""

import contextlib
import hashlib
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

import requests

from balletal.client.bodies import Bounds, Models, Result, Upload, Video, Videos
from balletal.client.jobs import Jobs
from balletal.client.transport import Http, checked_id, foreign, parsed
from balletal.errors import InputError, ServiceError

_OFFSET = "urn:balletal:offset"
_BYTES = {"Content-Type": "application/octet-stream"}


class Client:
    """A service's videos, models and jobs. Every call may raise a ServiceError.

    What the service is too busy for, or whose connection is lost, is tried again, after waits that vary by chance.

    Args:
        url: of the service, such as ``http://127.0.0.1:8000``.
        token: of those that the service knows. It is told nowhere; use ``https`` when others can listen.
        patience_s: seconds of waiting after which it is given up. A service that has never answered is not waited for.

    Attributes:
        jobs: any number of videos of any length, localized while nobody waits.

    Raises:
        InputError: no URL of a service, or no token.
    """

    def __init__(self, url: str, token: str | None = None, *, patience_s: float = 60.0) -> None:
        self._http = Http(url, token, patience_s)
        self.jobs = Jobs(self._http)

    def __repr__(self) -> str:
        return f"Client({self._http.url!r})"

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.session.close()

    def ready(self) -> bool:
        """Whether the service answers and its models are loaded. Asks once."""
        try:
            self._http.send_once("GET", "/v2/health/ready")
        except ServiceError as error:
            if error.status is None or error.status >= 500:
                return False
            raise
        return True

    def limits(self) -> dict[str, Any]:
        """What may be asked for: numbers by name, such as ``max_localize_s``."""
        answer = self._http.send("GET", "/v1/limits")
        with contextlib.suppress(ValueError):
            if isinstance(body := answer.json(), dict):
                return body
        raise foreign(answer, "no limits")

    def _bounds(self) -> Bounds:
        return parsed(Bounds, self._http.send("GET", "/v1/limits"))

    def models(self) -> Models:
        """The models, and which one is the default."""
        return parsed(Models, self._http.send("GET", "/v1/models"))

    def videos(self) -> Iterator[Video]:
        """Your videos, newest first."""
        for page in self._http.pages("/v1/videos", Videos):
            yield from page.videos

    def video(self, video_id: str) -> Video:
        """A video."""
        return parsed(Video, self._http.send("GET", f"/v1/videos/{checked_id(video_id)}"))

    def content(self, video_id: str, headers: Mapping[str, str] | None = None) -> requests.Response:
        """A video as browsers play it: as it was sent, or its H.264 preview, which is waited for.

        Args:
            headers: such as ``Range``.

        Returns:
            An answer whose body is read while it comes. Close it.
        """
        path = f"/v1/videos/{checked_id(video_id)}/content"
        return self._http.send("GET", path, headers=headers, stream=True)

    def delete_video(self, video_id: str) -> None:
        """Remove a video."""
        self._http.send("DELETE", f"/v1/videos/{checked_id(video_id)}")

    def localize(
        self,
        path: str | os.PathLike[str] | None = None,
        *,
        video_id: str | None = None,
        uri: str | None = None,
        model: str | None = None,
        start: float | None = None,
        end: float | None = None,
        min_score: float = 0.0,
        top_k: int | None = None,
    ) -> Result:
        """Find the steps in a short video, or in a part of a longer one: a file here, a video there, or a URI.

        Args:
            uri: of a place that the service may read.
            model: ``name`` or ``name@version``; None: the default one.
            start, end: seconds; localize between them.
            min_score, top_k: of the segments, those of at least this score, and at most so many.

        Raises:
            InputError: not one video, no such file, or one too large for a request.
            ServiceError: such as ``urn:balletal:use-async`` for a video too long to wait for: make it a job.
        """
        if sum(one is not None for one in (path, video_id, uri)) != 1:
            raise InputError("localize", expected="one of a path, a video_id and a uri", found="none or several")
        wanted = {"model": model, "start": start, "end": end, "min_score": min_score, "top_k": top_k}
        if path is None:
            body = wanted | {"video_id": video_id, "uri": uri}
            answer = self._http.send("POST", "/v1/localize", json={k: v for k, v in body.items() if v is not None})
            name = video_id or PurePosixPath(str(uri)).stem
        else:
            # Asked first: a service that refuses a body while it comes may not be heard.
            most, size = self._bounds().max_body_bytes, _size(path)
            if size > most:
                expected = f"at most {most} bytes for one request (a job takes larger videos)"
                raise InputError(str(path), expected=expected, found=f"{size} bytes")
            answer = self._http.send("POST", "/v1/localize", file=Path(path), params=wanted, headers=_BYTES)
            name = Path(path).stem
        try:
            return Result.of(answer.json(), name)
        except (ValueError, KeyError, TypeError):
            raise foreign(answer, "no result") from None

    def upload(
        self,
        path: str | os.PathLike[str],
        *,
        name: str | None = None,
        resume: str | None = None,
        progress: Callable[[Upload], None] | None = None,
    ) -> Video:
        """Send a video piece by piece. Where a connection is lost, it goes on from what the service has.

        Args:
            name: what the video is called; None: as the file.
            resume: the id of an upload of this file that was cut short, from ``progress`` or from the error's
                ``more["upload_id"]``.
            progress: is told the upload when it begins, and after each piece.

        Raises:
            InputError: no such file, or not the one that was begun.
            ServiceError: such as ``urn:balletal:bad-video``.
        """
        size, most = _size(path), self._bounds().max_chunk_bytes
        with Path(path).open("rb") as file:
            if resume is None:
                sha256 = hashlib.file_digest(file, "sha256").hexdigest()
                new = {"filename": name or Path(path).name, "bytes": size, "sha256": sha256}
                upload = parsed(Upload, self._http.send("POST", "/v1/uploads", json=new))
            else:
                upload = Upload(id=resume, filename=name or Path(path).name, bytes=size, offset=0)
                upload = self._there(upload)
            try:
                while upload.offset < size:
                    if progress is not None:
                        progress(upload)
                    upload = self._send_piece(upload, file, most)
                if progress is not None:
                    progress(upload)
                return parsed(Video, self._http.send("POST", f"/v1/uploads/{upload.id}/complete"))
            except ServiceError as error:
                error.more["upload_id"] = upload.id
                raise

    def _send_piece(self, upload: Upload, file: BinaryIO, most: int) -> Upload:
        """The upload with the next piece, or with what the service has instead."""
        file.seek(upload.offset)
        piece = file.read(min(most, upload.bytes - upload.offset))
        if not piece:
            raise InputError(file.name, expected=f"{upload.bytes} bytes, as before", found=f"{upload.offset}")
        headers = _BYTES | {"Upload-Offset": str(upload.offset)}
        for attempt in self._http.attempts():
            with attempt:
                # A piece may have come in whose answer was lost.
                if attempt.retry_state.attempt_number > 1 and (there := self._there(upload)).offset != upload.offset:
                    return there
                try:
                    self._http.send_once("PATCH", f"/v1/uploads/{upload.id}", data=piece, headers=headers)
                except ServiceError as error:
                    if error.type != _OFFSET or error.more.get("upload_offset") in (None, upload.offset):
                        raise
                    return self._there(upload)
        return upload.model_copy(update={"offset": upload.offset + len(piece)})

    def _there(self, upload: Upload) -> Upload:
        """The upload with what the service has of it.

        Raises:
            InputError: it is one of another file.
        """
        answer = self._http.send("HEAD", f"/v1/uploads/{checked_id(upload.id)}")
        try:
            offset, size = (int(answer.headers[name]) for name in ("Upload-Offset", "Upload-Length"))
        except (KeyError, ValueError):
            raise foreign(answer, "no upload") from None
        if size != upload.bytes:
            found = f"{upload.bytes} bytes"
            raise InputError(upload.filename, expected=f"the file of upload {upload.id}, {size} bytes", found=found)
        return upload.model_copy(update={"offset": offset})


def _size(path: str | os.PathLike[str]) -> int:
    if not Path(path).is_file():
        raise InputError(str(path), expected="a file", found="none")
    return Path(path).stat().st_size
