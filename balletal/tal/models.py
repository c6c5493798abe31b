"""The paper's two temporal models, with sub-step outputs.

Both read projected features (B, T, K) and answer at T' = T * upsample sub-steps (see :mod:`balletal.tal.sequences`):
a feature that lasts longer than a step of ballet can hold several of them, so one answer a feature is not enough.

As the paper describes them: a two-layer BiLSTM with additive attention (Bahdanau et al. 2015), and three Conv1d of
kernel 3 with batch normalisation and ReLU.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from balletal.tal.config import ModelConfig


class Outputs(NamedTuple):
    """What a model says of each sub-step; padding and gaps are left in (see ``mask``).

    Attributes:
        classes: (B, T', C) logits.
        boundaries: (B, T', 2); ``fraction``: start and end over the video's length, by a sigmoid; ``distance``:
            distances to start and end in sub-steps, not negative.
        quality: (B, T') logit of the expected tIoU of the segment said here; zero-size for ``fraction``.
        mask: (B, T') bool, true at sub-steps that are neither padding nor a gap in the video.
    """

    classes: Tensor
    boundaries: Tensor
    quality: Tensor
    mask: Tensor


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


class SubSteps(nn.Module):
    """From one vector a feature to one a sub-step: a learnt expansion, then convolutions at the fine rate."""

    def __init__(self, in_dim: int, dim: int, upsample: int, layers: int, dropout: float) -> None:
        super().__init__()
        self.upsample = upsample
        self.expand = nn.Linear(in_dim, upsample * dim)
        self.blocks = nn.ModuleList(ConvBlock(dim, dim, dropout, dilation=2**i) for i in range(layers))

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """x (B, T, E), mask (B, T * upsample) -> (B, T * upsample, dim)."""
        B, T, _ = x.shape
        fine = self.expand(x).view(B, T * self.upsample, -1) * mask[..., None]
        y = fine.transpose(1, 2)
        for block in self.blocks:
            y = y + block(y, mask)
        return y.transpose(1, 2)


_ENCODERS: dict[str, type[LSTMEncoder | CNNEncoder]] = {"lstm": LSTMEncoder, "cnn": CNNEncoder}


class TemporalModel(nn.Module):
    """Encoder, sub-steps and heads.

    Args:
        config: sizes and kind.
        in_dim: K, length of a projected feature.
        num_classes: C.
    """

    def __init__(self, config: ModelConfig, in_dim: int, num_classes: int) -> None:
        super().__init__()
        self.config, self.in_dim, self.num_classes = config, in_dim, num_classes
        encoder: LSTMEncoder | CNNEncoder
        encoder = _ENCODERS[config.name](in_dim, config.hidden, config.layers, config.dropout)
        dim = encoder.out_dim
        self.input_dropout = nn.Dropout(config.input_dropout)
        self.encoder = encoder
        self.substeps: SubSteps | None = None
        if config.boundary == "distance":
            self.substeps = SubSteps(dim, config.substep_dim, config.upsample, config.substep_layers, config.dropout)
            dim = config.substep_dim
        self.class_head = nn.Linear(dim, num_classes)
        self.boundary_head = nn.Linear(dim, 2)
        self.quality_head = nn.Linear(dim, 1) if config.boundary == "distance" else None
        if config.boundary == "distance":
            # Nearly every sub-step is background for nearly every class: start there (Lin et al. 2017, focal loss).
            nn.init.constant_(self.class_head.bias, -4.6)

    def forward(self, features: Tensor, mask: Tensor) -> Outputs:
        """features (B, T, K) float, mask (B, T) bool -> :class:`Outputs` at T * upsample sub-steps.

        The mask says what is no padding; a row of zeros in it is a gap in the video (see
        :func:`balletal.tal.sequences.on_clip_grid`), which is passed over but not answered for.
        """
        answered = mask & features.any(-1)
        x = self.encoder(self.input_dropout(features), mask)
        if self.substeps is None:
            boundaries = torch.sigmoid(self.boundary_head(x))
            return Outputs(self.class_head(x), boundaries, x.new_zeros(0), answered)
        mask, answered = (m.repeat_interleave(self.config.upsample, dim=1) for m in (mask, answered))
        x = self.substeps(x, mask)
        assert self.quality_head is not None
        return Outputs(
            self.class_head(x), F.softplus(self.boundary_head(x)), self.quality_head(x).squeeze(-1), answered
        )
