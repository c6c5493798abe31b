"""A video of the corpus: its file, its joints and its annotations say the same."""

import dataclasses
from pathlib import Path

import av
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from balletal import files
from balletal.annotations import cleaning_report, read_annotations
from balletal.errors import InputError
from balletal.labels import LabelSet
from balletal.synthetic.body import JOINTS
from balletal.synthetic.card import dataset_card
from balletal.synthetic.corpus import (
    VideoRecord,
    drawn_videos,
    joints_uri,
    read_record,
    subset_of,
    video_id,
    write_annotations,
    write_video,
)
from balletal.synthetic.dance import Segment
from balletal.synthetic.performance import perform
from balletal.synthetic.presets import PRESETS
from balletal.video.probe import probe
from schemas import arrow

SIZE = (96, 64)
TELEPHONE = dataclasses.replace(PRESETS["wild"], portrait=1.0, vfr=1.0, audio=1.0, company=1.0)


@pytest.fixture(scope="module")
def telephone(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, VideoRecord]:
    out = tmp_path_factory.mktemp("telephone")
    return out, write_video(str(out), 2, 7, 5.0, TELEPHONE, SIZE)


def test_the_record_is_what_the_file_is(telephone: tuple[Path, VideoRecord]) -> None:
    out, record = telephone
    path = out / "videos" / "AAC0000.mp4"
    info = probe(str(path))
    assert (record.video_id, record.subset, record.dancers) == ("AAC0000", "validation", 2)
    assert (info.width, info.height, info.frames, info.vfr) == (64, 96, record.frames, True)
    assert (record.width, record.height, record.vfr) == (64, 96, True)
    assert info.duration == pytest.approx(record.duration, abs=0.001)
    assert info.fps == pytest.approx(record.fps, abs=0.01)
    assert record.duration >= 5
    with av.open(str(path)) as container:
        assert len(container.streams.audio) == 1
    assert drawn_videos(str(out)) == {"AAC0000"}
    assert read_record(str(out), "AAC0000") == record


def test_joints_are_where_the_dancers_are(telephone: tuple[Path, VideoRecord]) -> None:
    out, record = telephone
    table = pq.read_table(out / "joints" / "AAC0000.parquet")
    assert table.schema.remove_metadata() == arrow.JOINTS
    assert 2 * len(JOINTS) == arrow.JOINTS.field("joints_2d").type.list_size
    with av.open(str(out / "videos" / "AAC0000.mp4")) as container:
        times = [float(picture.pts * picture.time_base) for picture in container.decode(video=0)]
    rows = table.to_pandas()
    assert list(rows["frame"]) == [n for n in range(record.frames) for _ in range(2)]
    assert list(rows["dancer"]) == [0, 1] * record.frames
    np.testing.assert_allclose(rows["time_s"][::2], times, rtol=0, atol=1e-9)

    random = np.random.default_rng(np.random.SeedSequence([7, 2]).spawn(3)[0])
    dancers = perform(random, 5.0, TELEPHONE).dancers
    for number, dancer in enumerate(dancers):
        mine = rows[rows["dancer"] == number]
        world = np.stack(mine["joints_3d"]).reshape(-1, len(JOINTS), 3)
        np.testing.assert_allclose(world, dancer.joints(np.array(mine["time_s"])), atol=1e-5)
        pixels = np.stack(mine["joints_2d"]).reshape(-1, len(JOINTS), 2)
        assert (pixels[0, JOINTS.index("head_top"), 1] < pixels[0, JOINTS.index("left_toe"), 1]).all()  # y is down
    assert np.isfinite(np.stack(rows["joints_2d"])).all()


def test_a_video_is_the_same_anywhere(telephone: tuple[Path, VideoRecord]) -> None:
    out, record = telephone
    again = write_video("memory://corpus-again", 2, 7, 5.0, TELEPHONE, SIZE)
    assert again == record
    for name in ("videos/AAC0000.mp4", "joints/AAC0000.parquet"):
        assert files.read_bytes(f"memory://corpus-again/{name}") == (out / name).read_bytes()


def test_picture_and_code_leave_the_annotation_alone(
    telephone: tuple[Path, VideoRecord], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, record = telephone
    monkeypatch.setattr("balletal.synthetic.corpus.write_mp4", lambda path, *_, **__: path.write_bytes(b"x") and 5.0)
    larger = write_video(str(tmp_path), 2, 7, 5.0, TELEPHONE, (192, 128))
    assert (larger.segments, larger.frames, larger.crf) == (record.segments, record.frames, record.crf)
    plain = dataclasses.replace(TELEPHONE, vfr=0.0, audio=0.0, portrait=0.0, crf=(20, 20), noise=(0.0, 0.0))
    assert write_video(str(tmp_path), 2, 7, 5.0, plain, SIZE).segments == record.segments
    assert write_video(str(tmp_path), 3, 7, 5.0, plain, SIZE) != dataclasses.replace(record, video_id="AAD0000")


def made_up(index: int, *segments: tuple[str, float, float], dancers: int = 1) -> VideoRecord:
    facts = {"duration": 8.04, "fps": 25.0, "frames": 201, "width": 96, "height": 64, "vfr": False, "crf": 23}
    found = tuple(Segment(*segment) for segment in segments)
    more = {
        "sound": None,
        "dancers": dancers,
        "style": "man",
        "look": {"camera": "fixed", "place": "plain"},
        "segments": found,
    }
    return VideoRecord(video_id(index), subset_of(index), **facts, **more)  # type: ignore[arg-type]


RECORDS = [
    made_up(1, ("GrandJeteLeft", 0.5, 1.123), ("Backwards", 0.5, 2.25), ("GrandJeteRight", 1.5, 2.25), dancers=2),
    made_up(0, ("TourEnLair", 3.001, 3.999)),
    made_up(2),
    made_up(26**3, ("Courus", 1.0, 2.0)),
]


def test_both_annotation_files_say_what_was_danced(tmp_path: Path) -> None:
    write_annotations(str(tmp_path), RECORDS, "card")
    fine = LabelSet.load("annchor-fine")
    published, via = (read_annotations(str(tmp_path / name), fine) for name in ("annotations.json", "via"))
    assert sorted(path.name for path in (tmp_path / "via").iterdir()) == ["AAA.csv", "AAB.csv", "AAC.csv"]
    expected = {(r.video_id, s.label, s.start, s.end) for r in RECORDS for s in r.segments}
    for read in (published, via):
        both = pd.concat([read.segments, read.tags])
        assert set(both[["video_id", "label", "start", "end"]].itertuples(index=False, name=None)) == expected
        assert len(both) == len(expected)
        assert list(read.tags["label"]) == ["Backwards"]
        assert list(read.videos["video_id"]) == ["AAA0000", "AAA0001", "AAB0000", "AAC0000"]
        assert list(read.videos["solo"]) == [True, True, False, True]
        assert cleaning_report(read) == []
    pd.testing.assert_frame_equal(published.segments, via.segments)
    pd.testing.assert_frame_equal(published.tags, via.tags)
    assert list(published.videos["subset"]) == ["training", "validation", "training", "validation"]
    assert (published.videos["duration"] == 8.04).all()
    assert (tmp_path / "card.md").read_text() == "card"


def test_a_performance_reads_back(tmp_path: Path) -> None:
    record = write_video(str(tmp_path), 0, 5, 12.0, PRESETS["easy"], SIZE)
    assert record.segments
    danced = perform(np.random.default_rng(np.random.SeedSequence([5, 0]).spawn(3)[0]), 12.0, PRESETS["easy"])
    write_annotations(str(tmp_path), [record], "card")
    for name in ("annotations.json", "via"):
        read = read_annotations(str(tmp_path / name))
        rows = read.segments[["label", "start", "end"]].itertuples(index=False, name=None)
        assert [Segment(*row) for row in rows] == list(danced.segments)
        assert cleaning_report(read) == []


def test_ids_and_subsets_of_a_longer_corpus_only_add() -> None:
    ids = [video_id(index) for index in range(26**3 + 2)]
    assert len(set(ids)) == len(ids)
    assert (ids[0], ids[25], ids[26], ids[-1]) == ("AAA0000", "AAZ0000", "ABA0000", "AAB0001")
    subsets = [subset_of(index) for index in range(6)]
    assert subsets == ["training", "training", "validation", "training", "training", "testing"]


def test_the_card_counts(tmp_path: Path) -> None:
    card = dataset_card(RECORDS, seed=3, seconds=8, preset="wild", size=(96, 64))
    assert "balletal synth --videos 4 --seconds 8 --out DIR --seed 3 --preset wild --size 96x64" in card
    assert "| all | 4 | 32.2 | 4 |" in card
    assert "| TourEnLair | TourEnLair | 1 | 0 | 0 | 1 | 1.00 | 1.00 | 1.00 |" in card
    assert "| Backwards | - | 1 | 0 | 0 | 1 | 1.75 | 1.75 | 1.75 |" in card
    assert "| Courus | Courus | 0 | 1 | 0 | 1 | 1.00 | 1.00 | 1.00 |" in card
    assert all(name in card for name in ("joints_2d", "annotations.json", "Apache-2.0", "head_top"))
    assert card == dataset_card(RECORDS, seed=3, seconds=8, preset="wild", size=(96, 64))


@pytest.mark.parametrize(
    ("seed", "seconds", "size", "words"),
    [
        (-1, 4.0, SIZE, "0 or more"),
        (0, 3.9, SIZE, "at least 4 s"),
        (0, float("nan"), SIZE, "at least 4 s"),
        (0, float("inf"), SIZE, "at least 4 s"),
        (0, 4.0, (97, 64), "even sides"),
        (0, 4.0, (96, 62), "even sides from 64"),
        (0, 4.0, (96, 9000), "even sides"),
    ],
)
def test_nonsense_is_refused(tmp_path: Path, seed: int, seconds: float, size: tuple[int, int], words: str) -> None:
    with pytest.raises(InputError, match=words):
        write_video(str(tmp_path), 0, seed, seconds, PRESETS["easy"], size)
    assert list(tmp_path.iterdir()) == []


def test_a_joints_file_that_is_none_is_named(tmp_path: Path, telephone: tuple[Path, VideoRecord]) -> None:
    (tmp_path / "joints").mkdir()
    (tmp_path / "joints" / "AAA0000.parquet").write_bytes(b"PAR1")
    with pytest.raises(InputError, match=r"AAA0000\.parquet.*delete it"):
        read_record(str(tmp_path), "AAA0000")
    with pytest.raises(InputError, match="nothing there"):
        read_record(str(tmp_path), "AAB0000")
    other, record = telephone
    files.write_bytes(str(tmp_path / "joints" / "AAB0000.parquet"), files.read_bytes(joints_uri(str(other), "AAC0000")))
    with pytest.raises(InputError, match=rf"the joints of video AAB0000.* found those of {record.video_id}"):
        read_record(str(tmp_path), "AAB0000")
    assert drawn_videos(str(tmp_path)) == set()
