"""The files that a job starts from."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import pytest

from balletal.errors import InputError
from workflows.sources import Source, list_sources, video_sources


def test_a_link_to_nothing_is_a_source_that_fails_later(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(b"1")
    (tmp_path / "b.mp4").symlink_to(tmp_path / "gone")
    assert [source.video_id for source in list_sources(str(tmp_path), (".mp4",))] == ["a", "b"]


def test_names_that_look_like_urls_and_links_to_themselves(tmp_path: Path) -> None:
    (tmp_path / "a::b.mp4").touch()
    (tmp_path / "self.mp4").symlink_to(tmp_path / "self.mp4")
    assert {source.video_id: source.version == "missing" for source in list_sources(str(tmp_path), (".mp4",))} == {
        "a::b": False,
        "self": True,
    }


def test_a_folder_whose_name_is_no_text(tmp_path: Path, require: Callable[[str], NoReturn]) -> None:
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff"))
    try:
        folder.mkdir()
    except OSError:
        require("the file system allows no such name")
    (folder / "a.mp4").touch()
    with pytest.raises(InputError, match="a name that UTF-8 can write"):
        list_sources(str(tmp_path), (".mp4",))


def test_an_empty_uri_is_refused() -> None:
    with pytest.raises(InputError, match="expected a path or a URL, found nothing"):
        list_sources("", (".mp4",))


def test_one_file_of_another_suffix_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"1")
    with pytest.raises(InputError, match=r"expected files ending in \.mp4, found none"):
        list_sources(str(tmp_path / "a.txt"), (".mp4",))


def test_videos_by_id(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(b"1")
    given = {"x": str(tmp_path / "a.mp4"), "y": str(tmp_path / "gone.mp4")}
    one, other = video_sources(given, (".mp4",))
    assert one == Source("x", given["x"], list_sources(given["x"], (".mp4",))[0].version)
    assert other == Source("y", given["y"], "missing")
    for wrong, found in (
        ({}, "at least one"),
        ({"x": "a.txt"}, "a name ending in .mp4"),
        ({"": "a.mp4"}, "video id ''"),
    ):
        with pytest.raises(InputError, match=found):
            video_sources(wrong, (".mp4",))
