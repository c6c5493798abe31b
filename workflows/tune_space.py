"""Where `balletal tune` searches: a domain for each value of a recipe, named by its path."""

from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator

from balletal.errors import InputError
from balletal.tal.config import Recipe
from balletal.tal.windows import Windows
from workflows.config import merged, validated

# A study gives every trial the same epochs; how long a recipe trains is its own decision.
_FIXED = ("optim.epochs", "model.name", "seed")


class Domain(BaseModel):
    """The values that one setting may take: exactly one of the four."""

    model_config = ConfigDict(extra="forbid")

    uniform: tuple[float, float] | None = None
    loguniform: tuple[float, float] | None = None
    integer: tuple[int, int] | None = Field(None, description="both ends may be drawn")
    choice: list[Any] | None = Field(None, min_length=1)

    @model_validator(mode="after")
    def _one(self) -> "Domain":
        if len(self.model_fields_set) != 1:
            raise ValueError("name one of uniform, loguniform, integer, choice")
        for ends in (self.uniform, self.loguniform, self.integer):
            if ends is not None and not ends[0] < ends[1]:
                raise ValueError("the lower end comes first")
        if self.loguniform is not None and self.loguniform[0] <= 0:
            raise ValueError("loguniform begins above 0")
        return self

    def draw(self, random: np.random.Generator) -> Any:
        """A value; numbers of four digits, so that what is found can be read."""
        if self.choice is not None:
            return self.choice[int(random.integers(len(self.choice)))]
        if self.integer is not None:
            return int(random.integers(self.integer[0], self.integer[1], endpoint=True))
        if self.loguniform is not None:
            low, high = self.loguniform
            return float(np.clip(float(f"{np.exp(random.uniform(np.log(low), np.log(high))):.4g}"), low, high))
        assert self.uniform is not None
        low, high = self.uniform
        return float(np.clip(float(f"{random.uniform(low, high):.4g}"), low, high))

    @property
    def edges(self) -> list[Any]:
        """Values that stand for all: the choices, or both ends."""
        return list(self.choice or self.integer or self.loguniform or self.uniform or ())


Space = dict[str, Domain]


def check_space(space: Space, base: Recipe, seed: int, trials: int) -> None:
    """That every value of the space makes a recipe that can be used, and so does every trial.

    Raises:
        InputError: names the path that no recipe has, or the value that it does not take.
    """
    values = base.model_dump(mode="json")
    for path, domain in space.items():
        if path in _FIXED:
            raise InputError(f"space: {path}", expected="a value that a study may vary", found="one that it fixes")
        for value in domain.edges:
            validated(Recipe, merged(values, _nested(path, value)), where=f"space: {path}")
    for trial in range(trials):
        Windows.of(draw(space, base, seed, trial)[1])


def draw(space: Space, base: Recipe, seed: int, trial: int) -> tuple[dict[str, Any], Recipe]:
    """The values of one trial by path, and its recipe; each draw depends on no other trial and no other path."""
    drawn = {path: domain.draw(np.random.default_rng([seed, trial, *path.encode()])) for path, domain in space.items()}
    values = base.model_dump(mode="json")
    for path, value in drawn.items():
        values = merged(values, _nested(path, value))
    return drawn, validated(Recipe, values, where=f"trial {trial}")


def _nested(path: str, value: Any) -> dict[str, Any]:
    for key in reversed(path.split(".")):
        value = {key: value}
    return value
