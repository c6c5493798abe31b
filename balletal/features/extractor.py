"""From frames to features: a network on a device, windowed or dense, of one stream or two."""

import ctypes
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from balletal.backbones.flow import ScriptedFlow, flow_input, flow_name
from balletal.backbones.i3d import FEATURE_DIM, MIN_FRAMES, STEP, InceptionI3D, fold_batch_norm
from balletal.backbones.spec import Crop, FeatureSpec
from balletal.backbones.weights import digest, load_state
from balletal.errors import InputError, SpecMismatchError
from balletal.features.units import UnitFrames, frames_of, plan_units, read_unit
from balletal.video.clips import VideoSegment, clip_count
from balletal.video.decode import read_frames
from balletal.video.probe import VideoInfo
from balletal.video.track import TRACKER, track_dancer

Dtype = Literal["float32", "bfloat16", "float16"]
Weights = str | Path | Sequence[str | Path] | None
"""Registered names or files, one a stream in the backbone's order; None: the backbone's own."""

_CHANNELS = {"rgb": 3, "flow": 2}
# Backbone -> its streams in the order in which their features are concatenated.
BACKBONES: dict[str, tuple[str, ...]] = {
    "i3d-rgb-kinetics400": ("rgb",),
    "i3d-rgb": ("rgb",),
    "i3d-flow": ("flow",),
    "i3d-rgb+flow": ("rgb", "flow"),
    "i3d-flow+rgb": ("flow", "rgb"),
}
_OWN_WEIGHTS = {"i3d-rgb-kinetics400": "i3d-rgb-kinetics400"}

_LARGEST_BATCH = 64
_LONGEST_WINDOW = 1024  # its maps must fit into memory
_log = logging.getLogger(__name__)


def _rgb_input(pixels: Tensor) -> Tensor:
    """uint8 0..255 to float32 in [-1, 1]."""
    return pixels.to(torch.float32) / 127.5 - 1.0


def _here(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    return function(*args, **kwargs)


def _cut(unit: VideoSegment, first: int, stop: int) -> VideoSegment | None:
    """The clips of a unit that are in ``[first, stop)``, if any."""
    first, stop = max(unit.first_clip, first), min(unit.first_clip + unit.clips, stop)
    return replace(unit, first_clip=first, clips=stop - first) if first < stop else None


@dataclass(frozen=True)
class FeatureRows:
    """The features of one video.

    Attributes:
        features: (n, D) float32, one row a clip. ``n`` is less than the container promises when the video ends
            before that.
        damage: what could not be decoded, see :class:`balletal.video.decode.Frames`.
    """

    features: NDArray[np.float32]
    damage: str | None


def keep_freed_memory() -> None:
    """Have this process keep the memory that it frees, for the next tensor of a network.

    The kernel need not map and clear memory anew for each layer: a fifth faster on a CPU. The process holds its peak
    for good, so this is for those that do little else. Glibc alone; elsewhere nothing happens.
    """
    mmap_max, trim_threshold = -4, -1  # of malloc.h
    if hasattr(libc := ctypes.CDLL(None), "mallopt"):
        libc.mallopt(mmap_max, 0)
        libc.mallopt(trim_threshold, 2**31 - 1)


def spec_for(
    backbone: str = "i3d-rgb-kinetics400",
    *,
    weights: Weights = None,
    fps: float = 25.0,
    window: int = 16,
    stride: int = 8,
    mode: Literal["windowed", "dense"] = "windowed",
    crop: Crop = "dancer",
    size: int = 224,
    dtype: Dtype = "bfloat16",
    flow: str = "dis",
    mirror: bool = False,
) -> FeatureSpec:
    """A feature spec, with the digest of the weights that will make the features (fetched when need be).

    Args:
        backbone: a name of :data:`BACKBONES`.
        weights: see :func:`balletal.backbones.weights.load_state`.
        mode: ``windowed``: each window through the network alone, its ends padded with zeros, as published features are
            made. ``dense``: the network runs over the whole video, and feature ``k`` is the mean of the network's
            steps, 8 frames apart, that fill window ``k``, with the frames around it in view: the same grid at a quarter
            of the arithmetic (stride 4).
        dtype: bfloat16 by default: against float32 it is three times as fast on a CPU that has it and 1 % off in
            norm (cosine 0.9999), far less than one clip differs from the next.
        flow: ``dis``, ``farneback`` or a file, see :mod:`balletal.backbones.flow`; for backbones with a flow stream.
        mirror: of the pictures flipped left to right.

    Raises:
        InputError: an unknown backbone, a window or stride that it cannot do, or weights that do not fit.
    """
    streams = _streams(backbone)
    loaded = [load_state(one, _CHANNELS[s]) for one, s in zip(_weights(backbone, weights), streams, strict=True)]
    spec = FeatureSpec(
        backbone=backbone,
        weights="+".join(map(digest, loaded)),
        streams=streams,
        fps=fps,
        window=window,
        stride=stride,
        size=size,
        crop=crop,
        mode=mode,
        dim=FEATURE_DIM * len(streams),
        dtype=dtype,
        flow=flow_name(flow) if "flow" in streams else "",
        tracker=TRACKER if crop == "dancer" else "",
        mirror=mirror,
    )
    check(spec)
    return spec


def _streams(backbone: str) -> tuple[str, ...]:
    if backbone not in BACKBONES:
        raise InputError(f"backbone {backbone}", expected=f"one of {', '.join(BACKBONES)}", found="an unknown name")
    return BACKBONES[backbone]


def _weights(backbone: str, weights: Weights) -> Sequence[str | Path]:
    given = [weights] if isinstance(weights, str | Path) else list(weights or ())
    if not given and backbone in _OWN_WEIGHTS:
        return [_OWN_WEIGHTS[backbone]]
    streams = _streams(backbone)
    if len(given) != len(streams):
        raise InputError(
            f"backbone {backbone}",
            expected=f"a file of weights for {' and '.join(streams)}, in this order",
            found=", ".join(map(str, given)) or "none named",
        )
    return given


def check(spec: FeatureSpec) -> None:
    """Raise an :class:`InputError` for a spec that no extractor here can make, such as one of imported features."""
    if spec.mode == "imported" or spec.streams != BACKBONES.get(spec.backbone):
        found = f"{spec.mode} features of {'+'.join(spec.streams)}"
        raise InputError(f"feature spec {spec}", expected="features that this extractor makes", found=found)
    if spec.window < MIN_FRAMES:
        raise InputError("window", expected=f"at least {MIN_FRAMES} frames for I3D", found=str(spec.window))
    if spec.window > _LONGEST_WINDOW:
        raise InputError("window", expected=f"at most {_LONGEST_WINDOW} frames", found=str(spec.window))
    if spec.mode == "dense":
        if spec.window % STEP:
            raise InputError("window", expected=f"a multiple of {STEP} frames in dense mode", found=str(spec.window))
        if spec.stride not in (2, 4) and spec.stride % STEP:
            expected = f"2, 4 or a multiple of {STEP} frames in dense mode"
            raise InputError("stride", expected=expected, found=str(spec.stride))
    if spec.tracker not in ("", TRACKER):
        raise InputError(f"feature spec {spec}", expected=f"dancer tracks of {TRACKER}", found=spec.tracker)


class Extractor:
    """Networks on a device, making the features of one spec and no others.

    Args:
        spec: what to make.
        weights: as for :func:`spec_for`.
        device: ``auto`` (CUDA when there is one), ``cpu``, ``cuda``, ``cuda:1``, ...
        flow: the file of a scripted flow, where the spec wants one.
        compiled: run windows through `torch.compile`, falling back when that fails; by default on a GPU alone. On a
            CPU it gains nothing over folded kernels (docs/extraction.md), and dense blocks come in too many shapes.

    Raises:
        InputError: a spec that this extractor cannot make, or weights that do not fit.
        SpecMismatchError: the weights, or the flow, are not the ones of the spec; both digests are named.
    """

    def __init__(
        self,
        spec: FeatureSpec,
        weights: Weights = None,
        device: str = "auto",
        flow: str | None = None,
        compiled: bool | None = None,
    ) -> None:
        check(spec)
        self.spec = spec
        self.device = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device)
        self.dtype = getattr(torch, spec.dtype)
        self.models = {}
        for stream, wanted, chosen in zip(
            spec.streams, spec.weights.split("+"), _weights(spec.backbone, weights), strict=True
        ):
            state = load_state(chosen, _CHANNELS[stream])
            if (found := digest(state)) != wanted:
                raise SpecMismatchError(
                    f"feature spec {spec} is made with weights {wanted}, but {chosen} holds {found}"
                )
            self.models[stream] = self._network(state, _CHANNELS[stream])
        self.scripted: ScriptedFlow | None = None
        if spec.flow.startswith("script:"):
            if flow is None or (found := flow_name(flow)) != spec.flow:
                raise SpecMismatchError(
                    f"feature spec {spec} is made with flow {spec.flow}, but {flow or 'no file'} was given"
                )
            self.scripted = ScriptedFlow(flow, self.device, size=spec.size)
        windowed, cuda = spec.mode == "windowed", self.device.type == "cuda"
        self.batch = 1  # one clip fills a CPU's cores already
        if windowed and cuda:
            self.batch = self._fitting_batch()
        compiles = windowed and (cuda if compiled is None else compiled)
        self._features: dict[str, Callable[[Tensor], Tensor]] = {
            stream: self._compiled(model) if compiles else model.features for stream, model in self.models.items()
        }

    def _network(self, state: dict[str, Tensor], channels: int) -> InceptionI3D:
        model = InceptionI3D(channels, num_classes=0)
        model.load_state_dict({k: v for k, v in state.items() if not k.startswith("logits.")}, strict=False)
        model = fold_batch_norm(model).to(self.device, self.dtype)
        return model.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]

    def _fitting_batch(self) -> int:
        """Clips that go through a GPU at once: what fits into a third of its memory, for two actors share one.

        Of all its memory and not what is free, so that every actor on such a card makes the same batches: kernels are
        chosen by shape, and another batch would change features in their last bits.
        """
        before = torch.cuda.memory_allocated(self.device)
        torch.cuda.reset_peak_memory_stats(self.device)
        for model in self.models.values():
            with torch.inference_mode():
                model.features(self._blank(model))
        clip_bytes = torch.cuda.max_memory_allocated(self.device) - before
        memory = torch.cuda.get_device_properties(self.device).total_memory
        return 2 ** int(np.log2(np.clip(memory / 3 / clip_bytes, 1, _LARGEST_BATCH)))

    def _blank(self, model: InceptionI3D) -> Tensor:
        """A batch of clips for a first pass."""
        spec, channels = self.spec, model.Conv3d_1a_7x7.conv3d.in_channels
        shape = (self.batch, spec.window, spec.size, spec.size, channels)
        return torch.zeros(shape, dtype=self.dtype, device=self.device).permute(0, 4, 1, 2, 3)

    def _compiled(self, model: InceptionI3D) -> Callable[[Tensor], Tensor]:
        try:
            compiled: Callable[[Tensor], Tensor] = torch.compile(model.features, dynamic=False)
            with torch.inference_mode():
                compiled(self._blank(model))
        except Exception as error:  # no compiler here, or a network that it cannot do: slower, not wrong
            _log.warning("torch.compile failed, going on without: %s", error)
            return model.features
        return compiled

    def extract(
        self,
        pixels: NDArray[np.uint8],
        clips: int | None = None,
        *,
        lead: int = 0,
        flow: NDArray[np.uint8] | None = None,
    ) -> NDArray[np.float32]:
        """Features of the clips in a run of analysis frames.

        Args:
            pixels: (n, size, size, 3) uint8 RGB; clip ``k`` is ``pixels[lead + k * stride :][:window]``, and a video
                shorter than one window is filled up with its last frame. A dense spec sees all frames; they begin
                with a whole step of 8 of the video.
            clips: make at most so many; all that fit when None.
            flow: (n - 1, size, size, 2) uint8, for specs with a flow stream, unless a scripted flow makes it here. The
                last frame of a video has the flow of the one before.

        Returns:
            (clips, D) float32. A clip's features do not depend on where the run was cut out of its video.
        """
        spec = self.spec
        if pixels.ndim != 4 or pixels.shape[1:] != (spec.size, spec.size, 3) or pixels.dtype != np.uint8:
            expected = f"(n, {spec.size}, {spec.size}, 3) uint8"
            raise InputError("frames", expected=expected, found=f"{pixels.shape} {pixels.dtype}")
        fitting = clip_count(len(pixels) - lead, spec.window, spec.stride)
        count = fitting if clips is None else min(fitting, clips)
        if not count:
            return np.empty((0, spec.dim), dtype=np.float32)
        rgb = self._upload(pixels)
        make = self._dense if spec.mode == "dense" else self._windowed
        # TF32 has the range of float32 with the digits of bfloat16: a float32 spec must not get it unawares.
        with torch.inference_mode(), torch.backends.cudnn.flags(benchmark=False, deterministic=True, allow_tf32=False):
            inputs: dict[str, tuple[Tensor, Callable[[Tensor], Tensor]]] = {"rgb": (rgb, _rgb_input)}
            if "flow" in spec.streams:
                inputs["flow"] = (self._flow(rgb, flow), flow_input)
            made = [make(stream, *inputs[stream], lead, count) for stream in spec.streams]
            return torch.cat(made, dim=1).cpu().numpy()

    def _upload(self, array: NDArray[np.uint8]) -> Tensor:
        """On the device; by pinned memory, which a GPU copies from at twice the speed."""
        tensor = torch.from_numpy(array)
        return tensor if self.device.type == "cpu" else tensor.pin_memory().to(self.device, non_blocking=True)

    def _flow(self, rgb: Tensor, given: NDArray[np.uint8] | None) -> Tensor:
        if len(rgb) < 2:  # one picture: nothing moves
            return torch.full((len(rgb), *rgb.shape[1:3], 2), 128, dtype=torch.uint8, device=self.device)
        if self.scripted is not None:
            flow = self.scripted(rgb)
        elif given is None or len(given) != len(rgb) - 1:
            found = "none" if given is None else f"{len(given)}"
            raise InputError("flow", expected=f"{len(rgb) - 1} fields for {len(rgb)} frames", found=found)
        else:
            flow = self._upload(given)
        return torch.cat([flow, flow[-1:]])

    def _windowed(
        self, stream: str, frames: Tensor, prepare: Callable[[Tensor], Tensor], lead: int, count: int
    ) -> Tensor:
        """(count, 1024): each window alone, in passes of one size, the last one filled up.

        Kernels are chosen by shape, so that a clip in a smaller batch would differ in its last bits, and features must
        not depend on where a video is cut.
        """
        window, stride = self.spec.window, self.spec.stride
        index = torch.arange(count, device=self.device)[:, None] * stride + lead
        index = (index + torch.arange(window, device=self.device)).clamp(max=len(frames) - 1)
        made = []
        for part in index.split(self.batch):
            full = torch.cat([part, part[-1:].expand(self.batch - len(part), -1)])
            # (B, T, H, W, C) viewed as (B, C, T, H, W) is channels_last_3d already.
            x = prepare(frames[full]).to(self.dtype).permute(0, 4, 1, 2, 3)
            made.append(self._features[stream](x).float())
        return torch.cat(made)[:count]

    def _dense(self, stream: str, frames: Tensor, prepare: Callable[[Tensor], Tensor], lead: int, count: int) -> Tensor:
        """(count, 1024): the network once over all frames, then the mean of each window's steps.

        Behind its last frame a video is filled up to a whole step with it, then padded as the network pads.
        """
        spec = self.spec
        step = min(spec.stride, STEP)
        missing = max(spec.window + lead - len(frames), -len(frames) % STEP)
        missing += -(len(frames) + missing) % STEP
        if missing:
            frames = torch.cat([frames, frames[-1:].expand(missing, -1, -1, -1)])
        clip = frames.permute(3, 0, 1, 2)[None]
        maps = self.models[stream].dense_maps(clip, step, lambda x: prepare(x).to(self.dtype))
        steps = maps[0].mean(dim=(2, 3), dtype=torch.float32).T  # (T / step, 1024)
        first = lead // step + torch.arange(count, device=self.device)[:, None] * (spec.stride // step)
        within = torch.arange(0, spec.window, STEP, device=self.device) // step
        return steps[first + within].mean(dim=1)

    def extract_unit(self, frames: UnitFrames, clips: int | None = None) -> NDArray[np.float32]:
        """Features of what :func:`balletal.features.units.read_unit` read: (clips, D) float32."""
        return self.extract(frames.pixels, clips, lead=frames.lead, flow=frames.flow)

    def extract_video(
        self, info: VideoInfo, clips: tuple[int, int] | None = None, decode: Callable[..., Any] = _here
    ) -> FeatureRows:
        """Decode a video and make its features, unit by unit, as a job over a corpus does.

        Args:
            clips: ``[first, stop)``; all of the video's when None. Row 0 is then the first of them.
            decode: ``decode(function, *args, **kwargs)`` calls a function that decodes: here, or in another process.

        Raises:
            VideoError: the video cannot be opened or nothing in it can be decoded.
        """
        track = decode(track_dancer, info.uri, self.spec.fps) if self.spec.crop == "dancer" else None
        read = partial(decode, read_frames)
        units = plan_units("video", info, self.spec)
        units = units if clips is None else [part for unit in units if (part := _cut(unit, *clips))]
        made, damage = [np.empty((0, self.spec.dim), dtype=np.float32)], []
        for unit in units:
            begin, end, _ = frames_of(unit, self.spec)
            frames = read_unit(unit, self.spec, None if track is None else track.slice(begin, end), read)
            made.append(self.extract_unit(frames, unit.clips))
            damage += [frames.damage] if frames.damage else []
        return FeatureRows(np.concatenate(made), "; ".join(dict.fromkeys(damage)) or None)
