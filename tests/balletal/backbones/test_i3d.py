import math
from collections.abc import Iterator

import pytest
import torch
from torch import nn

from balletal.backbones import i3d
from balletal.backbones.i3d import HALO, InceptionI3D, MaxPool3d, Unit3D, fold_batch_norm
from tests.balletal.backbones.networks import lively


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    """These networks are too small to share out."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def model() -> InceptionI3D:
    return lively(num_classes=7)


@pytest.mark.parametrize("size", [(8, 32, 32), (9, 33, 47), (16, 32, 64)])
def test_sizes_and_shapes(model: InceptionI3D, size: tuple[int, int, int]) -> None:
    x = torch.rand(2, 3, *size) * 2 - 1
    with torch.inference_mode():
        maps = model.maps(x)
        assert maps.shape == (2, 1024, math.ceil(size[0] / 8), math.ceil(size[1] / 32), math.ceil(size[2] / 32))
        torch.testing.assert_close(model.features(x), maps.mean(dim=(2, 3, 4)))
        assert model(x).shape == (2, 7)


def test_logits_average_steps_of_two(model: InceptionI3D) -> None:
    x = torch.rand(1, 3, 17, 32, 32)
    with torch.inference_mode():
        a, b, c = model.maps(x).mean(dim=(3, 4))[0].T
        classify = model.logits.conv3d
        means = torch.stack([(a + b) / 2, (b + c) / 2])
        expected = (means @ classify.weight.flatten(1).T + classify.bias).mean(dim=0)
        torch.testing.assert_close(model(x)[0], expected, rtol=1e-4, atol=1e-5)


def test_flow_has_two_channels() -> None:
    network = InceptionI3D(in_channels=2, num_classes=0).eval()
    with torch.inference_mode():
        assert network.features(torch.zeros(1, 2, 8, 32, 32)).shape == (1, 1024)


def test_clips_below_eight_frames_are_refused(model: InceptionI3D) -> None:
    with pytest.raises(ValueError, match="at least 8 frames, found 7"):
        model.features(torch.zeros(1, 3, 7, 32, 32))


@pytest.mark.parametrize("n", range(3, 14))
@pytest.mark.parametrize(("kernel", "stride"), [(7, 2), (3, 1), (3, 2), (2, 2), (1, 1), (1, 2)])
def test_padding_is_tensorflows_same(n: int, kernel: int, stride: int) -> None:
    """Against the definition: output k sees the inputs from k * stride - before on; what is not there counts 0."""
    unit = Unit3D(1, 1, (kernel, 1, 1), (stride, 1, 1), plain=True)
    pool = MaxPool3d((kernel, 1, 1), (stride, 1, 1))
    values = torch.rand(n)
    weight = unit.conv3d.weight.flatten()
    size = math.ceil(n / stride)
    before = max((size - 1) * stride + kernel - n, 0) // 2
    seen = [[k * stride - before + j for j in range(kernel)] for k in range(size)]
    expected = [sum(values[i] * w for i, w in zip(row, weight, strict=True) if 0 <= i < n) for row in seen]
    highest = [max(values[i] for i in row if 0 <= i < n) for row in seen]
    with torch.inference_mode():
        x = values.view(1, 1, n, 1, 1)
        torch.testing.assert_close(unit(x).flatten() - unit.conv3d.bias, torch.tensor(expected))
        torch.testing.assert_close(pool(x).flatten(), torch.tensor(highest))


def test_folding_batch_norm_changes_nothing(model: InceptionI3D) -> None:
    x = torch.rand(1, 3, 8, 32, 32) * 2 - 1
    folded = InceptionI3D(num_classes=7)
    folded.load_state_dict(model.state_dict())
    fold_batch_norm(folded)
    assert not any(isinstance(module, nn.BatchNorm3d) for module in folded.modules())
    with torch.inference_mode():
        expected = model(x)
        assert expected.std() > 1e-3
        torch.testing.assert_close(folded(x), expected, rtol=1e-4, atol=1e-5)


@pytest.fixture(scope="module")
def clip(model: InceptionI3D) -> torch.Tensor:
    return torch.rand(1, 3, 136, 32, 32) * 2 - 1


def test_dense_maps_with_all_strides_are_the_maps(model: InceptionI3D, clip: torch.Tensor) -> None:
    with torch.inference_mode():
        torch.testing.assert_close(model.dense_maps(clip, 8), model.maps(clip), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("step", [4, 2])
def test_dense_maps_are_all_phase_shifted_passes(model: InceptionI3D, clip: torch.Tensor, step: int) -> None:
    """Shifted passes see the start of the clip as if it began later: compared beyond what a start can reach."""
    with torch.inference_mode():
        dense = model.dense_maps(clip, step)
        for phase in range(8 // step):
            shifted = model.maps(clip[:, :, phase * step : 128 + phase * step])
            edge = HALO // 8
            ours = dense[:, :, phase :: 8 // step][:, :, edge : 16 - edge]
            torch.testing.assert_close(ours, shifted[:, :, edge : 16 - edge], rtol=1e-4, atol=1e-4)
    assert dense.shape[2] == 136 // step
    assert (dense[:, :, 1:] - dense[:, :, :-1]).abs().mean() > 1e-3


@pytest.mark.parametrize("step", [8, 4, 2])
@pytest.mark.parametrize("block", [3, 16])
def test_blocks_change_nothing(
    model: InceptionI3D, clip: torch.Tensor, step: int, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    with torch.inference_mode():
        whole = model.dense_maps(clip, step)
        monkeypatch.setattr(i3d, "_BLOCK", block)
        torch.testing.assert_close(model.dense_maps(clip, step), whole, rtol=1e-4, atol=1e-4)


def test_what_lies_beyond_the_halo_changes_nothing(model: InceptionI3D, clip: torch.Tensor) -> None:
    other = clip.clone()
    other[:, :, : 64 - HALO] = 0.3
    other[:, :, 72 + HALO :] = -0.3
    with torch.inference_mode():
        for step in (8, 4, 2):
            ours, theirs = model.dense_maps(clip, step), model.dense_maps(other, step)
            at = 64 // step  # the step of frames 64 to 71
            torch.testing.assert_close(ours[:, :, at], theirs[:, :, at], rtol=1e-4, atol=1e-4)
            assert not torch.allclose(ours[:, :, 0], theirs[:, :, 0], rtol=1e-2)


def test_dense_maps_refuse_what_they_cannot_do(model: InceptionI3D) -> None:
    for shape, step in (((2, 3, 16, 32, 32), 8), ((1, 3, 12, 32, 32), 8), ((1, 3, 16, 32, 32), 3)):
        with pytest.raises(ValueError, match="multiple of 8 frames and a step"):
            model.dense_maps(torch.zeros(shape), step)


@pytest.mark.parametrize("kernel", [(1, 3, 3), (3, 3, 3), (2, 2, 2)])
@pytest.mark.parametrize("stride", [(1, 1, 1), (1, 2, 2), (2, 2, 2)])
@pytest.mark.parametrize("size", [(8, 8, 6), (5, 7, 9), (1, 2, 3)])
def test_pooling_by_slices_is_pooling(kernel: tuple, stride: tuple, size: tuple) -> None:
    pool, x = MaxPool3d(kernel, stride), torch.rand(2, 3, *size)
    assert torch.equal(pool(x), pool(x.clone().requires_grad_()))
