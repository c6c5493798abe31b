"""Inception-I3D: the inflated Inception-v1 of Carreira and Zisserman, "Quo Vadis, Action Recognition?" (CVPR 2017).

Module names give the key layout that PyTorch weights of this network usually have (``Conv3d_1a_7x7.conv3d.weight``,
``Mixed_3b.b1a.bn.running_mean``, ``logits.conv3d.bias``). Padding is TensorFlow's SAME, which depends on the input size
and may be one more at the end than at the start; published weights are of no use without it.
"""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

Triple = tuple[int, int, int]

FEATURE_DIM = 1024
MIN_FRAMES = 8
STEP = 8
"""Frames between two steps of the last maps."""
HALO = 48
"""Frames on either side of a step's own 8 that it depends on: 44 before, 47 behind, in whole steps."""

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
        if x.is_cuda or x.requires_grad:
            x, padding = _same(x, self.kernel, self.stride)
            return F.max_pool3d(x, self.kernel, self.stride, padding)
        # On a CPU, axis by axis as the maximum of shifted slices: the same values, in bfloat16 four times as fast.
        for dim, (kernel, stride) in enumerate(zip(self.kernel, self.stride, strict=True), start=2):
            if kernel > 1 or stride > 1:
                x = _max_along(x, dim, kernel, stride)
        return x


def _max_along(x: Tensor, dim: int, kernel: int, stride: int) -> Tensor:
    """Max pooling along one axis, SAME: what would be padding is left out."""
    n = x.shape[dim]
    count = -(-n // stride)
    before = max((count - 1) * stride + kernel - n, 0) // 2
    rest = (slice(None),) * dim

    def every(start: int) -> Tensor:
        return x[(*rest, slice(start, None, stride))]

    pooled = every(0).clone()
    for offset in range(-before, kernel - before):
        if offset:
            first = -(min(offset, 0) // stride)  # the first output that has this neighbour
            part = every(first * stride + offset)
            part = part.narrow(dim, 0, min(part.shape[dim], count - first))
            whole = pooled.narrow(dim, first, part.shape[dim])
            torch.maximum(whole, part, out=whole)
    return pooled


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

    def dense_maps(self, x: Tensor, step: int = STEP, prepare: Callable[[Tensor], Tensor] = lambda x: x) -> Tensor:
        """The maps of ``Mixed_5c`` at every ``step`` frames: the last temporal strides removed, a trous.

        Equal to interleaving passes over the clip shifted by ``step`` frames each, but what lies before the removed
        strides is computed once. The ends are padded as :meth:`maps` pads them: step ``k`` equals, for ``step`` 8, step
        ``k`` of :meth:`maps`.

        Args:
            x: (1, C, T, H, W) in [-1, 1], T a multiple of 8.
            step: 8, 4 or 2.
            prepare: makes the network's input of ``x`` where that is something else, block by block.

        Returns:
            (1, 1024, T/step, H/32, W/32); step ``k`` stands for the frames ``[k * step, k * step + 8)``, and depends on
            :data:`HALO` frames before and behind them.
        """
        if len(x) != 1 or x.shape[2] % STEP or step not in _UNSTRIDED:
            raise ValueError(f"expected one clip of a multiple of {STEP} frames and a step of 2, 4 or 8")
        unstrided = _UNSTRIDED[step]
        for names, stride, halo in _BLOCKS:
            if unstrided.isdisjoint(names):
                layers: list[Callable[[Tensor], Tensor]] = [prepare, *map(self.get_submodule, names)]
                x = _in_blocks(layers, x, stride, halo)
                prepare = nn.Identity()
            else:
                x = self._split(x, names, unstrided)
        for _ in unstrided:  # the last split is the outermost half of the batch
            x = torch.stack(x.chunk(2), dim=3).flatten(2, 3)
        return x

    def _split(self, x: Tensor, names: tuple[str, ...], unstrided: frozenset[str]) -> Tensor:
        """Layers with a removed stride: it runs at both phases, as two clips of a batch, and so does all behind it.

        That is a dilated convolution by other means, with the kernels that dense ones have.
        """
        for name in names:
            if name in unstrided:
                x = torch.cat([x, F.pad(x[:, :, 1:], (0, 0, 0, 0, 0, 1))])
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


# The layers in groups that run block by block in time, so that no early map exists as a whole (but for those behind a
# removed stride): their stride, and the steps of their input that they see beyond a block's ends (in whole strides).
_BLOCKS: tuple[tuple[tuple[str, ...], int, int], ...] = (
    (("Conv3d_1a_7x7", "MaxPool3d_2a_3x3", "Conv3d_2b_1x1"), 2, 4),
    (("Conv3d_2c_3x3", "MaxPool3d_3a_3x3"), 1, 1),
    (("Mixed_3b",), 1, 1),
    (("Mixed_3c", "MaxPool3d_4a_3x3"), 2, 2),
    (("Mixed_4b", "Mixed_4c", "Mixed_4d", "Mixed_4e", "Mixed_4f"), 1, 5),
    (("MaxPool3d_5a_2x2", "Mixed_5b", "Mixed_5c"), 2, 4),
)
_BLOCK = 64
_UNSTRIDED: dict[int, frozenset[str]] = {
    8: frozenset(),
    4: frozenset({"MaxPool3d_5a_2x2"}),
    2: frozenset({"MaxPool3d_4a_3x3", "MaxPool3d_5a_2x2"}),
}


def _in_blocks(layers: Sequence[Callable[[Tensor], Tensor]], x: Tensor, stride: int, halo: int) -> Tensor:
    """``layers`` over blocks of the time axis, each with its halo; equal to one pass over all of it."""
    size, steps = _BLOCK * stride, x.shape[2] // stride
    whole: Tensor | None = None
    for start in range(0, x.shape[2], size):
        first = max(0, start - halo)
        y = x[:, :, first : start + size + halo]
        for layer in layers:
            y = layer(y)
        y = y[:, :, (start - first) // stride :][:, :, :_BLOCK]
        if whole is None:  # one at its full length, not blocks and then their concatenation: these are the large maps
            shape = (*y.shape[:2], steps, *y.shape[3:])
            whole = torch.empty(shape, dtype=y.dtype, device=y.device, memory_format=torch.channels_last_3d)
        whole[:, :, start // stride :][:, :, : y.shape[2]] = y
    assert whole is not None  # a clip has frames
    return whole


def fold_batch_norm(model: InceptionI3D) -> InceptionI3D:
    """The same network for inference alone: each batch normalisation folded into its convolution, in place."""
    model.eval()
    for unit in model.modules():
        if isinstance(unit, Unit3D) and isinstance(unit.bn, nn.BatchNorm3d):
            unit.conv3d = fuse_conv_bn_eval(unit.conv3d, unit.bn)
            unit.bn = nn.Identity()
    return model
