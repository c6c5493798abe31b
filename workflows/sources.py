"""The files that a job starts from: which there are, what they are called, and which of them a store knows."""

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any, Literal

from balletal import files
from balletal.errors import InputError
from balletal.features.store import FeatureStore
from balletal.parquet import quote

VideoIds = Literal["stem", "path"]

# Files whose version is asked for at the same time.
_ASKED = 16


class AmbiguousNamesError(InputError):
    """Two files would have the same video id."""


@dataclass(frozen=True)
class Source:
    """A file to read. ``version`` changes with its content (:func:`balletal.files.version`).

    ``modified_s``: when it did last, in seconds since 1970, where a listing told.
    """

    video_id: str
    uri: str
    version: str
    modified_s: float | None = field(default=None, compare=False)


@dataclass(frozen=True)
class Shard:
    """One of several equal parts of any videos: part ``number`` (from 1) of ``of``."""

    number: int
    of: int

    @classmethod
    def parse(cls, text: str) -> "Shard":
        """From the form ``<number>/<of>``.

        Raises:
            InputError: no such form, or no such part.
        """
        found = re.fullmatch(r"(\d{1,9})/(\d{1,9})", text, re.ASCII)
        shard = cls(*map(int, found.groups())) if found else None
        if shard is None or not 1 <= shard.number <= shard.of:
            raise InputError(f"shard {text!r}", expected="i/n, such as 1/4, 2/4, 3/4 and 4/4", found="another")
        return shard

    def has(self, video_id: str) -> bool:
        """Whether a video is in this part: by its id alone, so it stays there whatever other videos there are."""
        digest = hashlib.blake2b(video_id.encode(), digest_size=8).digest()
        return int.from_bytes(digest) % self.of == self.number - 1

    def __str__(self) -> str:
        return f"{self.number}of{self.of}"


Videos = str | Mapping[str, str] | Sequence[Source]
"""Videos to work on: a folder, a file or a URI of either; the URI of each by its video id; or sources as listed."""


def list_sources(uri: str, suffixes: tuple[str, ...], *, video_ids: VideoIds = "stem") -> list[Source]:
    """Files with one of the suffixes below a folder (or the one file named), sorted by URI.

    Args:
        video_ids: what a video is called: ``stem``, the file's name without its suffix; or ``path``, its path below
            ``uri`` with the suffix, which tells files of one name in several folders apart.

    Raises:
        InputError: nothing there, no such file, or a name that is too long or no text.
        AmbiguousNamesError: two files of one video id.
        StorageError: the place cannot be listed.
    """
    root = files.absolute(uri)
    sources: dict[str, Source] = {}
    for file, about in files.list_versions(root, suffixes).items():
        if not file.lower().endswith(suffixes):  # the one file that was named
            continue
        try:
            file.encode()
        except UnicodeEncodeError:
            raise InputError(repr(file), expected="a name that UTF-8 can write", found="other bytes") from None
        name = PurePosixPath(file).relative_to(root).as_posix() if file != root else PurePosixPath(file).name
        video_id = name if video_ids == "path" else PurePosixPath(name).stem
        quote(video_id)  # an id that no file name can hold is told before any work
        if video_id in sources:
            raise AmbiguousNamesError(
                f"videos named {video_id!r}",
                expected="one file (--video-id path tells files of one name apart)",
                found=f"{sources[video_id].uri} and {file}",
            )
        sources[video_id] = Source(video_id, file, *about)
    if not sources:
        raise InputError(uri, expected=f"files ending in {', '.join(suffixes)}", found="none")
    return list(sources.values())


def video_sources(videos: Videos, suffixes: tuple[str, ...], *, video_ids: VideoIds = "stem") -> list[Source]:
    """The sources of :data:`Videos`; of those given by id, one that is not there is a source that fails later.

    Raises:
        InputError, StorageError: as :func:`list_sources`; an id that no file name can hold, another suffix, no video.
    """
    if isinstance(videos, str):
        return list_sources(videos, suffixes, video_ids=video_ids)
    if not videos:
        raise InputError("videos", expected="at least one", found="none")
    if not isinstance(videos, Mapping):
        return list(videos)
    for video_id, uri in videos.items():
        quote(video_id)
        if not uri.lower().endswith(suffixes):
            raise InputError(uri, expected=f"a name ending in {', '.join(suffixes)}", found="another")
    uris = [files.absolute(uri) for uri in videos.values()]
    with ThreadPoolExecutor(_ASKED) as pool:
        versions = list(pool.map(files.version, uris))
    return [Source(*source) for source in zip(videos, uris, versions, strict=True)]


def known_videos(store: FeatureStore, suffixes: tuple[str, ...]) -> list[dict[str, Any]]:
    """Rows of the videos table whose files have one of the suffixes.

    A store may describe a video twice: by the video's own file, and by a file of features that was imported.
    """
    table = store.videos()
    rows: list[Any] = table[table["uri"].str.lower().str.endswith(suffixes)].to_dict("records")
    return rows


def drop_changed(store: FeatureStore, sources: Iterable[Source], suffixes: tuple[str, ...]) -> dict[str, Source]:
    """Compare sources with the videos table, and remove from the store what a changed source has made untrue.

    Args:
        suffixes: see :func:`known_videos`.

    Returns:
        The sources that the videos table does not describe, by video id: new ones, and changed ones.

    Raises:
        InputError: a video id of the store belongs to another file.
    """
    known = {row["video_id"]: row for row in known_videos(store, suffixes)}
    told = {(row["video_id"], row["version"]) for row in store.errors().to_dict("records")}
    new, changed = {}, set()
    for source in sources:
        row = known.get(source.video_id)
        if row is not None and row["version"] == source.version:
            continue  # unchanged, be it where it was or moved
        if row is not None and row["uri"] != source.uri:
            raise InputError(
                f"video {source.video_id!r} in store {store.uri}",
                expected=f"the file {row['uri']} (another store, or --video-id path, keeps both)",
                found=source.uri,
            )
        new[source.video_id] = source
        # One that is known to fail since it changed was dropped then; its error row must stay.
        if row is not None and (source.video_id, source.version) not in told:
            changed.add(source.video_id)
    store.forget(changed)
    return new
