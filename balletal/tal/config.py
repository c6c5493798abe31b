"""Recipes: what a training run is made of. Read from YAML, validated here, saved with every run."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from balletal.errors import InputError

ModelName = Literal["lstm", "cnn", "transformer"]
RecipeName = Literal["paper", "localize"]
Seed = Annotated[int, Field(ge=0, lt=2**32, description="what every random generator takes")]


class _Config(BaseModel):
    # A misspelt key is an error, never a silent default. Infinity cannot be written into a bundle.
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class ModelConfig(_Config):
    """Sizes of a model (:class:`balletal.tal.models.TemporalModel`)."""

    name: ModelName = "lstm"
    boundary: Literal["fraction", "distance"] = "distance"
    hidden: int = Field(256, gt=0)
    layers: int = Field(2, gt=0)
    dropout: float = Field(0.3, ge=0, lt=1)
    input_dropout: float = Field(0.0, ge=0, lt=1)
    upsample: int = Field(1, gt=0)
    substep_dim: int = Field(128, gt=0)
    substep_layers: int = Field(3, ge=0)
    levels: int = Field(1, gt=0, description="of the pyramid over the sub-steps, each at half the rate of the last")
    head_layers: int = Field(0, ge=0, description="convolutions before the heads")
    bins: int = Field(0, ge=0, description="distances are expectations over so many strides; 0: said plainly")
    heads: int = Field(4, gt=0, description="of attention")
    reach: int = Field(32, gt=0, description="features that attention sees on either side")
    substep_reach: int = Field(16, gt=0, description="sub-steps that attention sees on either side")

    @model_validator(mode="after")
    def _fits(self) -> "ModelConfig":
        if self.boundary == "fraction" and (self.upsample, self.levels) != (1, 1):
            raise ValueError("boundaries as fractions are one answer a feature: upsample and levels should be 1")
        if self.name == "transformer" and (self.hidden % self.heads or self.substep_dim % self.heads):
            raise ValueError(f"hidden and substep_dim should be multiples of heads, {self.heads}")
        return self


class LossConfig(_Config):
    """Loss terms (:mod:`balletal.tal.losses`)."""

    boundary_weight: float = Field(1.0, ge=0)
    quality_weight: float = Field(0.5, ge=0)
    # Written only where it was changed: recipes from before there were tags keep their digest.
    tag_weight: float = Field(0.2, ge=0, exclude_if=lambda weight: weight == 0.2)
    focal_alpha: float = Field(0.25, gt=0, lt=1)
    focal_gamma: float = Field(2.0, ge=0)
    center_radius: float = Field(1.5, gt=0, description="sub-steps around a middle that answer for the segment")
    boundary_unit: Literal["seconds", "fraction"] = Field("fraction", description="targets of the paper recipe")


class AugmentConfig(_Config):
    """How training videos are changed each time they are seen (:mod:`balletal.tal.augment`)."""

    stretch: float = Field(0.0, ge=0, lt=1, description="the tempo changes by at most 1 + stretch, either way")
    noise: float = Field(0.0, ge=0, description="of normal noise on the features, in their spread within the video")


class OptimConfig(_Config):
    """How the weights are found."""

    optimizer: Literal["adam", "adamw"] = "adamw"
    lr: float = Field(1e-3, gt=0)
    weight_decay: float = Field(0.05, ge=0)
    epochs: int = Field(40, gt=0)
    batch_size: int = Field(8, gt=0, description="videos a step, over all workers")
    clip_norm: float = Field(1.0, gt=0)
    warmup_epochs: int = Field(5, ge=0)
    scheduler: Literal["constant", "cosine", "plateau"] = "cosine"
    ema: float = Field(0.99, ge=0, lt=1, description="0: off")
    normalizer_momentum: float = Field(0.9, ge=0, lt=1, description="of the running count of positives")
    max_features: int = Field(1024, gt=0, description="features of a video that one step sees; longer ones are cropped")
    checkpoint_epochs: int = Field(5, gt=0, description="epochs between checkpoints")


class DecodeConfig(_Config):
    """From outputs to detections (:mod:`balletal.tal.decoding`, :mod:`balletal.tal.windows`)."""

    window: int | None = Field(None, gt=0, description="features that the model reads at once; None: by its kind")
    context: int | None = Field(None, ge=0, description="of them at either end, not answered for; None: by its kind")
    block: float = Field(10.0, gt=0, le=3600, description="seconds; NMS sees a block of time and its two neighbours")
    min_score: float = Field(0.001, ge=0, lt=1)
    candidates: int = Field(2000, gt=0, description="of a block, before NMS")
    nms: Literal["gaussian", "linear", "hard"] = "gaussian"
    sigma: float = Field(0.8, gt=0)
    iou_threshold: float = Field(0.5, ge=0, le=1)
    max_segments: int = Field(200, gt=0, description="of a minute of video, shared out to its blocks")
    temperature: float = Field(1.0, ge=0.01, le=100, description="divides the logit of the final score")
    frame_threshold: float = Field(0.5, ge=0, le=1, description="below it a frame is called background")


class Recipe(_Config):
    """Everything that a training run depends on beside its data."""

    model: ModelConfig = ModelConfig()
    loss: LossConfig = LossConfig()
    augment: AugmentConfig = AugmentConfig()
    optim: OptimConfig = OptimConfig()
    decode: DecodeConfig = DecodeConfig()
    seed: Seed = 0


DEFAULT_STRIDE_S = 0.32
"""Seconds between features as `extract` makes them."""


def recipe(model: ModelName, name: RecipeName, stride_s: float = DEFAULT_STRIDE_S) -> Recipe:
    """The shipped recipe of a model.

    ``paper`` is as published: one answer a feature, a sigmoid that says start and end, MSE against targets in seconds
    (which no sigmoid reaches: that is the published failure, kept as the baseline), cross-entropy that ignores the
    background, Adam, 50 epochs, clipping, ReduceLROnPlateau for the lstm. ``localize`` is the one to use.

    Args:
        stride_s: seconds between features. Those that are more than one apart hold several steps each: ``localize``
            cuts them finer.

    Raises:
        InputError: ``paper`` for the transformer, which the paper names as future work alone.
    """
    layers = {"lstm": 2, "cnn": 3, "transformer": 2}[model]
    if name == "paper":
        if model == "transformer":
            raise InputError("recipe paper", expected="a model of the paper's, lstm or cnn", found=model)
        return Recipe(
            model=ModelConfig(name=model, boundary="fraction", layers=layers),
            loss=LossConfig(boundary_unit="seconds"),
            optim=OptimConfig(
                optimizer="adam",
                weight_decay=0.0,
                epochs=50,
                batch_size=16,
                warmup_epochs=0,
                scheduler="plateau" if model == "lstm" else "constant",
                ema=0.0,
                normalizer_momentum=0.0,
            ),
        )
    # Found on validation videos of AnnChor's released features, every 2.56 s, 652 videos to learn from, and of what
    # `extract` makes, every 0.32 s, of tens of videos. The lstm overfits soonest.
    sizes: dict[ModelName, dict[str, Any]] = {
        "lstm": {"hidden": 192, "dropout": 0.5},
        "cnn": {"substep_layers": 2},
        "transformer": {"hidden": 192, "substep_layers": 2, "head_layers": 1},
    }
    size = {"name": model, "layers": layers, "input_dropout": 0.3} | sizes[model]
    if stride_s > 1:
        lr, epochs = {"lstm": (2e-3, 30), "cnn": (1e-3, 20), "transformer": (1e-3, 30)}[model]
        return Recipe(model=ModelConfig(**size, upsample=8), optim=OptimConfig(lr=lr, epochs=epochs))
    if model == "cnn":
        return Recipe(model=ModelConfig(**size, upsample=2), optim=OptimConfig(epochs=60, batch_size=4))
    # What docs/studies/lstm.yaml found. The transformer gains by it as well, the cnn does not (docs/evaluation.md).
    return Recipe(
        model=ModelConfig(**size | {"dropout": 0.3, "input_dropout": 0.2}, upsample=2, bins=16),
        loss=LossConfig(center_radius=1.0),
        augment=AugmentConfig(stretch=0.15),
        optim=OptimConfig(lr=2.5e-3 if model == "lstm" else 1e-3, epochs=60, batch_size=2),
    )
