"""The projection equals scikit-learn's, however the rows are divided."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.decomposition import PCA
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from balletal import projection
from balletal.errors import InputError
from balletal.features.released import released_spec
from balletal.projection import Moments, Projection

DIM = 24
SPEC = released_spec(fps=25, window=64, stride=64, dim=DIM)


def rows(n: int = 300, seed: int = 0) -> np.ndarray:
    """Correlated columns of very different scales and offsets, with clearly separated variances."""
    random = np.random.default_rng(seed)
    mixed = (random.normal(size=(n, DIM)) * 0.8 ** np.arange(DIM)) @ random.normal(size=(DIM, DIM))
    return mixed * 10.0 ** random.uniform(-3, 3, DIM) + 10.0 ** random.uniform(-2, 4, DIM)


def fitted(x: np.ndarray, dim: int, parts: int = 1) -> Projection:
    moments = Moments(DIM)
    for part in np.array_split(x, parts):
        moments.update(part)
    return projection.fit(moments, SPEC, dim)


@pytest.mark.parametrize("solver", ["full", "covariance_eigh"])
@pytest.mark.parametrize(("n", "dim"), [(300, 10), (300, DIM), (15, 12)])
def test_equals_scikit_learn(n: int, dim: int, solver: str) -> None:
    x = rows(n)
    expected = make_pipeline(StandardScaler(), PCA(dim, svd_solver=solver)).fit(x)
    scaler, pca = expected[0], expected[1]
    got = fitted(x, dim, parts=4)
    np.testing.assert_allclose(got.mean, scaler.mean_, rtol=1e-10)
    np.testing.assert_allclose(got.scale, scaler.scale_, rtol=1e-10)
    np.testing.assert_allclose(got.components, pca.components_, rtol=1e-5, atol=1e-8)
    np.testing.assert_allclose(got.explained_variance, pca.explained_variance_, rtol=1e-5)
    wanted = expected.transform(x)
    np.testing.assert_allclose(got.transform(x), wanted, rtol=1e-5, atol=1e-5 * np.abs(wanted).max())


def test_exports_the_same_fit_as_a_scikit_learn_pipeline() -> None:
    x = rows()
    expected = make_pipeline(StandardScaler(), PCA(10, svd_solver="full")).fit(x)
    exported = fitted(x, 10).to_sklearn()
    np.testing.assert_allclose(exported.transform(x), expected.transform(x), rtol=1e-5, atol=1e-8)
    back = exported.inverse_transform(exported.transform(x))
    np.testing.assert_allclose(back, expected.inverse_transform(expected.transform(x)), rtol=1e-5, atol=1e-8)
    for name in ("explained_variance_ratio_", "singular_values_", "noise_variance_", "n_components_", "n_samples_"):
        np.testing.assert_allclose(getattr(exported[1], name), getattr(expected[1], name), rtol=1e-5, err_msg=name)
    assert exported[0].n_samples_seen_ == expected[0].n_samples_seen_


def test_columns_that_never_vary_are_left_alone_as_in_scikit_learn() -> None:
    x = rows()
    x[:, 3] = 0.1  # no binary fraction: its computed variance is not exactly 0
    x[:, 7] = 0.0
    expected = make_pipeline(StandardScaler(), PCA(10, svd_solver="full")).fit(x)
    got = fitted(x, 10, parts=7)
    assert got.scale[3] == got.scale[7] == 1.0
    np.testing.assert_allclose(got.components, expected[1].components_, rtol=1e-5, atol=1e-8)
    assert np.isfinite(got.transform(x)).all()


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.integers(0, 40), min_size=1, max_size=8).filter(lambda sizes: sum(sizes) > 1),
    st.integers(0, 2**16),
    st.randoms(use_true_random=False),
)
def test_moments_do_not_depend_on_parts_or_their_order(sizes: list[int], seed: int, order) -> None:
    x = rows(sum(sizes), seed)
    whole = Moments(DIM)
    whole.update(x)
    parts = []
    for part in np.split(x, np.cumsum(sizes)[:-1]):
        parts.append(Moments(DIM))
        parts[-1].update(part)
    order.shuffle(parts)
    merged = Moments(DIM)
    for part in parts:
        merged.merge(part)
    assert merged.count == whole.count == len(x)
    assert (np.abs(merged.mean - whole.mean) <= 1e-12 * (np.abs(x).max(axis=0))).all()
    size = np.sqrt(np.outer(np.diag(whole.comoment), np.diag(whole.comoment)))
    np.testing.assert_allclose(merged.comoment / size, whole.comoment / size, atol=1e-10)
    np.testing.assert_allclose(whole.comoment / size, np.cov(x.T) * (len(x) - 1) / size, atol=1e-9)


def test_moments_survive_an_offset_that_a_sum_of_squares_does_not() -> None:
    x = np.random.default_rng(0).normal(size=(1000, 2)) + 1e8
    moments = Moments(2)
    for part in np.array_split(x, 10):
        moments.update(part)
    np.testing.assert_allclose(moments.comoment, np.cov(x.T) * 999, rtol=1e-6)


@pytest.mark.parametrize("dim", [0, DIM + 1, 400])
def test_refuses_more_components_than_there_are(dim: int) -> None:
    with pytest.raises(InputError, match=f"1 to {DIM} components for 300 features .* found {dim}"):
        fitted(rows(300), dim)
    with pytest.raises(InputError, match="1 to 9 components for 9 features"):
        fitted(rows(9), 10)


def test_saves_and_loads(tmp_path: Path) -> None:
    made = fitted(rows(), 10)
    made.save(str(tmp_path / "p"))
    loaded = Projection.load(str(tmp_path / "p"))
    assert loaded.spec == SPEC
    assert (loaded.dim, loaded.rows, loaded.total_variance) == (10, 300, made.total_variance)
    np.testing.assert_array_equal(loaded.transform(rows()), made.transform(rows()))
    assert [path.name for path in (tmp_path / "p").iterdir()] == ["projection.safetensors"]


def test_refuses_files_that_are_no_projection_and_features_that_do_not_fit(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="found nothing there"):
        Projection.load(str(tmp_path))
    made = fitted(rows(), 10)
    made.save(str(tmp_path))
    path = tmp_path / "projection.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(InputError, match="a safetensors file"):
        Projection.load(str(tmp_path))
    import safetensors.numpy

    path.write_bytes(safetensors.numpy.save({"mean": np.zeros(3)}))
    with pytest.raises(InputError, match="balletal-projection-1, found None"):
        Projection.load(str(tmp_path))
    with pytest.raises(InputError, match=rf"shape \(T, {DIM}\), found \(5, 3\)"):
        made.transform(np.zeros((5, 3)))
    with pytest.raises(InputError, match=r"fit float32 once projected, found values of up to 3e\+38"):
        made.transform(np.full((5, DIM), 3e38))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mean": np.zeros(3)}, r"mean of shape"),
        ({"components": np.zeros((4, DIM))}, r"components of shape \(10, "),
        ({"scale": np.full(DIM, np.nan)}, "finite values in scale"),
    ],
)
def test_refuses_a_projection_whose_parts_do_not_fit(
    tmp_path: Path, change: dict[str, np.ndarray], message: str
) -> None:
    replace(fitted(rows(), 10), **change).save(str(tmp_path))
    with pytest.raises(InputError, match=message):
        Projection.load(str(tmp_path))
