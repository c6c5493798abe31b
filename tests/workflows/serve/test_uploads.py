import asyncio
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from balletal import files
from balletal.errors import StorageError, VideoError
from workflows.serve.data import Data, new_id
from workflows.serve.library import StoredVideo
from workflows.serve.limits import Limits
from workflows.serve.media import Look
from workflows.serve.problems import Problem
from workflows.serve.sweep import sweep, tend
from workflows.serve.uploads import NewUpload, StoredUpload, Uploads


@pytest.fixture
def uploads(tmp_path: Path) -> Uploads:
    return Uploads(Data(str(tmp_path / "data")), Limits())


@pytest.fixture
def clip(tmp_path_factory: pytest.TempPathFactory, make_video) -> bytes:
    return make_video(tmp_path_factory.mktemp("clip") / "a.mp4", 1.0).read_bytes()


def begin(uploads: Uploads, size: int, owner: str = "anna") -> StoredUpload:
    return uploads.create(owner, NewUpload(filename="a.mp4", bytes=size))


def send(uploads: Uploads, upload: StoredUpload, content: bytes, folder: Path, piece: int) -> None:
    for offset in range(0, len(content), piece):
        (folder / "piece").write_bytes(content[offset : offset + piece])
        uploads.add_piece(upload, offset, folder / "piece")


def joined(uploads: Uploads, upload: StoredUpload) -> bytes:
    folder = Path(uploads.data.folder("uploads", upload.id))
    return b"".join((folder / f"{offset:016d}.part").read_bytes() for offset, _ in uploads._pieces(upload))


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.integers(0, 30), st.integers(0, 12)), max_size=25))
def test_whatever_is_sent_where_the_bytes_are_the_files(
    uploads: Uploads, tmp_path: Path, sent: list[tuple[int, int]]
) -> None:
    content = bytes(range(30))
    upload = begin(uploads, len(content))
    true = 0
    for offset, size in sent:
        (tmp_path / "piece").write_bytes(content[offset : offset + size])
        if offset == true:
            true += len(content[offset : offset + size])
            assert uploads.add_piece(upload, offset, tmp_path / "piece") == true
        else:
            with pytest.raises(Problem) as refused:
                uploads.add_piece(upload, offset, tmp_path / "piece")
            assert (refused.value.status, refused.value.more["upload_offset"]) == (409, true)
        assert uploads.offset(upload) == true
        assert joined(uploads, upload) == content[:true]


def test_of_pieces_sent_at_once_one_is_taken(uploads: Uploads, tmp_path: Path) -> None:
    """As by a client that thinks its connection lost, and by others: each round all send from the same offset."""
    content = bytes(n * n % 251 for n in range(3000))
    upload = begin(uploads, len(content))
    while (offset := uploads.offset(upload)) < len(content):
        together = threading.Barrier(6)

        def add(n: int, offset: int = offset, together: threading.Barrier = together) -> object:
            piece = tmp_path / f"piece{n}"
            piece.write_bytes(content[offset : offset + 400 + 100 * n])
            together.wait()
            try:
                return uploads.add_piece(upload, offset, piece)
            except Problem as refused:
                return refused.urn

        with ThreadPoolExecutor(6) as pool:
            answers = list(pool.map(add, range(6)))
        assert answers.count("offset") == 5
        assert uploads.offset(upload) in answers
    assert joined(uploads, upload) == content


def test_a_piece_of_an_upload_that_was_removed_leaves_nothing(uploads: Uploads, tmp_path: Path) -> None:
    upload, piece = begin(uploads, 100), tmp_path / "piece"
    piece.write_bytes(bytes(100))
    uploads.remove(upload.id)  # by another replica, while the piece comes
    with pytest.raises(Problem) as gone:
        uploads.add_piece(upload, 0, piece)
    assert gone.value.status == 404
    assert not [path for path in Path(uploads.data.uri).rglob("*") if path.is_file()]


def test_complete_by_two_at_once_gives_one_video(uploads: Uploads, tmp_path: Path, clip: bytes) -> None:
    upload = begin(uploads, len(clip))
    send(uploads, upload, clip, tmp_path, 1000)
    together = threading.Barrier(2)

    def complete(_: int) -> StoredVideo:
        together.wait()
        return uploads.complete("anna", upload.id)

    with ThreadPoolExecutor(2) as pool:
        one, two = pool.map(complete, range(2))
    video = uploads.library.find("anna", upload.id)
    assert one == two == video
    (tmp_path / "late").write_bytes(clip)  # by one who was held up behind its last look
    assert uploads.library.add(video.model_copy(update={"created": datetime.now(UTC)}), tmp_path / "late") == video
    assert uploads.library.find("anna", upload.id) == video
    assert Path(uploads.library.content(video)).read_bytes() == clip
    assert not uploads.all()
    assert sorted(path.name for path in Path(uploads.data.uri).rglob("*")) == sorted(
        ["uploads", "videos", upload.id, "content.mp4", "video.json"]
    )


@pytest.mark.parametrize("step", ["look", "disk"])
def test_an_upload_that_is_removed_while_it_is_completed_is_gone(
    uploads: Uploads, tmp_path: Path, clip: bytes, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    upload = begin(uploads, len(clip))
    send(uploads, upload, clip, tmp_path, 4000)

    def removed(*_: object) -> Look:
        uploads.remove(upload.id)
        if step == "look":
            raise VideoError("content", "unreadable", expected="a file", found="none")
        raise StorageError("content", expected="a file", found="none")

    monkeypatch.setattr("workflows.serve.uploads.look", removed)
    with pytest.raises(Problem) as gone:
        uploads.complete("anna", upload.id)
    assert gone.value.status == 404


def test_what_a_killed_replica_leaves_is_taken_up(
    uploads: Uploads, tmp_path: Path, clip: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    upload = begin(uploads, len(clip))
    send(uploads, upload, clip, tmp_path, 4000)

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    steps = [(files, "move_file"), (files, "create_bytes"), (Uploads, "remove")]
    for place, step in steps:  # before the content is in its place, before the record is, before the upload goes
        with monkeypatch.context() as patch:
            patch.setattr(place, step, killed)
            with pytest.raises(KeyboardInterrupt):
                uploads.complete("anna", upload.id)
    assert uploads.exists(upload.id)
    assert uploads.library.exists(upload.id)
    assert uploads.stored_bytes("anna") == 1 << 20  # once
    again = tmp_path / "again"
    shutil.copytree(uploads.data.uri, again)
    assert uploads.complete("anna", upload.id).video_id == upload.id
    assert not uploads.exists(upload.id)
    # One that nobody asks for again goes with time, and what it left with it.
    assert sweep(Data(str(again)), uploads.limits, set, datetime.now(UTC) + timedelta(days=8)) == [upload.id] * 2
    assert not [path for path in again.rglob("*") if path.is_file()]


def test_the_quota_holds_when_all_ask_at_once(tmp_path: Path) -> None:
    uploads = Uploads(Data(str(tmp_path)), Limits(max_stored_bytes=10 << 20))

    def ask(_: int) -> str:
        try:
            return begin(uploads, 3 << 20).id
        except Problem as refused:
            return refused.urn

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(ask, range(8)))
    assert answers.count("quota") >= 5  # maybe all, where each saw the others
    while ask(0) != "quota":
        pass
    assert len(uploads.all()) == 3
    assert begin(uploads, 3 << 20, "boris")


def test_small_files_count_as_what_they_cost(tmp_path: Path) -> None:
    uploads = Uploads(Data(str(tmp_path)), Limits(max_stored_bytes=2 << 20))
    begin(uploads, 1)
    begin(uploads, 1)
    with pytest.raises(Problem, match="may be"):
        begin(uploads, 1)


def test_a_disk_without_room_is_told_before_anything_is_sent(uploads: Uploads, monkeypatch: pytest.MonkeyPatch) -> None:
    class Usage:
        free = 100

    monkeypatch.setattr("workflows.serve.uploads.disk_usage", lambda _: Usage)
    begin(uploads, 50)
    with pytest.raises(Problem) as refused:
        begin(uploads, 51)
    assert (refused.value.status, refused.value.urn) == (507, "quota")
    assert len(uploads.all()) == 1


def test_the_sweep_takes_the_old_and_leaves_what_is_needed(uploads: Uploads, tmp_path: Path, clip: bytes) -> None:
    ids = []
    for _ in range(2):
        upload = begin(uploads, len(clip))
        send(uploads, upload, clip, tmp_path, len(clip))
        ids.append(uploads.complete("anna", upload.id).video_id)
    waiting = begin(uploads, 100)
    send(uploads, waiting, b"abc", tmp_path, 3)
    orphan = Path(uploads.data.folder("videos", new_id())) / "content.mp4"
    orphan.parent.mkdir()
    orphan.touch()
    limits = uploads.limits
    asked = []

    def in_use() -> set[str]:
        asked.append(1)
        return {ids[0]}

    assert sweep(uploads.data, limits, in_use) == [orphan.parent.name]
    assert not asked
    later = datetime.now(UTC) + timedelta(seconds=limits.ttl_s + 60)
    with ThreadPoolExecutor(2) as pool:  # two replicas
        gone = list(pool.map(lambda _: sweep(uploads.data, limits, in_use, later), range(2)))
    assert set(gone[0]) | set(gone[1]) == {waiting.id, ids[1]}
    assert [video.video_id for video in uploads.library.of("anna")] == [ids[0]]
    assert not uploads.all()
    assert sweep(uploads.data, limits, set, later) == [ids[0]]
    assert not [path for path in Path(uploads.data.uri).rglob("*") if path.is_file()]


@pytest.mark.parametrize("error", [StorageError("data", expected="storage", found="none"), ValueError("a record")])
def test_the_sweep_goes_on_whatever_went_wrong(
    error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uploads = Uploads(Data(str(tmp_path)), Limits(ttl_s=0.05))
    upload = begin(uploads, 100)
    answers = iter([error])

    def listed(*args: str) -> list[str]:
        if error := next(answers, None):
            raise error
        return list_names(*args)

    list_names = files.list_names
    monkeypatch.setattr(files, "list_names", listed)

    async def until_gone() -> None:
        task = asyncio.create_task(tend(uploads.data, uploads.limits, set))
        while uploads.exists(upload.id):
            await asyncio.sleep(0.01)
        task.cancel()

    asyncio.run(asyncio.wait_for(until_gone(), 120))
    assert next(answers, None) is None
