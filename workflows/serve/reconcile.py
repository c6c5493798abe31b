"""Keeps jobs going: a job that is not finished has a driver, whatever became of replicas, drivers and machines.

Every replica does this, all the time and whenever it is asked for a job; they may do it at once.
"""

import asyncio
import logging
import time

from workflows.serve.data import Data
from workflows.serve.jobstore import Done, Job, JobStore
from workflows.serve.limits import Limits
from workflows.serve.runner import JobRunner

log = logging.getLogger(__name__)

MAX_ATTEMPTS = 5
STALE_S = 60.0
"""A driver that has told nothing for so long is taken for dead where nothing else is known of it."""
EVERY_S = 5.0
_SWEEP_S = 600.0


async def reconcile(job: Job, runner: JobRunner) -> None:
    """Give a job a driver if it needs one, end one that was cancelled or tried too often."""
    if await asyncio.to_thread(job.done):
        return
    attempt, started = await asyncio.to_thread(job.attempt)
    if await asyncio.to_thread(job.cancelled):
        await asyncio.to_thread(end_cancelled, job)
        await stop(job, runner)
        return
    if attempt:
        if await _alive(job, runner, attempt, started):
            return
        if await asyncio.to_thread(job.done):  # it ended while we looked
            return
        if attempt >= MAX_ATTEMPTS:
            await asyncio.to_thread(_give_up, job, attempt)
            return
    if await asyncio.to_thread(job.begin, attempt + 1):
        try:
            await runner.submit(job.folder, job.submission(attempt + 1))
        except Exception:  # a cluster that takes no jobs: that was none of the job's attempts
            await asyncio.to_thread(job.withdraw, attempt + 1)
            raise


async def _alive(job: Job, runner: JobRunner, attempt: int, started: float) -> bool:
    """Whether a driver is at work or will be. One that was just submitted may not be known yet."""
    status = await runner.status(job.submission(attempt))
    if status == "pending":
        return True
    if status == "ended":
        return False
    state = await asyncio.to_thread(job.state)
    heartbeat = state.heartbeat if state is not None and state.attempt == attempt else 0.0
    if time.time() - max(heartbeat, started) < STALE_S:
        return True
    if status == "running":
        if not heartbeat:
            return True  # it is not as far as its first report: a runtime environment is being made
        await runner.stop(job.submission(attempt))
    return False


def _give_up(job: Job, attempt: int) -> None:
    state = job.state()
    reason = state.error if state is not None and state.error else "its process died each time"
    job.finish(Done("failed", time.time(), job.skipped(state), f"The job was tried {attempt} times: {reason}"))


def end_cancelled(job: Job) -> bool:
    """End a job that somebody does not want any more, and say whether it ended so."""
    return job.finish(Done("cancelled", time.time(), job.skipped(job.state())))


async def stop(job: Job, runner: JobRunner) -> None:
    """End the driver of a job that is not wanted any more. One that cannot be reached ends by itself."""
    attempt, _ = await asyncio.to_thread(job.attempt)
    if attempt:
        await runner.stop(job.submission(attempt))


async def reconcile_all(store: JobStore, runner: JobRunner) -> None:
    """Reconcile all jobs that are not finished; those with which that fails are told in one line of the log."""
    failed: dict[str, Exception] = {}
    for job_id in await asyncio.to_thread(store.queue):
        try:
            job = await asyncio.to_thread(store.job, job_id)
            if job is None or await asyncio.to_thread(job.done) is not None:
                await asyncio.to_thread(store.unqueue, job_id, STALE_S)
            else:
                await reconcile(job, runner)
        except Exception as error:  # of this job, or of storage or a cluster that is away: the others have their turn
            failed[job_id] = error
    if failed:
        log.warning("%d jobs are not looked after, job %s for one: %s", len(failed), *next(iter(failed.items())))


async def tend(data: Data, limits: Limits, runner: JobRunner) -> None:
    """Reconcile and sweep for ever: a task of the app's life."""
    store, swept = JobStore(data), time.monotonic()
    while True:
        try:
            await reconcile_all(store, runner)
            if time.monotonic() - swept > _SWEEP_S:
                swept = time.monotonic()
                await asyncio.to_thread(store.sweep, limits.ttl_s)
        except Exception as error:  # storage is away, or nobody foresaw it: the next round comes all the same
            log.warning("jobs are not looked after: %s", error)
        await asyncio.sleep(EVERY_S)
