"""The app on Ray Serve: a gateway that speaks HTTP, extractors that hold a backbone each, a localizer with the models.

Each deployment has one job and can be given its own number of replicas: none keeps anything between requests.
"""

import asyncio
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import pandas as pd
import torch
from fastapi import FastAPI
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field
from ray import serve
from ray.exceptions import RayActorError, RayTaskError
from ray.serve.handle import DeploymentHandle
from ray.serve.schema import ApplicationStatus

from balletal.backbones.spec import FeatureSpec
from balletal.errors import InputError
from balletal.features.extractor import Extractor, Weights, keep_freed_memory
from balletal.features.store import VideoFeatures
from balletal.tal.localizer import Localizer
from balletal.video.probe import VideoInfo
from workflows.serve.access import TOKENS, Access, session_secret, tokens_from
from workflows.serve.app import create_app
from workflows.serve.backend import (
    WHOLE,
    Answer,
    JobRunner,
    Model,
    Part,
    features_of,
    live_features,
    localize_part,
    video_features,
)
from workflows.serve.bundles import for_jobs, load_bundles, weights_of
from workflows.serve.data import Data
from workflows.serve.limits import Limits
from workflows.serve.metrics import Metrics, Stages
from workflows.serve.problems import Problem
from workflows.serve.ray_metrics import RayRegistry
from workflows.serve.runner import RayRunner
from workflows.serve.sources import Sources

APP = "balletal"

# The gateway's log is one line a request; what the others do for it needs none.
_QUIET = {"log_level": "WARNING", "enable_access_log": False}
# Requests that are let finish when a replica goes: a video of 30 s on a CPU is the longest of them.
_DRAIN_S = 60.0
_BATCH = 16


@serve.deployment(name="Extractor", max_ongoing_requests=2, logging_config=_QUIET, graceful_shutdown_timeout_s=_DRAIN_S)
class ExtractorReplica:
    """Makes the features of one spec, one piece of work at a time; the next one waits here already."""

    def __init__(self, spec: FeatureSpec, weights: Weights, flow: str | None, threads: int) -> None:
        torch.set_num_threads(threads)
        keep_freed_memory()
        self.extractor = Extractor(spec, weights, flow=flow)
        # No lock: a request that is cancelled would let it go while its work goes on.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="extract")

    async def video(self, video: str | bytes, info: VideoInfo, part: Part) -> tuple[VideoFeatures, list[str]]:
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._video, video, info, part)

    def _video(self, video: str | bytes, info: VideoInfo, part: Part) -> tuple[VideoFeatures, list[str]]:
        if isinstance(video, str):
            return video_features(self.extractor, video, info, part)
        with tempfile.TemporaryDirectory(prefix="balletal-") as folder:
            path = Path(folder) / "upload"
            path.write_bytes(video)
            return video_features(self.extractor, str(path), info, part)

    async def frames(self, pixels: NDArray[np.uint8], clips: int | None) -> NDArray[np.float32]:
        made = partial(live_features, self.extractor, pixels, clips)
        return await asyncio.get_running_loop().run_in_executor(self._thread, made)


class Work(NamedTuple):
    """What a localizer is asked: the arguments of :func:`localize_part`. ``duration`` None: to the last feature."""

    model: str
    video: VideoFeatures
    duration: float | None
    part: Part = WHOLE


@serve.deployment(
    name="Localizer",
    max_ongoing_requests=2 * _BATCH,
    ray_actor_options={"num_cpus": 0.25},
    logging_config=_QUIET,
    graceful_shutdown_timeout_s=_DRAIN_S,
)
class LocalizerReplica:
    """Projection, model and decoding of every bundle."""

    def __init__(self, bundles: Mapping[str, Localizer], batch: int) -> None:
        torch.set_num_threads(1)
        self.bundles = bundles
        cast(Any, self.localize).set_max_batch_size(batch)

    @serve.batch(max_batch_size=_BATCH, batch_wait_timeout_s=0.0)
    async def localize(self, batch: list[Work]) -> list[pd.DataFrame]:
        """What waits is taken as one; the model runs once for each all the same.

        One pass for eight videos of 30 s costs the cnn and the transformer as much as eight passes (one CPU thread:
        0.16 s for 0.09 s, 0.60 s for 0.55 s), the lstm half as much (0.28 s for 0.58 s), where a video's backbone
        takes seconds. And a pass of its own gives a video the same digits in whatever company it comes.
        """
        return await asyncio.to_thread(lambda: [self._localize(work) for work in batch])

    def _localize(self, work: Work) -> pd.DataFrame | InputError:
        try:
            return localize_part(self.bundles[work.model], *work[1:])
        except InputError as error:  # of one request: the others of the batch have their answers
            return error

    async def bundle(self, model: str) -> Localizer:
        return self.bundles[model]


class HandleBackend:
    """The backend of the app inside Serve: it asks the other deployments.

    Args:
        extractors: by spec.
        models: the last is the default.
        runner: of jobs.
    """

    def __init__(
        self,
        extractors: Mapping[str, DeploymentHandle],
        localizer: DeploymentHandle,
        models: Sequence[Model],
        runner: JobRunner | None = None,
    ) -> None:
        self._models, self._localizer = models, localizer
        self._extractors = {model.id: extractors[model.spec.spec_id] for model in models}
        self._specs = {model.id: model.spec for model in models}
        self._here: dict[str, Localizer] = {}
        self.runner = runner

    async def ready(self) -> bool:
        applications = (await asyncio.to_thread(serve.status)).applications
        return APP in applications and applications[APP].status == ApplicationStatus.RUNNING

    async def models(self) -> Sequence[Model]:
        return self._models

    async def localizer(self, model: str) -> Localizer:
        if model not in self._here:
            with _told_if_gone():
                self._here[model] = await self._localizer.bundle.remote(model)
        return self._here[model]

    async def localize(self, model: str, video: str | Path, info: VideoInfo, part: Part = WHOLE) -> Answer:
        content = await asyncio.to_thread(video.read_bytes) if isinstance(video, Path) else video
        stage = Stages()
        try:
            with stage("features"), _told_if_gone():
                features, warnings = await self._extractors[model].video.remote(content, info, part)
        except RayTaskError as error:
            # Ray's own error is of both types and holds ours, whose fields it does not have.
            raise error.cause from None
        with stage("localize"):
            found = await self._localized(Work(model, features, info.duration, part))
        return Answer(found, warnings, stage)

    async def infer(
        self, model: str, features: NDArray[np.float32], start_s: NDArray[np.float64], *, min_score: float = 0.0
    ) -> pd.DataFrame:
        video = features_of(features, start_s, self._specs[model])
        return await self._localized(Work(model, video, None, Part(min_score=min_score)))

    async def _localized(self, work: Work) -> pd.DataFrame:
        with _told_if_gone():
            found = await self._localizer.localize.remote(work)
        if isinstance(found, InputError):
            raise found
        return found

    async def features(self, model: str, pixels: NDArray[np.uint8], clips: int | None = None) -> NDArray[np.float32]:
        with _told_if_gone():
            made: NDArray[np.float32] = await self._extractors[model].frames.remote(pixels, clips)
        return made


@contextmanager
def _told_if_gone() -> Iterator[None]:
    """The answer when a replica dies that was asked: another one, or the next, may be asked the same."""
    try:
        yield
    except RayActorError:
        detail = "A part of the service ended while it worked on this. Try again."
        raise Problem(503, "busy", "Busy", detail) from None


@serve.deployment(
    name="Gateway",
    max_ongoing_requests=1000,
    ray_actor_options={"num_cpus": 0.25},
    logging_config={"encoding": "JSON", "enable_access_log": False},
    graceful_shutdown_timeout_s=_DRAIN_S,
)
@serve.ingress()
class Gateway:
    """The HTTP app; no model in it."""

    def __init__(
        self,
        extractors: Mapping[str, DeploymentHandle],
        localizer: DeploymentHandle,
        models: Sequence[Model],
        runner: JobRunner,
        data: Data,
        limits: Limits,
        access: Access,
        sources: Sources,
        outputs: Sources,
    ) -> None:
        self.backend = HandleBackend(extractors, localizer, models, runner)
        self.parts = data, limits, access, sources, outputs

    def __serve_build_asgi_app__(self) -> FastAPI:
        return create_app(self.backend, *self.parts, Metrics(RayRegistry()))


class ServeArgs(BaseModel):
    """What a Serve config file says under ``args``."""

    model_config = ConfigDict(extra="forbid")

    bundles: list[str] = Field(min_length=1, description="folders that all nodes reach; the last is the default")
    data: str = Field(min_length=1, description="folder for uploads, videos and jobs that all nodes reach")
    tokens: str | None = Field(None, description="file of tokens; none: BALLETAL_TOKENS of the environment")
    insecure: bool = Field(False, description="no tokens: whoever reaches the service may use it")
    sources: tuple[str, ...] = Field((), description="places that clients may name: s3://bucket/prefix, folders")
    outputs: tuple[str, ...] = Field((), description="places that clients may have results copied to")
    weights: list[str] | None = Field(None, description="of the backbones, where they are not their own")
    flow: str | None = Field(None, description="file of the optical flow module")
    limits: Limits = Limits()
    replicas: int = Field(1, ge=1, description="of the gateway; at most so many of each other deployment")
    cpus: float = Field(2.0, gt=0, description="that an extractor reserves")
    gpus: float = Field(0.0, ge=0, description="that an extractor reserves")
    threads: int | None = Field(None, gt=0, description="of an extractor; none: one a CPU")
    batch: int = Field(_BATCH, gt=0, le=_BATCH, description="requests that a localizer takes as one, at the most")


def build(args: ServeArgs) -> serve.Application:
    """The application of a Serve config file (`cluster/serve_config.yaml`).

    Raises:
        InputError: as :func:`workflows.serve.bundles.load_bundles`; no tokens, though the service is not said to be
            insecure.
    """
    tokens = tokens_from(args.tokens)
    if not tokens and not args.insecure:
        raise InputError("tokens", expected=f"a file, {TOKENS}, or insecure: true", found="none")
    secret = session_secret(args.data) if tokens else b""
    return application(args, Access(tokens, secret), load_bundles(args.bundles, args.weights, args.flow))


def application(args: ServeArgs, access: Access, bundles: Sequence[Localizer]) -> serve.Application:
    """The Serve application of bundles.

    Args:
        bundles: what :func:`workflows.serve.bundles.load_bundles` made of those in ``args``.
    """
    # The decorator turned the classes into deployments, which type checkers do not see.
    extractor_replica, localizer_replica, gateway = cast(Any, (ExtractorReplica, LocalizerReplica, Gateway))
    options = {"num_cpus": args.cpus, "num_gpus": args.gpus}
    threads = args.threads or max(1, int(args.cpus))
    extractors = {
        spec.spec_id: extractor_replica.options(
            name=f"Extractor-{spec.spec_id}", ray_actor_options=options, **_scaled(args.replicas, 2)
        ).bind(spec, weights_of(spec, args.weights), args.flow, threads)
        for spec in dict.fromkeys(one.spec for one in bundles)
    }
    models = [Model.of(one) for one in bundles]
    by_id = {model.id: one for model, one in zip(models, bundles, strict=True)}
    localizer = localizer_replica.options(**_scaled(args.replicas, _BATCH)).bind(by_id, args.batch)
    runner = RayRunner(for_jobs(args.bundles, bundles, args.weights, args.flow))
    parts = (runner, Data(args.data), args.limits, access, Sources(args.sources), Sources(args.outputs))
    return gateway.options(num_replicas=args.replicas).bind(extractors, localizer, models, *parts)


def _scaled(replicas: int, ongoing: int) -> dict[str, Any]:
    """As many replicas as the requests under way want, from one on."""
    if replicas == 1:
        return {"num_replicas": 1}
    return {
        "autoscaling_config": {
            "min_replicas": 1,
            "max_replicas": replicas,
            "target_ongoing_requests": ongoing / 2,
        }
    }
