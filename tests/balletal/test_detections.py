import base64
import io
import json
import threading
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from balletal import detections, files
from balletal.annotations import read_annotations
from balletal.detections import DetectionStore
from balletal.errors import InputError
from schemas import arrow

SCORING = {"bundle": "b" * 64, "name": "tiny", "spec": "0123456789ab", "min_score": 0.0}


@pytest.fixture
def store(tmp_path: Path) -> DetectionStore:
    return DetectionStore.create(str(tmp_path / "detections"), SCORING)


def part(store: DetectionStore, found: dict[str, Sequence[float]], version: str = "1", owner: str = "all") -> None:
    """Commit videos, each with a detection for each of the scores."""
    videos = [
        {"video_id": video, "version": version, "features": f"f{version}", "detections": len(scores)}
        for video, scores in found.items()
    ]
    rows = [
        {"video_id": video, "start": float(n), "end": n + 0.5, "label": "Plié", "score": score, "bundle": "b" * 64}
        for video, scores in found.items()
        for n, score in enumerate(scores)
    ]
    store.write(pa.Table.from_pylist(videos, arrow.SCORED), pa.Table.from_pylist(rows, arrow.DETECTIONS), owner=owner)


def scores(store: DetectionStore, video_ids: Sequence[str] | None = None) -> dict[str, list[float]]:
    """Scores by video, as the store gives them."""
    table = pa.concat_tables([arrow.DETECTIONS.empty_table(), *store.tables(video_ids)]).to_pandas()
    return {str(video): rows["score"].astype(float).round(3).tolist() for video, rows in table.groupby("video_id")}


def raw(store: DetectionStore) -> dict[str, list[float]]:
    """Scores by video, as any reader of Parquet finds them in the folder."""
    table = pd.concat([pd.read_parquet(uri, partitioning=None) for uri in store.parts()])
    return {str(video): rows["score"].astype(float).round(3).tolist() for video, rows in table.groupby("video_id")}


def test_a_part_says_which_videos_it_is_of(store: DetectionStore) -> None:
    part(store, {"a/1.mp4": [0.9, 0.5], "b": []})
    part(store, {"c": [0.25]})
    videos = store.videos().set_index("video_id")
    assert videos["detections"].to_dict() == {"a/1.mp4": 2, "b": 0, "c": 1}
    assert videos["part"].tolist() == [store.parts()[0]] * 2 + [store.parts()[1]]
    assert set(videos["version"]) == {"1"}
    assert set(videos["features"]) == {"f1"}
    assert scores(store) == raw(store) == {"a/1.mp4": [0.9, 0.5], "c": [0.25]}
    assert scores(store, ["b", "c", "nobody"]) == {"c": [0.25]}
    schema = pq.read_schema(io.BytesIO(files.read_bytes(store.parts()[0])))
    assert schema.equals(arrow.DETECTIONS)
    assert schema.metadata[b"bundle"].decode() == SCORING["bundle"]


def test_what_is_written_last_counts_whatever_a_clock_says(
    store: DetectionStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    part(store, {"a": [0.1], "b": [0.2]})
    monkeypatch.setattr(detections.time, "time_ns", lambda: 5)
    part(store, {"a": [0.3]}, version="2")
    assert scores(store) == {"a": [0.3], "b": [0.2]}
    assert store.videos().set_index("video_id")["version"].to_dict() == {"b": "1", "a": "2"}
    store.compact()
    assert scores(store) == raw(store) == {"a": [0.3], "b": [0.2]}
    assert len(store.parts()) == 1
    part(store, {"b": []}, version="3")
    assert scores(store) == {"a": [0.3]}


def test_compaction_joins_small_files_and_leaves_full_ones(
    store: DetectionStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(detections, "_DETECTIONS", 8)
    expected = {f"v{n:02d}": [0.5, 0.25] for n in range(20)}
    for video in expected:
        part(store, {video: expected[video]})
    store.compact()
    assert len(store.parts()) == 5
    assert scores(store) == raw(store) == expected
    full = store.parts()
    part(store, {"w": [0.5]})
    part(store, {"x": [0.5]})
    store.compact()
    assert store.parts()[:5] == full
    assert len(store.parts()) == 6
    store.compact(forget={"v03"})  # its file alone is written anew
    assert raw(store) == {video: found for video, found in expected.items() if video != "v03"} | {
        "w": [0.5],
        "x": [0.5],
    }
    assert set(full) - set(store.parts()) == {full[0]}
    store.compact(forget={f"v{n:02d}" for n in range(20)})
    assert raw(store) == {"w": [0.5], "x": [0.5]}


class Killed(BaseException):
    """What ends a run at once."""


@pytest.mark.parametrize("calls", range(4))
def test_a_compaction_that_is_killed_loses_and_repeats_nothing(
    store: DetectionStore, monkeypatch: pytest.MonkeyPatch, calls: int
) -> None:
    """Killed before each of what it does to files: one is written, then two are removed, and once through."""
    part(store, {"a": [0.1], "b": [0.2]})
    part(store, {"a": [0.3], "c": []}, version="2")
    left = [calls]

    def deadly(call):
        def disturbed(*args):
            if not left[0]:
                raise Killed
            left[0] -= 1
            return call(*args)

        return disturbed

    with monkeypatch.context() as patch:
        for name in ("write_bytes", "remove"):
            patch.setattr(files, name, deadly(getattr(files, name)))
        try:
            store.compact()
            assert calls == 3
        except Killed:
            assert calls < 3
    for _ in range(2):
        assert scores(store) == {"a": [0.3], "b": [0.2]}
        assert sorted(store.videos()["video_id"]) == ["a", "b", "c"]
        store.compact()
    assert raw(store) == {"a": [0.3], "b": [0.2]}
    assert len(store.parts()) == 1


def test_each_joins_its_own_files_and_what_others_commit_meanwhile_counts(
    store: DetectionStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    for owner in ("1of2", "2of2"):
        part(store, {f"{owner}-a": [0.5]}, owner=owner)
        part(store, {f"{owner}-b": [0.5]}, owner=owner)
    others = [uri for uri in store.parts() if "-2of2-" in uri]
    store.compact(owner="1of2")
    assert [uri for uri in store.parts() if "-2of2-" in uri] == others
    assert len(store.parts()) == 3
    # Another commits a newer version of a video while its old one is being moved to another file.
    write = files.write_bytes

    def meanwhile(uri: str, data: bytes) -> None:
        monkeypatch.setattr(files, "write_bytes", write)
        part(store, {"1of2-a": [0.75]}, version="2")
        write(uri, data)

    monkeypatch.setattr(files, "write_bytes", meanwhile)
    store.compact()
    assert scores(store)["1of2-a"] == [0.75]
    # And one whose files are gone when it comes to read them has nothing to do.
    monkeypatch.setattr(DetectionStore, "parts", lambda self, parts=store.parts: [*parts()])
    read = detections.read_table

    def gone(uri: str) -> pa.Table:
        files.remove(uri)
        return read(uri)

    part(store, {"z": [0.5]})
    before = len(store.parts())
    monkeypatch.setattr(detections, "read_table", gone)
    store.compact()
    assert len(store.parts()) == before - 1


@pytest.mark.parametrize("read", ["_read_videos", "read_table"])
def test_who_reads_while_another_joins_reads_it_all(
    store: DetectionStore, monkeypatch: pytest.MonkeyPatch, read: str
) -> None:
    for number, video in enumerate("abc"):
        part(store, {video: [number / 4]}, owner="1of2")
    function, alone, once = getattr(detections, read), threading.Lock(), [store.compact]

    def meanwhile(uri: str) -> pa.Table:
        with alone:  # several are read at the same time
            if once:
                monkeypatch.setattr(detections, read, function)
                once.pop()(owner="1of2")
        return function(uri)

    monkeypatch.setattr(detections, read, meanwhile)
    assert scores(store) == {"a": [0.0], "b": [0.25], "c": [0.5]}
    assert len(store.parts()) == 1


def test_several_scorings_are_told_apart(store: DetectionStore, tmp_path: Path) -> None:
    part(store, {"a": [0.5], "b": []})
    uri = store.uri
    assert DetectionStore.open(uri) == DetectionStore.open(store.folder) == store
    found = read_annotations(uri)
    assert found.segments[["video_id", "start", "score"]].to_numpy().tolist() == [["a", 0.0, 0.5]]
    assert found.videos["video_id"].tolist() == ["a", "b"]
    other = DetectionStore.create(uri, SCORING | {"min_score": 0.5})
    assert other.videos().empty
    assert not list(other.tables())
    other.compact()
    with pytest.raises(InputError, match=f"of one scoring, found .*{other.scoring_id}.*"):
        DetectionStore.open(uri)
    assert read_annotations(store.folder).videos["video_id"].tolist() == ["a", "b"]
    with pytest.raises(InputError, match="of one scoring, found none"):
        DetectionStore.open(str(tmp_path))


def test_files_that_are_none_of_ours(store: DetectionStore) -> None:
    part(store, {"a": [0.5]})
    whole = files.read_bytes(store.parts()[0])
    plain = io.BytesIO()
    pq.write_table(arrow.DETECTIONS.empty_table(), plain)
    for content, message in ((whole[:-10], "Parquet"), (plain.getvalue(), "one that names no videos")):
        files.write_bytes(store.parts()[0], content)
        with pytest.raises(InputError, match=f"a file of scored detections, found .*{message}"):
            store.videos()
    other = pa.table({"video_id": ["a"]})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, other.schema) as stream:
        stream.write_table(other)
    packed = io.BytesIO()
    about = {"videos": base64.b64encode(sink.getvalue())}
    pq.write_table(arrow.DETECTIONS.empty_table().replace_schema_metadata(about), packed)
    files.write_bytes(store.parts()[0], packed.getvalue())
    with pytest.raises(InputError, match=r"a file of scored detections, found .*names"):
        store.videos()
    where = Path(store.folder) / "_scoring.json"
    assert json.loads(where.read_text()) == SCORING
    where.write_text(json.dumps(SCORING | {"min_score": 0.5}))
    with pytest.raises(InputError, match="expected what its folder is named by, found that of scoring="):
        DetectionStore.open(store.uri)
