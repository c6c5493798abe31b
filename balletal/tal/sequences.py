"""Sequences: what training reads. One Parquet row group a video, so that any video is one small read.

The **grid**: feature ``k`` stands for the cell of one stride around the middle of its window, and a model with
``upsample`` U answers for U equal sub-steps of that cell. Sub-step ``i`` of a video has its middle at
``offset + (i + 0.5) * step`` seconds, ``offset = (window - stride) / 2 / fps`` and ``step = stride / fps / U``.
For 64/64 features a cell is the window itself; for 16/4 it is the window's middle quarter.
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from torch import Tensor

from balletal import files
from balletal.backbones.spec import FeatureSpec
from balletal.errors import InputError
from balletal.features.store import VideoFeatures
from balletal.projection import Projection


@dataclass(frozen=True)
class Grid:
    """Where a model's answers lie in time: sub-step ``i`` is centred at ``offset + (i + 0.5) * step`` seconds."""

    offset: float
    step: float

    @classmethod
    def of(cls, spec: FeatureSpec, upsample: int) -> "Grid":
        return cls(offset=(spec.window - spec.stride) / 2 / spec.fps, step=spec.stride_s / upsample)

    def centers(self, n: int) -> NDArray[np.float64]:
        """(n,) middles of the first n sub-steps, seconds."""
        return self.offset + (np.arange(n, dtype=np.float64) + 0.5) * self.step


@dataclass(frozen=True)
class LabelledSequence:
    """One video as a model sees it.

    Attributes:
        features: (T, K) float32, projected.
        segments: (N, 2) float64 seconds, annotated start and end.
        classes: (N,) int64 class ids of the segments.
        tags: (N, G) bool, which tags go with each segment; G is 0 where the label set has none.
        duration: seconds.
    """

    video_id: str
    features: NDArray[np.float32]
    segments: NDArray[np.float64]
    classes: NDArray[np.int64]
    tags: NDArray[np.bool_]
    duration: float


def on_clip_grid(video: VideoFeatures, projection: Projection) -> NDArray[np.float32]:
    """Projected features with row k for clip k, (T, K) float32.

    A clip that the video lacks (its segment failed) is a row of zeros, which no real clip projects to; models pass over
    it without an answer.
    """
    clips = np.rint(video.start_s / projection.spec.stride_s).astype(np.int64)
    rows = np.zeros((int(clips[-1]) + 1 if len(clips) else 0, projection.dim), dtype=np.float32)
    rows[clips] = projection.transform(video.features, f"features of {video.video_id}")
    return rows


def write_sequences(uri: str, sequences: Iterable[LabelledSequence], *, dim: int, meta: dict, num_tags: int = 0) -> int:
    """Write sequences atomically, one row group each, and return how many there were.

    Args:
        dim: K, the features' length after projection.
        meta: JSON-able facts kept in the file's metadata (spec, labels, subset).
        num_tags: G; a file without tags has no column for them.
    """
    tags = pa.field("tags", pa.list_(pa.list_(pa.bool_(), num_tags)), nullable=False)
    schema = pa.schema(
        [
            pa.field("video_id", pa.string(), nullable=False),
            pa.field("duration", pa.float64(), nullable=False),
            pa.field("features", pa.list_(pa.list_(pa.float32(), dim)), nullable=False),
            pa.field("start", pa.list_(pa.float64()), nullable=False),
            pa.field("end", pa.list_(pa.float64()), nullable=False),
            pa.field("class_id", pa.list_(pa.int32()), nullable=False),
            *([tags] if num_tags else []),
        ],
        metadata={"balletal": json.dumps(meta)},
    )
    count = 0
    sink = pa.BufferOutputStream()
    with pq.ParquetWriter(sink, schema, compression="zstd") as writer:
        for sequence in sequences:
            flat = pa.array(sequence.features.reshape(-1), pa.float32())
            rows = pa.FixedSizeListArray.from_arrays(flat, dim)
            columns = [
                pa.array([sequence.video_id]),
                pa.array([sequence.duration]),
                pa.ListArray.from_arrays(pa.array([0, len(sequence.features)], pa.int32()), rows),
                pa.array([sequence.segments[:, 0].tolist()], pa.list_(pa.float64())),
                pa.array([sequence.segments[:, 1].tolist()], pa.list_(pa.float64())),
                pa.array([sequence.classes.tolist()], pa.list_(pa.int32())),
                *([pa.array([sequence.tags.tolist()], tags.type)] if num_tags else []),
            ]
            writer.write_table(pa.Table.from_arrays(columns, schema=schema), row_group_size=1)
            count += 1
    files.write_bytes(uri, sink.getvalue().to_pybytes())
    return count


class SequenceFile(Sequence[LabelledSequence]):
    """Random access to a file of sequences: item ``i`` reads one row group, whatever the file's size.

    Raises:
        InputError: missing, or not a file of sequences.
    """

    def __init__(self, uri: str) -> None:
        try:
            self._parquet = pq.ParquetFile(files.open_file(uri))
            self.meta: dict = json.loads(self._parquet.schema_arrow.metadata[b"balletal"])
        except (FileNotFoundError, pa.ArrowInvalid, KeyError, TypeError) as error:
            raise InputError(uri, expected="a Parquet file of sequences", found=str(error)) from None

    def __len__(self) -> int:
        return self._parquet.num_row_groups

    def __getitem__(self, i: int) -> LabelledSequence:  # type: ignore[override]  # slices are not offered
        if not 0 <= i < len(self):
            raise IndexError(i)
        row = self._parquet.read_row_group(i)
        features = row["features"].combine_chunks().flatten()
        dim = features.type.list_size
        classes = np.array(row["class_id"][0].as_py(), dtype=np.int64)
        tagged = "tags" in row.column_names
        num_tags = row["tags"].type.value_type.list_size if tagged else 0
        tags = row["tags"][0].as_py() if tagged else []
        return LabelledSequence(
            video_id=row["video_id"][0].as_py(),
            features=features.flatten().to_numpy().reshape(-1, dim),
            segments=np.array([row["start"][0].as_py(), row["end"][0].as_py()], dtype=np.float64).T.reshape(-1, 2),
            classes=classes,
            tags=np.array(tags, dtype=bool).reshape(len(classes), num_tags),
            duration=row["duration"][0].as_py(),
        )

    def __iter__(self) -> Iterator[LabelledSequence]:
        return (self[i] for i in range(len(self)))


def collate(sequences: Sequence[LabelledSequence]) -> tuple[Tensor, Tensor]:
    """Pad a batch with zeros to its longest video.

    Returns:
        features (B, T, K) float32 and mask (B, T) bool, true where there is a feature.

    Raises:
        InputError: a video without features.
    """
    for sequence in sequences:
        if len(sequence.features) == 0:
            raise InputError(f"video {sequence.video_id}", expected="features", found="none")
    longest = max(len(sequence.features) for sequence in sequences)
    dim = sequences[0].features.shape[1]
    features = torch.zeros(len(sequences), longest, dim)
    mask = torch.zeros(len(sequences), longest, dtype=torch.bool)
    for b, sequence in enumerate(sequences):
        features[b, : len(sequence.features)] = torch.from_numpy(np.array(sequence.features))
        mask[b, : len(sequence.features)] = True
    return features, mask
