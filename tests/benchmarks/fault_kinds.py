"""The faults of the fault table: what is done to an extraction, and when. See :mod:`tests.benchmarks.faults`."""

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from balletal.backbones.spec import FeatureSpec
from balletal.features.store import FeatureStore
from tests.workflows.conftest import _write_video
from tests.workflows.fault_points import Fault, Moment
from tests.workflows.faults_common import Content, content, processes, start, until, write_job
from tests.workflows.seaweed import Server, find_weed

# Five clips a unit, five units a video.
FRAMES = 32


@dataclass
class Try:
    """One fault in the making: where it works, and what it has to tell.

    Attributes:
        left: what the disturbed run left, in words.
        expected: what the store must hold in the end, when that is not what the undisturbed run left.
        rerun_options: of the run that follows, see :func:`tests.workflows.faults_common.write_job`.
        ignored: a video that is not compared.
        codes: with which the disturbed run may end; 0 where it holds out.
        wrong: something was not as it must be, as ``left`` tells.
    """

    folder: Path
    scratch: str
    videos: Path
    weights: str
    spec: FeatureSpec
    usual: Content
    store: str = ""
    left: str = ""
    expected: Content | None = None
    rerun_options: dict[str, Any] | None = None
    environment: dict[str, str] | None = None
    ignored: str = ""
    wrong: bool = False
    codes: tuple[int, ...] = (0,)

    def fault(self, moment: Moment, video: str = "", do: Any = "wait") -> Fault:
        marks = self.folder / "marks"
        marks.mkdir(exist_ok=True)
        return Fault(moment, str(marks), video, do)

    def run(self, name: str, store: str = "", spec: FeatureSpec | None = None, **options: Any) -> "subprocess.Popen":
        job = write_job(
            self.folder / f"{name}.json",
            self.videos,
            store or self.store,
            spec or self.spec,
            self.weights,
            frames=FRAMES,
            **options,
        )
        return start(job, self.scratch, **(self.environment or {}))

    def run_to(self, fault: Fault, **options: Any) -> "tuple[subprocess.Popen, int, int]":
        """Start a run and wait until it stands at the fault: the run, the process that stands there, its parent."""
        driver = self.run("disturbed", fault=fault, **options)
        reached = until(fault.reached, driver)
        assert reached, f"the run never came to {fault.moment}: {self.log('disturbed')}"
        return driver, reached[0], reached[1]

    def finish(self, driver: "subprocess.Popen", seconds: float = 300) -> None:
        """Wait for the end of the disturbed run. What it started may live on beside the run that follows."""
        began = time.monotonic()
        try:
            code: int | str = driver.wait(seconds)
        except subprocess.TimeoutExpired:
            code = f"hangs after {seconds:g} s"
            self.wrong = True
            driver.kill()
            driver.wait()
        self.left += f"exit {code} after {time.monotonic() - began:.0f} s; {self.state()}"
        time.sleep(1)
        if code not in self.codes:
            self.wrong = True
            self.left += f" (expected exit {self.codes})"
        if alive := len(processes(self.scratch)):
            self.left += f"; {alive} processes alive"

    def state(self) -> str:
        store = FeatureStore.create(self.store, self.spec)  # it may not have come so far
        found = [f"{len(store.units())} of {len(self.usual.units)} units"]
        if not self.store.startswith("s3://"):
            temporary = list(Path(self.store).rglob(".*.tmp"))
            found += [f"{len(temporary)} temporary files"] if temporary else []
        kinds = store.errors()["type"].value_counts().to_dict()
        return ", ".join([*found, "errors: " + (", ".join(f"{n} {kind}" for kind, n in kinds.items()) or "none")])

    def log(self, name: str) -> str:
        return (self.folder / f"{name}.log").read_text(errors="replace")[-1500:]


def kill_driver(moment: Moment, video: str = "v2") -> Callable[[Try], None]:
    def disturb(one: Try) -> None:
        driver, *_ = one.run_to(one.fault(moment, "" if moment in ("listed", "probe") else video))
        driver.kill()
        one.codes = (-signal.SIGKILL,)
        one.finish(driver)

    return disturb


def signal_driver(which: signal.Signals) -> Callable[[Try], None]:
    def disturb(one: Try) -> None:
        driver, *_ = one.run_to(one.fault("backbone", "v2"))
        driver.send_signal(which)
        one.codes = (128 + which, which, -signal.SIGABRT)  # Ray's own handler of SIGTERM ends as it likes
        one.finish(driver)

    return disturb


def kill_process(moment: Moment, *, parent: bool = False) -> Callable[[Try], None]:
    """Kill who stands at the moment, or its parent, and let the run go on."""

    def disturb(one: Try) -> None:
        driver, process, above = one.run_to(one.fault(moment, "v2"))
        os.kill(above if parent else process, signal.SIGKILL)
        one.finish(driver)

    return disturb


def kill_ray(name: str) -> Callable[[Try], None]:
    """Kill a daemon of the run's private Ray."""

    def disturb(one: Try) -> None:
        fault = one.fault("backbone", "v2")
        driver, *_ = one.run_to(fault)
        (daemon,) = [p for p in processes(one.scratch) if Path(f"/proc/{p}/comm").read_text().strip() == name]
        os.kill(daemon, signal.SIGKILL)
        fault.go()
        one.codes = (1, -signal.SIGABRT, -signal.SIGTERM)
        one.finish(driver)

    return disturb


def lose_node(one: Try) -> None:
    with cluster(one) as (address, nodes):
        fault = one.fault("backbone", "v2")
        driver, _, raylet = one.run_to(fault, address=address)
        (lost,) = [node for node in nodes if raylet in pids(node)]
        kill_node(lost)
        one.finish(driver, seconds=200)


@contextmanager
def cluster(one: Try) -> Iterator[tuple[str, list[Any]]]:
    """A head without CPUs and two nodes with two each: its address, the two nodes."""
    from ray.cluster_utils import Cluster

    os.environ |= {"RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0", "RAY_TMPDIR": one.scratch}
    (Path(one.scratch) / "ray").mkdir()  # where it notes its address
    folder = tempfile.mkdtemp(dir="/tmp", prefix="c")  # the run's own is watched for what it leaves
    rays = Cluster(
        initialize_head=True,
        head_node_args={"num_cpus": 0, "include_dashboard": False, "temp_dir": folder, "object_store_memory": 1 << 28},
    )
    try:
        yield rays.address, [rays.add_node(num_cpus=2, object_store_memory=1 << 28) for _ in range(2)]
    finally:
        rays.shutdown()
        shutil.rmtree(folder, ignore_errors=True)


def pids(node: Any) -> set[int]:
    return {info.process.pid for infos in node.all_processes.values() for info in infos}


def kill_node(node: Any) -> None:
    """All of its processes at once, as when a machine goes."""
    daemons = pids(node)
    workers = [int(p.parent.name) for p in Path("/proc").glob("[0-9]*/stat") if _parent(p) in daemons]
    for process in [*daemons, *workers]:
        os.kill(process, signal.SIGKILL)


def _parent(stat: Path) -> int:
    try:
        return int(stat.read_text().rsplit(")", 1)[1].split()[1])
    except OSError:
        return -1


def two_at_once(one: Try) -> None:
    runs = [one.run(f"run{i}") for i in range(2)]
    codes = [driver.wait(300) for driver in runs]
    one.left = f"exits {codes}; {one.state()}"


def two_specs(one: Try) -> None:
    other = one.spec.replace(stride=8)
    runs = [one.run("run0"), one.run("run1", spec=other)]
    codes = [driver.wait(300) for driver in runs]
    alone = one.run("alone", store=str(one.folder / "alone"), spec=other)
    assert alone.wait(300) == 0, one.log("alone")
    a, b = content(FeatureStore(one.store, other)), content(FeatureStore(str(one.folder / "alone"), other))
    one.left = f"exits {codes}; {one.state()}; the other spec's {len(a.units)} units equal: {same(a, b)}"
    one.wrong = not same(a, b) or codes != [0, 0]


@contextmanager
def disk(folder: str, options: str) -> Iterator[None]:
    """A disk of its own at a folder that need not exist."""
    Path(folder).mkdir(parents=True, exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "none", folder], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", folder], check=False)


def read_only(one: Try) -> None:
    fault = one.fault("backbone", "v2")
    with disk(one.store, "size=64m"):
        driver, *_ = one.run_to(fault)
        subprocess.run(["mount", "-o", "remount,ro", one.store], check=True)
        fault.go()
        one.codes = (1,)
        one.finish(driver)
        subprocess.run(["mount", "-o", "remount,rw", one.store], check=True)
        keep(one)


def full(one: Try) -> None:
    with disk(one.store, "size=300k"):
        driver = one.run("disturbed")
        one.codes = (1,)
        one.finish(driver)
        subprocess.run(["mount", "-o", "remount,size=64m", one.store], check=True)
        keep(one)


def keep(one: Try) -> None:
    """Tell what the run said, and take its store to a disk that stays."""
    said = [line for line in one.log("disturbed").splitlines() if line.startswith("error:")]
    one.left += f"; said {said[-1] if said else 'nothing'}".replace(one.store, "STORE")
    shutil.copytree(one.store, one.folder / "copy")
    one.store = str(one.folder / "copy")


def own_videos(one: Try) -> None:
    shutil.copytree(one.videos, one.folder / "videos")
    one.videos = one.folder / "videos"


def replace_source(moment: Moment) -> Callable[[Try], None]:
    def disturb(one: Try) -> None:
        own_videos(one)
        fault = one.fault(moment, "" if moment == "probe" else "v2")
        driver, *_ = one.run_to(fault)
        new = _write_video(one.folder / "new.mp4", 3.0, seed=77)
        new.replace(one.videos / "v2.mp4")
        fault.go()
        one.finish(driver)
        one.expected = undisturbed(one)

    return disturb


def undisturbed(one: Try) -> Content:
    alone = one.run("alone", store=str(one.folder / "alone"))
    assert alone.wait(300) == 0, one.log("alone")
    return content(FeatureStore(str(one.folder / "alone"), one.spec))


def replace_under_two(one: Try) -> None:
    """One run stands with features of the old file while another finds the new file and does it all."""
    own_videos(one)
    fault = one.fault("backbone", "v2")
    driver, *_ = one.run_to(fault)
    new = _write_video(one.folder / "new.mp4", 4.0, seed=77)
    new.replace(one.videos / "v2.mp4")
    assert one.run("second").wait(300) == 0, one.log("second")
    fault.go()
    one.finish(driver)
    one.expected = undisturbed(one)


def delete_source(one: Try) -> None:
    own_videos(one)
    fault = one.fault("decode", "v2")
    driver, *_ = one.run_to(fault)
    (one.videos / "v2.mp4").unlink()
    fault.go()
    one.finish(driver)
    one.ignored = "v2"
    one.expected = undisturbed(one)


def bad_decoder(do: str) -> Callable[[Try], None]:
    def disturb(one: Try) -> None:
        driver = one.run("disturbed", fault=one.fault("decode", "v2", do), limit_s=8.0 if do == "hang" else None)
        one.finish(driver)
        found = content(FeatureStore(one.store, one.spec))
        equal = same(found.without("v2"), one.usual.without("v2"))
        one.left += f"; the others equal: {equal}"
        one.wrong |= not equal
        one.rerun_options = {"retry_failed": True}

    return disturb


def restart_s3(down_s: float) -> Callable[[Try], None]:
    def disturb(one: Try) -> None:
        weed = find_weed()
        assert weed, "no SeaweedFS (weed) is installed"
        (one.folder / "s3").mkdir()
        server = Server(weed, one.folder / "s3")
        os.environ |= server.environment  # for the reading here too
        server.start()
        server.make_bucket()
        one.store = "s3://videos/store"
        fault = one.fault("backbone", "v2")
        driver, *_ = one.run_to(fault)
        server.kill()
        fault.go()
        time.sleep(down_s)
        server.start()
        one.finish(driver)
        SERVERS.append(server)

    return disturb


SERVERS: list[Server] = []

# name, moment, what to do
FAULTS: list[tuple[str, str, Callable[[Try], None]]] = [
    ("kill -9 of the driver", "videos are listed", kill_driver("listed")),
    ("kill -9 of the driver", "videos are probed", kill_driver("probe")),
    ("kill -9 of the driver", "amid a track", kill_driver("track")),
    ("kill -9 of the driver", "amid decoding", kill_driver("decode")),
    ("kill -9 of the driver", "amid the backbone", kill_driver("backbone")),
    ("kill -9 of the driver", "before a unit's rename", kill_driver("before rename")),
    ("kill -9 of the driver", "after a unit's rename", kill_driver("after rename")),
    ("kill -9 of the driver", "between a damaged unit's error row and its file", kill_driver("before rename", "cut")),
    ("SIGTERM to the driver", "amid the backbone", signal_driver(signal.SIGTERM)),
    ("SIGINT to the driver", "amid the backbone", signal_driver(signal.SIGINT)),
    ("kill -9 of the tracker's process", "amid a track", kill_process("track")),
    ("kill -9 of the decoder's process", "amid decoding", kill_process("decode")),
    ("kill -9 of the decoding worker", "amid decoding", kill_process("decode", parent=True)),
    ("kill -9 of the backbone actor", "amid the backbone", kill_process("backbone")),
    ("kill -9 of the writing worker", "before a unit's rename", kill_process("before rename")),
    ("kill -9 of the writing worker", "after a unit's rename", kill_process("after rename")),
    ("kill -9 of a private Ray's raylet", "amid the backbone", kill_ray("raylet")),
    ("kill -9 of a private Ray's head (GCS)", "amid the backbone", kill_ray("gcs_server")),
    ("one of two nodes lost", "amid the backbone", lose_node),
    ("two runs into one store", "from the start", two_at_once),
    ("two runs of two specs into one store", "from the start", two_specs),
    ("store becomes read-only", "amid the backbone", read_only),
    ("disk full", "after some units", full),
    ("source replaced", "videos are probed", replace_source("probe")),
    ("source replaced", "amid a track", replace_source("track")),
    ("source replaced", "amid decoding", replace_source("decode")),
    ("source replaced", "amid the backbone", replace_source("backbone")),
    ("source replaced, and extracted by another run", "amid the backbone", replace_under_two),
    ("source deleted", "amid decoding", delete_source),
    ("decoder crashes on one video", "amid decoding", bad_decoder("crash")),
    ("decoder hangs on one video", "amid decoding", bad_decoder("hang")),
    ("S3 away for 15 s", "amid the backbone", restart_s3(15)),
]


def same(a: Content, b: Content) -> bool:
    return a.units == b.units and a.errors == b.errors and known(a) == known(b)


def known(found: Content) -> list[dict[str, Any]]:
    return [{name: value for name, value in row.items() if value == value} for row in found.videos]
