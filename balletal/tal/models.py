"""The temporal models: the paper's two and the one it names as future work, with sub-step and multi-scale outputs.

All read projected features (B, T, K) and answer at points of a time grid of T' = T * upsample sub-steps (see
:mod:`balletal.tal.sequences`): a feature that lasts longer than a step of ballet can hold several of them, so one
answer a feature is not enough. With ``levels`` above 1 a pyramid answers at every sub-step, every second, every fourth
and so on, each level for steps of its own range of durations.

As the paper describes them: a two-layer BiLSTM with additive attention (Bahdanau et al. 2015), and three Conv1d of
kernel 3 with batch normalisation and ReLU. ``transformer`` is of the class of ActionFormer (Zhang et al. 2022): local
self-attention in pre-norm blocks.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from balletal.tal.config import ModelConfig


class Outputs(NamedTuple):
    """What a model says at each of its P points; padding and gaps are left in (see ``mask``).

    Attributes:
        classes: (B, P, C) logits.
        boundaries: (B, P, 2); ``fraction``: start and end over the video's length, by a sigmoid; ``distance``:
            distances from the point to start and end in sub-steps, not negative.
        quality: (B, P) logit of the expected tIoU of the segment said here; zero-size for ``fraction``.
        tags: (B, P, G) logits of the tags that go with the segment said here; G is 0 for ``fraction``.
        mask: (B, P) bool, true at points that are neither padding nor a gap in the video.
        at: (P,) float64, where each point lies, in sub-steps: sub-step ``i`` has its middle at ``i + 0.5``. Level after
            level, ascending within each.
        stride: (P,) int64, sub-steps between the points of that level.
    """

    classes: Tensor
    boundaries: Tensor
    quality: Tensor
    tags: Tensor
    mask: Tensor
    at: Tensor
    stride: Tensor


def grid_points(steps: int, levels: int, device: torch.device | str = "cpu") -> tuple[Tensor, Tensor]:
    """``at`` and ``stride`` of :class:`Outputs`: level ``l`` has ceil(steps / 2**l) points."""
    counts = [-(-steps // 2**level) for level in range(levels)]
    at = [(torch.arange(n, dtype=torch.float64, device=device) + 0.5) * 2**level for level, n in enumerate(counts)]
    stride = [torch.full((n,), 2**level, device=device) for level, n in enumerate(counts)]
    return torch.cat(at), torch.cat(stride)


class MaskedBatchNorm(nn.BatchNorm1d):
    """Batch normalisation whose statistics see real steps alone, so that padding never changes a result."""

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:  # type: ignore[override]
        """x (B, C, T), mask (B, T) -> (B, C, T), zero in the padding."""
        rows = x.transpose(1, 2)
        real = rows[mask]
        if self.training and len(real) == 1:  # one value has no variance: normalise by what was learnt so far
            assert self.running_mean is not None
            normalised = F.batch_norm(real, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)
        else:
            normalised = super().forward(real)
        return torch.zeros_like(rows).masked_scatter(mask[..., None], normalised).transpose(1, 2)


class ConvBlock(nn.Module):
    """Conv1d of kernel 3, batch normalisation, ReLU, dropout; padding stays zero."""

    def __init__(self, in_dim: int, dim: int, dropout: float, dilation: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv1d(in_dim, dim, 3, padding=dilation, dilation=dilation, bias=False)
        self.norm = MaskedBatchNorm(dim)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """x (B, C, T) with zero padding -> (B, dim, T)."""
        return self.dropout(F.relu(self.norm(self.conv(x), mask)))


class LSTMEncoder(nn.Module):
    """Two-layer BiLSTM; each step then joined with the video's additive-attention summary.

    Each direction is a layer of its own, and the backward one reads each video reversed within its own length: the same
    values as a packed bidirectional LSTM, in half of its time on a CPU.
    """

    def __init__(self, in_dim: int, hidden: int, layers: int, dropout: float) -> None:
        super().__init__()
        dims = [in_dim] + [2 * hidden] * (layers - 1)
        self.forwards = nn.ModuleList(nn.LSTM(dim, hidden, batch_first=True) for dim in dims)
        self.backwards = nn.ModuleList(nn.LSTM(dim, hidden, batch_first=True) for dim in dims)
        self.attention = nn.Sequential(nn.Linear(2 * hidden, hidden), nn.Tanh(), nn.Linear(hidden, 1, bias=False))
        self.dropout = nn.Dropout(dropout)
        self.out_dim: int = 4 * hidden

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """x (B, T, K) -> (B, T, 4 * hidden): [step, attention-weighted mean of all steps]."""
        steps = torch.arange(x.shape[1], device=x.device)
        # (B, T) where step t of the reversed video lies; the padding, which comes first there otherwise, stays behind.
        mirrored = torch.where(mask, mask.sum(1, keepdim=True) - 1 - steps, steps)
        for i, (forward, backward) in enumerate(zip(self.forwards, self.backwards, strict=True)):
            x = self.dropout(x) if i else x
            x = torch.cat([forward(x)[0], _take(backward(_take(x, mirrored))[0], mirrored)], dim=-1)
        weights = self.attention(x).squeeze(-1).masked_fill(~mask, -torch.inf).softmax(1)  # (B, T)
        context = torch.einsum("bt,btc->bc", weights, x)
        return self.dropout(torch.cat([x, context[:, None].expand_as(x)], dim=-1))


def _take(x: Tensor, steps: Tensor) -> Tensor:
    """x (B, T, C) at the steps (B, T) of each video."""
    return x.gather(1, steps[..., None].expand(-1, -1, x.shape[-1]))


class CNNEncoder(nn.Module):
    """Three Conv1d(k=3) + BN + ReLU."""

    def __init__(self, in_dim: int, hidden: int, layers: int, dropout: float) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(ConvBlock(in_dim if i == 0 else hidden, hidden, dropout) for i in range(layers))
        self.out_dim: int = hidden

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """x (B, T, K) -> (B, T, hidden)."""
        x = (x * mask[..., None]).transpose(1, 2)
        for block in self.blocks:
            x = block(x, mask)
        return x.transpose(1, 2)


class AttentionBlock(nn.Module):
    """Pre-norm local self-attention and MLP: a step attends to the steps at most ``reach`` away.

    A depthwise convolution before the attention tells the order of steps. What a step gets does not depend on where it
    lies in the tensor, so a stretch of a video gives what the whole of it does.
    """

    def __init__(self, dim: int, reach: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.reach, self.heads = reach, heads
        self.norm, self.mlp_norm = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.order = nn.Conv1d(dim, dim, 3, padding=1, groups=dim)
        self.qkv, self.out = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.mlp = nn.Sequential(nn.Linear(dim, 2 * dim), nn.GELU(), nn.Dropout(dropout), nn.Linear(2 * dim, dim))
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """x (B, T, C), mask (B, T) -> (B, T, C), zero in the padding."""
        y = self.norm(x) * mask[..., None]
        y = (y + self.order(y.transpose(1, 2)).transpose(1, 2)) * mask[..., None]
        x = x + self.dropout(self.out(self._attend(y, mask)))
        x = x + self.dropout(self.mlp(self.mlp_norm(x)))
        return x * mask[..., None]

    def _attend(self, y: Tensor, mask: Tensor) -> Tensor:
        """Blocks of ``reach`` queries against the keys of three blocks, cut down to a band."""
        B, T, C = y.shape
        w = self.reach
        blocks = -(-T // w)
        y = F.pad(y, (0, 0, 0, blocks * w - T))
        mask = F.pad(mask, (w, blocks * w - T + w))
        q, k, v = self.qkv(y).view(B, blocks * w, 3, self.heads, -1).permute(2, 0, 3, 1, 4)  # (B, H, T, c)
        q = q.unflatten(2, (blocks, w))
        k, v = (F.pad(z, (0, 0, w, w)).unfold(2, 3 * w, w).transpose(-1, -2) for z in (k, v))  # (B, H, n, 3w, c)
        position = torch.arange(3 * w, device=y.device)
        band = (position[None] - w - position[:w, None]).abs() <= w  # (w, 3w)
        seen = band & mask.unfold(1, 3 * w, w)[:, None, :, None, :]  # (B, 1, n, w, 3w)
        # A query of the padding has nothing to see: let it see its band, its result is masked away.
        seen = seen | (band & ~seen.any(-1, keepdim=True))
        attended = F.scaled_dot_product_attention(q, k, v, attn_mask=seen)
        return attended.flatten(2, 3).transpose(1, 2).reshape(B, blocks * w, C)[:, :T]


class TransformerEncoder(nn.Module):
    """A linear embedding and blocks of local self-attention."""

    def __init__(self, in_dim: int, hidden: int, layers: int, dropout: float, *, reach: int, heads: int) -> None:
        super().__init__()
        self.embed = nn.Linear(in_dim, hidden)
        self.blocks = nn.ModuleList(AttentionBlock(hidden, reach, heads, dropout) for _ in range(layers))
        self.norm = nn.LayerNorm(hidden)
        self.out_dim: int = hidden

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """x (B, T, K) -> (B, T, hidden)."""
        x = self.embed(x) * mask[..., None]
        for block in self.blocks:
            x = block(x, mask)
        return self.norm(x)


class SubSteps(nn.Module):
    """From one vector a feature to one a sub-step: a learnt expansion, then layers at the fine rate.

    The layers are dilated convolutions, or attention for the transformer.
    """

    def __init__(self, in_dim: int, config: ModelConfig) -> None:
        super().__init__()
        dim, self.upsample = config.substep_dim, config.upsample
        self.expand = nn.Linear(in_dim, self.upsample * dim)
        self.attends = config.name == "transformer"
        self.blocks = nn.ModuleList(
            AttentionBlock(dim, config.substep_reach, config.heads, config.dropout)
            if self.attends
            else ConvBlock(dim, dim, config.dropout, dilation=2**i)
            for i in range(config.substep_layers)
        )

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """x (B, T, E), mask (B, T * upsample) -> (B, dim, T * upsample)."""
        B, T, _ = x.shape
        y = self.expand(x).view(B, T * self.upsample, -1) * mask[..., None]
        if self.attends:
            for block in self.blocks:
                y = block(y, mask)
            return y.transpose(1, 2)
        y = y.transpose(1, 2)
        for block in self.blocks:
            y = y + block(y, mask)
        return y


class Pyramid(nn.Module):
    """The sub-steps at falling rates: each level half as many, by max pooling and a convolution."""

    def __init__(self, dim: int, levels: int, dropout: float) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(ConvBlock(dim, dim, dropout) for _ in range(levels - 1))

    def forward(self, x: Tensor, mask: Tensor, answered: Tensor) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
        """x (B, C, T'), two masks (B, T') -> of each level: x, what is no padding, and what is answered for."""
        xs, masks, answers = [x], [mask], [answered]
        for block in self.blocks:
            # Padding is below everything, or the last step of an odd number would be pooled with a zero.
            x = F.max_pool1d(xs[-1].masked_fill(~masks[-1][:, None], -torch.inf), 2, ceil_mode=True)
            mask, answered = (
                F.max_pool1d(m[:, None].to(x.dtype), 2, ceil_mode=True)[:, 0] > 0 for m in (masks[-1], answers[-1])
            )
            x = x.masked_fill(~mask[:, None], 0)
            xs.append(x + block(x, mask))
            masks.append(mask)
            answers.append(answered)
        return xs, masks, answers


class Tower(nn.Module):
    """Convolutions of kernel 3 before a head, each with layer normalisation: all levels share them."""

    def __init__(self, dim: int, layers: int) -> None:
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv1d(dim, dim, 3, padding=1, bias=False) for _ in range(layers))
        self.norms = nn.ModuleList(nn.LayerNorm(dim) for _ in range(layers))

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """x (B, C, T'), mask (B, T') -> (B, T', C)."""
        x = x * mask[:, None]
        for conv, norm in zip(self.convs, self.norms, strict=True):
            x = F.relu(norm(conv(x).transpose(1, 2))).transpose(1, 2) * mask[:, None]
        return x.transpose(1, 2)


class TemporalModel(nn.Module):
    """Encoder, sub-steps, pyramid and heads.

    Args:
        config: sizes and kind.
        in_dim: K, length of a projected feature.
        num_classes: C.
        num_tags: G; a model that says boundaries as fractions tells none.
    """

    def __init__(self, config: ModelConfig, in_dim: int, num_classes: int, num_tags: int = 0) -> None:
        super().__init__()
        self.config, self.in_dim, self.num_classes = config, in_dim, num_classes
        self.input_dropout = nn.Dropout(config.input_dropout)
        self.encoder = _encoder(config, in_dim)
        dim = self.encoder.out_dim
        self.located = config.boundary == "distance"
        self.num_tags = num_tags if self.located else 0
        if not self.located:
            self.class_head, self.boundary_head = nn.Linear(dim, num_classes), nn.Linear(dim, 2)
            return
        dim = config.substep_dim
        self.substeps = SubSteps(self.encoder.out_dim, config)
        self.pyramid = Pyramid(dim, config.levels, config.dropout)
        self.class_tower, self.boundary_tower = Tower(dim, config.head_layers), Tower(dim, config.head_layers)
        self.class_head = nn.Linear(dim, num_classes)
        self.boundary_head = nn.Linear(dim, 2 * (config.bins + 1) if config.bins else 2)
        self.quality_head = nn.Linear(dim, 1)
        # Made last: the other weights begin as they would without tags.
        self.tag_head = nn.Linear(dim, num_tags) if num_tags else None
        # Nearly every sub-step is background for nearly every class: start there (Lin et al. 2017, focal loss).
        nn.init.constant_(self.class_head.bias, -4.6)

    @property
    def configs(self) -> tuple[ModelConfig, ...]:
        """Of the models in it: its own alone."""
        return (self.config,)

    def forward(self, features: Tensor, mask: Tensor) -> Outputs:
        """features (B, T, K) float, mask (B, T) bool -> :class:`Outputs`.

        The mask says what is no padding; a row of zeros in it is a gap in the video (see
        :func:`balletal.tal.sequences.on_clip_grid`), which is passed over but not answered for.
        """
        answered = mask & features.any(-1)
        x = self.encoder(self.input_dropout(features), mask)
        if not self.located:
            boundaries = torch.sigmoid(self.boundary_head(x))
            where = grid_points(mask.shape[1], 1, x.device)
            return Outputs(self.class_head(x), boundaries, x.new_zeros(0), _no_tags(x), answered, *where)
        at, stride = grid_points(mask.shape[1] * self.config.upsample, self.config.levels, x.device)
        mask, answered = (m.repeat_interleave(self.config.upsample, dim=1) for m in (mask, answered))
        levels = list(zip(*self.pyramid(self.substeps(x, mask), mask, answered), strict=True))
        classified = [self.class_tower(x, mask) for x, mask, _ in levels]
        classes = torch.cat([self.class_head(x) for x in classified], 1)
        tags = _no_tags(classes) if self.tag_head is None else self.tag_head(torch.cat(classified, 1))
        located = torch.cat([self.boundary_tower(x, mask) for x, mask, _ in levels], 1)
        boundaries = self._distances(self.boundary_head(located)) * stride[:, None].to(located.dtype)
        quality = self.quality_head(located).squeeze(-1)
        return Outputs(classes, boundaries, quality, tags, torch.cat([a for _, _, a in levels], 1), at, stride)

    def _distances(self, said: Tensor) -> Tensor:
        """(B, P, 2) in strides: said plainly, or the expectation over bins (Li et al. 2020, generalised focal loss)."""
        bins = self.config.bins
        if not bins:
            return F.softplus(said)
        where = torch.arange(bins + 1, device=said.device, dtype=said.dtype)
        return (said.unflatten(-1, (2, bins + 1)).softmax(-1) * where).sum(-1)


def _no_tags(x: Tensor) -> Tensor:
    """(B, P, 0) for x (B, P, ...)."""
    return x.new_zeros(*x.shape[:2], 0)


def _encoder(config: ModelConfig, in_dim: int) -> LSTMEncoder | CNNEncoder | TransformerEncoder:
    sizes = (in_dim, config.hidden, config.layers, config.dropout)
    if config.name == "transformer":
        return TransformerEncoder(*sizes, reach=config.reach, heads=config.heads)
    return (LSTMEncoder if config.name == "lstm" else CNNEncoder)(*sizes)
