"""The models over HTTP: which there are, and what they find in features (Open Inference Protocol v2)."""

from typing import Annotated

from fastapi import APIRouter, Path
from pydantic import BaseModel, Field

from workflows.serve.backend import Model, pick
from workflows.serve.context import Context, Here, Owner
from workflows.serve.limits import Limits
from workflows.serve.problems import Problem, answers

router = APIRouter()

NAME = r"^[A-Za-z0-9_.+-]{1,100}(@[A-Za-z0-9_.+-]{1,100})?$"
"""``name`` or ``name@version``."""

Name = Annotated[str, Path(pattern=NAME, description="`name` (its newest version) or `name@version`")]


async def model_of(here: Context, name: str | None) -> Model:
    """The model of a name, None for the default one.

    Raises:
        Problem: 404, there is none.
    """
    models = await here.backend.models()
    model = models[-1] if name is None else pick(models, name)
    if model is None:
        known = ", ".join(one.id for one in models)
        raise Problem(404, "not-found", "No such model", f"There are: {known}.")
    return model


class Feature(BaseModel):
    """The features that a model reads."""

    extractor: str
    dim: int
    stride_s: float = Field(description="seconds between features")
    spec_id: str


class ModelLimits(BaseModel):
    max_localize_s: float = Field(description="of video that a request answers for at once")


class ModelBody(BaseModel):
    """A bundle that is served."""

    name: str
    version: str
    digest: str = Field(description="sha256 over all that decides a detection")
    labels: list[str]
    tags: list[str]
    feature: Feature
    limits: ModelLimits

    @classmethod
    def of(cls, model: Model, limits: Limits) -> "ModelBody":
        spec = model.spec
        return cls(
            name=model.name,
            version=model.version,
            digest=model.digest,
            labels=list(model.labels),
            tags=list(model.tags),
            feature=Feature(extractor=spec.backbone, dim=spec.dim, stride_s=spec.stride_s, spec_id=spec.spec_id),
            limits=ModelLimits(max_localize_s=limits.max_localize_s),
        )


class Models(BaseModel):
    models: list[ModelBody]
    default: str = Field(description="the one that answers where none is named")


@router.get("/v1/models")
async def models(here: Here, owner: Owner) -> Models:
    """The models."""
    served = await here.backend.models()
    return Models(models=[ModelBody.of(one, here.limits) for one in served], default=served[-1].id)


@router.get("/v1/models/{name}", responses=answers(404))
async def model(here: Here, owner: Owner, name: Name) -> ModelBody:
    """One model."""
    return ModelBody.of(await model_of(here, name), here.limits)
