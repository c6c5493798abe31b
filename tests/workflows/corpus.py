"""A small localization problem with a known answer, as a store, a projection and annotations."""

import json
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from balletal.annotations import Annotations, video_table, write_activitynet
from balletal.features.store import FeatureStore
from balletal.labels import LabelSet
from balletal.projection import Moments, fit
from balletal.segments import segment_table
from tests.balletal.tal.conftest import SPEC, make_sequences


@dataclass(frozen=True)
class Corpus:
    store: str
    projection: str
    annotations: str
    split: str


def write_corpus(
    folder: Path, training: int = 9, validation: int = 3, noise: float = 0.1, label_set: str = "annchor-coarse"
) -> Corpus:
    """Videos to train on, then some to validate on: a store, a projection, annotations of two classes.

    Where the label set has a tag, some of the steps have it, each a segment of its own.
    """
    known = LabelSet.load(label_set)
    labels, (tag,) = known.labels[:2], known.tags or ("",)
    store = FeatureStore.create(str(folder / "store"), SPEC)
    moments = Moments(SPEC.dim)
    tables, tags, videos, split = [], [segment_table()], {}, {}
    for i, sequence in enumerate(make_sequences(training + validation, noise=noise, tags=len(known.tags))):
        store.write_unit(sequence.video_id, 0, 0, sequence.features)
        moments.update(sequence.features)
        start, end = sequence.segments.T
        tables.append(segment_table(sequence.video_id, start, end, [labels[c] for c in sequence.classes]))
        tagged = sequence.tags.any(1)
        tags.append(segment_table(sequence.video_id, start[tagged], end[tagged], tag))
        split[sequence.video_id] = "training" if i < training else "validation"
        videos[sequence.video_id] = {"duration": sequence.duration, "fps": 25.0, "subset": split[sequence.video_id]}
    fit(moments, SPEC, 5).save(str(folder / "projection"))
    steps, beside = (pd.concat(parts, ignore_index=True) for parts in (tables, tags))
    annotations = Annotations(steps, video_table(videos), beside)
    write_activitynet(str(folder / "gt.json"), annotations)
    text = {"by": "video", "seed": 0, "videos": split}
    (folder / "split.json").write_text(json.dumps(text))
    return Corpus(*(str(folder / name) for name in ("store", "projection", "gt.json", "split.json")))
