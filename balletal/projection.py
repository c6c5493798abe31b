"""StandardScaler and PCA from one pass over the features, whatever their number, and as scikit-learn fits them."""

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import safetensors.numpy
from numpy.typing import ArrayLike, NDArray
from safetensors import SafetensorError
from sklearn.decomposition import PCA
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler

from balletal import files
from balletal.backbones.spec import FeatureSpec
from balletal.errors import InputError

FILE = "projection.safetensors"
_FORMAT = "balletal-projection-1"


class Moments:
    """Count, mean and co-moment of rows, in float64: what a standard deviation and a covariance need.

    Moments of parts merge into the moments of the whole (Chan, Golub, LeVeque 1979), in any order, in memory that
    does not grow with the rows.

    Attributes:
        count: rows seen.
        mean: (D,).
        comoment: (D, D) sum over the rows of the outer product of their deviation from the mean with itself.
    """

    def __init__(self, dim: int) -> None:
        self.count = 0
        self.mean = np.zeros(dim)
        self.comoment = np.zeros((dim, dim))

    @classmethod
    def of(cls, count: int, mean: NDArray[np.float64], comoment: NDArray[np.float64]) -> "Moments":
        """Moments from their parts, such as another process sent; the arrays are kept, not copied."""
        moments = cls(0)
        moments.count, moments.mean, moments.comoment = count, mean, comoment
        return moments

    def update(self, rows: ArrayLike) -> None:
        """Add rows, (n, D). Large n is much faster than many small ones: each call costs a D x D addition."""
        x = np.asarray(rows, dtype=np.float64)
        if x.ndim != 2 or x.shape[1] != len(self.mean):
            raise InputError("moments", expected=f"rows of {len(self.mean)} values", found=f"shape {x.shape}")
        if len(x) == 0:
            return
        mean = x.mean(axis=0)
        deviation = x - mean
        self._add(len(x), mean, deviation.T @ deviation)

    def merge(self, other: "Moments") -> None:
        """Add what ``other`` has seen."""
        if other.mean.shape != self.mean.shape:
            raise InputError("moments", expected=f"{len(self.mean)} dimensions", found=f"{len(other.mean)}")
        if other.count:
            self._add(other.count, other.mean, other.comoment)

    def _add(self, count: int, mean: NDArray[np.float64], comoment: NDArray[np.float64]) -> None:
        total = self.count + count
        delta = mean - self.mean
        self.comoment += comoment
        self.comoment += np.outer(delta, delta * (self.count * count / total))
        self.mean = self.mean + delta * (count / total)
        self.count = total


@dataclass(frozen=True, eq=False)
class Projection:
    """Standardised features on their first K principal axes; made for one feature spec, and refuses others.

    Attributes:
        spec: of the features that it was fitted on and may be applied to.
        mean, scale: (D,) float64; the scale of a column that never varies is 1, as in scikit-learn.
        components: (K, D) float64, by falling variance; the largest entry of each in absolute value is positive.
        explained_variance: (K,) float64, of the standardised features.
        total_variance: of all D standardised columns together.
        rows: features that it was fitted on.
    """

    spec: FeatureSpec
    mean: NDArray[np.float64]
    scale: NDArray[np.float64]
    components: NDArray[np.float64]
    explained_variance: NDArray[np.float64]
    total_variance: float
    rows: int

    @property
    def dim(self) -> int:
        """Length K of a projected feature."""
        return len(self.components)

    @cached_property
    def digest(self) -> str:
        """sha256 over the spec and the numbers that :meth:`transform` uses."""
        parts = hashlib.sha256(self.spec.spec_id.encode())
        for array in (self.mean, self.scale, self.components):
            parts.update(np.ascontiguousarray(array).tobytes())
        return parts.hexdigest()

    def transform(self, features: ArrayLike, where: str = "features to project") -> NDArray[np.float32]:
        """Project (T, D) features to (T, K) float32; computed in float64.

        Args:
            where: what an error calls them.

        Raises:
            InputError: the features have another length than the spec says, or are too large to be projected.
        """
        x = np.asarray(features, dtype=np.float64)
        if x.ndim != 2 or x.shape[1] != self.spec.dim:
            raise InputError(where, expected=f"shape (T, {self.spec.dim})", found=f"{x.shape}")
        with np.errstate(over="ignore"):  # an overflow is told below
            projected: NDArray[np.float32] = (((x - self.mean) / self.scale) @ self.components.T).astype(np.float32)
        if not np.isfinite(projected).all():
            found = f"values of up to {np.abs(x).max():g}"
            raise InputError(where, expected="values that fit float32 once projected", found=found)
        return projected

    def save(self, folder: str) -> None:
        """Write ``projection.safetensors`` into a folder, atomically, with the spec in its metadata."""
        tensors = {
            "mean": self.mean,
            "scale": self.scale,
            "components": np.ascontiguousarray(self.components),
            "explained_variance": self.explained_variance,
            "total_variance": np.array(self.total_variance),
        }
        metadata = {"format": _FORMAT, "spec": json.dumps(self.spec.to_dict()), "rows": str(self.rows)}
        files.write_bytes(files.join(folder, FILE), safetensors.numpy.save(tensors, metadata=metadata))

    @classmethod
    def load(cls, folder: str) -> "Projection":
        """Read what :meth:`save` wrote.

        Raises:
            InputError: the file is missing, damaged or no projection.
        """
        uri = files.join(folder, FILE)
        content = files.read_bytes(uri)
        try:
            tensors = safetensors.numpy.load(content)
        except SafetensorError as error:
            raise InputError(uri, expected="a safetensors file", found=str(error)) from None
        # safetensors.numpy.load leaves the metadata out: the header is JSON after eight bytes that give its length.
        metadata = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")]).get("__metadata__", {})
        if metadata.get("format") != _FORMAT:
            raise InputError(uri, expected=f"a file of format {_FORMAT}", found=f"{metadata.get('format')}")
        try:
            loaded = cls(
                spec=FeatureSpec.from_dict(json.loads(metadata["spec"]), where=uri),
                mean=tensors["mean"],
                scale=tensors["scale"],
                components=tensors["components"],
                explained_variance=tensors["explained_variance"],
                total_variance=float(tensors["total_variance"]),
                rows=int(metadata["rows"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(uri, expected="the fields of a projection", found=f"{error}") from None
        loaded._require_shapes(uri)
        return loaded

    def _require_shapes(self, uri: str) -> None:
        columns, kept = self.spec.dim, len(self.explained_variance)
        wanted = {
            "mean": (columns,),
            "scale": (columns,),
            "components": (kept, columns),
            "explained_variance": (kept,),
        }
        for name, shape in wanted.items():
            tensor = getattr(self, name)
            if tensor.shape != shape:
                raise InputError(uri, expected=f"{name} of shape {shape}", found=f"{tensor.shape}")
            if not np.isfinite(tensor).all():
                raise InputError(uri, expected=f"finite values in {name}", found="NaN or infinity")

    def to_sklearn(self) -> Pipeline:
        """The same projection as a fitted scikit-learn Pipeline of StandardScaler and PCA (float64 in and out)."""
        scaler = StandardScaler()
        scaler.mean_, scaler.scale_, scaler.var_ = self.mean, self.scale, self.scale**2
        scaler.n_features_in_ = len(self.mean)
        scaler.n_samples_seen_ = self.rows
        pca = PCA(self.dim, svd_solver="full")
        pca.mean_ = np.zeros(len(self.mean))  # the standardised columns are centred already
        pca.components_ = self.components
        pca.n_components_ = self.dim
        pca.n_features_in_, pca.n_samples_ = len(self.mean), self.rows
        pca.explained_variance_ = self.explained_variance
        pca.explained_variance_ratio_ = self.explained_variance / self.total_variance
        pca.singular_values_ = np.sqrt(self.explained_variance * (self.rows - 1))
        left = min(self.rows, len(self.mean)) - self.dim
        pca.noise_variance_ = (self.total_variance - self.explained_variance.sum()) / left if left else 0.0
        return Pipeline([("scale", scaler), ("pca", pca)])


def fit(moments: Moments, spec: FeatureSpec, dim: int) -> Projection:
    """StandardScaler and PCA of the rows that the moments saw.

    Equals ``make_pipeline(StandardScaler(), PCA(dim, svd_solver="full"))`` of scikit-learn on those rows, signs
    included: the covariance of standardised columns is their correlation, which the moments hold.

    Raises:
        InputError: ``dim`` is above the rows or the columns, or below 1.
    """
    n, columns = moments.count, len(moments.mean)
    if not 1 <= dim <= min(n, columns):
        raise InputError(
            "projection",
            expected=f"1 to {min(n, columns)} components for {n} features of {columns} values",
            found=f"{dim}",
        )
    variance = np.diagonal(moments.comoment) / n
    # The rounding that a constant column may leave in its variance (scikit-learn: _is_constant_feature).
    eps = np.finfo(np.float64).eps
    constant = variance <= n * eps * variance + (n * moments.mean * eps) ** 2
    scale = np.where(constant, 1.0, np.sqrt(variance))
    covariance = moments.comoment / np.outer(scale, scale) / max(n - 1, 1)
    covariance[constant] = 0.0
    covariance[:, constant] = 0.0
    eigenvalues, vectors = np.linalg.eigh(covariance)
    order = np.arange(columns - 1, columns - 1 - dim, -1)  # eigh: ascending
    components = vectors[:, order].T
    largest = np.abs(components).argmax(axis=1)
    components *= np.sign(components[np.arange(dim), largest])[:, None]
    return Projection(
        spec=spec,
        mean=moments.mean.copy(),
        scale=scale,
        components=np.ascontiguousarray(components),
        explained_variance=eigenvalues[order].clip(min=0.0),
        total_variance=float(np.trace(covariance)),
        rows=n,
    )
