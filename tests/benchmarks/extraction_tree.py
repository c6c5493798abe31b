"""What a process and all that it started take: memory with shared pages counted once, processor time by role."""

import contextlib
import os
import subprocess
import threading
from collections import defaultdict
from pathlib import Path

_EVERY_S = 0.5
_TICKS = os.sysconf("SC_CLK_TCK")
# What a process's command line holds -> its role. Ray's workers change theirs with what they run.
_ROLES = (
    ("ray::MapWorker", "backbone"),
    ("balletal.video.guard", "decoder"),
    ("ray::Map", "tasks"),
    ("ray::", "idle workers"),
    ("raylet", "raylet"),
    ("gcs_server", "gcs"),
    ("default_worker", "idle workers"),
)


class Tree:
    """Samples a running process and its descendants until it ends; Linux alone.

    Attributes:
        peak: bytes of memory, shared pages split among those who share them (PSS).
        peak_shared: those of them that are shared memory: Ray's object store, pictures on their way.
        cpu_s: seconds of processor time by role.
    """

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self.peak = self.peak_shared = 0
        self._process = process
        self._known = {process.pid}
        self._seen: dict[int, tuple[str, float]] = {}
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    @property
    def cpu_s(self) -> dict[str, float]:
        self._thread.join()
        total: dict[str, float] = defaultdict(float)
        for role, seconds in self._seen.values():
            total[role] += seconds
        return dict(total)

    def _run(self) -> None:
        ended = threading.Event()
        while self._process.poll() is None:
            self._sample()
            ended.wait(_EVERY_S)

    def _sample(self) -> None:
        stats = {}
        for folder in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError, ValueError):
                stats[int(folder.name)] = (folder / "stat").read_text().rpartition(")")[2].split()
        # Whoever was in it once belongs to it, also when the one between has ended.
        found, size = {pid for pid in self._known if pid in stats}, -1
        while len(found) != size:
            size = len(found)
            found |= {pid for pid, stat in stats.items() if int(stat[1]) in found}
        self._known = found
        total = shared = 0
        for pid in found:
            with contextlib.suppress(OSError):
                for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
                    if line.startswith("Pss:"):
                        total += int(line.split()[1]) << 10
                    elif line.startswith("Pss_Shmem:"):
                        shared += int(line.split()[1]) << 10
                role = self._role(pid)
                self._seen[pid] = (role, (int(stats[pid][11]) + int(stats[pid][12])) / _TICKS)
        self.peak, self.peak_shared = max(self.peak, total), max(self.peak_shared, shared)

    def _role(self, pid: int) -> str:
        if pid == self._process.pid:
            return "driver"
        line = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace")
        role = next((role for mark, role in _ROLES if mark in line), "other")
        before = self._seen.get(pid, ("", 0.0))[0]
        return before if role == "idle workers" and before else role  # what it did is what its time went into
