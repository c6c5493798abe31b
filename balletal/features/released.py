"""Features that others released as one ``.npy`` file a video, such as AnnChor's.

Such a file says nothing about how it was made, so its spec is stated by whoever imports it.
"""

import io
from typing import Any

import numpy as np
from numpy.typing import NDArray

from balletal import files
from balletal.backbones.spec import FeatureSpec
from balletal.errors import InputError


def released_spec(
    *, fps: float, window: int, stride: int, dim: int = 2048, backbone: str = "annchor-released"
) -> FeatureSpec:
    """The spec of imported features.

    What the release does not say stays open: the weights are ``unknown``, and the two streams that the AnnChor paper
    speaks of are one stream ``released`` here, because which half of the 2048 is flow and which rgb is not published.
    The crop is ``full`` for want of a better word. Features are kept as float16.

    Args:
        fps: analysis rate that the features were made at, frames a second.
        window, stride: in analysis frames; AnnChor's are 64/64 at 25 fps.
        dim: length of a feature.
    """
    return FeatureSpec(
        backbone=backbone,
        weights="unknown",
        streams=("released",),
        fps=fps,
        window=window,
        stride=stride,
        size=0,
        crop="full",
        mode="imported",
        dim=dim,
        dtype="float16",
    )


def read_npy(uri: str, spec: FeatureSpec) -> NDArray[Any]:
    """The (T, D) features of one released file, in the float type it has.

    Raises:
        InputError: not a ``.npy`` file of floats, no rows, not ``spec.dim`` columns, or a value that is not finite.
    """
    content = files.read_bytes(uri)
    try:
        features = np.load(io.BytesIO(content), allow_pickle=False)
    except Exception as error:  # numpy has many: a damaged archive, a header that asks for more than the memory
        raise InputError(uri, expected="a .npy file of numbers", found=str(error) or "an empty file") from None
    if not isinstance(features, np.ndarray) or features.dtype.kind != "f":
        raise InputError(uri, expected="an array of floats", found=f"{getattr(features, 'dtype', 'an archive')}")
    if features.ndim != 2 or features.shape[1] != spec.dim or len(features) == 0:
        raise InputError(uri, expected=f"shape (clips, {spec.dim})", found=f"{features.shape}")
    bad = int((~np.isfinite(features)).any(axis=1).sum())
    if bad:
        raise InputError(uri, expected="finite values", found=f"{bad} of {len(features)} rows with others")
    return features
