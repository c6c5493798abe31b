"""What a comparison is made of: features, split or folds, models, recipes, seeds."""

from typing import Annotated, Any, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, field_validator, model_validator

from balletal.annotations import By
from balletal.tal.config import DEFAULT_STRIDE_S, ModelName, Recipe, RecipeName, Seed, recipe
from balletal.tal.ensemble import check_members
from balletal.tal.windows import Windows
from workflows.config import merged, validated


def _of_recipes(overrides: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    recipes = get_args(RecipeName)
    known = {*recipes, *(f"{model}-{name}" for model in get_args(ModelName) for name in recipes)}
    for key in overrides:
        if key not in known:
            raise ValueError(f"{key} is no recipe, and no <model>-<recipe>: {', '.join(sorted(known))}")
    return overrides


# Values of a recipe by what they apply to: a recipe's name, or "<model>-<recipe>", which goes over it.
Overrides = Annotated[dict[str, dict[str, Any]], AfterValidator(_of_recipes)]

# Folders are called so.
RunName = Annotated[str, StringConstraints(pattern=r"^[\w.][\w.-]*$")]


class SplitConfig(BaseModel):
    """How videos are divided: drawn, read from a file, or into folds that are each held out once."""

    model_config = ConfigDict(extra="forbid")

    by: By = "video"
    seed: int = 0
    fractions: tuple[float, float, float] = (0.8, 0.1, 0.1)
    file: str | None = None
    folds: int | None = Field(None, ge=2, description="cross-validation; fractions are not used")

    @model_validator(mode="after")
    def _drawn(self) -> "SplitConfig":
        if self.folds and (self.file is not None or self.by == "published"):
            raise ValueError("folds are drawn by video or variation, not read")
        return self

    def __str__(self) -> str:
        if self.file is not None:
            return f"split of {self.file}"
        return f"{self.folds} folds by {self.by}" if self.folds else f"split by {self.by}"


def local_folder(out: str) -> str:
    """A pydantic check, said before hours of training and not by the report after them."""
    if "://" in out:
        raise ValueError("should be a local folder: reports and plots are not written to object stores yet")
    return out


class ComparisonConfig(BaseModel):
    """What every comparison needs to know, wherever its features come from."""

    model_config = ConfigDict(extra="forbid")

    out: str
    annotations: str
    labels: str = "annchor-coarse"
    split: SplitConfig = SplitConfig()
    models: list[ModelName] = Field(["lstm", "cnn"], min_length=1)
    recipes: list[RecipeName] = Field(["paper", "localize"], min_length=1)
    seeds: list[Seed] = Field([0], min_length=1)
    overrides: Overrides = {}
    ensembles: dict[RunName, list[str]] = Field({}, description="by name, the <model>-<recipe> of all seeds to join")
    workers: int = Field(1, gt=0, description="of a run; more than one are Ray Train workers")
    data: str = Field("", description="what the models learn from, with its licence")

    _local = field_validator("out")(local_folder)

    @model_validator(mode="after")
    def _something(self) -> "ComparisonConfig":
        if not self.pairs():
            raise ValueError("there is nothing to train: the paper has no recipe for the transformer")
        for key in ("models", "recipes", "seeds"):  # two runs would write into one folder
            if len(set(getattr(self, key))) < len(getattr(self, key)):
                raise ValueError(f"{key} should be named once each")
        trained = {f"{model}-{name}" for model, name in self.pairs()}
        for name, members in self.ensembles.items():
            if unknown := set(members) - trained or ({"no member"} if not members else set()):
                raise ValueError(
                    f"ensemble {name}: {', '.join(sorted(unknown))}; there are {', '.join(sorted(trained))}"
                )
            if name in trained:
                raise ValueError(f"ensemble {name} is called as what it is made of")
        for more in self.variants():  # an error in `overrides` is told before hours of work
            recipes = {f"{pair[0]}-{pair[1]}": self.recipe_of(*pair, DEFAULT_STRIDE_S, more) for pair in self.pairs()}
            for name, members in self.ensembles.items():
                check_members(f"ensemble {name}", {member: recipes[member].model for member in members})
        return self

    def variants(self) -> list[dict[str, dict[str, Any]]]:
        """What goes over ``overrides``, for each kind of features."""
        return [{}]

    def pairs(self) -> list[tuple[ModelName, RecipeName]]:
        """Each model with each of its recipes; the paper has none for the transformer."""
        every = [(model, name) for model in self.models for name in self.recipes]
        return [pair for pair in every if pair != ("transformer", "paper")]

    def recipe_of(
        self, model: ModelName, name: RecipeName, stride_s: float = DEFAULT_STRIDE_S, *more: dict[str, dict[str, Any]]
    ) -> Recipe:
        """The shipped recipe for features that far apart, with the comparison's overrides on top, then ``more``."""
        values = recipe(model, name, stride_s).model_dump(mode="json")
        for overrides in (self.overrides, *more):
            for key in (name, f"{model}-{name}"):
                values = merged(values, overrides.get(key, {}))
        settings = validated(Recipe, values, where=f"overrides of {model}-{name}")
        Windows.of(settings)  # raises where a window is all context
        return settings


class ExtraConfig(BaseModel):
    """A further corpus: all its videos are trained on, and none is validated on."""

    model_config = ConfigDict(extra="forbid")

    store: str
    annotations: str


class FeatureSetting(BaseModel):
    """One kind of features to compare, and what is learnt from them beside the training videos."""

    model_config = ConfigDict(extra="forbid")

    name: RunName
    store: str
    spec: str | None = Field(None, description="id of the feature spec, where the store holds several")
    every: int = Field(1, gt=0, description="take every so many-th feature: what a longer stride gives")
    overrides: Overrides = Field({}, description="go over those of the comparison, such as model.upsample")
    mirrored: bool = Field(False, description="train on each video a second time, as a mirror shows it")
    extra: list[ExtraConfig] = Field([], description="further corpora, with features of the same spec")
    init: dict[ModelName, str] = Field({}, description="bundles to begin with; their projection is that of the setting")


class CompareConfig(ComparisonConfig):
    """A comparison on features that stand: one store, or several settings by name.

    Without ``projection`` one is fitted on the training videos of each split, of ``dim`` components.
    """

    store: str | None = None
    projection: str | None = None
    features: list[FeatureSetting] = []
    dim: int = Field(256, gt=0)

    @model_validator(mode="after")
    def _one_way(self) -> "CompareConfig":
        if (self.store is None) == (not self.features):
            raise ValueError("name a store, or features, a list of settings")
        if self.projection is not None and (self.features or self.split.folds):
            raise ValueError("a projection that stands goes with one store and no folds: others fit their own")
        names = [setting.name for setting in self.features]
        if len(set(names)) < len(names):
            raise ValueError("features should have names of their own")
        for setting in self.features:
            if unknown := set(setting.init) - set(self.models):
                raise ValueError(f"features {setting.name}, init: {', '.join(sorted(unknown))} is not compared")
        return self

    def variants(self) -> list[dict[str, dict[str, Any]]]:
        return [setting.overrides for setting in self.features] or [{}]
