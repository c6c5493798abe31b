"""The files that a job starts from."""

from pathlib import Path

import pytest

from balletal.errors import InputError
from workflows.sources import list_sources


def test_a_link_to_nothing_is_a_source_that_fails_later(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(b"1")
    (tmp_path / "b.mp4").symlink_to(tmp_path / "gone")
    assert [source.video_id for source in list_sources(str(tmp_path), (".mp4",))] == ["a", "b"]


def test_one_file_of_another_suffix_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"1")
    with pytest.raises(InputError, match=r"expected files ending in \.mp4, found none"):
        list_sources(str(tmp_path / "a.txt"), (".mp4",))
