from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest

from balletal.errors import InputError
from balletal.tal.sequences import Grid, SequenceFile, collate, write_sequences

from .conftest import make_sequences


def test_a_sub_step_lies_where_its_feature_saw(spec):
    # 16/8 at 25 fps: feature 0 sees 0-0.64 s, stands for its middle half 0.16-0.48 s, cut in two.
    assert Grid.of(spec, 2).centers(4) == pytest.approx([0.24, 0.40, 0.56, 0.72])


def test_a_feature_of_released_kind_is_its_own_cell(spec):
    assert Grid.of(spec.replace(window=64, stride=64), 1).centers(2) == pytest.approx([1.28, 3.84])


def test_sequences_come_back_as_written(tmp_path, sequences):
    uri = str(tmp_path / "s" / "training.parquet")
    assert write_sequences(uri, iter(sequences), dim=6, meta={"a": 1}) == 8
    read = SequenceFile(uri)
    assert len(read) == 8
    assert read.meta == {"a": 1}
    for before, after in zip(sequences, read, strict=True):
        assert after.video_id == before.video_id
        assert after.duration == before.duration
        np.testing.assert_array_equal(after.features, before.features)
        np.testing.assert_array_equal(after.segments, before.segments)
        np.testing.assert_array_equal(after.classes, before.classes)
    with pytest.raises(IndexError):
        read[8]


def test_tags_come_back_and_a_file_without_them_has_no_column(tmp_path):
    tagged = make_sequences(3, tags=2)
    tagged.append(
        replace(tagged[0], segments=np.zeros((0, 2)), classes=np.zeros(0, np.int64), tags=np.zeros((0, 2), bool))
    )
    uris = [str(tmp_path / f"{n}.parquet") for n in (0, 2)]
    write_sequences(uris[0], make_sequences(3), dim=6, meta={})
    write_sequences(uris[1], tagged, dim=6, meta={}, num_tags=2)
    assert [len(pq.read_schema(uri)) for uri in uris] == [6, 7]
    assert [s.tags.shape[1] for s in SequenceFile(uris[0])] == [0, 0, 0]
    for before, after in zip(tagged, SequenceFile(uris[1]), strict=True):
        np.testing.assert_array_equal(after.tags, before.tags, strict=True)
    assert np.concatenate([s.tags for s in tagged]).any(0).all()


def test_a_video_without_segments_keeps_its_shape(tmp_path, sequences):
    from dataclasses import replace

    empty = replace(sequences[0], segments=np.zeros((0, 2)), classes=np.zeros(0, np.int64))
    uri = str(tmp_path / "s.parquet")
    write_sequences(uri, [empty], dim=6, meta={})
    assert SequenceFile(uri)[0].segments.shape == (0, 2)


def test_another_file_is_refused_by_name(tmp_path):
    (tmp_path / "x.parquet").write_bytes(b"no parquet")
    with pytest.raises(InputError, match=r"x\.parquet.*Parquet file of sequences"):
        SequenceFile(str(tmp_path / "x.parquet"))


def test_collate_pads_with_zeros_and_says_where(sequences):
    features, mask = collate(sequences[:3])
    for b in range(3):
        n = len(sequences[b].features)
        assert mask[b].sum() == n
        assert not features[b, n:].any()
        np.testing.assert_array_equal(features[b, :n].numpy(), sequences[b].features)


def test_a_video_without_features_is_named(sequences):
    with pytest.raises(InputError, match="video v1: expected features, found none"):
        collate([sequences[0], replace(sequences[1], features=sequences[1].features[:0])])
