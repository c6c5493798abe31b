"""The detections of many videos: Parquet files that say which videos they are of, under one folder or bucket prefix.

Layout below the store's URI::

    scoring=<id>/_scoring.json                        what makes these detections: the bundle, and how it is asked
    scoring=<id>/<order>-<owner>-<random>.parquet     some videos' detections (schemas.arrow.DETECTIONS)

The files are the manifest, as in the feature store. Each names, under ``videos`` in its metadata, the videos that were
looked at for it, also those in which nothing was found (schemas.arrow.SCORED), and appears as a whole: detections and
the record that they are made cannot come apart. The last file that has a video counts. So nothing that is killed leaves
a video twice, or half of one; :meth:`DetectionStore.compact` joins small files and drops rows that do not count.
"""

import base64
import hashlib
import json
import re
import time
import uuid
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from balletal import files
from balletal.errors import InputError
from balletal.parquet import READERS, parquet_files, read_table, remove
from schemas import arrow

EVERYONE = "all"
"""The owner of what a run wrote that had all videos, not one of several shards."""

# A file that is full: so many detections (some 20 MB, and 400 MB while files are joined), or so many videos (some 4 MB
# of metadata).
_DETECTIONS, _VIDEOS = 1_000_000, 100_000


@dataclass(frozen=True)
class DetectionStore:
    """The detections of one scoring; make one with :meth:`create` or :meth:`open`.

    Attributes:
        uri: folder that may hold several scorings.
        scoring: what decides the detections, as JSON holds it.
    """

    uri: str
    scoring: Mapping[str, Any]

    @classmethod
    def create(cls, uri: str, scoring: Mapping[str, Any]) -> "DetectionStore":
        """Open the place for a scoring, making it when it is new."""
        store = cls(files.absolute(uri), dict(scoring))
        if not files.exists(where := files.join(store.folder, "_scoring.json")):
            files.write_json(where, store.scoring)
        return store

    @classmethod
    def open(cls, uri: str) -> "DetectionStore":
        """Open detections that exist: a folder that holds those of one scoring, or a ``scoring=<id>`` folder itself.

        Raises:
            InputError: there are none, several scorings' (the message names them), or those of another one.
        """
        found = scorings(uri)
        if len(found) != 1:
            raise InputError(uri, expected="detections of one scoring", found=", ".join(found) or "none")
        store = cls(found[0].rpartition("/")[0], files.read_json(about := files.join(found[0], "_scoring.json")))
        if store.folder != found[0]:  # it would look elsewhere, and find nothing
            raise InputError(about, expected="what its folder is named by", found=f"that of scoring={store.scoring_id}")
        return store

    @property
    def scoring_id(self) -> str:
        """Twelve hex digits that name the scoring: the head of the sha256 of its canonical JSON."""
        canonical = json.dumps(self.scoring, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()[:12]

    @property
    def folder(self) -> str:
        """Where the files are."""
        return files.join(self.uri, f"scoring={self.scoring_id}")

    def write(self, videos: pa.Table, detections: pa.Table, *, owner: str = EVERYONE) -> None:
        """Commit what was found in some videos, in place of what was found in them before.

        Args:
            videos: schemas.arrow.SCORED.
            detections: schemas.arrow.DETECTIONS or TAGGED_DETECTIONS, of these videos.
            owner: who may rewrite the file: see :meth:`compact`.
        """
        known = self.parts()
        # Behind all others, also where this machine's clock is behind the one that wrote them.
        self._write(max([time.time_ns(), *(_order(known[-1]) + 1 for _ in known[-1:])]), owner, videos, detections)

    def parts(self) -> list[str]:
        """URIs of the files, in the order of writing."""
        return parquet_files(self.folder)

    def videos(self) -> pd.DataFrame:
        """The videos that are scored: schemas.arrow.SCORED, and the ``part`` (a URI) that has their detections."""
        return _last(self._ledger())

    def tables(self, video_ids: Collection[str] | None = None) -> Iterator[pa.Table]:
        """The detections of all videos, or of those named, file by file."""
        videos = self.videos()
        if video_ids is not None:
            videos = videos[videos["video_id"].isin(video_ids)]
        for part, of_part in videos.groupby("part", observed=True):
            try:
                table = read_table(str(part))
            except InputError:
                if part in self.parts():
                    raise
                yield from self.tables(set(of_part["video_id"]))  # another run has joined it to others meanwhile
            else:
                yield _rows_of(table, of_part)

    def compact(self, *, owner: str = EVERYONE, forget: Collection[str] = ()) -> None:
        """Join small files into few, and drop what does not count any more; killed at any time, nothing is lost.

        Args:
            owner: only this one's files, since several may be at it; :data:`EVERYONE`: all files.
            forget: videos whose detections are not true any more.
        """
        ledger = self._ledger()
        parts = list(ledger["part"].cat.categories)
        live = _last(ledger)
        live = live[~live["video_id"].isin(forget)]
        held, kept = ledger["part"].value_counts(), live["part"].value_counts()
        rows = live.groupby("part", observed=False)["detections"].sum()
        group: list[str] = []
        size = 0.0
        for part in parts:
            each = max(rows[part] / _DETECTIONS, kept[part] / _VIDEOS)
            if owner in (EVERYONE, _owner(part)) and (each < 0.5 or held[part] != kept[part]):
                group.append(part)
                size += each
            if size >= 1 or part == parts[-1]:
                if len(group) > 1 or any(held[one] != kept[one] for one in group):
                    self._join(group, live[live["part"].isin(group)], owner)
                group, size = [], 0.0

    def _join(self, parts: Sequence[str], videos: pd.DataFrame, owner: str) -> None:
        tables = []
        for part in parts:
            try:
                tables.append(_rows_of(read_table(part), videos[videos["part"] == part]))
            except InputError:
                if files.exists(part):
                    raise
                return  # another run is joining them
        if len(videos):
            table = pa.concat_tables(tables)
            # Stable: within a video the localizer's order stays.
            table = table.take(pc.sort_indices(table, sort_keys=[("video_id", "ascending")]))
            # In the place of the newest: what others have committed since comes behind it.
            scored = pa.Table.from_pandas(videos.sort_values("video_id"), arrow.SCORED, preserve_index=False)
            self._write(_order(parts[-1]) + 1, owner, scored, table)
        remove(parts)

    def _write(self, order: int, owner: str, videos: pa.Table, detections: pa.Table) -> None:
        about = {"bundle": self.scoring["bundle"], "name": self.scoring["name"], "spec": self.scoring["spec"]}
        sink = pa.BufferOutputStream()
        with pq.ParquetWriter(sink, detections.schema.with_metadata(about), compression="zstd") as writer:
            writer.write_table(detections.replace_schema_metadata(about))
            writer.add_key_value_metadata({"videos": _pack(videos)})
        name = f"{order:020d}-{owner}-{uuid.uuid4().hex[:8]}.parquet"
        files.write_bytes(files.join(self.folder, name), sink.getvalue().to_pybytes())

    def _ledger(self) -> pd.DataFrame:
        """Rows of ``videos`` of all files in their order; ``part`` is categorical, its categories all the files."""
        parts, tables = self.parts(), None
        while tables is None:
            try:
                with ThreadPoolExecutor(READERS) as pool:
                    tables = list(pool.map(_read_videos, parts))
            except InputError as error:
                before, parts = error.where, self.parts()
                if before in parts:
                    raise  # else another run has joined it to others meanwhile
        found = pa.concat_tables([arrow.SCORED.empty_table(), *tables]).to_pandas()
        codes = [number for number, table in enumerate(tables) for _ in range(len(table))]
        return found.assign(part=pd.Categorical.from_codes(codes, parts))


def scorings(uri: str) -> list[str]:
    """The ``scoring=<id>`` folders in a folder, or the one that it is; none where it holds no detections."""
    uri = files.absolute(uri).rstrip("/")
    if uri.rpartition("/")[2].startswith("scoring="):
        return [uri]
    return [files.join(uri, name) for name in files.list_names(uri) if name.startswith("scoring=")]


def _last(ledger: pd.DataFrame) -> pd.DataFrame:
    return ledger.drop_duplicates("video_id", keep="last")


def _rows_of(table: pa.Table, videos: pd.DataFrame) -> pa.Table:
    return table.filter(pc.is_in(table["video_id"], value_set=pa.array(videos["video_id"], pa.string())))


def _pack(videos: pa.Table) -> str:
    """As text, for not every reader of Parquet takes other metadata."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, arrow.SCORED, options=pa.ipc.IpcWriteOptions(compression="zstd")) as stream:
        stream.write_table(videos.select(arrow.SCORED.names).cast(arrow.SCORED))
    return base64.b64encode(sink.getvalue()).decode()


def _read_videos(uri: str) -> pa.Table:
    try:
        with files.open_file(uri) as file:
            packed = (pq.read_metadata(file).metadata or {}).get(b"videos")
        if packed is None:
            raise InputError(uri, expected="a file of scored detections", found="one that names no videos")
        return pa.ipc.open_stream(base64.b64decode(packed)).read_all().cast(arrow.SCORED)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise InputError(uri, expected="a file of scored detections", found=str(error).splitlines()[0]) from None


def _order(part: str) -> int:
    return int(_named(part)[1])


def _owner(part: str) -> str:
    return _named(part)[2]


def _named(part: str) -> "re.Match[str]":
    if found := re.fullmatch(r"(\d+)-(\w+)-\w+\.parquet", part.rsplit("/", 1)[-1]):
        return found
    raise InputError(part, expected="a file that score wrote", found="another name")
