"""The videos that are here: records in the data folder, found by id, listed and counted by owner.

A record is written once, after the video's content, and never changes. It has the id of the upload that it came from.
"""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import Annotated, TypeVar

from fastapi import Path as PathParameter
from pydantic import BaseModel, ConfigDict, Field

from balletal import files
from balletal.errors import InputError
from balletal.video.probe import VideoInfo
from workflows.serve.data import ID, Data, is_id
from workflows.serve.media import Look
from workflows.serve.problems import Problem

LEAST_BYTES = 1 << 20
"""What a video or upload counts at least: folders and records take room too."""

Id = Annotated[str, PathParameter(description="24 hex digits", json_schema_extra={"pattern": f"^{ID}$"})]
"""A route's parameter. One of another form is answered like one that nobody has (404), not as a bad parameter."""

Name = Annotated[str, Field(min_length=1, max_length=255, pattern=r"^[^\x00-\x1f\x7f/\\]+$")]
"""What a person calls a file. It never becomes a path of ours."""

Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]

T = TypeVar("T", bound=BaseModel)


class Video(BaseModel):
    """A video that is here. Times are seconds on its presentation clock, sizes are those of the displayed picture."""

    model_config = ConfigDict(frozen=True)

    video_id: str = Field(pattern=f"^{ID}$")
    name: Name
    bytes: int = Field(gt=0)
    sha256: Digest
    created: datetime
    codec: str = Field(description="FFmpeg's name")
    width: int = Field(gt=0)
    height: int = Field(gt=0)
    rotation: int = Field(description="degrees clockwise from the stored to the displayed picture: 0, 90, 180, 270")
    fps: float = Field(gt=0, description="average frames a second")
    vfr: bool = Field(description="frame durations vary")
    duration: float = Field(gt=0)
    frames: int = Field(gt=0)
    playable: bool = Field(description="browsers play the file itself; if not, the content is a preview")
    warnings: list[str]


class StoredVideo(Video):
    """The record of a video: what is told of it, whose it is, and how its file is called."""

    owner: str
    suffix: str

    def info(self, uri: str) -> VideoInfo:
        """What a probe of its content at ``uri`` gives."""
        told = {name: getattr(self, name) for name in VideoInfo.__dataclass_fields__ if name != "uri"}
        return VideoInfo(uri=uri, **told)


@dataclass(frozen=True)
class Library:
    """The videos of a data folder. Its calls read files: not for the event loop's thread."""

    data: Data

    def find(self, owner: str, video_id: str) -> StoredVideo:
        """A video of an owner.

        Raises:
            Problem: 404.
        """
        video = self.get(video_id)
        if video is None or video.owner != owner:
            raise Problem(404, "not-found", "No such video", "There is no video of yours with this id.")
        return video

    def get(self, video_id: str) -> StoredVideo | None:
        """A video, whoever's it is."""
        return read_record(self._record(video_id), StoredVideo) if is_id(video_id) else None

    def of(self, owner: str) -> list[StoredVideo]:
        """The videos of an owner, newest first."""
        mine = [video for video in self.all() if video.owner == owner]
        return sorted(mine, key=lambda video: (video.created, video.video_id), reverse=True)

    def all(self) -> list[StoredVideo]:
        """Everyone's videos."""
        return list_records(self.data, "videos", "video.json", StoredVideo)

    def exists(self, video_id: str) -> bool:
        """Whether there is such a video, whoever's it is."""
        return files.exists(self._record(video_id))

    def content(self, video: StoredVideo) -> str:
        """The URI of the file as it was sent."""
        return files.join(self.data.folder("videos", video.video_id), f"content{video.suffix}")

    def preview(self, video: StoredVideo) -> str:
        """The URI of the preview, which may not be made yet."""
        return files.join(self.data.folder("videos", video.video_id), "preview.mp4")

    def add(self, video: StoredVideo, content: Path) -> StoredVideo:
        """Take a local file in; it is gone from where it was.

        Returns:
            The record; of several calls with one id and content at the same time, the first one's.
        """
        files.move_file(content, self.content(video))
        first = files.create_bytes(self._record(video.video_id), video.model_dump_json().encode())
        return video if first else self.get(video.video_id) or video

    def remove(self, video_id: str) -> None:
        """Remove a video. A removal that is cut short leaves the record, so that it can be repeated."""
        folder = self.data.folder("videos", video_id)
        for name in files.list_sizes(folder):
            if name != "video.json":
                files.remove(files.join(folder, name))
        files.remove_folder(folder)

    def _record(self, video_id: str) -> str:
        return files.join(self.data.folder("videos", video_id), "video.json")


def stored_video(
    video_id: str, owner: str, name: str, created: datetime, size: int, sha256: str, seen: Look
) -> StoredVideo:
    """The record of a file that was looked at."""
    told = {field: getattr(seen.info, field) for field in VideoInfo.__dataclass_fields__ if field != "uri"}
    return StoredVideo(
        video_id=video_id,
        owner=owner,
        name=name,
        created=created,
        bytes=size,
        sha256=sha256,
        suffix=seen.suffix,
        playable=seen.playable,
        warnings=seen.warnings,
        **told,
    )


def read_record(uri: str, kind: type[T]) -> T | None:
    """A record that is written once, or None where there is none."""
    try:
        return kind.model_validate_json(files.read_bytes(uri))
    except InputError:
        return None


@lru_cache(maxsize=1 << 16)
def _known(uri: str, kind: type[T]) -> T:
    record = read_record(uri, kind)
    if record is None:
        raise LookupError(uri)  # which is not remembered: it may be written later
    return record


def list_records(data: Data, folder: str, name: str, kind: type[T]) -> list[T]:
    """The records of all uploads or videos: one listing, and a read of those not read before."""

    def read(one: str) -> T | None:
        try:
            return _known(files.join(data.folder(folder, one), name), kind)
        except LookupError:
            return None

    names = [one for one in files.list_names(data.folder(folder)) if is_id(one)]
    with ThreadPoolExecutor(16) as pool:
        return [record for record in pool.map(read, names) if record is not None]
