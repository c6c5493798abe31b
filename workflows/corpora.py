"""Corpora to learn from: videos that have both features and annotations, further ones, and their mirrored twins.

The twin of a corpus is the same videos as a mirror shows them: features of the spec with ``mirror`` in the same store,
and steps whose sides are swapped.
"""

import hashlib
import json
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd

from balletal.annotations import Annotations, Split, read_annotations, step_tags, usable_segments
from balletal.backbones.spec import FeatureSpec
from balletal.errors import InputError
from balletal.features.store import FeatureStore
from balletal.labels import LabelSet
from balletal.projection import Projection
from balletal.segments import SEGMENT_COLUMNS
from balletal.tal.sequences import LabelledSequence, on_clip_grid
from workflows.console import say

MIRRORED = "~mirrored"
"""What the id of a mirrored video ends in."""


@dataclass(frozen=True, eq=False)
class Corpus:
    """Videos that have both features and annotations.

    Attributes:
        segments: segment table of what can be learnt of them, from :func:`learnable`; it may know other videos too.
        durations: seconds of each of the videos, in the order in which they are read.
        mirrored: whether the features and segments are those of a twin.
    """

    store: FeatureStore
    segments: pd.DataFrame
    durations: dict[str, float]
    mirrored: bool = False

    @classmethod
    def read(cls, store: FeatureStore, annotations: str, labels: LabelSet) -> "Corpus":
        """All videos of a store that a file or folder of annotations knows.

        Raises:
            InputError: there is no such video, or none with a step of the label set.
        """
        known = read_annotations(annotations, labels).select(store.video_ids())
        segments = learnable(known, labels)
        if segments.empty:
            expected = f"a step of label set {labels.name} in a video that {annotations} knows"
            raise InputError(f"store {store.uri}", expected=expected, found=f"{len(known.videos)} videos without one")
        return cls(store, segments, durations_of(store, known, list(known.videos["video_id"])))

    def twin(self, labels: LabelSet) -> "Corpus":
        """As many of its videos as the store has mirrored features of; a label that names no side stays."""
        store = twin_of(self.store)
        there = set(store.video_ids())
        swapped = [labels.mirrored.get(name, name) for name in self.segments["label"]]
        durations = {video_id: duration for video_id, duration in self.durations.items() if video_id in there}
        return Corpus(store, self.segments.assign(label=swapped), durations, mirrored=True)

    def sequences(self, projection: Projection, labels: LabelSet) -> Iterator[LabelledSequence]:
        """What training reads of each video that is not empty."""
        by_video = dict(list(self.segments.groupby("video_id")))
        for video in self.store.iter_videos(self.durations):
            if len(video.features) == 0:
                continue
            steps = by_video.get(video.video_id, self.segments.iloc[:0])
            tags = [[name in told for name in labels.tags] for told in steps["tags"]] if labels.tags else []
            yield LabelledSequence(
                video_id=video.video_id + MIRRORED * self.mirrored,
                features=on_clip_grid(video, projection),
                segments=steps[["start", "end"]].to_numpy(),
                classes=np.array([labels.index[name] for name in steps["label"]], dtype=np.int64),
                tags=np.array(tags, dtype=bool).reshape(len(steps), len(labels.tags)),
                duration=self.durations[video.video_id],
            )

    def require_apart(self, split: Split) -> None:
        """Raise an :class:`InputError` where one of its videos is held out: what is learnt must not be measured."""
        held = [video_id for video_id in self.durations if split.videos.get(video_id, "training") != "training"]
        if held:
            found = f"{len(held)} that are, such as {held[0]} ({split.videos[held[0]]})"
            raise InputError(f"further store {self.store.uri}", expected="videos that are not held out", found=found)

    @property
    def digest(self) -> str:
        """sha256 over the ids, durations and segments of its videos."""
        mine = self.segments[self.segments["video_id"].isin(list(self.durations))]
        content = json.dumps([self.durations, rows_of(mine)])
        return hashlib.sha256(content.encode()).hexdigest()


def learnable(annotations: Annotations, labels: LabelSet) -> pd.DataFrame:
    """The usable segments, with ``tags`` (lists of names) where the label set has any; says what is left out."""
    segments, dropped = usable_segments(annotations, labels)
    if any(dropped.values()):
        say(f"left out of training: {', '.join(f'{n} {kind}' for kind, n in dropped.items() if n)}")
    return segments.assign(tags=step_tags(segments, annotations.tags, labels.tags)) if labels.tags else segments


def rows_of(segments: pd.DataFrame) -> list[list]:
    """What is learnt of segments, JSON-able: by it one knows again what a run has learnt."""
    rows: list[list] = segments[[name for name in (*SEGMENT_COLUMNS, "tags") if name in segments]].values.tolist()
    return rows


def durations_of(store: FeatureStore, annotations: Annotations, video_ids: list[str]) -> dict[str, float]:
    """Seconds of each video: as annotated, else as its container says, else as its features last.

    Raises:
        InputError: none of them says.
    """
    probed = store.videos().dropna(subset=["duration"])
    durations = dict(zip(probed["video_id"], probed["duration"], strict=True)) | annotations.durations
    missing = [video_id for video_id in video_ids if video_id not in durations]
    for video in store.iter_videos(missing):
        if len(video.features) == 0:
            raise InputError(f"video {video.video_id}", expected="a duration or features to tell it", found="neither")
        durations[video.video_id] = float(video.end_s[-1])
    return {video_id: float(durations[video_id]) for video_id in video_ids}


def twin_of(store: FeatureStore) -> FeatureStore:
    """The mirrored features in a store; there may be none."""
    return FeatureStore(store.uri, store.spec.replace(mirror=True))


def require_twins(store: FeatureStore, video_ids: Collection[str]) -> None:
    """Raise an :class:`InputError` that says how to make them where no video of these has mirrored features."""
    if not set(video_ids).intersection(twin_of(store).video_ids()):
        expected = f"mirrored features of a video to train on ({_how_to_mirror(store.uri, store.spec)})"
        raise InputError(f"store {store.uri}", expected=expected, found="none")


def _how_to_mirror(uri: str, spec: FeatureSpec) -> str:
    if spec.mode == "imported":
        return "features that were imported have none"
    flow = f" --flow {spec.flow}" if spec.flow else ""
    return (
        f"balletal extract --mirror --videos VIDEOS --store {uri} --backbone {spec.backbone} --fps {spec.fps:g} "
        f"--window {spec.window} --stride {spec.stride} --mode {spec.mode} --crop {spec.crop} "
        f"--dtype {spec.dtype}{flow}"
    )


def further_corpora(
    store: FeatureStore, further: Iterable[tuple[str, str]], labels: LabelSet, *, owner: str
) -> list[Corpus]:
    """Corpora of further stores and their annotations, to learn from beside ``store``.

    Args:
        further: (store, annotations) of each.
        owner: what wants features of the spec of ``store``, for the message.

    Raises:
        SpecMismatchError: a store has no features of that spec.
        InputError: as :meth:`Corpus.read`.
    """
    return [
        Corpus.read(FeatureStore.open_for(uri, store.spec, owner=owner), annotations, labels)
        for uri, annotations in further
    ]
