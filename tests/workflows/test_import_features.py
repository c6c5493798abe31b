"""Import of released features."""

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

import workflows.import_features
from balletal.errors import InputError
from balletal.features.store import FeatureStore
from workflows.cli import build
from workflows.import_features import import_features


def no_ray(*_: object) -> None:
    raise AssertionError("Ray was started for nothing")


@pytest.fixture
def released(tmp_path: Path) -> Path:
    folder = tmp_path / "released"
    (folder / "more").mkdir(parents=True)
    random = np.random.default_rng(0)
    np.save(folder / "A0.npy", random.random((5, 16)).astype(np.float16))
    np.save(folder / "more" / "A1.npy", random.random((3, 16)))
    np.save(folder / "NaN0.npy", np.full((3, 16), np.nan))
    np.save(folder / "Wide.npy", random.random((3, 17)))
    (folder / "Broken.npy").write_bytes(b"no array")
    (folder / "notes.txt").write_text("not a feature")
    return folder


@pytest.mark.ray
def test_imports_what_can_be_read_and_resumes(
    released: Path, tmp_path: Path, ray_cluster: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = str(tmp_path / "store")
    first = import_features(str(released), uri, dim=16)
    assert {k: first[k] for k in ("videos", "done", "skipped", "failed", "rows")} == {
        "videos": 5,
        "done": 2,
        "skipped": 0,
        "failed": 3,
        "rows": 8,
    }
    store = FeatureStore.open(uri)
    assert (store.spec.mode, store.spec.window, store.spec.stride, store.spec.dim) == ("imported", 64, 64, 16)
    video = store.read("A1")
    np.testing.assert_array_equal(video.features, np.load(released / "more" / "A1.npy").astype(np.float16))
    np.testing.assert_allclose(video.end_s - video.start_s, 2.56)
    errors = store.errors().set_index("video_id")
    assert dict(errors["stage"]) == dict.fromkeys(("Broken", "NaN0", "Wide"), "import")
    assert "finite" in errors.loc["NaN0", "message"]
    assert "(3, 17)" in errors.loc["Wide", "message"]

    with monkeypatch.context() as patch:
        patch.setattr(workflows.import_features, "ray_session", no_ray)
        again = import_features(str(released), uri, dim=16)
    assert (again["done"], again["skipped"], again["failed"], again["rows"]) == (0, 2, 3, 0)

    np.save(released / "Wide.npy", np.ones((4, 16)))  # mended
    np.save(released / "A0.npy", np.zeros((2, 16)))  # replaced by a shorter one
    third = import_features(str(released), uri, dim=16)
    assert (third["done"], third["skipped"], third["failed"], third["rows"]) == (2, 1, 2, 6)
    assert set(store.errors()["video_id"]) == {"Broken", "NaN0"}
    np.testing.assert_array_equal(store.read("A0").features, np.zeros((2, 16)))

    result = CliRunner().invoke(build(), ["errors", "--store", uri, "--json"])
    assert {row["video_id"] for row in json.loads(result.stdout)} == {"Broken", "NaN0"}


def test_tells_an_empty_folder_and_two_files_of_one_name(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nothing there"):
        import_features(str(tmp_path / "nowhere"), str(tmp_path / "store"))
    (tmp_path / "a").mkdir()
    with pytest.raises(InputError, match=r"files ending in \.npy, found none"):
        import_features(str(tmp_path / "a"), str(tmp_path / "store"))
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir(exist_ok=True)
        np.save(tmp_path / folder / "same.npy", np.zeros((1, 2048)))
    with pytest.raises(InputError, match=r"videos named 'same'.*a/same\.npy and .*b/same\.npy"):
        import_features(str(tmp_path), str(tmp_path / "store"))
