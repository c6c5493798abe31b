"""From frames to features: the windowed extractor."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from balletal.backbones.i3d import FEATURE_DIM, MIN_FRAMES, InceptionI3D, fold_batch_norm
from balletal.backbones.spec import Crop, FeatureSpec
from balletal.backbones.weights import digest, load_state
from balletal.errors import InputError, SpecMismatchError
from balletal.video.clips import VideoSegment, clip_count
from balletal.video.decode import Frames, read_frames

Dtype = Literal["float32", "bfloat16", "float16"]

# Backbone -> the weights it has when none are named; None: the user must bring a file.
BACKBONES: dict[str, str | None] = {"i3d-rgb-kinetics400": "i3d-rgb-kinetics400", "i3d-rgb": None}

# Clips in one pass of the network. Always exactly this many, the last pass filled up: kernels are chosen by shape, so
# that a clip in a smaller batch would differ in its last bits, and features must not depend on where a video is cut.
# One clip fills a CPU's cores already.
_BATCH = {"cpu": 1, "cuda": 16}


@dataclass(frozen=True)
class FeatureRows:
    """The features of one unit of work.

    Attributes:
        video_id, segment, first_clip: as in the :class:`VideoSegment`.
        features: (n, D) float32; row ``k`` is clip ``first_clip + k``. ``n`` is below the unit's ``clips`` when the
            video ends before its container says.
        damage: what could not be decoded, see :class:`balletal.video.decode.Frames`.
    """

    video_id: str
    segment: int
    first_clip: int
    features: NDArray[np.float32]
    damage: str | None


def spec_for(
    backbone: str = "i3d-rgb-kinetics400",
    *,
    weights: str | Path | None = None,
    fps: float = 25.0,
    window: int = 16,
    stride: int = 4,
    crop: Crop = "center",
    size: int = 224,
    dtype: Dtype = "bfloat16",
) -> FeatureSpec:
    """The spec of windowed features, with the digest of the weights that will make them (fetched when need be).

    Args:
        backbone: a name of :data:`BACKBONES`.
        weights: a registered name or a file (see :func:`balletal.backbones.weights.load_state`); the backbone's own
            when None.
        dtype: bfloat16 by default: against float32 it is three times as fast on a CPU that has it and 1 % off in
            norm (cosine 0.9999), far less than one clip differs from the next.

    Raises:
        InputError: an unknown backbone, a window too short for it, or weights that do not fit.
    """
    spec = FeatureSpec(
        backbone=backbone,
        weights=digest(load_state(_weights(backbone, weights))),
        streams=("rgb",),
        fps=fps,
        window=window,
        stride=stride,
        size=size,
        crop=crop,
        mode="windowed",
        dim=FEATURE_DIM,
        dtype=dtype,
    )
    _check(spec)
    return spec


def _weights(backbone: str, weights: str | Path | None) -> str | Path:
    if backbone not in BACKBONES:
        raise InputError(f"backbone {backbone}", expected=f"one of {', '.join(BACKBONES)}", found="an unknown name")
    chosen = weights or BACKBONES[backbone]
    if chosen is None:
        raise InputError(f"backbone {backbone}", expected="a file of weights", found="none named")
    return chosen


def _check(spec: FeatureSpec) -> None:
    if spec.mode != "windowed" or spec.streams != ("rgb",):
        found = f"{spec.mode} features of {'+'.join(spec.streams)}"
        raise InputError(
            f"feature spec {spec}", expected="windowed features of rgb, which this extractor makes", found=found
        )
    if spec.window < MIN_FRAMES:
        raise InputError("window", expected=f"at least {MIN_FRAMES} frames for I3D", found=str(spec.window))
    if spec.crop not in ("center", "full"):
        raise InputError(f"crop {spec.crop}", expected="center or full", found="a crop that is not there yet")


def read_unit(unit: VideoSegment, spec: FeatureSpec) -> Frames:
    """The analysis frames that the clips of a unit of work see.

    None, where less than one window is left of a unit that does not begin its video: only a video that is shorter than
    a window is filled up.

    Raises:
        VideoError: the video cannot be opened or nothing in it can be decoded.
    """
    start = unit.first_clip * spec.stride
    stop = start + (unit.clips - 1) * spec.stride + spec.window
    frames = read_frames(unit.uri, spec.fps, start, stop, crop=spec.crop, size=spec.size)
    if start > 0 and len(frames.pixels) < spec.window:
        return Frames(frames.pixels[:0], frames.damage)
    return frames


class Extractor:
    """A backbone on a device, making the features of one spec and no others.

    Args:
        spec: what to make.
        weights: a registered name or a file; the backbone's own when None.
        device: ``auto`` (CUDA when there is one), ``cpu``, ``cuda``, ``cuda:1``, ...

    Raises:
        InputError: a spec that this extractor cannot make, or weights that do not fit.
        SpecMismatchError: the weights are not the ones of the spec; both digests are named.
    """

    def __init__(self, spec: FeatureSpec, weights: str | Path | None = None, device: str = "auto") -> None:
        _check(spec)
        chosen = _weights(spec.backbone, weights)
        state = load_state(chosen)
        if (found := digest(state)) != spec.weights:
            raise SpecMismatchError(
                f"feature spec {spec} is made with weights {spec.weights}, but {chosen} holds {found}"
            )
        self.spec = spec
        self.device = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device)
        self.dtype = getattr(torch, spec.dtype)
        model = InceptionI3D(in_channels=3, num_classes=0)
        model.load_state_dict(
            {key: value for key, value in state.items() if not key.startswith("logits.")}, strict=False
        )
        self.model = fold_batch_norm(model).to(self.device, self.dtype)
        self.model.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]

    def extract(self, frames: NDArray[np.uint8], clips: int | None = None) -> NDArray[np.float32]:
        """Features of the clips in a run of analysis frames.

        Args:
            frames: (n, size, size, 3) uint8 RGB; clip ``k`` is ``frames[k * stride : k * stride + window]``, and a run
                shorter than one window is filled up with its last frame.
            clips: make at most so many; all that fit when None.

        Returns:
            (clips, D) float32. A clip's features do not depend on the clips around it.
        """
        spec = self.spec
        if frames.ndim != 4 or frames.shape[1:] != (spec.size, spec.size, 3) or frames.dtype != np.uint8:
            expected = f"(n, {spec.size}, {spec.size}, 3) uint8"
            raise InputError("frames", expected=expected, found=f"{frames.shape} {frames.dtype}")
        count = clip_count(len(frames), spec.window, spec.stride)
        count = count if clips is None else min(count, clips)
        if not count:
            return np.empty((0, spec.dim), dtype=np.float32)
        if len(frames) < spec.window:
            frames = np.concatenate([frames, np.repeat(frames[-1:], spec.window - len(frames), axis=0)])
        pixels = torch.tensor(frames, device=self.device)  # a copy: Ray lends its arrays read-only
        batch = _BATCH.get(self.device.type, 1)
        made = [self._forward(pixels, k, min(batch, count - k), batch) for k in range(0, count, batch)]
        return torch.cat(made).cpu().numpy()

    def _forward(self, pixels: Tensor, first: int, count: int, batch: int) -> Tensor:
        """Features (count, D) of the clips ``[first, first + count)``, in a pass of ``batch`` clips."""
        spec = self.spec
        index = torch.arange(first, first + batch, device=self.device).clamp(max=first + count - 1) * spec.stride
        clips = pixels[index[:, None] + torch.arange(spec.window, device=self.device)]  # (B, T, H, W, 3)
        # Viewed as (B, C, T, H, W) this memory is channels_last_3d already.
        x = (clips.to(torch.float32) / 127.5 - 1.0).to(self.dtype).permute(0, 4, 1, 2, 3)
        # TF32 has the range of float32 with the digits of bfloat16: a float32 spec must not get it unawares.
        with torch.inference_mode(), torch.backends.cudnn.flags(benchmark=False, deterministic=True, allow_tf32=False):
            return self.model.features(x)[:count].float()

    def extract_segment(self, unit: VideoSegment) -> FeatureRows:
        """Decode a unit of work and make its features.

        Raises:
            VideoError: the video cannot be opened or nothing in it can be decoded.
        """
        frames = read_unit(unit, self.spec)
        features = self.extract(frames.pixels, unit.clips)
        return FeatureRows(unit.video_id, unit.segment, unit.first_clip, features, frames.damage)
