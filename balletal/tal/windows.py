"""A model's answers for features that come bit by bit: overlapping windows, one at a time in memory.

Window ``j`` reads the features from ``j * hop`` on, ``hop = size - 2 * context``, and answers for its core: what lies
at least ``context`` features from either end. The first window also answers for the beginning, the last one for the
end; so a video of at most ``size`` features is one window. Windows lie on this fixed grid whatever way the features
come, and begin where the points of the coarsest level do.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from balletal.backbones.spec import FeatureSpec
from balletal.errors import InputError
from balletal.projection import Projection
from balletal.tal.config import DecodeConfig, ModelConfig, Recipe
from balletal.tal.decoding import run_model
from balletal.tal.ensemble import Ensemble
from balletal.tal.models import Outputs, TemporalModel
from balletal.tal.sequences import Grid

# Features that a window of a model with a receptive field answers for at the least: fewer would make the context dear.
_CORE = 128


def receptive_field(config: ModelConfig) -> int | None:
    """How many features to either side an answer can depend on; None for the lstm, which sees all there are.

    In features: the encoder's layers. In sub-steps, on top: the layers at the fine rate, a convolution on each level
    of the pyramid, the towers.
    """
    if config.name == "lstm":
        return None
    attends = config.name == "transformer"
    encoder = config.layers * (config.reach + 1 if attends else 1)
    if config.boundary == "fraction":
        return encoder
    fine = config.substep_layers * (config.substep_reach + 1) if attends else 2**config.substep_layers - 1
    pyramid = 2**config.levels - 2
    towers = config.head_layers * 2 ** (config.levels - 1)
    return encoder + -(-(fine + pyramid + towers) // config.upsample)


def _unit(config: ModelConfig) -> int:
    """Features from one point of the coarsest level to the next that a feature begins with, too."""
    coarsest = 2 ** (config.levels - 1)
    return coarsest // math.gcd(config.upsample, coarsest)


@dataclass(frozen=True)
class Windows:
    """The grid of windows, in features.

    Attributes:
        size: features of a window.
        context: features at either end that are read, not answered for.
    """

    size: int
    context: int

    @property
    def hop(self) -> int:
        return self.size - 2 * self.context

    @classmethod
    def of(cls, recipe: Recipe, configs: Sequence[ModelConfig] = ()) -> "Windows":
        """As ``decode.window`` and ``decode.context`` say, rounded to the grid of the coarsest level.

        By default a model with a receptive field has just that as context, which makes its answers those of the whole
        sequence. For the lstm the windows define the answer: they are as long as the crops that it was trained on,
        with a quarter as context. So they are for a model that says boundaries as fractions, here of the window.

        Args:
            configs: of the models that answer together, where they are several: the windows suit all of them.

        Raises:
            InputError: a window that is all context.
        """
        model, decode = recipe.model, recipe.decode
        unit = _unit(model)
        fields = [receptive_field(config) for config in configs or [model]]
        far = None if None in fields else max(reach for reach in fields if reach is not None)
        size = decode.window or recipe.optim.max_features
        context = decode.context if decode.context is not None else size // 4 if far is None else far
        context = -(-context // unit) * unit
        if decode.window is None and far is not None and model.boundary == "distance":
            size = 2 * context + max(_CORE, 2 * context)
        hop = (size - 2 * context) // unit * unit
        if hop <= 0:
            raise InputError("decode.window", expected=f"at least {2 * context + unit} features", found=str(size))
        return cls(hop + 2 * context, context)


def shortened(
    recipe: Recipe, configs: Sequence[ModelConfig], grid: Grid, spec: FeatureSpec, delay_s: float
) -> DecodeConfig:
    """Windows and blocks with which a stream's final detections come at most ``delay_s`` behind, if that can be.

    NMS waits for two blocks, the model for the features of a window behind a point: each gets half of the time. The
    context stays as it is where there is room for it, and takes half of what a window waits for where there is not.
    """
    default, unit = Windows.of(recipe, configs), _unit(recipe.model)
    left_s = delay_s - spec.window / spec.fps + min(0.0, grid.offset)
    block = min(recipe.decode.block, grid.step * max(1, int(left_s / 4 / grid.step)))
    ahead = int((left_s - 2 * block) / spec.stride_s)
    context = max(0, min(default.context, ahead // 2, int(left_s / spec.stride_s) - ahead)) // unit * unit
    hop = max(1, (ahead - context) // unit) * unit
    return recipe.decode.model_copy(update={"window": hop + 2 * context, "context": context, "block": block})


@dataclass(frozen=True, eq=False)
class Window:
    """A model's outputs for the core of one window.

    Attributes:
        start, stop: features that were read, from ``start`` up to ``stop``.
        whole: whether these are all of the video.
        outputs: a batch of one; the points of the core that are no gap, ``at`` counted from the video's beginning.
    """

    start: int
    stop: int
    whole: bool
    outputs: Outputs


class WindowedModel:
    """A model that takes features as they come; holds those of one window.

    Args:
        model: one, or several that answer as one.
        projection: of the features before the model. A window's are projected together, so that how they came
            changes no bit of them.
    """

    def __init__(self, model: TemporalModel | Ensemble, projection: Projection, windows: Windows) -> None:
        self.model, self.projection, self.windows = model.eval(), projection, windows
        self._rows: dict[int, NDArray[np.float32]] = {}
        self._next = 0  # the first window that was not run yet

    @property
    def answered(self) -> int:
        """All features before this one are answered for."""
        return self._next * self.windows.hop + self.windows.context if self._next else 0

    @property
    def held(self) -> int:
        """Features in memory."""
        return len(self._rows)

    def push(self, clips: NDArray[np.int64], features: NDArray[np.float32]) -> Iterator[Window]:
        """Take features and run the windows that they complete: those that a later feature has come to.

        Args:
            clips: (n,) ascending, above those of earlier calls. A missing one is a gap; windows whose core is one gap
                are passed over, so that it costs nothing however long it is.
            features: (n, D).
        """
        size = self.windows.size
        for first in range(0, len(clips), size):
            some = slice(first, first + size)
            self._rows.update(zip(clips[some].tolist(), features[some], strict=True))
            while clips[some][-1] >= self._next * self.windows.hop + size:
                core = self._next * self.windows.hop + size - self.windows.context
                coming = next(clip for clip in self._rows if clip >= self.answered)
                window = self._run(core) if coming < core else None
                self._next = self._next + 1 if window else (coming - self.windows.context) // self.windows.hop
                start = self._next * self.windows.hop
                self._rows = {clip: row for clip, row in self._rows.items() if clip >= start}
                if window:
                    yield window

    def rest(self) -> Window | None:
        """The last window if no feature came any more; changes nothing."""
        return self._run(None) if any(clip >= self.answered for clip in self._rows) else None

    def _run(self, core: int | None) -> Window:
        """Outputs from ``answered`` up to feature ``core``; None: to the end."""
        start = self._next * self.windows.hop
        stop = next(reversed(self._rows)) + 1 if core is None else start + self.windows.size
        clips = [clip for clip in self._rows if clip < stop]
        x = np.zeros((stop - start, self.projection.dim), dtype=np.float32)
        x[np.array(clips) - start] = self.projection.transform(np.stack([self._rows[clip] for clip in clips]))
        outputs = run_model(self.model, x, next(self.model.parameters()).device)
        steps = outputs.at + start * self.upsample
        keep = outputs.mask[0] & (steps >= self.answered * self.upsample)
        if core is not None:
            keep &= steps < core * self.upsample
        quality = outputs.quality[:, keep] if outputs.quality.numel() else outputs.quality
        points = Outputs(
            outputs.classes[:, keep],
            outputs.boundaries[:, keep],
            quality,
            outputs.tags[:, keep],
            outputs.mask[:, keep],
            steps[keep],
            outputs.stride[keep],
        )
        return Window(start, stop, core is None and self._next == 0, points)

    @property
    def upsample(self) -> int:
        """Sub-steps a feature."""
        return self.model.configs[0].upsample
