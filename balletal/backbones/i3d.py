"""Inception-I3D: the inflated Inception-v1 of Carreira and Zisserman, "Quo Vadis, Action Recognition?" (CVPR 2017).

Module names give the key layout that PyTorch weights of this network usually have (``Conv3d_1a_7x7.conv3d.weight``,
``Mixed_3b.b1a.bn.running_mean``, ``logits.conv3d.bias``). Padding is TensorFlow's SAME, which depends on the input size
and may be one more at the end than at the start; published weights are of no use without it.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

Triple = tuple[int, int, int]

FEATURE_DIM = 1024
MIN_FRAMES = 8

# Output channels of an Inception block's branches: 1x1; 1x1 then 3x3; 1x1 then 3x3; pool then 1x1 (paper, figure 3, and
# the GoogLeNet table it inflates).
_MIXED: dict[str, tuple[int, int, int, int, int, int]] = {
    "Mixed_3b": (64, 96, 128, 16, 32, 32),
    "Mixed_3c": (128, 128, 192, 32, 96, 64),
    "Mixed_4b": (192, 96, 208, 16, 48, 64),
    "Mixed_4c": (160, 112, 224, 24, 64, 64),
    "Mixed_4d": (128, 128, 256, 24, 64, 64),
    "Mixed_4e": (112, 144, 288, 32, 64, 64),
    "Mixed_4f": (256, 160, 320, 32, 128, 128),
    "Mixed_5b": (256, 160, 320, 32, 128, 128),
    "Mixed_5c": (384, 192, 384, 48, 128, 128),
}


def _same(x: Tensor, kernel: Triple, stride: Triple) -> tuple[Tensor, Triple]:
    """TensorFlow's SAME padding: ``x`` with what must be padded here, and what the layer itself pads at both ends.

    Along each axis ``max((ceil(n / s) - 1) * s + k - n, 0)`` zeros, the odd one at the end.
    """
    inside, around = [0, 0, 0], []
    for axis, (n, k, s) in enumerate(zip(x.shape[2:], kernel, stride, strict=True)):
        total = max((-(-n // s) - 1) * s + k - n, 0)
        if total % 2 == 0:
            inside[axis] = total // 2
            around.append((0, 0))
        else:
            around.append((total // 2, total - total // 2))
    if any(end for _, end in around):
        x = F.pad(x, [side for pair in reversed(around) for side in pair])
    return x, (inside[0], inside[1], inside[2])


class Unit3D(nn.Module):
    """Convolution (SAME), batch normalisation, ReLU; or a plain convolution with a bias."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: Triple = (1, 1, 1),
        stride: Triple = (1, 1, 1),
        *,
        plain: bool = False,
    ) -> None:
        super().__init__()
        self.conv3d = nn.Conv3d(in_channels, out_channels, kernel, stride, bias=plain)
        self.bn: nn.Module | None = None if plain else nn.BatchNorm3d(out_channels, eps=1e-3, momentum=0.01)
        self.kernel, self.stride = kernel, stride

    def forward(self, x: Tensor) -> Tensor:
        x, padding = _same(x, self.kernel, self.stride)
        x = F.conv3d(x, self.conv3d.weight, self.conv3d.bias, self.stride, padding)
        return x if self.bn is None else F.relu(self.bn(x), inplace=True)


class MaxPool3d(nn.Module):
    """Max pooling with SAME padding. Its inputs come out of a ReLU, so that padding with 0 is padding with nothing."""

    def __init__(self, kernel: Triple, stride: Triple) -> None:
        super().__init__()
        self.kernel, self.stride = kernel, stride

    def forward(self, x: Tensor) -> Tensor:
        x, padding = _same(x, self.kernel, self.stride)
        return F.max_pool3d(x, self.kernel, self.stride, padding)


class Mixed(nn.Module):
    """An Inception block: four branches, concatenated by channel."""

    def __init__(self, in_channels: int, out: tuple[int, int, int, int, int, int]) -> None:
        super().__init__()
        three: Triple = (3, 3, 3)
        self.b0 = Unit3D(in_channels, out[0])
        self.b1a = Unit3D(in_channels, out[1])
        self.b1b = Unit3D(out[1], out[2], three)
        self.b2a = Unit3D(in_channels, out[3])
        self.b2b = Unit3D(out[3], out[4], three)
        self.b3a = MaxPool3d(three, (1, 1, 1))
        self.b3b = Unit3D(in_channels, out[5])
        self.out_channels = out[0] + out[2] + out[4] + out[5]

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.b0(x), self.b1b(self.b1a(x)), self.b2b(self.b2a(x)), self.b3b(self.b3a(x))], dim=1)


class InceptionI3D(nn.Module):
    """I3D over clips of 8 frames or more.

    Args:
        in_channels: 3 for RGB, 2 for optical flow.
        num_classes: outputs of the classifier; 0 leaves the classifier out (features only).
    """

    def __init__(self, in_channels: int = 3, num_classes: int = 400) -> None:
        super().__init__()
        self.Conv3d_1a_7x7 = Unit3D(in_channels, 64, (7, 7, 7), (2, 2, 2))
        self.MaxPool3d_2a_3x3 = MaxPool3d((1, 3, 3), (1, 2, 2))
        self.Conv3d_2b_1x1 = Unit3D(64, 64)
        self.Conv3d_2c_3x3 = Unit3D(64, 192, (3, 3, 3))
        self.MaxPool3d_3a_3x3 = MaxPool3d((1, 3, 3), (1, 2, 2))
        channels = 192
        for name, out in _MIXED.items():
            if name == "Mixed_4b":
                self.MaxPool3d_4a_3x3 = MaxPool3d((3, 3, 3), (2, 2, 2))
            if name == "Mixed_5b":
                self.MaxPool3d_5a_2x2 = MaxPool3d((2, 2, 2), (2, 2, 2))
            block = Mixed(channels, out)
            self.add_module(name, block)
            channels = block.out_channels
        self.body = tuple(self._modules)
        if num_classes:
            self.logits = Unit3D(channels, num_classes, plain=True)

    def maps(self, x: Tensor) -> Tensor:
        """The maps of ``Mixed_5c``: (B, C, T, H, W) in [-1, 1] -> (B, 1024, T/8, H/32, W/32), rounded up."""
        if x.shape[2] < MIN_FRAMES:
            raise ValueError(f"I3D needs clips of at least {MIN_FRAMES} frames, found {x.shape[2]}")
        for name in self.body:
            x = self.get_submodule(name)(x)
        return x

    def features(self, x: Tensor) -> Tensor:
        """(B, C, T, H, W) in [-1, 1] -> (B, 1024): ``Mixed_5c`` averaged over time and space."""
        return self.maps(x).mean(dim=(2, 3, 4), dtype=torch.float32)

    def forward(self, x: Tensor) -> Tensor:
        """Logits: (B, C, T, H, W) in [-1, 1] -> (B, num_classes).

        ``Mixed_5c`` averaged over space and over every two steps of time, classified, averaged over time.
        """
        x = self.maps(x).mean(dim=(3, 4), keepdim=True)
        x = F.avg_pool3d(x, (min(2, x.shape[2]), 1, 1), stride=1)
        return self.logits(x).mean(dim=(2, 3, 4))


def fold_batch_norm(model: InceptionI3D) -> InceptionI3D:
    """The same network for inference alone: each batch normalisation folded into its convolution, in place."""
    model.eval()
    for unit in model.modules():
        if isinstance(unit, Unit3D) and isinstance(unit.bn, nn.BatchNorm3d):
            unit.conv3d = fuse_conv_bn_eval(unit.conv3d, unit.bn)
            unit.bn = nn.Identity()
    return model
