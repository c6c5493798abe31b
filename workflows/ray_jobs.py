"""The jobs of a Ray cluster: :class:`RayJobs` is Ray's own client of them, without its surprises."""

import asyncio
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import aiohttp
import requests

from balletal.errors import BalletalError, InputError
from workflows.cluster import check_reachable, wrong_token

_AGENT_S = 60.0  # a cluster takes jobs some seconds after its dashboard answers
_LOST_S = 60.0
_STOP_S = 30.0
_POLL_S = 0.5
_ADDRESS = "RAY_API_SERVER_ADDRESS"
_environment = threading.Lock()


class UnreachableError(BalletalError):
    """The cluster does not answer, now."""


class RayJobs:
    """Jobs of one cluster. Ray's token of the environment (``RAY_AUTH_TOKEN``, ``RAY_AUTH_TOKEN_PATH``) goes with them.

    Args:
        address: ``http://HOST:8265`` of the dashboard, or of the cluster, such as ``auto`` or ``HOST:6379``. Unlike
            with Ray's own client, the environment does not override it.

    Raises:
        InputError: nothing answers there, or it takes another token.
        BalletalError: what answers is no Ray.
    """

    def __init__(self, address: str) -> None:
        check_reachable(address)
        self.address = address
        with self._asked(), _only(address):
            from ray.job_submission import JobSubmissionClient

            for module in ("job.sdk", "dashboard_sdk"):  # they tell of every connection
                logging.getLogger(f"ray.dashboard.modules.{module}").setLevel(logging.WARNING)
            self._client = JobSubmissionClient(address)

    def submit(self, entrypoint: str, submission_id: str, **options: Any) -> bool:
        """Start a job, with options of ``JobSubmissionClient.submit_job``; False when that id is taken.

        Raises:
            BalletalError: the cluster refuses it.
        """
        until = time.monotonic() + _AGENT_S
        while True:
            try:
                with self._told():
                    self._client.submit_job(entrypoint=entrypoint, submission_id=submission_id, **options)
                return True
            except RuntimeError as error:
                if self.job(submission_id) is not None:
                    return False
                if "No available agent" not in str(error) or time.monotonic() > until:
                    why = str(error).strip().splitlines()[-1]
                    raise BalletalError(f"{self.address}: the cluster does not take the job: {why}") from error
            time.sleep(1)

    def job(self, submission_id: str) -> Any:
        """Ray's ``JobDetails``; None where the cluster was never told of such a job, or has forgotten it."""
        with self._asked():
            try:
                return self._client.get_job_info(submission_id)
            except RuntimeError as error:
                if "404" in str(error) or "does not exist" in str(error):
                    return None
                raise

    def all(self) -> list[Any]:
        """``JobDetails`` of all jobs that the cluster remembers."""
        with self._asked():
            return list(self._client.list_jobs())

    def log(self, submission_id: str) -> str:
        """What a job has printed so far."""
        with self._asked():
            return str(self._client.get_job_logs(submission_id))

    def stop(self, submission_id: str) -> None:
        """Have a job end; Ray sends it SIGTERM, and SIGKILL 3 s later."""
        with self._asked():
            self._client.stop_job(submission_id)

    def ended(self, submission_id: str, limit_s: float = _STOP_S) -> Any:
        """``JobDetails`` of a job once it has ended, or as they are after ``limit_s``."""
        until = time.monotonic() + limit_s
        while (job := self.job(submission_id)) and not job.status.is_terminal() and time.monotonic() < until:
            time.sleep(_POLL_S)
        return job

    def follow(self, submission_id: str, write: Callable[[str], Any]) -> Any:
        """Hand the log of a job to ``write`` as it grows, each part once; its ``JobDetails`` when it has ended.

        A connection that is lost is made again, for a minute.

        Raises:
            UnreachableError: the cluster went away. What becomes of the job is not known.
        """
        return asyncio.run(self._follow(submission_id, write))

    async def _follow(self, submission_id: str, write: Callable[[str], Any]) -> Any:
        told, answered = 0, time.monotonic()
        while True:
            read = 0  # every connection tells the log from its beginning
            try:
                async for text in self._client.tail_job_logs(submission_id):
                    if (new := text[max(0, told - read) :]) != "":
                        write(new)
                    read += len(text)
                    told, answered = max(told, read), time.monotonic()
            except (RuntimeError, aiohttp.ClientError):
                pass  # asking for the job tells what it is
            try:
                job = await asyncio.to_thread(self.job, submission_id)
                answered = time.monotonic()
                if job is None or job.status.is_terminal():
                    return job
            except UnreachableError:
                if time.monotonic() > answered + _LOST_S:
                    raise
            await asyncio.sleep(_POLL_S)

    @contextmanager
    def _asked(self) -> Iterator[None]:
        """As :meth:`_told`; and what no Ray of ours would answer, such as another program's page."""
        try:
            with self._told():
                yield
        except (RuntimeError, ValueError, LookupError, TypeError, requests.RequestException) as error:
            why = next(iter(str(error).splitlines()), type(error).__name__)
            raise BalletalError(f"{self.address}: expected the answer of a Ray dashboard, found {why}") from error

    @contextmanager
    def _told(self) -> Iterator[None]:
        """Ray's errors, as ours where a user can mend them."""
        from ray.exceptions import AuthenticationError

        try:
            yield
        except AuthenticationError:
            raise wrong_token(self.address) from None
        except (ConnectionError, requests.ConnectionError, requests.Timeout) as error:
            raise UnreachableError(f"{self.address}: the cluster does not answer ({type(error).__name__})") from None


def cluster_address(given: str | None) -> str:
    """The address of the cluster whose jobs are meant: as given, else the environment's.

    Raises:
        InputError: none is named; no cluster is looked for.
    """
    address = given or os.environ.get(_ADDRESS) or os.environ.get("RAY_ADDRESS")
    if not address or address == "local":
        expected = "the address of a cluster, such as http://HOST:8265 (or in RAY_API_SERVER_ADDRESS, RAY_ADDRESS)"
        raise InputError("--address", expected=expected, found=address or "none")
    return address


@contextmanager
def _only(address: str) -> Iterator[None]:
    """The environment names this cluster meanwhile: Ray's client would follow it to another one."""
    with _environment:
        before = os.environ.get(_ADDRESS)
        os.environ[_ADDRESS] = address
        try:
            yield
        finally:
            del os.environ[_ADDRESS]
            if before is not None:
                os.environ[_ADDRESS] = before
