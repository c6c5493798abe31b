"""The feature store: what is written is what is read, and files alone say what is done."""

import time
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from balletal import files
from balletal.backbones.spec import FeatureSpec
from balletal.errors import InputError, VideoError
from balletal.features.released import read_npy, released_spec
from balletal.features.store import WHOLE_VIDEO, FeatureStore, quote, read_errors
from balletal.video.track import TRACKER, CropTrack
from schemas import arrow

SPEC = FeatureSpec(
    backbone="test",
    weights="0" * 64,
    streams=("rgb",),
    fps=25,
    window=16,
    stride=4,
    size=224,
    crop="center",
    mode="windowed",
    dim=8,
    dtype="float32",
)
HALF = SPEC.replace(dtype="float16")


@pytest.fixture
def store(tmp_path: Path) -> FeatureStore:
    return FeatureStore.create(str(tmp_path / "store"), SPEC)


def rows(n: int, seed: int = 0, dim: int = 8) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, dim)).astype(np.float32)


def test_units_of_a_video_read_back_in_clip_order_with_their_seconds(store: FeatureStore) -> None:
    x = rows(7)
    store.write_unit("a", 1, 4, x[4:])
    store.write_unit("a", 0, 0, x[:4])
    video = store.read("a")
    np.testing.assert_array_equal(video.features, x)
    assert video.features.dtype == np.float32
    np.testing.assert_array_equal(video.start_s, np.arange(7) * 4 / 25)
    np.testing.assert_array_equal(video.end_s, (np.arange(7) * 4 + 16) / 25)
    assert store.units() == {("a", 0), ("a", 1)}


def test_the_state_of_a_video_changes_with_its_units(store: FeatureStore) -> None:
    store.write_unit("a/b", 1, 4, rows(4))
    store.write_unit("a/b", 0, 0, rows(4))
    store.write_unit("c", 0, 0, rows(4))
    before = store.states()
    assert {video: state.segments for video, state in before.items()} == {"a/b": (0, 1), "c": (0,)}
    assert store.state("a/b", [0, 1]) == before["a/b"]  # asked one by one, and in any order
    (video,) = store.iter_units({"a/b": [0, 1]})
    np.testing.assert_array_equal(video.features, store.read("a/b").features)
    time.sleep(0.02)  # longer than a tick of a file's time
    store.write_unit("a/b", 1, 4, rows(4, seed=1))
    after = store.states()
    assert after["a/b"].digest != before["a/b"].digest
    assert after["c"] == before["c"]
    assert store.state("a/b", [0]).digest != after["a/b"].digest


def test_a_retried_unit_replaces_itself(store: FeatureStore) -> None:
    store.write_unit("a", 0, 0, rows(3, seed=1))
    store.write_unit("a", 0, 0, rows(3, seed=2))
    np.testing.assert_array_equal(store.read("a").features, rows(3, seed=2))
    assert len(store.files()) == 1


def test_files_have_the_schema_of_the_contract_and_pandas_reads_them(store: FeatureStore) -> None:
    store.write_unit("a", 2, 10, rows(3))
    (uri,) = store.files()
    assert pq.read_schema(uri) == arrow.features(8, "float32")
    table = pd.read_parquet(Path(store.uri) / "features")
    assert list(table["clip"]) == [10, 11, 12]
    assert set(table["video_id"]) == {"a"}
    assert set(table["spec"]) == {SPEC.spec_id}
    np.testing.assert_array_equal(np.stack(table["feature"].tolist()), rows(3))


def test_float16_rounds_once_and_an_overflow_is_refused(tmp_path: Path) -> None:
    store = FeatureStore.create(str(tmp_path), HALF)
    # float64 -> float32 -> float16 would round this one to 1 + 2^-10 first.
    x = np.full((2, 8), 1 + 2**-11 + 2**-30)
    store.write_unit("a", 0, 0, x)
    np.testing.assert_array_equal(store.read("a").features, x.astype(np.float16).astype(np.float32))
    x[1, 3] = 65536.0
    with pytest.raises(InputError, match=r"features of a, clip 6: .*float16.*65536"):
        store.write_unit("a", 0, 5, x)
    FeatureStore.create(str(tmp_path), SPEC).write_unit("a", 0, 0, x)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_value_that_is_not_finite_is_refused_with_video_and_clip(store: FeatureStore, value: float) -> None:
    x = rows(4)
    x[2, 5] = value
    with pytest.raises(InputError, match=f"features of a, clip 12: expected finite values, found {value}"):
        store.write_unit("a", 0, 10, x)
    assert store.units() == set()


def test_a_value_that_is_not_finite_is_found_on_read_too(store: FeatureStore) -> None:
    store.write_unit("a", 0, 0, rows(4))
    (uri,) = store.files()
    table = pq.read_table(uri)
    values = np.stack(table["feature"].to_pylist()).astype(np.float32)
    values[3, 0] = np.nan
    broken = table.set_column(5, table.schema.field("feature"), [_lists(values)])
    pq.write_table(broken, uri)
    with pytest.raises(InputError, match="features of a, clip 3: expected finite values, found nan"):
        store.read("a")


def _lists(values: np.ndarray):
    import pyarrow as pa

    return pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), type=pa.list_(pa.float32(), values.shape[1]))


def test_wrong_shapes_missing_videos_and_damaged_files_are_named(store: FeatureStore) -> None:
    with pytest.raises(InputError, match=r"shape \(clips, 8\), found \(2, 9\)"):
        store.write_unit("a", 0, 0, np.zeros((2, 9)))
    with pytest.raises(InputError, match="video 'a'"):
        store.read("a")
    store.write_unit("a", 0, 0, rows(2))
    (uri,) = store.files()
    Path(uri).write_bytes(Path(uri).read_bytes()[:-20])
    with pytest.raises(InputError, match="a Parquet file"):
        store.read("a")


def test_a_clip_that_two_units_hold_is_an_error(store: FeatureStore) -> None:
    store.write_unit("a", 0, 0, rows(4))
    store.write_unit("a", 1, 3, rows(4))
    with pytest.raises(InputError, match="a clip twice"):
        store.read("a")


def test_a_unit_without_clips_is_done_and_empty(store: FeatureStore) -> None:
    store.write_unit("a", 0, 0, rows(2))
    store.write_unit("a", 1, 2, rows(0))
    assert store.units() == {("a", 0), ("a", 1)}
    assert len(store.read("a").features) == 2


def test_iter_videos_keeps_the_order_asked_for(store: FeatureStore) -> None:
    names = [f"v{i:02d}" for i in range(40)]
    for i, name in enumerate(names):
        store.write_unit(name, 0, 0, np.full((2, 8), i))
    assert store.video_ids() == names
    assert [video.features[0, 0] for video in store.iter_videos(reversed(names))] == list(range(39, -1, -1))
    assert store.files(["v03", "nowhere"]) == [uri for uri in store.files() if "v03" in uri]


def test_open_names_the_specs_it_has_to_choose_from(tmp_path: Path) -> None:
    for look in (FeatureStore.open, read_errors):
        with pytest.raises(InputError, match="a feature store"):
            look(str(tmp_path))
    FeatureStore.create(str(tmp_path), SPEC)
    assert FeatureStore.open(str(tmp_path)).spec == SPEC
    FeatureStore.create(str(tmp_path), HALF)
    with pytest.raises(InputError) as raised:
        FeatureStore.open(str(tmp_path))
    assert SPEC.spec_id in str(raised.value)
    assert HALF.spec_id in str(raised.value)
    assert FeatureStore.open(str(tmp_path), HALF.spec_id).spec == HALF
    with pytest.raises(InputError, match="feature spec 123"):
        FeatureStore.open(str(tmp_path), "123")


def test_mirrored_features_are_meant_where_they_are_named_alone(tmp_path: Path) -> None:
    mirrored = FeatureStore.create(str(tmp_path), SPEC.replace(mirror=True)).spec
    assert FeatureStore.open(str(tmp_path)).spec == mirrored
    FeatureStore.create(str(tmp_path), SPEC)
    assert FeatureStore.open(str(tmp_path)).spec == SPEC
    assert FeatureStore.open(str(tmp_path), mirrored.spec_id).spec == mirrored


def test_a_mirrored_spec_follows_the_plain_ones_tracks(tmp_path: Path) -> None:
    plain = SPEC.replace(crop="dancer", tracker=TRACKER)
    center, side, mover, shot = np.full((3, 2), 0.25), np.full(3, 0.5), np.ones(3, bool), np.zeros(3, int)
    track = CropTrack(25.0, np.float32(center), np.float32(side), mover, np.int32(shot))
    FeatureStore.create(str(tmp_path), plain).write_track("a", track)
    twin = FeatureStore.create(str(tmp_path), plain.replace(mirror=True))
    np.testing.assert_array_equal(twin.track("a", 0, 3).center, track.center)


def test_a_spec_file_that_was_edited_is_refused(store: FeatureStore) -> None:
    uri = f"{store.uri}/features/spec={SPEC.spec_id}/_spec.json"
    files.write_json(uri, SPEC.to_dict() | {"stride": 8})
    with pytest.raises(InputError, match=SPEC.spec_id):
        FeatureStore.open(store.uri)


def test_stores_work_on_any_fsspec_file_system() -> None:
    store = FeatureStore.create("memory://bucket/store", SPEC)
    store.write_unit("a/b", 0, 0, rows(2))
    again = FeatureStore.open("memory://bucket/store")
    assert again.units() == {("a/b", 0)}
    np.testing.assert_array_equal(again.read("a/b").features, rows(2))
    assert all(uri.startswith("memory://") for uri in again.files())


@settings(deadline=None)
@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=15))
def test_any_video_id_becomes_a_visible_file_name_and_back(video_id: str) -> None:
    from urllib.parse import unquote

    quoted = quote(video_id)
    assert unquote(quoted) == video_id
    assert quoted[0] not in "._"
    assert not set(quoted) & set('/\\:*?"<>| \n')


@pytest.mark.parametrize("video_id", ["", "x" * 200, "\udcff"])
def test_video_ids_that_no_file_name_holds_are_refused(store: FeatureStore, video_id: str) -> None:
    with pytest.raises(InputError, match="video id"):
        store.write_unit(video_id, 0, 0, rows(1))


def test_videos_table_keeps_the_last_row_of_a_uri(store: FeatureStore) -> None:
    store.write_videos([{"video_id": "a", "uri": "/a.mp4", "version": "1", "duration": 2.0}])
    store.write_videos([{"video_id": "b", "uri": "/b.mp4", "version": "1"}])
    store.write_videos([{"video_id": "a", "uri": "/a.mp4", "version": "2", "duration": 3.0}])
    table = store.videos().set_index("video_id")
    assert table.loc["a", "version"] == "2"
    assert table.loc["a", "duration"] == 3.0
    assert len(table) == 2


def test_one_file_under_two_ids_is_two_videos(store: FeatureStore) -> None:
    for video_id in ("a", "more/a.mp4", "a"):
        store.write_videos([{"video_id": video_id, "uri": "/v/a.mp4", "version": "1"}])
    assert sorted(store.videos()["video_id"]) == ["a", "more/a.mp4"]


def test_a_damaged_spec_is_told_before_any_work(store: FeatureStore) -> None:
    where = Path(store.uri) / "features" / f"spec={store.spec.spec_id}" / "_spec.json"
    where.write_bytes(where.read_bytes()[:40])
    with pytest.raises(InputError, match=r"_spec\.json"):
        FeatureStore.create(store.uri, store.spec)


def test_a_damaged_track_is_no_track(tmp_path: Path, store: FeatureStore) -> None:
    store = FeatureStore.create(str(tmp_path / "tracks"), store.spec.replace(crop="dancer", tracker=TRACKER))
    n = 50
    made = CropTrack(
        25.0, np.zeros((n, 2), np.float32), np.ones(n, np.float32), np.ones(n, bool), np.zeros(n, np.int32)
    )
    assert not store.has_track("a")
    store.write_track("a", made)
    assert store.has_track("a")
    (file,) = Path(store.uri).rglob("tracks/*/a.parquet")
    file.write_bytes(file.read_bytes()[:100])
    assert not store.has_track("a")


def test_errors_replace_each_other_and_go_when_cleared(store: FeatureStore) -> None:
    assert store.errors().empty
    where = {"uri": "/a-b.mp4", "version": "1"}
    broken = VideoError("/a-b.mp4", "corrupt", expected="pictures", found="none")
    store.write_error("a-b", 3, stage="decode", error=ValueError("first"), **where)  # type: ignore[arg-type]
    store.write_error("a-b", 3, stage="decode", error=broken, **where)  # type: ignore[arg-type]
    store.write_error("a-b", WHOLE_VIDEO, stage="probe", error=broken, **where)  # type: ignore[arg-type]
    table = store.errors()
    assert sorted(table["segment"]) == [WHOLE_VIDEO, 3]
    assert set(table["type"]) == {"corrupt"}
    assert set(table["video_id"]) == {"a-b"}
    assert set(read_errors(store.uri)["spec"]) == {SPEC.spec_id}
    assert FeatureStore.create(store.uri, HALF).errors().empty
    store.clear_error("a-b", 3)
    assert list(store.errors()["segment"]) == [WHOLE_VIDEO]


def test_forget_removes_a_changed_video_from_every_spec_made_from_videos(store: FeatureStore) -> None:
    half = FeatureStore.create(store.uri, HALF)
    imported = FeatureStore.create(store.uri, released_spec(fps=25, window=64, stride=64, dim=8))
    for one in (store, half, imported):
        one.write_unit("a", 0, 0, rows(2))
        one.write_unit("b", 0, 0, rows(2))
    half.write_error("a", 1, uri="/a.mp4", version="1", stage="decode", error=ValueError("x"))
    store.forget({"a"})
    assert store.units() == half.units() == {("b", 0)}
    assert half.errors().empty
    assert imported.units() == {("a", 0), ("b", 0)}


class TestReleased:
    spec = released_spec(fps=25, window=64, stride=64, dim=8)

    def test_reads_any_float_type(self, tmp_path: Path) -> None:
        for dtype in (np.float16, np.float32, np.float64):
            np.save(tmp_path / "a.npy", rows(3).astype(dtype))
            assert read_npy(str(tmp_path / "a.npy"), self.spec).dtype == dtype

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            (np.zeros((3, 9)), r"shape \(clips, 8\), found \(3, 9\)"),
            (np.zeros(8), r"found \(8,\)"),
            (np.zeros((0, 8)), r"found \(0, 8\)"),
            (np.zeros((3, 8), int), "an array of floats, found int64"),
            (np.array([[0.0] * 7 + [np.nan], [0.0] * 8]), "finite values, found 1 of 2 rows"),
            (b"", "a .npy file"),
            (b"\x93NUMPY garbage", "a .npy file"),
            (b"hello", "a .npy file"),
        ],
    )
    def test_names_what_is_wrong(self, tmp_path: Path, content: np.ndarray | bytes, message: str) -> None:
        path = tmp_path / "a.npy"
        if isinstance(content, bytes):
            path.write_bytes(content)
        else:
            np.save(path, content)
        with pytest.raises(InputError, match=message) as raised:
            read_npy(str(path), self.spec)
        assert str(path) in str(raised.value)

    def test_runs_no_pickle(self, tmp_path: Path) -> None:
        np.save(tmp_path / "a.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
        with pytest.raises(InputError, match=r"a \.npy file"):
            read_npy(str(tmp_path / "a.npy"), self.spec)
