"""Files by URI: what a user can get wrong about a place is said in one line."""

from pathlib import Path

import pytest

from balletal import files
from balletal.errors import InputError


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
