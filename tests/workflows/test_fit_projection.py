"""The projection's fit on Ray Train: every row counts once, however many workers there are."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch.distributed as dist
import torch.multiprocessing as mp
from sklearn.decomposition import PCA
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from typer.testing import CliRunner

from balletal.annotations.splits import Split, save_split
from balletal.errors import InputError
from balletal.features.released import released_spec
from balletal.features.store import FeatureStore
from balletal.projection import Projection
from workflows.cli import build
from workflows.fit_projection import _fit_share, fit_projection

DIM = 16
VIDEOS = 23


def rows_of(i: int) -> np.ndarray:
    """1 to 5 rows of a video, of columns that correlate and vary by scales."""
    random = np.random.default_rng(i)
    mixing = np.random.default_rng(99).normal(size=(DIM, DIM)) * 0.75 ** np.arange(DIM)[:, None]
    return (random.normal(size=(1 + i % 5, DIM)) @ mixing).astype(np.float16)


@pytest.fixture
def store(tmp_path: Path) -> FeatureStore:
    store = FeatureStore.create(str(tmp_path / "store"), released_spec(fps=25, window=64, stride=64, dim=DIM))
    for i in range(VIDEOS):
        store.write_unit(f"v{i:02d}", 0, 0, rows_of(i))
    return store


@pytest.mark.ray
def test_one_and_two_workers_fit_what_scikit_learn_fits(store: FeatureStore, tmp_path: Path, ray_cluster: None) -> None:
    """Without the last videos, which a split holds back."""
    split = {f"v{i:02d}": "training" if i < 21 else "testing" for i in range(VIDEOS)} | {"unseen": "training"}
    save_split(str(tmp_path / "split.json"), Split("video", 0, split))
    x = np.concatenate([rows_of(i) for i in range(21)]).astype(np.float64)
    assert len(x) % 2 == 1, "two equal shares would have to drop a row"
    expected = make_pipeline(StandardScaler(), PCA(6, svd_solver="full")).fit(x)
    for workers in (1, 2):
        out = str(tmp_path / f"projection-{workers}")
        command = ["fit-projection", "--store", store.uri, "--out", out, "--dim", "6", "--json"]
        command += ["--split", str(tmp_path / "split.json"), "--workers", str(workers)]
        result = CliRunner().invoke(build(), command)
        assert result.exit_code == 0, result.output
        summary = json.loads(result.stdout)
        assert (summary["rows"], summary["videos"], summary["workers"]) == (len(x), 21, workers)
        fitted = Projection.load(out)
        assert fitted.spec == store.spec
        assert fitted.rows == len(x)
        np.testing.assert_allclose(fitted.components, expected[1].components_, rtol=1e-5, atol=1e-9)
        np.testing.assert_allclose(fitted.transform(x), expected.transform(x), rtol=1e-5, atol=1e-5)


def test_bad_arguments_are_told_before_anything_starts(store: FeatureStore, tmp_path: Path) -> None:
    out = str(tmp_path / "out")
    with pytest.raises(InputError, match=f"1 to {DIM} for .* found {DIM + 1}"):
        fit_projection(store.uri, out, dim=DIM + 1)
    with pytest.raises(InputError, match="none of 1 such as v99"):
        fit_projection(store.uri, out, dim=2, video_ids=["v00", "v99"])
    with pytest.raises(InputError, match="1 to 1 for 1 features"):
        fit_projection(store.uri, out, dim=2, video_ids=["v00"])
    assert not Path(out).exists()


def test_two_ranks_tell_each_other_of_a_bad_video(store: FeatureStore, tmp_path: Path) -> None:
    """Without Ray: the rank that fails, and the one that would wait for it, both return the error."""
    (bad,) = store.files(["v03"])
    Path(bad).write_bytes(b"no Parquet")
    mp.spawn(_rank, args=(store, str(tmp_path)), nprocs=2)
    for rank in range(2):
        assert (tmp_path / f"rank-{rank}").read_text().startswith(f"{bad}: expected a Parquet file")


def _rank(rank: int, store: FeatureStore, folder: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    result = _fit_share(store, store.video_ids(), 4, rank=rank, world=2)
    Path(folder, f"rank-{rank}").write_text(str(result))
    dist.destroy_process_group()
