"""Optical flow between neighbouring frames, clamped and quantised as flow I3D expects it.

Flow ``n`` says how far what is seen in frame ``n`` has moved in frame ``n + 1``: x to the right, y down, in pixels of
the network's input. It is made from these two frames alone, so it does not depend on how a video is cut into pieces.

The values are those of the two-stream practice, which kept flow as 8-bit pictures (kinetics-i3d, issue 61; the I3D of
video_features, ``Clamp(-20, 20)``, ``ToUInt8``, ``ScaleTo1_1``): clamped to 20 pixels a frame either way,
``round(128 + 255 / 40 * v)``, then ``2 * q / 255 - 1`` for the network. Stillness is 128, so +0.004. Twenty pixels
would be 256, which is kept as a float by video_features and would not fit into eight bits: here it is 255.
"""

import hashlib
import io
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from balletal.errors import InputError
from balletal.files import exists, read_bytes

FlowMethod = str  # "dis", "farneback", or the path or URI of a module's file

LIMIT = 20.0  # pixels a frame
_TRIED_MOTION = (3, -2)
_MODULE = "a TorchScript module or a torch.export archive"

_Estimate = Callable[[NDArray[np.uint8], NDArray[np.uint8]], NDArray[np.float32]]


def flow_name(method: FlowMethod) -> str:
    """How a feature spec names a flow method: ``dis``, ``farneback``, or ``script:`` and the head of the file's sha256.

    Raises:
        InputError: neither a method nor a file.
    """
    if method in ("dis", "farneback"):
        return method
    if not exists(method):
        raise InputError(f"flow {method}", expected=f"dis, farneback or the file of {_MODULE}", found="nothing there")
    return _script_name(read_bytes(method))


def _script_name(data: bytes) -> str:
    return f"script:{hashlib.sha256(data).hexdigest()[:12]}"


def optical_flow(frames: NDArray[np.uint8], method: FlowMethod) -> NDArray[np.uint8]:
    """Quantised flow between neighbouring frames, by OpenCV.

    ``dis``: dense inverse search (Kroeger et al., "Fast Optical Flow using Dense Inverse Search", ECCV 2016) at
    OpenCV's preset MEDIUM. The faster presets look no closer than at a quarter of the resolution, where a dancer's
    limbs are a few pixels wide: they err three times as much on a moving figure (``tests/benchmarks/flow.py``).
    ``farneback``: polynomial expansion (Farneback, SCIA 2003); slower and worse on fast motion.

    Runs in one thread: OpenCV's pool is a setting of the whole process, and processes are what runs in parallel here.

    Args:
        frames: (n, S, S, 3) RGB, S at least 12.

    Returns:
        (n - 1, S, S, 2), x then y; none for fewer than two frames.

    Raises:
        InputError: another method; those from files are :class:`ScriptedFlow`.
    """
    if method not in ("dis", "farneback"):
        raise InputError(f"flow {method}", expected="dis or farneback", found="another method")
    cv2.setNumThreads(1)
    # An object of its own for every call: it holds buffers that two threads may not share.
    estimate = _dis() if method == "dis" else _farneback
    grey = [np.asarray(cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY), np.uint8) for frame in frames]
    flow = np.empty((max(len(frames) - 1, 0), *frames.shape[1:3], 2), np.uint8)
    for n in range(len(flow)):
        scaled = np.rint(128 + np.float32(255 / 40) * np.clip(estimate(grey[n], grey[n + 1]), -LIMIT, LIMIT))
        flow[n] = np.minimum(scaled, 255)
    return flow


def _dis() -> _Estimate:
    search: Any = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)

    def estimate(first: NDArray[np.uint8], second: NDArray[np.uint8]) -> NDArray[np.float32]:
        # None to start from: the flow before would make a flow depend on all frames before it.
        return np.asarray(search.calc(first, second, None))

    return estimate


def _farneback(first: NDArray[np.uint8], second: NDArray[np.uint8]) -> NDArray[np.float32]:
    flow = cv2.calcOpticalFlowFarneback(
        first,
        second,
        np.empty((*first.shape, 2), np.float32),  # filled, not started from
        pyr_scale=0.5,
        levels=5,
        winsize=15,
        iterations=3,
        poly_n=7,
        poly_sigma=1.5,
        flags=cv2.OPTFLOW_FARNEBACK_GAUSSIAN,  # halves the error on figures that move by ten pixels and more
    )
    return np.asarray(flow, np.float32)


def flow_input(flow: Tensor) -> Tensor:
    """Quantised flow, uint8 of any shape, as flow I3D takes it: float32 in [-1, 1]."""
    return 2 * flow.float() / 255 - 1


class ScriptedFlow:
    """Flow by a network from the user's file: a torch.export archive (``.pt2``) or a TorchScript module.

    The module follows RAFT as torchvision has it: ``forward(image1, image2)`` with (1, 3, S, S) float32 RGB in [-1, 1]
    returns (1, 2, S, S), pixels from ``image1`` to ``image2``, or a list of such whose last is the best. It is called
    with one pair at a time, so that no flow depends on what it was computed beside.

    THE FILE IS CODE: loading and calling it runs what its maker wrote. Use files that you trust.

    On loading it is tried with a picture moved by (3, -2) pixels; a module that wants another range of values, gives
    the flow backwards or in other units would otherwise give features that look right.

    Args:
        path: local path or URI.
        device: where it runs and returns.
        size: S of the trial, the only one that matters for an archive that was exported for one size.

    Attributes:
        name: what a feature spec calls it, see :func:`flow_name`.

    Raises:
        InputError: no such file; no module in it; an output of another shape, not finite or not the motion.
    """

    def __init__(self, path: str | Path, device: str | torch.device = "cpu", *, size: int = 224) -> None:
        self.path, self.device = str(path), torch.device(device)
        data = read_bytes(self.path)
        self.name = _script_name(data)
        self._module = _load(self.path, data, self.device)
        found = self._flow(*torch.from_numpy(_moved_picture(size)).to(self.device))
        found = found[:, size // 4 : -size // 4, size // 4 : -size // 4].flatten(1).median(dim=1).values
        if (found.cpu() - torch.tensor(_TRIED_MOTION)).abs().max() > 1:
            x, y = found.tolist()
            expected = f"flow of about {_TRIED_MOTION} pixels for a picture moved so, from (1, 3, S, S) RGB in [-1, 1]"
            raise InputError(self.path, expected=expected, found=f"({x:.2f}, {y:.2f})")

    def __call__(self, frames: Tensor) -> Tensor:
        """(n, S, S, 3) uint8 RGB on any device -> (n - 1, S, S, 2) uint8 on the module's, as :func:`optical_flow`.

        Raises:
            InputError: the module fails on frames of this size, or its output has another shape or is not finite.
        """
        frames = frames.to(self.device)
        flow = torch.empty((max(len(frames) - 1, 0), *frames.shape[1:3], 2), dtype=torch.uint8, device=self.device)
        for n in range(len(flow)):
            scaled = torch.round(128 + 255 / 40 * self._flow(frames[n], frames[n + 1]).clamp(-LIMIT, LIMIT))
            flow[n] = scaled.clamp(max=255).permute(1, 2, 0)
        return flow

    @torch.inference_mode()
    def _flow(self, first: Tensor, second: Tensor) -> Tensor:
        """Two (S, S, 3) uint8 -> (2, S, S) float32, pixels."""
        images = [(2 * x.permute(2, 0, 1).unsqueeze(0).float() / 255 - 1).contiguous() for x in (first, second)]
        shape = (1, 2, *first.shape[:2])
        expected = f"a module that takes two {tuple(images[0].shape)} and returns {shape}"
        try:
            output = self._module(*images)
        except torch.OutOfMemoryError:
            raise
        except (RuntimeError, torch.jit.Error, AssertionError, TypeError, ValueError) as error:
            lines = [line.strip() for line in str(error).splitlines() if line.strip()]
            # TorchScript puts its own traceback first and the reason last.
            raise InputError(self.path, expected=expected, found=lines[-1] if lines else repr(error)) from None
        if isinstance(output, list | tuple) and output:
            output = output[-1]
        if not isinstance(output, Tensor) or output.shape != shape:
            found = tuple(output.shape) if isinstance(output, Tensor) else f"a {type(output).__name__}"
            raise InputError(self.path, expected=expected, found=str(found))
        if not output.isfinite().all():
            raise InputError(self.path, expected="finite flow", found="values that are infinite or not numbers")
        return output[0].float()


def _load(path: str, data: bytes, device: torch.device) -> Callable[..., Any]:
    file = io.BytesIO(data)
    inside = zipfile.ZipFile(file).namelist() if zipfile.is_zipfile(file) else []
    names = {name.split("/", 1)[-1] for name in inside}
    file.seek(0)
    try:
        if "archive_format" in names:
            program = torch.export.load(file)
            if device.type != "cpu":  # tensors that the graph itself makes name their device too
                from torch.export.passes import move_to_device_pass

                program = move_to_device_pass(program, device)
            exported: Callable[..., Any] = program.module()
            return exported
        if "constants.pkl" in names:
            with warnings.catch_warnings():  # deprecated for torch.export, yet what most users' files are
                warnings.simplefilter("ignore", DeprecationWarning)
                scripted: torch.jit.ScriptModule = torch.jit.load(file, map_location=device)
            return scripted.eval()
    except (RuntimeError, ValueError, KeyError, zipfile.BadZipFile) as error:
        reason = str(error).strip().splitlines()
        raise InputError(path, expected=_MODULE, found=reason[0] if reason else type(error).__name__) from None
    found = "weights alone, without the network's code" if "data.pkl" in names else "another kind of file"
    raise InputError(path, expected=_MODULE, found=found)


def _moved_picture(size: int) -> NDArray[np.uint8]:
    """(2, size, size, 3): a picture with detail at several scales, and the same moved by the tried motion."""
    noise = np.random.default_rng(0).standard_normal((size + 8, size + 8, 3)).astype(np.float32)
    picture = np.sum([scale * cv2.GaussianBlur(noise, (0, 0), scale) for scale in (1.5, 3.0, 6.0, 12.0)], axis=0)
    picture = (255 * (picture - picture.min()) / np.ptp(picture)).astype(np.uint8)
    x, y = 4 - _TRIED_MOTION[0], 4 - _TRIED_MOTION[1]
    return np.stack([picture[4 : 4 + size, 4 : 4 + size], picture[y : y + size, x : x + size]])
