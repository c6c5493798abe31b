"""The models over HTTP: which there are, and what they find in features (Open Inference Protocol v2)."""

import asyncio
from typing import Annotated, Literal

import numpy as np
from fastapi import APIRouter, Path, Request
from numpy.typing import NDArray
from pydantic import BaseModel, Field

from balletal.errors import InputError
from balletal.video.clips import clip_times
from workflows.serve.backend import Model, pick
from workflows.serve.bodies import Strict, check_media_type, parsed
from workflows.serve.context import Context, Here, Owner
from workflows.serve.limits import Limits
from workflows.serve.problems import Problem, answers

router = APIRouter(tags=["models"])

NAME = r"^[A-Za-z0-9_.+-]{1,100}(@[A-Za-z0-9_.+-]{1,100})?$"
"""``name`` or ``name@version``."""

Name = Annotated[str, Path(pattern=NAME, description="`name` (the version that was named last) or `name@version`")]


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
async def list_models(here: Here, owner: Owner) -> Models:
    """The models."""
    served = await here.backend.models()
    return Models(models=[ModelBody.of(one, here.limits) for one in served], default=served[-1].id)


@router.get("/v1/models/{name}", responses=answers(404))
async def show_model(here: Here, owner: Owner, name: Name) -> ModelBody:
    """One model."""
    return ModelBody.of(await model_of(here, name), here.limits)


Finite = Annotated[float, Field(allow_inf_nan=False, strict=True)]
# Up to the first that is none: an error has a hundred times the bytes of what is wrong.
Row = Annotated[list[Finite], Field(fail_fast=True)]
Rows = Annotated[list[Row], Field(fail_fast=True)]


class Tensor(Strict):
    """Features: row ``t`` is what the extractor made of window ``t`` of the video."""

    name: Literal["features"]
    shape: Annotated[list[Annotated[int, Field(ge=1, le=1 << 24)]], Field(min_length=2, max_length=2)]
    datatype: Literal["FP32"]
    data: Row | Rows = Field(description="row after row, or a list of rows")

    def array(self) -> NDArray[np.float32]:
        """(T, D) float32."""
        rows = self.data if self.data and isinstance(self.data[0], list) else [self.data]
        lengths = {len(row) for row in rows}
        if sum(map(len, rows)) != self.shape[0] * self.shape[1] or (len(rows) > 1 and lengths != {self.shape[1]}):
            raise Problem(422, "bad-parameters", "Parameters out of range", f"data: not of shape {self.shape}")
        with np.errstate(over="ignore"):  # too large for float32: told as not finite
            return np.asarray(rows, dtype=np.float64).astype(np.float32).reshape(self.shape)


class InferParameters(Strict):
    """What the sender takes the features to be; refused where the model's are others."""

    spec_id: str | None = Field(None, max_length=64)
    stride_s: Finite | None = None
    min_score: float = Field(0.0, ge=0, le=1, allow_inf_nan=False, description="lowest score")


class Inference(Strict):
    """A request of the Open Inference Protocol."""

    id: str | None = Field(None, max_length=128)
    parameters: InferParameters = InferParameters()
    inputs: Annotated[list[Tensor], Field(min_length=1, max_length=1)]


class Output(BaseModel):
    name: Literal["label", "start", "end", "score"]
    shape: list[int]
    datatype: Literal["BYTES", "FP64"]
    data: list[str] | list[float]


class Inferred(BaseModel):
    """The segments, a column an output; sorted by start, then falling score. Seconds."""

    model_name: str
    model_version: str
    id: str | None = None
    outputs: list[Output]


_BODY = {"required": True, "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Inference"}}}}


@router.post(
    "/v2/models/{name}/infer",
    responses=answers(404, 415),
    response_model_exclude_none=True,
    openapi_extra={"requestBody": _BODY},
)
async def infer(here: Here, owner: Owner, name: Name, request: Request) -> Inferred:
    """Find the steps in features."""
    check_media_type(request, "application/json")
    model = await model_of(here, name)
    body = await parsed(request, Inference)
    features = await asyncio.to_thread(body.inputs[0].array)
    _require_spec(model, body.parameters, features.shape[1])
    start_s, _ = clip_times(0, len(features), model.spec)
    try:
        found = await here.backend.infer(model.id, features, start_s, min_score=body.parameters.min_score)
    except InputError as error:
        detail = f"features: expected {error.expected}, found {error.found}"
        raise Problem(422, "bad-parameters", "Parameters out of range", detail) from None
    outputs = [
        Output(name=column, shape=[len(found)], datatype=kind, data=found[column].tolist())
        for column, kind in (("label", "BYTES"), ("start", "FP64"), ("end", "FP64"), ("score", "FP64"))
    ]
    return Inferred(model_name=model.name, model_version=model.version, id=body.id, outputs=outputs)


def _require_spec(model: Model, said: InferParameters, dim: int) -> None:
    """Features of another kind than the model's would be taken for something else without a word."""
    spec = model.spec
    pairs = {
        "D": (spec.dim, dim),
        "spec_id": (spec.spec_id, said.spec_id or spec.spec_id),
        "stride_s": (spec.stride_s, spec.stride_s if said.stride_s is None else said.stride_s),
    }
    for what, (expected, found) in pairs.items():
        if expected != found:
            detail = f"{model.id} reads features of {what} {expected}, found {found}."
            raise Problem(422, "spec-mismatch", "Other features than the model's", detail)
