from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from balletal.errors import InputError
from workflows.serve.problems import Problem
from workflows.serve.sources import Sources


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An allowed folder, and what is around it."""
    for name in ("in/a.mp4", "in/below/b.mp4", "out/c.mp4", "inner/d.mp4"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "in" / "inside.mp4").symlink_to(tmp_path / "in" / "a.mp4")
    (tmp_path / "in" / "outside.mp4").symlink_to(tmp_path / "out" / "c.mp4")
    (tmp_path / "in" / "nowhere.mp4").symlink_to(tmp_path / "out" / "none.mp4")
    (tmp_path / "in" / "up").symlink_to(tmp_path)
    (tmp_path / "in" / "loop").symlink_to("loop")
    return tmp_path


def test_what_is_below_a_listed_place_is_allowed(folder: Path) -> None:
    (folder / "link").symlink_to(folder / "in")
    for listed in (folder / "in", folder / "link"):
        sources = Sources(("s3://bucket/videos", str(listed)))
        root = sources.require(str(listed))
        assert root == str(folder / "in")
        for name in ("a.mp4", "below/b.mp4", "below", "not-there.mp4"):
            assert sources.require(f"{root}/{name}") == str(folder / "in" / name)
            assert sources.require(f"{listed}/{name}") == str(folder / "in" / name)
        assert sources.require(f"{listed}/inside.mp4") == str(folder / "in" / "a.mp4")
    assert sources.require("s3://bucket/videos/a b.mp4") == "s3://bucket/videos/a b.mp4"
    assert sources.require("s3://bucket/videos/") == "s3://bucket/videos"
    assert Sources(("s3://bucket",)).allows("s3://bucket/any/thing.mp4")


@pytest.mark.parametrize(
    "uri",
    [
        "",
        "in/a.mp4",
        "{0}/out/c.mp4",
        "{0}/out/none.mp4",
        "{0}/inner/d.mp4",
        "{0}/in/../out/c.mp4",
        "{0}/in/./a.mp4",
        "{0}/in/outside.mp4",
        "{0}/in/nowhere.mp4",
        "{0}/in/up/out/c.mp4",
        "{0}/in/loop",
        "{0}/in/a.mp4\0",
        "{0}/in/\ud800",
        "{0}/in/" + "a/" * 2000,
        "file://{0}/in/a.mp4",
        "local://{0}/in/a.mp4",
        "simplecache::{0}/in/a.mp4",
        "filecache::s3://bucket/videos/a.mp4",
        "s3://bucket/videos/a.mp4::file:///etc/passwd",
        "zip://a.mp4::s3://bucket/videos/a.zip",
        "s3://bucket/video",
        "s3://bucket/videos2/a.mp4",
        "s3://bucket/videos/../other/a.mp4",
        "s3://bucket/videos//a.mp4",
        "s3://bucket/videos/a.mp4?versionId=1",
        "s3://bucket/videos/a.mp4#part",
        "s3://bucket/videos\\..\\a.mp4",
        "s3://other/videos/a.mp4",
        "s3://key:secret@bucket/videos/a.mp4",
        "S3://bucket/videos/a.mp4",
        "s3a://bucket/videos/a.mp4",
        "http://127.0.0.1:8265/api/jobs",
        "https://bucket/videos/a.mp4",
        "memory://bucket/videos/a.mp4",
        "//bucket/videos/a.mp4",
    ],
)
def test_everything_else_is_refused_with_the_same_words(folder: Path, uri: str) -> None:
    sources = Sources(("s3://bucket/videos", str(folder / "in")))
    with pytest.raises(Problem) as refused:
        sources.require(uri.format(folder))
    assert (refused.value.status, refused.value.urn) == (422, "forbidden-uri")
    with pytest.raises(Problem) as nothing:
        Sources().require("/etc/passwd")
    assert refused.value.detail == nothing.value.detail
    assert not sources.allows(uri.format(folder))


@settings(deadline=None)
@given(st.text(alphabet="/.a:s3\\%*", max_size=20))
def test_nothing_gets_out_of_a_prefix(tail: str) -> None:
    sources = Sources(("s3://bucket/videos", "/nowhere/videos"))
    for root in ("s3://bucket/videos", "/nowhere/videos"):
        if sources.allows(root + tail):
            found = sources.require(root + tail)
            assert found == root or found.startswith(root + "/")
            assert "/../" not in found + "/"
            assert sources.require(found) == found


@pytest.mark.parametrize("place", ["videos", "http://host/", "s3://", "s3://b/../c", "file:///videos", ""])
def test_a_list_of_another_form_is_told(place: str) -> None:
    with pytest.raises(InputError, match="absolute folder"):
        Sources((place,))
