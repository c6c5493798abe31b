"""Corpora to learn from: twins with their sides swapped, further ones that nothing is validated on."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from balletal.annotations import load_split, read_annotations
from balletal.errors import InputError, SpecMismatchError
from balletal.features.store import FeatureStore
from balletal.labels import LabelSet
from balletal.projection import Projection
from balletal.tal.sequences import LabelledSequence, SequenceFile
from tests.balletal.tal.conftest import SPEC
from tests.workflows.corpus import Corpus, write_corpus
from workflows.corpora import further_corpora
from workflows.train import prepare

SIDES = LabelSet("sides", ("TurnLeft", "TurnRight", "Jump"))


@pytest.fixture
def sides(tmp_path: Path) -> Corpus:
    """The twelve videos with steps that have sides, and mirrored features of v0 to v4 and of v10."""
    made = write_corpus(tmp_path / "sides")
    text = Path(made.annotations).read_text()
    one, other = LabelSet.load("annchor-coarse").labels[:2]
    Path(made.annotations).write_text(text.replace(f'"{one}"', '"TurnLeft"').replace(f'"{other}"', '"Jump"'))
    plain = FeatureStore.open(made.store)
    twin = FeatureStore.create(made.store, SPEC.replace(mirror=True))
    for video in plain.iter_videos(["v0", "v1", "v2", "v3", "v4", "v10"]):
        twin.write_unit(video.video_id, 0, 0, video.features + 1)
    return made


@pytest.fixture
def further(tmp_path: Path) -> tuple[str, str]:
    """A store of two videos called v90 and v91, and their annotations."""
    made = write_corpus(tmp_path / "further")
    store = FeatureStore.create(str(tmp_path / "other"), SPEC)
    for video in FeatureStore.open(made.store).iter_videos(["v0", "v1"]):
        store.write_unit(video.video_id.replace("v", "v9"), 0, 0, video.features)
    annotations = tmp_path / "other.json"
    annotations.write_text(Path(made.annotations).read_text().replace('"v0"', '"v90"').replace('"v1"', '"v91"'))
    return store.uri, str(annotations)


def prepared(corpus: Corpus, out: Path, labels: LabelSet, **more: Any) -> dict[str, dict[str, LabelledSequence]]:
    """What training reads of each subset, by video id."""
    store, projection = FeatureStore.open(corpus.store), Projection.load(corpus.projection)
    annotated = read_annotations(corpus.annotations, labels)
    prepare(store, projection, annotated, labels, load_split(corpus.split), str(out), **more)
    return {
        subset: {one.video_id: one for one in SequenceFile(str(out / "sequences" / f"{subset}.parquet"))}
        for subset in ("training", "validation")
    }


def test_training_videos_are_seen_mirrored_with_their_sides_swapped(sides: Corpus, tmp_path: Path) -> None:
    found = prepared(sides, tmp_path / "run", SIDES, mirrored=True)
    twins = {f"v{i}~mirrored" for i in range(5)}  # not v10, on which is validated
    assert set(found["training"]) == {f"v{i}" for i in range(9)} | twins
    assert set(found["validation"]) == {"v9", "v10", "v11"}
    projection, store = Projection.load(sides.projection), FeatureStore.open(sides.store)
    swapped = np.array([SIDES.index[name] for name in ("TurnRight", "TurnLeft", "Jump")])
    seen = set()
    for name in twins:
        twin, plain = found["training"][name], found["training"][name.removesuffix("~mirrored")]
        features = store.read(plain.video_id).features
        np.testing.assert_allclose(twin.features, projection.transform(features + 1), atol=1e-5)
        np.testing.assert_array_equal(twin.segments, plain.segments)
        np.testing.assert_array_equal(twin.classes, swapped[plain.classes])
        assert twin.duration == plain.duration
        seen |= set(twin.classes)
    assert seen == {SIDES.index["TurnRight"], SIDES.index["Jump"]}


def test_without_mirrored_features_the_command_that_makes_them_is_named(corpus: Corpus, tmp_path: Path) -> None:
    labels = LabelSet.load("annchor-coarse")
    with pytest.raises(InputError, match="features that were imported have none"):
        prepared(corpus, tmp_path / "run", labels, mirrored=True)
    spec = SPEC.replace(mode="windowed", backbone="i3d-rgb", streams=("rgb", "flow"), flow="dis")
    extracted = FeatureStore.create(str(tmp_path / "store"), spec)
    for video in FeatureStore.open(corpus.store).iter_videos():
        extracted.write_unit(video.video_id, 0, 0, video.features)
    known, fitted = read_annotations(corpus.annotations, labels), replace(Projection.load(corpus.projection), spec=spec)
    command = rf"extract --mirror --videos VIDEOS --store {extracted.uri} --backbone i3d-rgb --fps 25 --window 16 .*dis"
    with pytest.raises(InputError, match=command):
        prepare(extracted, fitted, known, labels, load_split(corpus.split), str(tmp_path / "run"), mirrored=True)
    assert not (tmp_path / "run").exists()


def test_further_videos_are_trained_on_alone(corpus: Corpus, further: tuple[str, str], tmp_path: Path) -> None:
    labels = LabelSet.load("annchor-coarse")
    store = FeatureStore.open(corpus.store)
    corpora = further_corpora(store, [further], labels, owner="the test")
    found = prepared(corpus, tmp_path / "run", labels, further=corpora)
    assert set(found["training"]) == {f"v{i}" for i in range(9)} | {"v90", "v91"}
    assert set(found["validation"]) == {"v9", "v10", "v11"}
    truth = json.loads((tmp_path / "run" / "ground_truth.json").read_text())
    assert set(truth["database"]) == {"v9", "v10", "v11"}
    same, other = found["training"]["v0"], found["training"]["v90"]
    np.testing.assert_allclose(other.features, same.features, atol=1e-5)
    np.testing.assert_array_equal(other.classes, same.classes)
    np.testing.assert_array_equal(other.segments, same.segments)


def test_a_further_video_that_is_held_out_is_refused(corpus: Corpus, tmp_path: Path) -> None:
    labels = LabelSet.load("annchor-coarse")
    again = further_corpora(
        FeatureStore.open(corpus.store), [(corpus.store, corpus.annotations)], labels, owner="the test"
    )
    with pytest.raises(InputError, match=r"not held out, found 3 that are, such as v9 \(validation\)"):
        prepared(corpus, tmp_path / "run", labels, further=again)
    assert not (tmp_path / "run").exists()


def test_further_features_of_another_spec_or_without_steps_are_refused(corpus: Corpus, tmp_path: Path) -> None:
    labels = LabelSet.load("annchor-coarse")
    other = FeatureStore.create(str(tmp_path / "store"), SPEC.replace(stride=4))
    other.write_unit("v0", 0, 0, np.zeros((3, 6)))
    store = FeatureStore.open(corpus.store)
    with pytest.raises(SpecMismatchError, match=f"the test.*{SPEC.spec_id}.*{other.spec.spec_id}"):
        further_corpora(store, [(other.uri, corpus.annotations)], labels, owner="the test")
    with pytest.raises(InputError, match=r"a step of label set sides .* found 12 videos without one"):
        further_corpora(store, [(corpus.store, corpus.annotations)], SIDES, owner="the test")


def test_what_is_learnt_beside_is_part_of_the_configuration(
    corpus: Corpus, further: tuple[str, str], tmp_path: Path
) -> None:
    labels, out = LabelSet.load("annchor-coarse"), tmp_path / "run"
    corpora = further_corpora(FeatureStore.open(corpus.store), [further], labels, owner="the test")
    prepared(corpus, out / "plain", labels)
    assert "further" not in (out / "plain" / "sequences" / "config.yaml").read_text()
    with pytest.raises(InputError, match="another further corpora"):
        prepared(corpus, out / "plain", labels, further=corpora)
    prepared(corpus, out / "more", labels, further=corpora)
    prepared(corpus, out / "more", labels, further=corpora)
    with pytest.raises(InputError, match="another further corpora"):
        prepared(corpus, out / "more", labels)
