"""The feature spec: one value that says how features are made, and that everything made from them carries."""

import hashlib
import json
import math
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any, Literal

from balletal.errors import InputError, SpecMismatchError
from balletal.video.clips import MAX_FPS
from balletal.video.picture import Crop

Mode = Literal["windowed", "dense", "imported"]


@dataclass(frozen=True)
class FeatureSpec:
    """How features are made. Equal specs mean interchangeable features; anything else is refused.

    Feature ``k`` of a video covers the analysis frames ``[k * stride, k * stride + window)``, so
    ``[k * stride / fps, (k * stride + window) / fps)`` in seconds.

    Attributes:
        backbone: name of the network, such as ``i3d-rgb-kinetics400``.
        weights: sha256 of the weights' content (:func:`balletal.backbones.weights.digest`), one a stream with ``+``
            between them; ``unknown`` for imported features.
        streams: input streams (``rgb``, ``flow``) in the order in which their features are concatenated.
        fps: analysis rate, frames a second.
        window: analysis frames that one feature sees.
        stride: analysis frames between features.
        size: side of the square network input, pixels; 0 for imported features.
        crop: spatial policy.
        mode: ``windowed`` (each window alone), ``dense`` (convolutional), ``imported`` (made elsewhere).
        dim: length of a feature.
        dtype: the arithmetic of the network; features are stored as float16 unless it is float32.
        flow: how the flow of a flow stream is made: ``dis``, ``farneback`` or ``script:<digest>``.
        tracker: version of the dancer track that a ``dancer`` crop follows.
        mirror: whether the network saw the pictures flipped left to right, after the crop.
    """

    backbone: str
    weights: str
    streams: tuple[str, ...]
    fps: float
    window: int
    stride: int
    size: int
    crop: Crop
    mode: Mode
    dim: int
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    flow: str = ""
    tracker: str = ""
    mirror: bool = False

    def __post_init__(self) -> None:
        for name in ("fps", "window", "stride", "dim"):
            value = getattr(self, name)
            if not 0 < value < math.inf:  # not a number is neither
                raise InputError("feature spec", expected=f"{name} above 0", found=str(value))
        if self.fps > MAX_FPS:
            raise InputError("feature spec", expected=f"fps of at most {MAX_FPS}", found=str(self.fps))
        # JSON has no tuples and may write 25 for 25.0: the same spec must hash alike however it was read.
        object.__setattr__(self, "streams", tuple(self.streams))
        object.__setattr__(self, "fps", float(self.fps))

    @cached_property
    def spec_id(self) -> str:
        """Twelve hex digits that name this spec: the head of the sha256 of its canonical JSON."""
        canonical = json.dumps(self.to_dict(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()[:12]

    @property
    def stride_s(self) -> float:
        return self.stride / self.fps

    @property
    def stored_dtype(self) -> Literal["float32", "float16"]:
        """What features are rounded to, wherever they are made: a model sees in use what it saw in training."""
        return "float32" if self.dtype == "float32" else "float16"

    def to_dict(self) -> dict[str, Any]:
        """As JSON holds it. What a spec has no use for is left out, so that its id is its own alone."""
        values = asdict(self) | {"streams": list(self.streams)}
        return {name: value for name, value in values.items() if value or name not in ("flow", "tracker", "mirror")}

    @classmethod
    def from_dict(cls, data: dict[str, Any], *, where: str = "feature spec") -> "FeatureSpec":
        """Raises InputError that names ``where`` when a field is missing, unknown or out of range."""
        try:
            return cls(**data)
        except TypeError as error:
            raise InputError(where, expected="the fields of a feature spec", found=str(error)) from None

    def replace(self, **changes: Any) -> "FeatureSpec":
        return replace(self, **changes)

    def __str__(self) -> str:
        return (
            f"{self.spec_id} ({self.backbone}, {'+'.join(self.streams)}, {self.mode} {self.window}/{self.stride} "
            f"at {self.fps:g} fps, {self.crop} {self.size}{', mirrored' if self.mirror else ''}, "
            f"{self.dim}-d {self.dtype}, weights "
            f"{'+'.join(part[:12] for part in self.weights.split('+'))})"
        )

    def require(self, other: "FeatureSpec", *, mine: str, others: str) -> None:
        """Refuse to join things of different specs.

        Args:
            mine, others: what carries each spec, for the message (``bundle runs/x``, ``store s3://...``).

        Raises:
            SpecMismatchError: the specs differ; names both, and the fields that differ.
        """
        if self == other:
            return
        a, b = self.to_dict(), other.to_dict()
        differing = ", ".join(
            f"{name}: {a.get(name)} against {b.get(name)}" for name in a | b if a.get(name) != b.get(name)
        )
        raise SpecMismatchError(f"{mine} has feature spec {self}, but {others} has {other}; they differ in {differing}")
