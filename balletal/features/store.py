"""The feature store: Parquet files that say what is done, under one folder or bucket prefix.

Layout below the store's URI::

    features/spec=<spec_id>/_spec.json                          how these features are made
    features/spec=<spec_id>/<video_id>-<segment>.parquet        one file a unit of work (schemas.arrow.features)
    videos/*.parquet                                            one row a video; the last row of an id and URI counts
    tracks/<tracker>-<fps>/<video_id>.parquet                   where the dancer is, one row an analysis frame
    errors/<spec_id>-<video_id>-<segment>.parquet               one row a unit that failed

The files are the manifest: a unit is done when its file is there. The name of a file follows from the unit, and files
appear as a whole, so that a unit that runs twice leaves the same rows once.
"""

import time
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from balletal import files
from balletal.backbones.spec import FeatureSpec
from balletal.errors import InputError, SpecMismatchError, VideoError
from balletal.features.listing import (
    VideoState,
    error_files,
    read_spec,
    spec_ids,
    unit_files,
    video_state,
    video_states,
)
from balletal.parquet import (
    READERS,
    empty_frame,
    parquet_files,
    quote,
    read_table,
    read_tables,
    remove,
    write_table,
)
from balletal.video.clips import clip_times
from balletal.video.track import CropTrack
from schemas import arrow

Stage = Literal["probe", "track", "decode", "extract", "damage", "import"]
"""Where something failed. ``damage``: nowhere; features were made of what decodes."""

WHOLE_VIDEO = -1
"""The segment of an error row that concerns a video as a whole."""


@dataclass(frozen=True)
class VideoFeatures:
    """The features of one video, in clip order.

    A segment that failed leaves a gap: the times say which seconds each row covers.

    Attributes:
        start_s, end_s: (T,) float64 seconds that each feature saw.
        features: (T, D) float32.
    """

    video_id: str
    start_s: NDArray[np.float64]
    end_s: NDArray[np.float64]
    features: NDArray[np.float32]


@dataclass(frozen=True)
class FeatureStore:
    """The features of one spec in a store; make one with :meth:`create` or :meth:`open`."""

    uri: str
    spec: FeatureSpec

    @classmethod
    def create(cls, uri: str, spec: FeatureSpec) -> "FeatureStore":
        """Open the store for ``spec``, making its folder when it is new."""
        store = cls(files.absolute(uri), spec)
        if files.exists(store._spec_uri):
            read_spec(store.uri, spec.spec_id)  # a damaged one is told before any work
        else:
            files.write_json(store._spec_uri, spec.to_dict())
        return store

    @classmethod
    def open(cls, uri: str, spec_id: str | None = None) -> "FeatureStore":
        """Open a store that exists.

        Args:
            spec_id: which features, where the store holds several kinds. Mirrored ones are never meant unless named.

        Raises:
            InputError: no store there, no such spec, or several specs and none named (the message lists them).
        """
        uri = files.absolute(uri)
        found = spec_ids(uri)
        if not found:
            raise InputError(uri, expected="a feature store", found="no features/spec=* folder")
        if spec_id is None and len(found) > 1:
            specs = [read_spec(uri, one) for one in found]
            plain = [spec.spec_id for spec in specs if not spec.mirror]
            if len(plain) != 1:
                named = "; ".join(map(str, specs))
                raise InputError(uri, expected="one feature spec, or the id of one", found=named)
            found = plain
        if spec_id is not None and spec_id not in found:
            raise InputError(uri, expected=f"feature spec {spec_id}", found=", ".join(found))
        return cls(uri, read_spec(uri, spec_id or found[0]))

    @classmethod
    def open_for(cls, uri: str, spec: FeatureSpec, *, owner: str) -> "FeatureStore":
        """The features of one spec, in a store that may hold several kinds.

        Args:
            owner: what wants them, for the message (``bundle runs/x``).

        Raises:
            SpecMismatchError: the store holds features of other specs alone; names them and this one.
            InputError: no store there.
        """
        uri = files.absolute(uri)
        found = spec_ids(uri)
        if spec.spec_id in found:
            return cls.open(uri, spec.spec_id)
        if len(found) > 1:
            others = "; ".join(str(read_spec(uri, one)) for one in found)
            raise SpecMismatchError(f"{owner} has feature spec {spec}, but store {uri} has {others}")
        store = cls.open(uri)
        spec.require(store.spec, mine=owner, others=f"store {uri}")
        return store

    def write_unit(self, video_id: str, segment: int, first_clip: int, features: NDArray[Any]) -> None:
        """Write the features of one unit, in place of what an earlier attempt left.

        Args:
            first_clip: number of the unit's first clip in the video.
            features: (n, D) of any float type, rounded to the type that the spec stores.

        Raises:
            InputError: wrong shape, a value that is not finite or too large for float16; names video and clip.
        """
        uri = self._unit_uri(video_id, segment)
        features = np.asarray(features)
        if features.ndim != 2 or features.shape[1] != self.spec.dim:
            raise InputError(
                f"features of {video_id}", expected=f"shape (clips, {self.spec.dim})", found=f"{features.shape}"
            )
        clips = np.arange(first_clip, first_clip + len(features), dtype=np.int32)
        _require_finite(features, video_id, clips)
        with np.errstate(over="ignore"):  # an overflow is told below, with its row
            stored = features.astype(self._dtype)
        if not np.isfinite(stored).all():
            row = int((~np.isfinite(stored)).any(axis=1).argmax())
            raise InputError(
                f"features of {video_id}, clip {clips[row]}",
                expected="values within float16 (+-65504; a spec of dtype float32 stores larger ones)",
                found=f"{np.abs(features[row]).max():g}",
            )
        n = len(stored)
        start_s, end_s = clip_times(first_clip, n, self.spec)
        schema = arrow.features(self.spec.dim, self._dtype.name)
        columns = [
            pa.DictionaryArray.from_arrays(pa.array(np.zeros(n, np.int32)), pa.array([video_id])),
            pa.array(np.full(n, segment, np.int32)),
            pa.array(clips),
            pa.array(start_s),
            pa.array(end_s),
            pa.FixedSizeListArray.from_arrays(pa.array(stored.reshape(-1)), type=schema.field("feature").type),
        ]
        table = pa.Table.from_arrays(columns, schema=schema)
        write_table(uri, table)

    def units(self) -> set[tuple[str, int]]:
        """The units that are done, as (video_id, segment), by listing alone."""
        return {(video, segment) for video, units in self._listing().items() for segment, _ in units}

    def states(self) -> dict[str, VideoState]:
        """What there is of each video, by one listing."""
        return video_states(self._folder)

    def state(self, video_id: str, segments: Sequence[int]) -> VideoState:
        """The same of one video whose units are known, by a look at each."""
        return video_state({segment: self._unit_uri(video_id, segment) for segment in segments})

    def video_ids(self) -> list[str]:
        """Videos with at least one unit, sorted."""
        return sorted(self._listing())

    def files(self, video_ids: Iterable[str] | None = None) -> list[str]:
        """URIs of the Parquet files (of all videos or of those named), sorted by video and segment."""
        listing = self._listing()
        chosen = sorted(listing if video_ids is None else set(video_ids) & set(listing))
        return [uri for video in chosen for _, uri in listing[video]]

    def read(self, video_id: str) -> VideoFeatures:
        """The features of one video.

        Raises:
            InputError: the store lacks the video, or a file is damaged or holds values that are not finite.
        """
        return next(self.iter_videos([video_id]))

    def iter_videos(self, video_ids: Iterable[str] | None = None) -> Iterator[VideoFeatures]:
        """The features of all videos, or of those named in that order; reads ahead.

        Raises:
            InputError: as :meth:`read`.
        """
        listing = self._listing()
        chosen = sorted(listing) if video_ids is None else list(video_ids)
        for video in chosen:
            if video not in listing:
                raise InputError(
                    f"store {self.uri}", expected=f"video {video!r}", found=f"{len(listing)} videos without it"
                )
        yield from self._read_ahead((video, [uri for _, uri in listing[video]]) for video in chosen)

    def iter_units(self, segments: Mapping[str, Sequence[int]]) -> Iterator[VideoFeatures]:
        """The features of videos whose units are known (:meth:`states`), without a listing; reads ahead.

        Raises:
            InputError: as :meth:`read`.
        """
        return self._read_ahead(
            (video, [self._unit_uri(video, segment) for segment in numbers]) for video, numbers in segments.items()
        )

    def _read_ahead(self, videos: Iterable[tuple[str, Sequence[str]]]) -> Iterator[VideoFeatures]:
        with ThreadPoolExecutor(READERS) as pool:
            # A window of futures, not pool.map, which would read the whole store ahead of a slow reader.
            waiting = []
            for video, uris in videos:
                waiting.append(pool.submit(self._read_video, video, uris))
                if len(waiting) >= 2 * READERS:
                    yield waiting.pop(0).result()
            while waiting:
                yield waiting.pop(0).result()

    def forget(self, video_ids: set[str]) -> None:
        """Remove the units and errors of videos whose source changed, since none of them is true any more.

        That holds for every spec made from such sources: from videos, or (mode ``imported``) from released features.
        """
        for spec_id in spec_ids(self.uri) if video_ids else ():
            spec = read_spec(self.uri, spec_id)
            if (spec.mode == "imported") == (self.spec.mode == "imported"):
                units = unit_files(FeatureStore(self.uri, spec)._folder)
                remove(uri for video in video_ids for _, uri in units.get(video, ()))
                errors = error_files(self.uri)
                remove(uri for (of, video, _), uri in errors.items() if of == spec_id and video in video_ids)
                if spec.tracker:
                    remove(FeatureStore(self.uri, spec)._track_uri(video) for video in video_ids)

    def write_videos(self, rows: Sequence[dict[str, Any]]) -> None:
        """Append rows of ``schemas.arrow.VIDEOS``; on reading, the last row of an id and URI counts."""
        if rows:
            table = pa.Table.from_pylist(list(rows), schema=arrow.VIDEOS)
            name = f"{time.time_ns():020d}-{uuid.uuid4().hex[:8]}.parquet"
            write_table(files.join(self.uri, "videos", name), table)

    def videos(self) -> pd.DataFrame:
        """The videos table, one row a video and URI: one of which both features and the file are there has two."""
        uris = parquet_files(files.join(self.uri, "videos"))
        table = pd.concat([empty_frame(arrow.VIDEOS), *(t.to_pandas() for t in read_tables(uris))], ignore_index=True)
        return table.drop_duplicates(
            ["video_id", "uri"], keep="last", ignore_index=True
        )  # files are in the order of writing

    def write_track(self, video_id: str, track: CropTrack) -> None:
        """Keep where the dancer of a video is, for every spec that follows the dancer at this rate."""
        write_table(self._track_uri(video_id), track.to_table())

    def has_track(self, video_id: str) -> bool:
        """Whether there is one that can be read; another is made in the place of a damaged one."""
        try:
            self.track(video_id, 0, 1)
        except InputError:
            return False
        return True

    def track(self, video_id: str, start: int, stop: int) -> CropTrack:
        """Where the dancer of a video is in the analysis frames ``[start, stop)``, as many of them as there are.

        Raises:
            InputError: nobody has looked for the dancer yet, or the file is damaged.
        """
        rows = read_table(self._track_uri(video_id), [("frame", ">=", start), ("frame", "<", stop)])
        return CropTrack.from_table(rows)

    def write_error(
        self, video_id: str, segment: int, *, uri: str, version: str, stage: Stage, error: BaseException
    ) -> None:
        """Record why a unit (or, with ``WHOLE_VIDEO``, a video) failed, in place of what an earlier attempt left."""
        row = {
            "uri": uri,
            "version": version,
            "segment": segment,
            "stage": stage,
            "type": error.kind if isinstance(error, VideoError) else type(error).__name__,
            "message": str(error),
        }
        table = pa.Table.from_pylist([row], schema=arrow.ERRORS)
        write_table(self._error_uri(video_id, segment), table)

    def clear_error(self, video_id: str, segment: int) -> None:
        """Drop the error row of a unit, if there is one."""
        remove([self._error_uri(video_id, segment)])

    def errors(self) -> pd.DataFrame:
        """The error rows of this spec: ``schemas.arrow.ERRORS`` and ``video_id``."""
        table = read_errors(self.uri)
        return table[table["spec"] == self.spec.spec_id].drop(columns="spec").reset_index(drop=True)

    @property
    def _dtype(self) -> np.dtype[Any]:
        return np.dtype(self.spec.stored_dtype)

    @property
    def _folder(self) -> str:
        return files.join(self.uri, "features", f"spec={self.spec.spec_id}")

    @property
    def _spec_uri(self) -> str:
        return files.join(self._folder, "_spec.json")

    def _unit_uri(self, video_id: str, segment: int) -> str:
        return files.join(self._folder, f"{quote(video_id)}-{segment:05d}.parquet")

    def _track_uri(self, video_id: str) -> str:
        folder = f"{self.spec.tracker}-{self.spec.fps:.12g}"
        return files.join(self.uri, "tracks", folder, f"{quote(video_id)}.parquet")

    def _error_uri(self, video_id: str, segment: int) -> str:
        unit = "video" if segment == WHOLE_VIDEO else f"{segment:05d}"
        return files.join(self.uri, "errors", f"{self.spec.spec_id}-{quote(video_id)}-{unit}.parquet")

    def _listing(self) -> dict[str, list[tuple[int, str]]]:
        return unit_files(self._folder)

    def _read_video(self, video_id: str, uris: Sequence[str]) -> VideoFeatures:
        parts = [read_table(uri) for uri in uris]
        schema = arrow.features(self.spec.dim, self._dtype.name)
        for uri, part in zip(uris, parts, strict=True):
            if part.schema != schema:
                raise InputError(uri, expected=f"the columns of {self.spec}", found=str(part.schema))
        features = np.concatenate([_feature_rows(part) for part in parts])
        clips = np.concatenate([part["clip"].to_numpy() for part in parts])
        if (np.diff(clips) <= 0).any():
            raise InputError(f"features of {video_id} in {self.uri}", expected="each clip once", found="a clip twice")
        _require_finite(features, video_id, clips)
        return VideoFeatures(
            video_id=video_id,
            start_s=np.concatenate([part["start_s"].to_numpy() for part in parts]),
            end_s=np.concatenate([part["end_s"].to_numpy() for part in parts]),
            features=features.astype(np.float32, copy=False),
        )


def read_errors(uri: str) -> pd.DataFrame:
    """The error rows of a store, of every spec: ``schemas.arrow.ERRORS`` with ``video_id`` and ``spec``.

    Raises:
        InputError: no store there.
    """
    uri = files.absolute(uri)
    if not spec_ids(uri):
        raise InputError(uri, expected="a feature store", found="no features/spec=* folder")
    found = error_files(uri)
    rows = [empty_frame(arrow.ERRORS)]
    for (spec_id, video_id, _), table in zip(found, read_tables(list(found.values())), strict=True):
        rows.append(table.to_pandas().assign(video_id=video_id, spec=spec_id))
    return pd.concat(rows, ignore_index=True).reindex(columns=["video_id", "spec", *arrow.ERRORS.names])


def _require_finite(features: NDArray[Any], video_id: str, clips: NDArray[np.int32]) -> None:
    finite = np.isfinite(features)
    if not finite.all():
        row = int((~finite).any(axis=1).argmax())
        value = features[row][~finite[row]][0]
        raise InputError(f"features of {video_id}, clip {clips[row]}", expected="finite values", found=str(value))


def _feature_rows(table: pa.Table) -> NDArray[np.floating[Any]]:
    """(n, D) from the fixed-size lists, without a copy for a single chunk."""
    chunks = [chunk.flatten().to_numpy(zero_copy_only=False) for chunk in table["feature"].chunks]
    dim = table.schema.field("feature").type.list_size
    return np.concatenate([chunk.reshape(-1, dim) for chunk in chunks] or [np.empty((0, dim), np.float32)])
