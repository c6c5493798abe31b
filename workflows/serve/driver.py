"""Does a job of the service: `python -m workflows.serve.driver JOB_FOLDER [ATTEMPT]`.

A driver may be killed at any time: the next one goes on from what is in the job's folder, see
:mod:`workflows.serve.jobstore`. Features of one spec are extracted once, for all bundles that read it; what is found
in a video is told as soon as it is known. What a client got wrong ends the job at once; all else ends this driver
alone, and another is started.
"""

import _thread
import os
import signal
import sys
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from fnmatch import fnmatch
from functools import partial
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any, Literal, cast

from balletal import files
from balletal.errors import BalletalError, InputError, SpecMismatchError, StorageError
from workflows.serve.data import Data
from workflows.serve.jobstore import Done, Job, JobStore, State, Status
from workflows.serve.limits import Limits
from workflows.serve.results import job_errors, segments_json

if TYPE_CHECKING:
    import pandas as pd

HEARTBEAT_S = 2.0
"""Between two reports of a driver that is alive."""

_RESULTS = ("detections.parquet", "detections.json", "errors.parquet", "run.json")
_STAGES = ("queued", "validating", "extracting", "localizing", "writing")
_EXIT_S = 20.0
_SETTLE_S, _SETTLES = 1.0, 10


class SupersededError(BalletalError):
    """The job was cancelled or removed, has ended, or is another driver's by now."""


def drive(job: Job, attempt: int) -> None:
    """Do a job to its end.

    Raises:
        SupersededError: it is this driver's no more.
        Exception: whatever another attempt may mend; the job has not ended.
    """
    with Reporter.beating(job, attempt) as reporter:
        try:
            reporter.status("validating")
            inputs, missing = _inputs(job)
            reporter.state = replace(reporter.state, inputs=len(inputs) + len(missing))
            _localize(job, inputs, reporter)
            reporter.status("writing")
            if job.request.output_uri:
                _copy(job, job.request.output_uri)
            done = _ending(job, inputs)
        except (InputError, SpecMismatchError) as error:
            message = job.public(str(getattr(error, "cause", error)))
            done = Done("failed", time.time(), job.skipped(reporter.state), message)
        reporter.close()
        reporter.check()  # or the end of another job of the same key would be told
        job.report(replace(reporter.state, heartbeat=time.time()))
        if job.finish(done):
            files.remove_folder(job.path("store"))  # it said what was done already


def _inputs(job: Job) -> tuple[dict[str, str], list[str]]:
    """URIs by video id, and the prefixes without a video. The first driver of a job decides."""
    found = job.inputs()
    if found is None:
        uris: dict[str, str | None] = {}  # in the order of the request, each once; with the id of a video that has one
        missing: list[str] = []
        for one in job.request.inputs:
            if "prefix" not in one:
                uris.setdefault(one["uri"], one.get("video_id"))
                continue
            below = _below(one["prefix"], one.get("glob"), job.request.places)
            uris |= {uri: None for uri in below if uri not in uris}
            if not below:
                missing.append(one["prefix"])
        found = job.fix_inputs({video_id: uri for uri, video_id in _named(uris).items()}, missing)
    if not found[0]:
        raise InputError(", ".join(found[1]), expected="videos", found="none")
    return found


def _below(prefix: str, glob: str | None, places: list[str]) -> list[str]:
    """The videos below a prefix; files that links lead to out of the places that are allowed are none of them."""
    from balletal.video.probe import VIDEO_SUFFIXES
    from workflows.serve.sources import Sources

    root = files.absolute(prefix)
    if not files.exists(root):
        return []
    allowed, found = Sources(tuple(places)), []
    for uri in files.list_files(root, VIDEO_SUFFIXES):
        name = PurePosixPath(uri).relative_to(root).as_posix() if uri != root else PurePosixPath(uri).name
        if (glob is None or fnmatch(name, glob)) and uri.lower().endswith(VIDEO_SUFFIXES) and allowed.allows(uri):
            found.append(uri)
    return found


def _named(uris: dict[str, str | None]) -> dict[str, str]:
    """Video ids by URI: that of the service, else the file's name without suffix, numbered if others have it too."""
    stems = {uri: given or PurePosixPath(uri).stem for uri, given in uris.items()}
    often, taken = Counter(stems.values()), set(stems.values())
    numbers: Counter[str] = Counter()
    named: dict[str, str] = {}
    for uri, stem in stems.items():
        name = stem
        while often[stem] > 1 and uris[uri] is None and (name == stem or name in taken):
            numbers[stem] += 1
            name = f"{stem}-{numbers[stem]}"
        taken.add(name)
        named[uri] = name
    return named


def _localize(job: Job, inputs: dict[str, str], reporter: "Reporter") -> None:
    """Score with each bundle that an earlier driver is not through with: features are made for the first of a spec."""
    # Here, because they take seconds to import and a driver is to be known to live.
    from balletal.tal.localizer import Localizer
    from workflows.cluster import ray_session
    from workflows.extract import probe_videos
    from workflows.score import score
    from workflows.serve.media import require_within

    store, limits = job.path("store"), Limits(**job.request.limits)
    todo = {
        name: bundle
        for name, bundle in job.request.bundles.items()
        if not files.exists(job.path("results", name, "run.json"))
    }
    specs = set()
    for bundle in todo.values():
        localizer = Localizer.load(bundle.uri)
        localizer.class_names(job.request.params.get("coarse", False))  # told before any work
        specs.add(localizer.spec)
    if not todo:
        return
    with ray_session():
        _leave_to_others()
        for spec in specs:
            probe_videos(inputs, store, spec=spec, require=partial(require_within, limits=limits))
        for number, (name, bundle) in enumerate(todo.items()):
            score(
                bundle.uri,
                job.path("results", name),
                videos=inputs,
                features=store,
                weights=bundle.weights,
                flow=bundle.flow,
                most=None,
                on_progress=reporter.part(number, len(todo)),
                on_videos=partial(reporter.videos, name),
                **job.request.params,
            )


def _leave_to_others() -> None:
    """Keep Ray Data from counting on what others of a cluster hold for good, such as the service itself.

    It would start actors for which there is room, and then have none for the tasks that feed them.
    """
    import ray
    from ray.data import DataContext, ExecutionResources

    free, before = _free(ray), None
    for _ in range(_SETTLES):  # what a driver that was killed had is still being given back
        if free == before:
            break
        time.sleep(_SETTLE_S)
        free, before = _free(ray), free
    cpu, gpu = free
    if cpu < 1:  # a part of one is of no use to a task; on a cluster that grows, one comes
        print(f"waiting for a CPU: {cpu:g} are free, the service and others hold the rest", file=sys.stderr)
        cpu = 1.0
    DataContext.get_current().execution_options.resource_limits = ExecutionResources.for_limits(cpu=cpu, gpu=gpu)


def _free(ray: Any) -> tuple[float, float]:
    """CPUs and GPUs of the cluster that nobody holds."""
    free = ray.available_resources()
    return free.get("CPU", 0.0), free.get("GPU", 0.0)


def _copy(job: Job, output_uri: str) -> None:
    for name in job.request.bundles:
        for result in _RESULTS:
            target = files.join(output_uri, name, result)
            if files.exists(source := job.path("results", name, result)):
                files.write_bytes(target, files.read_bytes(source))
            else:  # what an earlier job left there is none of this one's
                files.remove(target)


def _ending(job: Job, inputs: dict[str, str]) -> Done:
    """How a job ended whose work is done: what its results say of its inputs."""
    found = [files.read_json(job.path("results", name, "detections.json")) for name in job.request.bundles]
    looked_at = [set(one["results"]) for one in found]
    complete, some = set.intersection(*looked_at), set.union(*looked_at)
    ids = {files.absolute(uri): video_id for video_id, uri in inputs.items()}
    bad = {ids.get(error["input"], error["input"]) for error in job_errors(job)} | (set(inputs) - complete)
    total = len(bad | set(inputs))
    counts = {"total": total, "ok": total - len(bad), "failed": len(bad), "skipped": 0}
    if not bad:
        return Done("succeeded", time.time(), counts)
    if some:
        return Done("partial", time.time(), counts)
    return Done("failed", time.time(), counts, "No video could be used; the list of errors says why.")


class Reporter:
    """Tells the job's folder how far a driver is, and the driver when the job is its own no more."""

    def __init__(self, job: Job, attempt: int) -> None:
        self.job, self.attempt = job, attempt
        self.state = State(attempt, "validating", time.time())
        told = job.told()
        self._next = told[-1]["first"] + len(told[-1]["data"]) if told else 1
        self._videos = {tuple(video) for one in told for video in one.get("videos", ())}
        self._lost: SupersededError | None = None
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._beat, daemon=True)

    @classmethod
    @contextmanager
    def beating(cls, job: Job, attempt: int) -> Iterator["Reporter"]:
        """A reporter that says every few seconds that the driver is alive; the driver is interrupted when it is not
        wanted any more."""
        reporter = cls(job, attempt)
        reporter.check()
        job.report(reporter.state)
        reporter._thread.start()
        try:
            yield reporter
        except KeyboardInterrupt:
            if reporter._lost is None:
                raise
            raise reporter._lost from None
        except Exception as error:
            cause = getattr(error, "cause", error)
            known = isinstance(cause, BalletalError)
            message = str(cause) if known else f"{type(cause).__name__}; the server's log has the reason"
            job.report(replace(reporter.state, error=job.public(message), heartbeat=time.time()))
            raise
        finally:
            reporter.close()

    def _beat(self) -> None:
        while not self._over.wait(HEARTBEAT_S):
            try:
                self.check()
                self.job.report(replace(self.state, heartbeat=time.time()))
            except SupersededError as error:
                self._lost = error
                _thread.interrupt_main()
                if not self._over.wait(_EXIT_S):  # something does not let itself be interrupted
                    os._exit(1)
            except StorageError:
                continue  # a report that is late; the work goes on if it can

    def close(self) -> None:
        """Report no more."""
        self._over.set()
        self._thread.join()

    def check(self) -> None:
        """See whether the job is still this driver's.

        Raises:
            SupersededError: it is not.
        """
        ended = self.job.done() is not None or self.job.cancelled() or not self.job.there()
        if ended or self.job.attempt()[0] > self.attempt:
            raise SupersededError(f"job {self.job.id}: attempt {self.attempt} is not wanted any more")

    def status(self, status: Status) -> bool:
        """Go on to a stage, and say whether the job is at it: it goes back to none."""
        if self._next > 1 and _STAGES.index(status) < _STAGES.index(self.state.status):
            return False
        if status != self.state.status or self._next == 1:
            unit: Literal["segments", "videos"] = "videos" if status in ("localizing", "writing") else "segments"
            if unit != self.state.unit:
                self.state = replace(self.state, unit=unit, done=0, total=0)
            self.state = replace(self.state, status=status)
            self._tell("status", [{"status": status}])
        return True

    def part(self, number: int, of: int) -> Callable[[str, int, int], None]:
        """What takes the progress of one of several scorings of the same videos.

        Videos are localized while others are still extracted. From the first one on, videos are what counts.
        """

        def progress(stage: str, done: int, total: int) -> None:
            if self.status(cast(Status, stage)):
                first, parts = (number, of) if stage == "localizing" else (0, 1)
                self.state = replace(self.state, done=first * total + done, total=parts * total)

        return progress

    def videos(self, model: str, videos: dict[str, "pd.DataFrame"]) -> None:
        """Tell the detections of videos that are finished, unless an earlier driver has told them."""
        self.status("localizing")
        for video_id, found in videos.items():
            if (model, video_id) not in self._videos and len(found):
                self._videos.add((model, video_id))
                self._tell("segment", segments_json(found, model), videos=[(model, video_id)])

    def _tell(self, name: str, data: list[dict[str, Any]], **about: Any) -> None:
        if not self.job.tell(self._next, name, data, **about):
            raise SupersededError(f"job {self.job.id}: another driver tells of it")
        self._next += len(data)


def main(arguments: list[str]) -> int:
    """Do the job; 0 when it has ended or is not this driver's, 1 when another attempt may do better."""
    folder, attempt = arguments[0], int(arguments[1]) if len(arguments) > 1 else 1
    root, _, job_id = folder.rstrip("/").rpartition("/")
    job = JobStore(Data(root.rpartition("/")[0])).job(job_id)
    if job is None:
        print(f"error: {folder}: expected a job, found none", file=sys.stderr)
        return 2
    for number in (signal.SIGTERM, signal.SIGINT):  # what is started behind `nohup` or `&` ignores the latter
        signal.signal(number, signal.default_int_handler)
    try:
        drive(job, attempt)
    except SupersededError as error:
        print(error, file=sys.stderr)
    except KeyboardInterrupt:
        return 1
    except Exception:
        traceback.print_exc()
        return 1
    finally:
        if not files.exists(job.path("job.json")):  # nobody would find what this driver wrote since the job's removal
            files.remove_folder(job.folder)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
