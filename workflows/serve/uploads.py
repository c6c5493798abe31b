"""Videos on their way in: piece after piece, each a file of its own that is named by where it begins.

A piece is written once; of two at one place the first stays. So the bytes that are there without a gap only ever grow,
whoever sends, however many replicas take them, and whatever is killed. The record is written before everything else
of an upload and of the video that comes of it, and removed last.
"""

import hashlib
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from shutil import disk_usage
from typing import NoReturn

from pydantic import BaseModel, Field

from balletal import files
from balletal.errors import InputError, StorageError, VideoError
from balletal.video.guard import GuardError
from workflows.serve.bodies import Strict, scratch
from workflows.serve.data import ID, Data, is_id, new_id
from workflows.serve.library import (
    LEAST_BYTES,
    Digest,
    Library,
    Name,
    StoredVideo,
    list_records,
    read_record,
    stored_video,
)
from workflows.serve.limits import Limits
from workflows.serve.media import look
from workflows.serve.problems import Problem, too_large, video_problem

MAX_PIECES = 10_000
"""Of an upload; with pieces of the usual 8 MiB there are 1024 in 8 GiB."""


class NewUpload(Strict):
    """What a client says of a file before it sends it."""

    filename: Name
    bytes: int = Field(gt=0, le=1 << 53)
    sha256: Digest | None = Field(None, description="compared when the upload is complete")


class Upload(BaseModel):
    """An upload. ``offset`` bytes of it are here; the next piece begins there."""

    id: str = Field(pattern=f"^{ID}$")
    filename: Name
    bytes: int = Field(gt=0)
    offset: int = Field(ge=0)
    chunk_max: int = Field(gt=0, description="bytes of a piece")
    created: datetime


class StoredUpload(NewUpload):
    """The record of an upload."""

    id: str
    owner: str
    created: datetime


@dataclass(frozen=True)
class Uploads:
    """The uploads of a data folder. Its calls read and write files: not for the event loop's thread."""

    data: Data
    limits: Limits

    @property
    def library(self) -> Library:
        return Library(self.data)

    def create(self, owner: str, new: NewUpload) -> StoredUpload:
        """Begin an upload; its bytes count as stored from now on.

        Raises:
            Problem: 413, 429 (the owner's quota) or 507 (the disk).
        """
        if new.bytes > self.limits.max_upload_bytes:
            raise too_large(self.limits.max_upload_bytes)
        upload = StoredUpload(id=new_id(), owner=owner, created=datetime.now(UTC), **new.model_dump())
        files.write_bytes(self._record(upload.id), upload.model_dump_json().encode())
        # Counted with it in place: of two that would fit alone, none is let in by mistake.
        stored = self.stored_bytes(owner)
        if stored > (most := self.limits.max_stored_bytes):
            self.remove(upload.id)
            detail = f"{stored - new.bytes} bytes are stored, {most} may be. Remove videos that are not needed."
            raise Problem(429, "quota", "Quota used up", detail, max_stored_bytes=most)
        # For a while there are the pieces and the whole. Told now, and not after hours of sending.
        if (folder := Path(files.absolute(self.data.uri))).is_absolute() and disk_usage(folder).free < 2 * new.bytes:
            self.remove(upload.id)
            raise Problem(507, "quota", "No space", "The service's disk has no room for the video.")
        return upload

    def find(self, owner: str, upload_id: str) -> StoredUpload:
        """An upload of an owner that is not complete.

        Raises:
            Problem: 404.
        """
        upload = read_record(self._record(upload_id), StoredUpload) if is_id(upload_id) else None
        if upload is None or upload.owner != owner:
            raise Problem(404, "not-found", "No such upload", "There is no upload of yours with this id.")
        return upload

    def offset(self, upload: StoredUpload) -> int:
        """The bytes that are here without a gap."""
        return sum(size for _, size in self._pieces(upload))

    def add_piece(self, upload: StoredUpload, offset: int, content: Path) -> int:
        """Add the bytes of a local file.

        Returns:
            The offset behind them.

        Raises:
            Problem: 409 with the offset, when they begin elsewhere or another piece was first; 413; 404, the upload was
                removed meanwhile.
        """
        pieces = self._pieces(upload)
        if offset != sum(size for _, size in pieces):
            self.refuse_offset(upload)
        size = content.stat().st_size
        if offset + size > upload.bytes:
            detail = f"The upload has {upload.bytes} bytes as it was begun, these would make {offset + size}."
            raise Problem(413, "too-large", "More than was said", detail, max_bytes=upload.bytes)
        if not size:
            return offset
        if len(pieces) >= MAX_PIECES:
            raise Problem(413, "too-large", "Too many pieces", f"An upload has at most {MAX_PIECES} pieces.")
        if not files.create_bytes(self._piece(upload, offset), content.read_bytes()):
            self.refuse_offset(upload)
        if not self.exists(upload.id):  # removed meanwhile; nobody would find the piece
            self.remove(upload.id)
            self.find(upload.owner, upload.id)
        return offset + size

    def refuse_offset(self, upload: StoredUpload) -> NoReturn:
        """Tell where the next piece begins."""
        offset = self.offset(upload)
        raise Problem(
            409,
            "offset",
            "Another offset",
            f"{offset} of {upload.bytes} bytes are here.",
            {"Upload-Offset": str(offset)},
            upload_offset=offset,
        )

    def complete(self, owner: str, upload_id: str) -> StoredVideo:
        """Make a video of an upload; of one that was made already, the same video.

        Raises:
            Problem: 404, 409 (bytes are missing), 422 (another hash, or no video that can be used) or 503.
        """
        if video := self._made(owner, upload_id):
            self.remove(upload_id)  # what a replica that was killed left of it
            return video
        try:
            return self._make(self.find(owner, upload_id))
        except (Problem, StorageError):
            if video := self._made(owner, upload_id):  # by another call meanwhile
                return video
            self.find(owner, upload_id)  # removed meanwhile, and its files with it
            raise

    def _made(self, owner: str, upload_id: str) -> StoredVideo | None:
        video = self.library.get(upload_id)
        return video if video is not None and video.owner == owner else None

    def _make(self, upload: StoredUpload) -> StoredVideo:
        pieces = self._pieces(upload)
        if sum(size for _, size in pieces) != upload.bytes:
            self.refuse_offset(upload)
        with scratch(self.data.folder("videos", upload.id)) as folder:
            content = folder / "content"
            with content.open("wb") as file:
                for offset, _ in pieces:
                    try:
                        file.write(files.read_bytes(self._piece(upload, offset)))
                    except InputError:
                        self.find(upload.owner, upload.id)  # removed meanwhile
                        raise
            try:
                return self.take_in(upload, content)
            except Problem as problem:
                if problem.status == 415:  # which speaks of a request's body
                    problem.status = 422
                raise

    def take_in(self, upload: StoredUpload, content: Path) -> StoredVideo:
        """Make a video of a local file, in the name of an upload that is then gone.

        Raises:
            Problem: 415 or 422 when it cannot be used, 503.
        """
        with content.open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        if upload.sha256 not in (None, sha256):
            detail = f"The bytes that are here have the SHA-256 {sha256}. Send the video again as a new upload."
            raise Problem(422, "bad-video", "Not the file that was announced", detail, kind="changed")
        try:
            seen = look(content, self.limits)
        except VideoError as error:
            raise video_problem(error) from None
        except GuardError:
            raise Problem(503, "busy", "Busy", "No video can be looked at now. Try again later.") from None
        size, now = content.stat().st_size, datetime.now(UTC)
        video = stored_video(upload.id, upload.owner, upload.filename, now, size, sha256, seen)
        self.find(upload.owner, upload.id)  # removed meanwhile, or made by another call
        video = self.library.add(video, content)
        self.remove(upload.id)
        return video

    def remove(self, upload_id: str) -> None:
        """Remove an upload, and what would have become its video."""
        folder = self.data.folder("uploads", upload_id)
        if self.library.get(upload_id) is None:
            self.library.remove(upload_id)
        for name in files.list_sizes(folder):
            if name != "upload.json":
                files.remove(files.join(folder, name))
        files.remove_folder(folder)

    def all(self) -> list[StoredUpload]:
        """Everyone's uploads."""
        return list_records(self.data, "uploads", "upload.json", StoredUpload)

    def exists(self, upload_id: str) -> bool:
        """Whether there is such an upload, whoever's it is."""
        return files.exists(self._record(upload_id))

    def stored_bytes(self, owner: str) -> int:
        """The bytes of an owner's videos, and of uploads as they will be. Previews do not count."""
        sizes = {upload.id: upload.bytes for upload in self.all() if upload.owner == owner}
        sizes |= {video.video_id: video.bytes for video in self.library.all() if video.owner == owner}
        return sum(max(size, LEAST_BYTES) for size in sizes.values())

    def _pieces(self, upload: StoredUpload) -> list[tuple[int, int]]:
        """Offsets and sizes of the pieces that follow on one another from 0."""
        sizes = files.list_sizes(self.data.folder("uploads", upload.id))
        found, offset = [], 0
        while size := sizes.get(_piece_name(offset)):
            found.append((offset, size))
            offset += size
        return found

    def _piece(self, upload: StoredUpload, offset: int) -> str:
        return files.join(self.data.folder("uploads", upload.id), _piece_name(offset))

    def _record(self, upload_id: str) -> str:
        return files.join(self.data.folder("uploads", upload_id), "upload.json")


def _piece_name(offset: int) -> str:
    return f"{offset:016d}.part"
