import io
import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import typer
from hypothesis import given, settings
from hypothesis import strategies as st

from balletal.annotations import read_annotations
from balletal.detections import DetectionStore
from balletal.errors import InputError, SpecMismatchError
from balletal.features.store import FeatureStore
from balletal.tal.localizer import Localizer
from balletal.tal.models import TemporalModel
from schemas import arrow
from workflows.score import _time, main, score
from workflows.scoring import Localize, Video, missing
from workflows.sources import Shard
from workflows.tables import write_detections


def fill(store: FeatureStore, videos: int, seed: int = 0) -> None:
    random = np.random.default_rng(seed)
    for i in range(videos):
        store.write_unit(f"v{i:02d}", 0, 0, random.normal(0, 1, (6 + i, store.spec.dim)))
        store.write_unit(f"v{i:02d}", 1, 6 + i, random.normal(0, 1, (3, store.spec.dim)))


def spoil(store: FeatureStore, video_id: str) -> None:
    """Put a NaN where the store's own writer would refuse one."""
    uri = store.files([video_id])[0]
    table = pq.read_table(io.BytesIO(Path(uri).read_bytes()))
    values = table["feature"].combine_chunks().flatten().to_numpy(zero_copy_only=False).copy()
    values[5] = np.nan
    kind = table.schema.field("feature").type
    column = pa.FixedSizeListArray.from_arrays(pa.array(values, kind.value_type), type=kind)
    at = table.schema.get_field_index("feature")
    pq.write_table(table.set_column(at, table.schema.field(at), column), uri)


@pytest.mark.ray
def test_a_store_with_a_bad_video(tiny_bundle, ray_cluster, tmp_path: Path) -> None:
    localizer = tiny_bundle.localizer
    store = FeatureStore.create(str(tmp_path / "store"), localizer.spec)
    fill(store, 20)
    spoil(store, "v07")
    FeatureStore.create(store.uri, localizer.spec.replace(stride=4))  # another kind, which must not matter
    out = tmp_path / "out"
    summary = score(tiny_bundle.folder, str(out), store=store.uri)
    assert (summary["videos"], summary["videos_failed"]) == (20, 1)

    table = pq.read_table(out / "detections.parquet")
    assert table.schema.equals(arrow.DETECTIONS)
    assert table.schema.metadata[b"bundle"].decode() == localizer.digest
    found = table.to_pandas()
    assert set(found["bundle"]) == {localizer.digest}
    assert summary["detections"] == len(found) > 0
    # The same as one after the other in this process, with the store's own order of videos.
    expected = pd.concat(
        [localizer.localize(video) for video in store.iter_videos([v for v in store.video_ids() if v != "v07"])],
        ignore_index=True,
    )
    assert found["video_id"].tolist() == expected["video_id"].tolist()
    assert found["label"].tolist() == expected["label"].tolist()
    np.testing.assert_allclose(found[["start", "end"]], expected[["start", "end"]], atol=1e-4)
    np.testing.assert_allclose(found["score"], expected["score"], atol=1e-5)

    errors = pq.read_table(out / "errors.parquet")
    assert errors.schema.equals(arrow.ERRORS)
    [row] = errors.to_pylist()
    assert (row["stage"], row["type"], row["segment"]) == ("localize", "InputError", -1)
    assert "features of v07, clip 0: expected finite values, found nan" in row["message"]

    results = read_annotations(str(out / "detections.json"))
    assert len(results.segments) == len(found)
    assert "v07" not in set(results.videos["video_id"])
    assert len(results.videos) == 19
    assert json.loads((out / "run.json").read_text()) == summary

    # Mended, and with limits: the error is gone.
    fill(store, 20)
    summary = score(tiny_bundle.folder, str(out), store=store.uri, top_k=3, min_score=0.05)
    assert summary["videos_failed"] == 0
    assert not (out / "errors.parquet").exists()
    limited = pd.read_parquet(out / "detections.parquet")
    assert limited.groupby("video_id").size().max() <= 3
    assert limited["score"].min() >= 0.05


def test_tags_are_written_where_the_bundle_tells_them(tiny_bundle, tmp_path: Path) -> None:
    plain = tiny_bundle.localizer
    labels = replace(plain.labels, tags=("Backwards",))
    model = TemporalModel(plain.recipe.model, plain.projection.dim, len(labels), 1).eval()
    with torch.no_grad():
        model.class_head.bias.zero_()
        model.tag_head.bias.fill_(9.0)
    replace(plain, labels=labels, model=model).save(str(tmp_path / "bundle"))
    tagged = Localizer.load(str(tmp_path / "bundle"))
    store = FeatureStore.create(str(tmp_path / "store"), plain.spec)
    fill(store, 2)
    batch = [Video(video_id, "", state, None) for video_id, state in store.states().items()]
    for localizer, folder, schema in (
        (tagged, str(tmp_path / "bundle"), arrow.TAGGED_DETECTIONS),
        (plain, tiny_bundle.folder, arrow.DETECTIONS),
    ):
        result = Localize(folder, store, {}).localize(batch)
        assert result.detections.schema.equals(schema)
        assert (
            result.videos["detections"].to_pylist() == result.detections.to_pandas().groupby("video_id").size().tolist()
        )
        found = result.detections.to_pandas()
        assert len(found) > 0
        for rows in (found, found.iloc[:0]):
            write_detections(str(tmp_path), rows, localizer, ["v00"])
            table = pq.read_table(tmp_path / "detections.parquet")
            assert table.schema.equals(schema)
            results = json.loads((tmp_path / "detections.json").read_text())["results"]
            items = [item for items in results.values() for item in items]
            assert len(items) == len(table) == len(rows)
            assert all(item.get("tags") == (["Backwards"] if localizer.tags else None) for item in items)


@pytest.mark.ray
def test_videos_go_through_extraction_and_resume(tiny_bundle, ray_cluster, make_video, tmp_path: Path) -> None:
    videos = tmp_path / "videos"
    names = ["a", "b", "c"]
    for seed, name in enumerate(names):
        make_video(videos / f"{name}.mp4", 3.0, seed=seed)
    (videos / "broken.mp4").write_bytes(b"no video")
    out = tmp_path / "out"
    options = {"videos": str(videos), "weights": tiny_bundle.weights}
    with pytest.raises(typer.Exit) as stopped:
        main(bundle=tiny_bundle.folder, out=str(out), **options)  # type: ignore[arg-type]
    assert stopped.value.exit_code == 3
    summary = json.loads((out / "run.json").read_text())
    assert (summary["videos"], summary["videos_failed"]) == (4, 1)
    [row] = pq.read_table(out / "errors.parquet").to_pylist()
    assert (row["stage"], row["type"]) == ("probe", "not-a-video")

    store = FeatureStore.open(str(out / "store"))
    assert store.video_ids() == names
    times = {uri: Path(uri).stat().st_mtime_ns for uri in store.files()}
    found = pd.read_parquet(out / "detections.parquet")
    assert set(found["video_id"]) == set(store.video_ids())
    assert (found["end"] <= 3.0).all()

    (videos / "broken.mp4").unlink()
    again = score(tiny_bundle.folder, str(out), **options)
    assert (again["videos_failed"], again["scored"]) == (0, 0)
    assert {uri: Path(uri).stat().st_mtime_ns for uri in store.files()} == times
    pd.testing.assert_frame_equal(pd.read_parquet(out / "detections.parquet"), found)

    # One is replaced, one is new, one is gone; each half of them is one shard's.
    make_video(videos / "b.mp4", 3.0, seed=7)
    make_video(videos / "d.mp4", 3.0, seed=8)
    (videos / "c.mp4").unlink()
    shards = [Shard(number, 2) for number in (1, 2)]
    told = [score(tiny_bundle.folder, str(out), **options, shard=shard) for shard in shards]
    assert sum(one["scored"] for one in told) == 2
    assert sum(one["videos"] for one in told) == 3
    assert json.loads((out / "shards" / "2of2" / "run.json").read_text()) == told[1]
    pd.testing.assert_frame_equal(pd.read_parquet(out / "detections.parquet"), found)  # not theirs to write
    last = score(tiny_bundle.folder, str(out), **options)
    assert (last["videos"], last["scored"]) == (3, 0)
    now = pd.read_parquet(out / "detections.parquet")
    assert set(now["video_id"]) == {"a", "b", "d"}
    changed = {name: not now[now["video_id"] == name].equals(found[found["video_id"] == name]) for name in "ab"}
    assert changed == {"a": False, "b": True}
    parts = DetectionStore.open(str(out / "detections"))
    assert set(parts.videos()["video_id"]) == {"a", "b", "c", "d"}

    # What was changed before is not looked at.
    tomorrow = datetime.now(UTC) + timedelta(days=1)
    make_video(videos / "a.mp4", 3.0, seed=9)
    unseen = score(tiny_bundle.folder, str(out), **options, since=tomorrow)
    assert (unseen["scored"], unseen["videos"]) == (0, 2)
    seen = score(tiny_bundle.folder, str(out), **options, since=tomorrow - timedelta(days=2), most=3)
    assert (seen["scored"], seen["videos"]) == (1, 3)
    assert not (out / "detections.parquet").exists()  # there are more than three
    gone = found["video_id"].eq("c").sum()  # its detections stay in the folder, and are in no table
    assert len(read_annotations(str(out / "detections")).segments) == seen["detections"] + gone


def test_features_of_another_spec_are_refused(tiny_bundle, tmp_path: Path) -> None:
    spec = tiny_bundle.localizer.spec
    uri, out = str(tmp_path / "store"), str(tmp_path / "out")
    with pytest.raises(InputError, match="a feature store"):
        score(tiny_bundle.folder, out, store=uri)
    others = [spec.replace(stride=4), spec.replace(fps=30.0)]
    FeatureStore.create(uri, others[0])
    with pytest.raises(SpecMismatchError, match="stride: 8 against 4") as one:
        score(tiny_bundle.folder, out, store=uri)
    FeatureStore.create(uri, others[1])
    with pytest.raises(SpecMismatchError) as several:
        score(tiny_bundle.folder, out, store=uri)
    for error, named in ((one, [spec, others[0]]), (several, [spec, *others])):
        assert all(str(each) in str(error.value) for each in named)


@pytest.mark.parametrize("given", [{}, {"videos": "a", "store": "b"}])
def test_videos_or_a_store(tiny_bundle, tmp_path: Path, given: dict[str, str]) -> None:
    with pytest.raises(InputError, match="videos or a store"):
        score(tiny_bundle.folder, str(tmp_path), **given)  # type: ignore[arg-type]


def test_an_empty_place_is_not_this_folder(tiny_bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="expected a path or a URL, found nothing"):
        score(tiny_bundle.folder, "", store=str(tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_coarse_labels_are_refused_before_any_work(tiny_bundle, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="expected labels that have coarse names, found label set annchor-coarse"):
        score(tiny_bundle.folder, str(tmp_path), store=str(tmp_path / "none"), coarse=True)


def test_since_is_of_files(tiny_bundle, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="videos, whose files have a time"):
        score(tiny_bundle.folder, str(tmp_path), store=str(tmp_path), since=datetime.now(UTC))


@pytest.mark.parametrize(
    "wrong",
    [
        *({"since": "yesterday"}, {"shard": "0/2"}, {"shard": "3/2"}, {"shard": "half"}, {"shard": f"1/{'9' * 5000}"}),
        *({"since": ""}, {"shard": ""}),  # of a variable that is not set: all of the videos are not meant
    ],
)
def test_times_and_shards_that_are_none(tiny_bundle, tmp_path: Path, wrong: dict[str, str]) -> None:
    with pytest.raises(typer.BadParameter, match=r"ISO 8601|i/n"):
        main(bundle=tiny_bundle.folder, out=str(tmp_path), videos=str(tmp_path), **wrong)  # type: ignore[arg-type]


def test_a_time_is_utc_unless_it_says() -> None:
    assert _time("2026-11-22") == datetime(2026, 11, 22, tzinfo=UTC)
    assert _time("2026-11-22T01:30+01:00") == datetime(2026, 11, 22, 0, 30, tzinfo=UTC)


@settings(deadline=None)
@given(st.lists(st.text(min_size=1), unique=True), st.integers(1, 9))
def test_every_video_is_in_one_shard(video_ids: list[str], of: int) -> None:
    shards = [Shard.parse(f"{number}/{of}") for number in range(1, of + 1)]
    for video_id in video_ids:
        assert sum(shard.has(video_id) for shard in shards) == 1


def test_what_is_missing_is_what_differs() -> None:
    columns = ["video_id", "version", "features"]
    scored = pd.DataFrame([["a", "1", "f"], ["b", "1", "f"], ["c", "1", "f"]], columns=columns, dtype="str")
    plan = pd.DataFrame([["a", "1", "f"], ["b", "2", "f"], ["c", "1", "g"], ["d", "1", "f"]], columns=columns)
    assert missing(plan.astype("str"), scored)["video_id"].tolist() == ["b", "c", "d"]
