"""Files by URI: what a user can get wrong about a place is said in one line."""

import errno
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NoReturn

import pytest

from balletal import files, storage
from balletal.errors import InputError, StorageError


def test_writes_a_file_whole_and_leaves_nothing_else(tmp_path: Path) -> None:
    uri = str(tmp_path / "new" / "a.json")
    files.write_bytes(uri, b"1")
    files.write_bytes(uri, b"2")
    assert files.read_bytes(uri) == b"2"
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["a.json"]


def test_does_not_write_onto_a_folder_or_below_a_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="expected the name of a file to write, found a folder"):
        files.write_bytes(str(tmp_path), b"1")
    (tmp_path / "file").write_bytes(b"")
    for place in ("file/a.json", "file/below/a.json"):
        with pytest.raises(InputError, match="found a file in its path"):
            files.write_bytes(str(tmp_path / place), b"1")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_tells_what_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    for place, found in ((tmp_path / "no", "nothing there"), (tmp_path / "file/no", "nothing"), (tmp_path, "a folder")):
        with pytest.raises(InputError, match=f"found {found}"):
            files.read_bytes(str(place))
    with pytest.raises(InputError, match="a URL that fsspec can open, found Protocol not known: nope"):
        files.read_bytes("nope://x/y")


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.EACCES])
@pytest.mark.parametrize("call", ["fsync", "open"])
def test_a_disk_that_takes_no_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, call: str) -> None:
    uri = str(tmp_path / "a.json")
    files.write_bytes(uri, b"old")

    def fail(*args: object, **kwargs: object) -> NoReturn:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(*((os, "fsync") if call == "fsync" else (Path, "open")), fail)
        with pytest.raises(StorageError, match=f"{uri}: expected a place .* found {os.strerror(number)}"):
            files.write_bytes(uri, b"new")
    assert files.read_bytes(uri) == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


def test_a_place_that_the_system_keeps_for_itself() -> None:
    for folder in ("/proc/balletal", "/sys/balletal"):  # where not even root makes files
        with pytest.raises(StorageError, match="a place that can be written to"):
            files.write_bytes(f"{folder}/a.json", b"1")


def test_removes_what_is_there(tmp_path: Path) -> None:
    uri = str(tmp_path / "a")
    files.write_bytes(uri, b"1")
    files.remove(uri)
    files.remove(uri)
    assert files.version(uri) == "missing"
    assert files.list_names(str(tmp_path)) == []
    assert files.list_names(str(tmp_path / "nowhere")) == []


def test_a_version_is_the_same_from_a_listing_and_alone(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "a.mp4").write_bytes(b"1")
    (tmp_path / "link.mp4").symlink_to(tmp_path / "sub" / "a.mp4")
    (tmp_path / "nowhere.mp4").symlink_to(tmp_path / "gone")
    listed = files.list_versions(str(tmp_path), (".mp4",))
    assert [Path(uri).name for uri in listed] == ["link.mp4", "nowhere.mp4", "a.mp4"]
    assert {uri: about.version for uri, about in listed.items()} == {uri: files.version(uri) for uri in listed}
    in_folder = {name: files.version(str(tmp_path / name)) for name in ("link.mp4",)}
    assert dict(files.iter_versions(str(tmp_path))) == in_folder
    assert not dict(files.iter_versions(str(tmp_path / "gone")))
    os.utime(tmp_path / "sub" / "a.mp4", (1, 1))
    assert [files.version(uri) == about.version for uri, about in listed.items()] == [False, True, False]
    assert [about.modified_s for about in files.list_versions(str(tmp_path), (".mp4",)).values()] == [1, None, 1]


def test_no_password_in_a_url() -> None:
    with pytest.raises(InputError, match="found a password in the URL") as caught:
        files.read_bytes("ftp://somebody:tell-no-one@host/a")
    assert "tell-no-one" not in str(caught.value)
    assert "ftp://***@host/a" in str(caught.value)
    with pytest.raises(InputError, match="found a password in the URL") as caught:
        files.read_bytes("s3://KEY:tell/no/one@bucket/a")  # secrets of AWS may have slashes
    assert "no/one" not in str(caught.value)


class AwayError(Exception):
    """An error as storage clients raise them."""


@pytest.mark.parametrize(
    ("cause", "passes"),
    [
        ({"Error": {"Code": "SlowDown"}, "ResponseMetadata": {"HTTPStatusCode": 503}}, True),
        ({"Error": {"Code": "InternalError"}, "ResponseMetadata": {"HTTPStatusCode": 500}}, True),
        ({"Error": {"Code": "502"}, "ResponseMetadata": {"HTTPStatusCode": 502}}, True),
        ({"Error": {"Code": "RequestTimeout"}, "ResponseMetadata": {"HTTPStatusCode": 400}}, True),
        ({"Error": {"Code": "AccessDenied"}, "ResponseMetadata": {"HTTPStatusCode": 403}}, False),
        ({"Error": {"Code": "InvalidArgument"}, "ResponseMetadata": {"HTTPStatusCode": 400}}, False),
        (ConnectionResetError(), True),
        (TimeoutError(), True),
        (OSError(errno.EBUSY, "reduce your rate"), True),
        (OSError(errno.EINVAL, "no"), False),
    ],
)
def test_what_passes_is_tried_again(monkeypatch: pytest.MonkeyPatch, cause: object, passes: bool) -> None:
    monkeypatch.setattr(storage, "_LONGEST_WAIT_S", 0.001)
    tries = []

    def read() -> str:
        tries.append(1)
        if len(tries) > 2:
            return "content"
        if isinstance(cause, OSError):
            raise cause
        error = AwayError()
        error.response = cause  # type: ignore[attr-defined]
        raise OSError(errno.EIO, "what the server said, with the secret") from error

    if passes:
        assert storage.call("s3://b/k", read) == "content"
        assert len(tries) == 3
    else:
        with pytest.raises(StorageError, match="s3://b/k: ") as caught:
            storage.call("s3://b/k", read)
        assert len(tries) == 1
        assert "secret" not in str(caught.value)


def test_an_archived_object_is_a_matter_of_that_object() -> None:
    def read() -> NoReturn:
        error = AwayError()
        error.response = {"Error": {"Code": "InvalidObjectState"}}  # type: ignore[attr-defined]
        raise PermissionError("archived") from error

    with pytest.raises(PermissionError, match="to be restored first"):
        storage.call("s3://b/k", read)


def test_one_of_several_creates_a_file(tmp_path: Path) -> None:
    uri = str(tmp_path / "folder" / "piece")
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda n: files.create_bytes(uri, bytes([n]) * 1000), range(16)))
    assert sum(made) == 1
    assert files.read_bytes(uri) == bytes([made.index(True)]) * 1000
    assert files.list_sizes(str(tmp_path / "folder")) == {"piece": 1000}
    assert files.list_names(str(tmp_path / "folder")) == ["piece"]


def test_moves_a_file(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    for target in (tmp_path / "folder" / "b", tmp_path / "new" / "b"):
        (tmp_path / "a").write_bytes(b"1")
        files.move_file(tmp_path / "a", str(target))
        assert (target.read_bytes(), (tmp_path / "a").exists()) == (b"1", False)


def test_lists_the_sizes_of_files_and_removes_a_folder(tmp_path: Path) -> None:
    files.write_bytes(str(tmp_path / "folder" / "a"), b"123")
    files.write_bytes(str(tmp_path / "folder" / "below" / "b"), b"1")
    assert files.list_sizes(str(tmp_path / "folder")) == {"a": 3}
    files.remove_folder(str(tmp_path / "folder"))
    files.remove_folder(str(tmp_path / "folder"))
    assert files.list_sizes(str(tmp_path / "folder")) == {}
    assert files.list_names(str(tmp_path)) == []
