"""Jobs over HTTP: work that outlives a request. Their state is in the data folder (:mod:`workflows.serve.jobstore`)."""

import asyncio
import hashlib
import json
import logging
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Annotated, Any

from fastapi import APIRouter, BackgroundTasks, FastAPI, Header, Query, Response
from fastapi.responses import StreamingResponse

from balletal.errors import BalletalError
from workflows.serve.bodies import BINARY
from workflows.serve.context import Context, Here, Owner, meanwhile
from workflows.serve.data import new_id
from workflows.serve.jobforms import (
    EVENT_SCHEMA,
    NEXT_PAGE,
    ErrorsPage,
    Format,
    JobBody,
    JobsPage,
    JobWanted,
    Key,
    Label,
    Limit,
    MinScore,
    ModelName,
    ResultsPage,
    job_body,
)
from workflows.serve.jobstore import Job, JobStore, Request, TooManyError, key_id
from workflows.serve.library import Id
from workflows.serve.media import LIMITED
from workflows.serve.models import model_of
from workflows.serve.places import output_uri
from workflows.serve.problems import Problem, answers
from workflows.serve.reconcile import end_cancelled, reconcile, stop, tend
from workflows.serve.results import MEDIA_TYPES, Position, export, job_errors, page
from workflows.serve.runner import Bundle, JobRunner
from workflows.serve.watch import POLL_S, Listener, Watch

log = logging.getLogger(__name__)

PING_S = 15.0
RETRY_S = 2
_TEND_S = 5.0


@asynccontextmanager
async def _life(app: FastAPI) -> AsyncIterator[None]:
    """Jobs are looked after while the app runs."""
    here: Context = app.state.context
    runner = here.backend.runner
    if runner is None:
        yield
        return
    async with meanwhile(tend(here.data, here.limits, runner)):
        yield


router = APIRouter(tags=["jobs"], lifespan=_life)


@router.post("/v1/jobs", status_code=202, responses=answers(404, 429, 507) | {200: {"model": JobBody}})
async def submit_job(
    here: Here, owner: Owner, wanted: JobWanted, response: Response, idempotency_key: Key = None
) -> JobBody:
    """Localize in any number of videos. The same `Idempotency-Key` with the same body is the same job (200)."""
    body, new = await submitted(here, owner, wanted, idempotency_key)
    response.status_code = 202 if new else 200
    response.headers["Location"] = body.links["self"]
    return body


async def submitted(here: Context, owner: str, wanted: JobWanted, key: str | None) -> tuple[JobBody, bool]:
    """The job of a request, and whether it is new.

    Args:
        key: of an owner's jobs, one alone has it.

    Raises:
        Problem: 404, no such model or video; 422; 429, too many jobs; 503, there are no jobs here.
    """
    asked = hashlib.sha256(json.dumps(wanted.model_dump(), sort_keys=True).encode()).hexdigest()
    store = JobStore(here.data)
    job_id = new_id() if key is None else key_id(owner, key)
    there = await asyncio.to_thread(store.job, job_id)
    if there is not None:
        job, new = there, False
    else:
        bundles = await _bundles(here, wanted.models)
        made = await asyncio.to_thread(_make, here, owner, job_id, wanted, bundles, asked)
        try:
            job, new = await asyncio.to_thread(store.submit, made, here.limits.max_jobs)
        except TooManyError:
            most = here.limits.max_jobs
            detail = f"{most} of your jobs are not finished. Wait for one, or cancel one."
            raise Problem(429, "quota", "Too many jobs", detail, max_jobs=most) from None
    if job.request.asked != asked:
        raise Problem(422, "idempotency-key-reused", "Key used before", "This key came with another body before.")
    await _reconciled(here, job)
    return await asyncio.to_thread(job_body, job), new


def _make(here: Context, owner: str, job_id: str, wanted: JobWanted, bundles: dict[str, Bundle], asked: str) -> Request:
    """The request as the driver needs it, its inputs checked."""
    limits = here.limits
    if len(wanted.inputs) > limits.max_inputs:
        detail = f"A job takes {limits.max_inputs} inputs; name a prefix for more."
        raise Problem(422, "bad-parameters", "Too many inputs", detail, max_inputs=limits.max_inputs)
    inputs = [one.resolved(here, owner) for one in wanted.inputs]
    copy_to = None if wanted.output_uri is None else output_uri(here, wanted.output_uri)
    return Request(
        job_id,
        owner,
        round(time.time(), 3),
        inputs,
        bundles,
        wanted.params.model_dump(),
        copy_to,
        asked,
        list(here.sources.allowed),
        limits.model_dump(include=LIMITED),
    )


@router.get("/v1/jobs")
def list_jobs(
    here: Here,
    owner: Owner,
    page_token: Annotated[str | None, Query(pattern=r"^\d{15}-[0-9a-f]{24}$", description=NEXT_PAGE)] = None,
    limit: Annotated[int, Query(ge=1, le=100, description="at most so many in a page")] = 20,
) -> JobsPage:
    """Your jobs, latest first."""
    store = JobStore(here.data)
    names = [name for name in store.of(owner) if page_token is None or name < page_token]
    found = store.listed(names[:limit])
    return JobsPage(
        jobs=[job_body(job) for job in found], next_page_token=names[limit - 1] if len(names) > limit else None
    )


@router.get("/v1/jobs/{job_id}", response_model=JobBody, responses=answers(404) | {304: {"description": "as it was"}})
async def show_job(
    here: Here,
    owner: Owner,
    job_id: Id,
    response: Response,
    if_none_match: Annotated[str | None, Header(max_length=1000, description="an `ETag` that was told")] = None,
) -> JobBody | Response:
    """One job. `Retry-After` says when to ask again, as long as it is not finished."""
    job = await asyncio.to_thread(_find, here, owner, job_id)
    await _reconciled(here, job)
    body = await asyncio.to_thread(job_body, job)
    etag = f'W/"{hashlib.sha256(body.model_dump_json(exclude={"updated"}).encode()).hexdigest()[:16]}"'
    headers = {"ETag": etag} | ({} if body.finished else {"Retry-After": str(RETRY_S)})
    if if_none_match is not None and etag in if_none_match:
        return Response(status_code=304, headers=headers)
    response.headers.update(headers)
    return body


@router.get(
    "/v1/jobs/{job_id}/events",
    response_class=StreamingResponse,
    responses=answers(404)
    | {
        200: {
            "content": {"text/event-stream": {"schema": EVENT_SCHEMA}},
            "description": "status, progress, segment, done",
        },
        204: {"description": "all was told"},
    },
)
async def job_events(
    here: Here,
    owner: Owner,
    job_id: Id,
    last_event_id: Annotated[int | None, Header(ge=0, le=10**12, description="of the last event that was seen")] = None,
) -> Response:
    """What happens to a job, as server-sent events, until it is done. `Last-Event-ID` goes on behind an event.

    `progress` has no id: only the latest counts.
    """
    job = await asyncio.to_thread(_find, here, owner, job_id)
    listener = await asyncio.to_thread(Listener, job, last_event_id or 0)
    if last_event_id and await asyncio.to_thread(job.done) is not None:
        await asyncio.to_thread(listener.read)
        if last_event_id > listener.last:  # the client has seen `done`, and a browser would ask for ever
            return Response(status_code=204)
        listener = await asyncio.to_thread(Listener, job, last_event_id)
    told = _told(here.watches.setdefault(job.id, Watch(job)), listener)
    return StreamingResponse(told, media_type="text/event-stream", headers={"X-Accel-Buffering": "no"})


async def _told(watch: Watch, listener: Listener) -> AsyncIterator[str]:
    progress, pinged = None, time.monotonic()
    while True:
        seen = await watch.look()
        if seen.last > listener.last:
            for event in await asyncio.to_thread(listener.read):
                yield _event(event.name, event.data, event.id)
        latest = seen.body.progress.model_dump() | {"counts": seen.body.counts.model_dump()}
        if latest != progress:
            progress = latest
            yield _event("progress", latest)
        if seen.body.finished:
            yield _event("done", seen.body.model_dump(mode="json"), listener.last + 1)
            return
        if time.monotonic() - pinged > PING_S:
            pinged = time.monotonic()
            yield ": ping\n\n"
            if not await asyncio.to_thread(listener.job.there):  # it was removed
                return
        await asyncio.sleep(POLL_S)


def _event(name: str, data: Mapping[str, Any], number: int | None = None) -> str:
    head = f"event: {name}\n" if number is None else f"id: {number}\nevent: {name}\n"
    return f"{head}data: {json.dumps(data, ensure_ascii=False, allow_nan=False)}\n\n"


@router.post("/v1/jobs/{job_id}/cancel", status_code=202, responses=answers(404, 409, 507))
async def cancel_job(here: Here, owner: Owner, job_id: Id, background: BackgroundTasks) -> JobBody:
    """Stop a job. What models that were through had found can still be read."""
    job = await asyncio.to_thread(_find, here, owner, job_id)
    if await asyncio.to_thread(job.done):
        raise Problem(409, "conflict", "Finished", "The job is finished.")
    await asyncio.to_thread(job.cancel)
    if not await asyncio.to_thread(end_cancelled, job):
        raise Problem(409, "conflict", "Finished", "The job finished just now.")
    if (runner := here.backend.runner) is not None:
        background.add_task(stop, job, runner)  # which may take some seconds
    return await asyncio.to_thread(job_body, job)


@router.delete("/v1/jobs/{job_id}", status_code=204, responses=answers(404, 409))
def remove_job(here: Here, owner: Owner, job_id: Id) -> None:
    """Remove a finished job and its results; copies at an `output_uri` stay."""
    job = _find(here, owner, job_id)
    if job.done() is None:
        raise Problem(409, "conflict", "Not finished", "The job is not finished. Cancel it first.")
    job.remove()


@router.get("/v1/jobs/{job_id}/results", responses=answers(404))
def list_results(
    here: Here,
    owner: Owner,
    job_id: Id,
    page_token: Annotated[str | None, Query(pattern=r"^\d{1,4}\.\d{1,12}$", description=NEXT_PAGE)] = None,
    limit: Limit = 1000,
    model: ModelName = None,
    label: Label = None,
    min_score: MinScore = 0.0,
) -> ResultsPage:
    """What was found: by model, video and time. Before the job is finished, that of the models that are."""
    job = _find(here, owner, job_id)
    start = Position.parse(page_token) if page_token else Position()
    named = None if model is None else _model(job, model)
    segments, following = page(job, start, limit, model=named, label=label, min_score=min_score)
    return ResultsPage.model_validate(
        {"segments": segments, "next_page_token": None if following is None else str(following)}
    )


@router.get("/v1/jobs/{job_id}/errors", responses=answers(404))
def list_errors(
    here: Here,
    owner: Owner,
    job_id: Id,
    page_token: Annotated[str | None, Query(pattern=r"^\d{1,12}$", description=NEXT_PAGE)] = None,
    limit: Limit = 1000,
) -> ErrorsPage:
    """What failed, input by input."""
    found, first = job_errors(_find(here, owner, job_id)), int(page_token or 0)
    following = str(first + limit) if first + limit < len(found) else None
    return ErrorsPage.model_validate({"errors": found[first : first + limit], "next_page_token": following})


@router.get(
    "/v1/jobs/{job_id}/export",
    response_class=Response,
    responses=answers(404, 409)
    | {200: {"content": dict.fromkeys(MEDIA_TYPES.values(), BINARY), "description": "the file"}},
)
def export_job(
    here: Here,
    owner: Owner,
    job_id: Id,
    format: Annotated[Format, Query(description="of several videos, vtt, srt, eaf and otio come as a zip file")],
    model: ModelName = None,
    min_score: MinScore = 0.0,
    video_id: Annotated[str | None, Query(min_length=1, max_length=2048, description="of one video alone")] = None,
) -> Response:
    """The detections of one model (the job's first one where none is named) for another program."""
    job = _find(here, owner, job_id)
    if job.done() is None:
        raise Problem(409, "conflict", "Not finished", "The job is not finished.")
    named = _model(job, model) if model else next(iter(job.request.bundles))
    found = export(job, named, format, min_score=min_score, video_id=video_id)
    if found is None:
        raise Problem(404, "not-found", "No results", "The job has no results of this model and video.")
    disposition = f'attachment; filename="{job.id[:8]}-{found.name}"'
    return Response(found.content, media_type=found.media_type, headers={"Content-Disposition": disposition})


def _find(here: Context, owner: str, job_id: str) -> Job:
    """A job of an owner; those of others are answered as if they were not there."""
    job = JobStore(here.data).job(job_id)
    if job is None or job.request.owner != owner:
        raise Problem(404, "not-found", "No such job", "There is no job of yours with this id.")
    return job


def _model(job: Job, name: str) -> str:
    """The ``name@version`` of a model of the job, from that or a name alone."""
    found = [one for one in job.request.bundles if name in (one, one.partition("@")[0])]
    if not found:
        raise Problem(404, "not-found", "No such model", f"The job's models are {', '.join(job.request.bundles)}.")
    return found[-1]


async def _bundles(here: Context, names: list[str] | None) -> dict[str, Bundle]:
    """Bundles by ``name@version``, of names with or without a version; None: the default one."""
    runner = here.backend.runner
    if runner is None:
        raise Problem(503, "not-ready", "No jobs", "This service does no jobs.")
    models = [await model_of(here, name) for name in names or (None,)]
    return {model.id: runner.bundles[model.id] for model in models}


async def _reconciled(here: Context, job: Job) -> None:
    """Look after a job. A client waits a moment for it: a cluster may take a minute to say that it takes no jobs."""
    if (runner := here.backend.runner) is None:
        return
    if (task := here.tended.get(job.id)) is None:
        task = here.tended[job.id] = asyncio.create_task(_tended(job, runner))
        task.add_done_callback(lambda _: here.tended.pop(job.id, None))
    await asyncio.wait({task}, timeout=_TEND_S)


async def _tended(job: Job, runner: JobRunner) -> None:
    try:
        await reconcile(job, runner)
    except (BalletalError, RuntimeError, OSError) as error:  # the next one may reach the cluster
        log.warning("job %s is not looked after: %s", job.id, error)
