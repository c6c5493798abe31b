import hashlib
import io
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from balletal.backbones import flow as module
from balletal.backbones.flow import ScriptedFlow, flow_input, flow_name, optical_flow
from balletal.errors import InputError
from tests.balletal.backbones.moving import scene, shifted

METHODS = ("dis", "farneback")


def pixels(flow: np.ndarray) -> np.ndarray:
    """Quantised flow in pixels a frame."""
    return (flow.astype(float) - 128) * 40 / 255


class Matching(nn.Module):
    """A flow network without weights: the whole-pixel shift within 4 pixels whose 9 by 9 neighbourhood agrees best."""

    def __init__(self, sign: float = 1.0, scale: float = 1.0) -> None:
        super().__init__()
        self.sign, self.scale = sign, scale

    def forward(self, image1: Tensor, image2: Tensor) -> list[Tensor]:
        height, width = image1.shape[2], image1.shape[3]
        padded = F.pad(image2, [4, 4, 4, 4])
        costs = []
        for y in range(9):
            for x in range(9):
                other = padded[:, :, y : y + height, x : x + width]
                costs.append(F.avg_pool2d((image1 - other).abs().mean(dim=1, keepdim=True), 9, 1, 4))
        best = torch.cat(costs, dim=1).argmin(dim=1)
        x, y = best % 9 - 4, torch.div(best, 9, rounding_mode="floor") - 4
        flow = self.sign * self.scale * torch.stack([x, y], dim=1).float()
        return [torch.zeros_like(flow), flow]


class Broken(nn.Module):
    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how

    def forward(self, image1: Tensor, image2: Tensor) -> Tensor:
        if self.how == "shape":
            return image1 - image2
        if self.how == "difference":
            return (image1 - image2)[:, :2]
        if self.how == "nan":
            return (image1 - image2)[:, :2] / 0
        raise RuntimeError("feature maps are too small")


def scripted(network: nn.Module, path: Path) -> Path:
    torch.jit.save(torch.jit.script(network), path)
    return path


def exported(network: nn.Module, path: Path, size: int) -> Path:
    # Two tensors: given one twice, torch.export takes the two images for one.
    images = (torch.zeros(1, 3, size, size), torch.zeros(1, 3, size, size))
    torch.export.save(torch.export.export(network, images), path)
    return path


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("motion", [(3, -2), (-3, 0), (0, 5)])
def test_sign_order_and_scale(method: str, motion: tuple[int, int]) -> None:
    flow = optical_flow(shifted(96, [motion]), method)
    assert flow.shape == (1, 96, 96, 2)
    assert flow.dtype == np.uint8
    middle = pixels(flow[0, 16:-16, 16:-16])
    np.testing.assert_allclose(np.median(middle, axis=(0, 1)), motion, atol=0.16)  # one step of the quantisation


@pytest.mark.parametrize("method", METHODS)
def test_a_still_picture_has_no_flow(method: str) -> None:
    flow = optical_flow(shifted(64, [(0, 0)]), method)
    assert (flow[:, 1:-1, 1:-1] == 128).all()
    assert abs(flow.astype(int) - 128).max() <= 1, "at the border"


def test_the_figure_and_the_ground_move_apart() -> None:
    frames, truth, figure = scene(224, (6, -3), (-4, 0), turn=0.05, noise=3)
    error = np.linalg.norm(pixels(optical_flow(frames, "dis")[0]) - truth, axis=-1)
    assert error[figure].mean() < 1
    assert error[~figure].mean() < 0.5


def test_flow_is_clamped_rounded_and_scaled(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.float32([-1e6, -25, -20, -19.95, -3, -0.0784, 0, 0.0785, 2, 19.9, 20, 1e6])
    monkeypatch.setattr(module, "_farneback", lambda first, second: np.broadcast_to(values[None, :, None], (12, 12, 2)))
    flow = optical_flow(np.zeros((2, 12, 12, 3), np.uint8), "farneback")
    # 128 + 6.375 v by hand; 20 pixels would be 255.5, and half a step is more than 0.0784 pixels
    expected = [0, 0, 0, 1, 109, 128, 128, 129, 141, 255, 255, 255]
    assert flow[0, 0, :, 0].tolist() == flow[0, 7, :, 1].tolist() == expected
    scaled = flow_input(torch.from_numpy(flow))
    assert scaled.dtype == torch.float32
    assert scaled.min() == -1
    assert scaled.max() == 1
    torch.testing.assert_close(scaled[0, 0, 6, 0].item(), 1 / 255, rtol=0, atol=1e-6)


@pytest.mark.parametrize("method", METHODS)
def test_a_flow_depends_on_its_two_frames_alone(method: str) -> None:
    frames = shifted(64, [(3, 0), (-6, 2), (0, 0), (12, -9), (1, 1)])
    whole = optical_flow(frames, method)
    for start, stop in ((0, 2), (1, 4), (3, 6), (4, 6)):
        np.testing.assert_array_equal(optical_flow(frames[start:stop], method), whole[start : stop - 1])
    mirrored = np.ascontiguousarray(frames[:, :, ::-1])[:, :, ::-1]  # the same pictures, laid out otherwise
    np.testing.assert_array_equal(optical_flow(mirrored, method), whole)
    for few in (0, 1):
        assert optical_flow(frames[:few], method).shape == (0, 64, 64, 2)


def test_threads_do_not_disturb_each_other() -> None:
    frames = [shifted(64, [(k, -k)] * 4, seed=k) for k in range(4)]
    alone = [optical_flow(f, "dis") for f in frames]
    together: list[Any] = [None] * 4
    cv2.setNumThreads(3)

    def work(k: int) -> None:
        for _ in range(5):
            together[k] = optical_flow(frames[k], "dis")

    workers = [threading.Thread(target=work, args=(k,)) for k in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    np.testing.assert_array_equal(np.stack(together), np.stack(alone))
    assert cv2.getNumThreads() == 1


@pytest.mark.parametrize("kind", ["script", "export"])
def test_a_module_from_a_file(tmp_path: Path, kind: str) -> None:
    size = 64
    path = tmp_path / ("flow.pt2" if kind == "export" else "flow.pt")
    if kind == "export":
        exported(Matching(), path, size)
    else:
        scripted(Matching(), path)
    network = ScriptedFlow(path, size=size)
    assert network.name == flow_name(str(path)) == f"script:{hashlib.sha256(path.read_bytes()).hexdigest()[:12]}"
    frames = shifted(size, [(2, -1), (0, 0), (-4, 3)])
    flow = network(torch.from_numpy(frames))
    assert flow.dtype == torch.uint8
    assert flow.shape == (3, size, size, 2)
    middles = pixels(flow[:, 16:-16, 16:-16].numpy())
    np.testing.assert_allclose(np.median(middles, axis=(1, 2)), [(2, -1), (0, 0), (-4, 3)], atol=0.08)
    assert torch.equal(network(torch.from_numpy(frames[1:3])), flow[1:2])
    assert network(torch.from_numpy(frames[:1])).shape == (0, size, size, 2)
    assert torch.equal(ScriptedFlow(path, size=size)(torch.from_numpy(frames)), flow)


def test_a_module_is_clamped_and_rounded_as_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network = ScriptedFlow(scripted(Matching(), tmp_path / "flow.pt"), size=32)
    random = np.random.default_rng(3)
    values = np.float32(random.uniform(-24, 24, (32, 32, 2)))
    values[0, :20, 0] = (np.arange(20) - 10 + 0.5) * 40 / 255  # halves, where two ways of rounding part
    monkeypatch.setattr(network, "_module", lambda *images: torch.from_numpy(values).permute(2, 0, 1)[None])
    monkeypatch.setattr(module, "_farneback", lambda *images: values)
    frames = np.zeros((2, 32, 32, 3), np.uint8)
    np.testing.assert_array_equal(network(torch.from_numpy(frames)).numpy(), optical_flow(frames, "farneback"))


def test_a_module_sees_values_from_minus_one_to_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network = ScriptedFlow(scripted(Matching(), tmp_path / "flow.pt"), size=32)
    seen: list[Tensor] = []

    def look(*images: Tensor) -> Tensor:
        seen.extend(images)
        return images[0][:, :2]

    monkeypatch.setattr(network, "_module", look)
    frames = torch.zeros(2, 32, 32, 3, dtype=torch.uint8)
    frames[1, 5, 7] = torch.tensor([255, 0, 128])
    network(frames)
    assert [tuple(x.shape) for x in seen] == [(1, 3, 32, 32)] * 2
    assert seen[0].eq(-1).all()
    torch.testing.assert_close(seen[1][0, :, 5, 7], torch.tensor([1.0, -1.0, 1 / 255]))


@pytest.mark.parametrize(
    ("network", "expected"),
    [
        (Matching(sign=-1), r"flow of about \(3, -2\).*found \(-3.00, 2.00\)"),
        (Matching(scale=1 / 64), r"flow of about \(3, -2\).*found \(0.05, -0.03\)"),
        (Broken("shape"), r"returns \(1, 2, 64, 64\), found \(1, 3, 64, 64\)"),
        (Broken("nan"), "finite flow"),
        (Broken("raise"), "feature maps are too small"),
        (nn.ReLU(), r"takes two \(1, 3, 64, 64\)"),
    ],
)
def test_modules_that_do_something_else_are_refused(tmp_path: Path, network: nn.Module, expected: str) -> None:
    path = scripted(network, tmp_path / "flow.pt")
    with pytest.raises(InputError, match=expected) as caught:
        ScriptedFlow(path, size=64)
    assert caught.value.where == str(path)


def _weights() -> bytes:
    file = io.BytesIO()
    torch.save(nn.Linear(2, 2).state_dict(), file)
    return file.getvalue()


def _cut_script() -> bytes:
    file = io.BytesIO()
    torch.jit.save(torch.jit.script(nn.ReLU()), file)
    return file.getvalue()[:-40]


@pytest.mark.parametrize(
    ("data", "found"),
    [(_weights, "weights alone"), (_cut_script, "another kind"), (lambda: b"no module", "another kind")],
)
def test_other_files_are_refused(tmp_path: Path, data: Callable[[], bytes], found: str) -> None:
    path = tmp_path / "flow.pt"
    path.write_bytes(data())
    with pytest.raises(InputError, match=f"TorchScript module or a torch.export archive, found {found}") as caught:
        ScriptedFlow(path)
    assert caught.value.where == str(path)
    with pytest.raises(InputError, match="nothing there"):
        ScriptedFlow(tmp_path / "missing.pt")


def test_an_archive_for_another_size_is_refused(tmp_path: Path) -> None:
    path = exported(Matching(), tmp_path / "flow.pt2", 32)
    with pytest.raises(InputError, match=r"takes two \(1, 3, 64, 64\)"):
        ScriptedFlow(path, size=64)


def test_a_module_whose_two_images_are_one_is_refused(tmp_path: Path) -> None:
    """What torch.export makes of a network that it was shown with the same tensor twice."""
    image = torch.zeros(1, 3, 32, 32)
    path = tmp_path / "flow.pt2"
    torch.export.save(torch.export.export(Broken("difference"), (image, image)), path)
    with pytest.raises(InputError, match=r"found \(0.00, 0.00\)"):
        ScriptedFlow(path, size=32)


def test_names() -> None:
    assert [flow_name(method) for method in METHODS] == list(METHODS)
    with pytest.raises(InputError, match="dis, farneback or the file"):
        flow_name("raft")
    with pytest.raises(InputError, match="expected dis or farneback"):
        optical_flow(shifted(32, [(0, 0)]), "raft.pt")
