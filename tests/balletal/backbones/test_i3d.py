import math
from collections.abc import Iterator

import pytest
import torch
from torch import nn

from balletal.backbones.i3d import InceptionI3D, MaxPool3d, Unit3D, fold_batch_norm


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    """These networks are too small to share out."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def model() -> InceptionI3D:
    torch.manual_seed(0)
    model = InceptionI3D(num_classes=7).eval()
    for module in model.modules():
        if isinstance(module, nn.Conv3d):  # the default shrinks what passes through, here to nothing
            nn.init.kaiming_normal_(module.weight)
        if isinstance(module, nn.BatchNorm3d):  # statistics that do something
            module.running_mean.uniform_(-0.2, 0.2)
            module.running_var.uniform_(0.5, 1.5)
            module.bias.data.uniform_(-0.1, 0.3)
    return model


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
