"""The app on Ray Serve: a gateway that speaks HTTP, an extractor that holds the backbone, a localizer with the model.

Each deployment has one job and can be given its own number of replicas: none keeps anything between requests.
"""

import asyncio
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pandas as pd
import torch
from fastapi import FastAPI
from ray import serve
from ray.exceptions import RayTaskError
from ray.serve.handle import DeploymentHandle
from ray.serve.schema import ApplicationStatus

from balletal.features.extractor import Extractor, Weights, keep_freed_memory
from balletal.features.store import VideoFeatures
from balletal.tal.localizer import Localizer
from balletal.video.probe import VideoInfo
from workflows.serve.app import create_app
from workflows.serve.backend import Answer, Model, video_features

APP = "balletal"


# The gateway's access log is one line a request; what the others do for it needs none.
_QUIET = {"log_level": "WARNING", "enable_access_log": False}


@serve.deployment(name="Extractor", max_ongoing_requests=1, logging_config=_QUIET)
class ExtractorReplica:
    """Makes the features of one bundle's spec, one video at a time."""

    def __init__(self, localizer: Localizer, weights: Weights, flow: str | None, threads: int) -> None:
        torch.set_num_threads(threads)
        keep_freed_memory()
        self.extractor = Extractor(localizer.spec, weights, flow=flow)

    def features(self, video: bytes, info: VideoInfo) -> tuple[VideoFeatures, list[str]]:
        with tempfile.TemporaryDirectory(prefix="balletal-") as folder:
            path = Path(folder) / "upload"
            path.write_bytes(video)
            return video_features(self.extractor, path, replace(info, uri=str(path)))


@serve.deployment(name="Localizer", max_ongoing_requests=1, ray_actor_options={"num_cpus": 0.25}, logging_config=_QUIET)
class LocalizerReplica:
    """Projection, model and decoding of one bundle."""

    def __init__(self, localizer: Localizer) -> None:
        self.localizer = localizer

    def localize(self, video: VideoFeatures, duration: float, min_score: float, top_k: int | None) -> pd.DataFrame:
        return self.localizer.localize(video, duration=duration, min_score=min_score, top_k=top_k)


class HandleBackend:
    """The backend of the app inside Serve: it asks the other deployments."""

    def __init__(self, extractor: DeploymentHandle, localizer: DeploymentHandle, model: Model) -> None:
        self.extractor, self.localizer, self._model = extractor, localizer, model

    async def ready(self) -> bool:
        applications = (await asyncio.to_thread(serve.status)).applications
        return APP in applications and applications[APP].status == ApplicationStatus.RUNNING

    async def model(self) -> Model:
        return self._model

    async def localize(self, video: Path, info: VideoInfo, *, min_score: float, top_k: int | None) -> Answer:
        content = await asyncio.to_thread(video.read_bytes)
        try:
            features, warnings = await self.extractor.features.remote(content, info)
            segments = await self.localizer.localize.remote(features, info.duration, min_score, top_k)
        except RayTaskError as error:
            # Ray's own error is of both types and holds ours, whose fields it does not have.
            raise error.cause from None
        return Answer(segments, warnings)


@serve.deployment(name="Gateway", max_ongoing_requests=100, ray_actor_options={"num_cpus": 0.25})
@serve.ingress()
class Gateway:
    """The HTTP app; no model in it."""

    def __init__(self, extractor: DeploymentHandle, localizer: DeploymentHandle, model: Model) -> None:
        self.backend = HandleBackend(extractor, localizer, model)

    def __serve_build_asgi_app__(self) -> FastAPI:
        return create_app(self.backend)


def application(
    localizer: Localizer, weights: Weights = None, flow: str | None = None, *, cpus: float = 2, gpus: float = 0
) -> serve.Application:
    """The Serve application of a bundle.

    Args:
        weights, flow: of the backbone, where they are not its own; readable on every node.
        cpus, gpus: of the largest node. The extractor gets a GPU when there is one, else most of up to four CPUs.
    """
    # Half a CPU is for the gateway and the localizer; what is left over on a machine of one CPU is a quarter.
    share = max(0.25, min(4.0, cpus - 1))
    options = {"num_cpus": 0.5, "num_gpus": 1} if gpus >= 1 else {"num_cpus": share, "num_gpus": 0}
    # The decorator turned the classes into deployments, which type checkers do not see.
    extractor_replica, localizer_replica, gateway = cast(Any, (ExtractorReplica, LocalizerReplica, Gateway))
    threads = max(1, int(min(4, cpus)))
    features = extractor_replica.options(ray_actor_options=options).bind(localizer, weights, flow, threads)
    segments = localizer_replica.bind(localizer)
    return gateway.bind(features, segments, Model(localizer.name, localizer.digest))
