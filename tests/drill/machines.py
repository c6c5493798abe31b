"""Machines on one machine: each with an address, processes and a disk of its own, and a cable to pull.

As root on Linux they are namespaces: of the network, on a bridge; of processes; of mounts, each with its own folder at
the same path. Elsewhere they are addresses of the loopback device, which share the disk and whose cables cannot be
pulled.
"""

import contextlib
import ipaddress
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path


class Machine:
    """One machine of a :class:`Machines`. Its processes have ``disk`` as their own folder."""

    def __init__(self, name: str, address: str, disk: Path, within: Sequence[str] = ()) -> None:
        self.name, self.address, self.disk, self.within = name, address, disk, tuple(within)
        self.started: list[subprocess.Popen[bytes]] = []

    def start(self, command: Sequence[str], environment: dict[str, str], log: Path) -> "subprocess.Popen[bytes]":
        """Begin a command here."""
        with log.open("ab") as file:
            process = subprocess.Popen(
                [*self.within, *command],
                stdout=file,
                stderr=file,
                env=environment,
                cwd=self.disk,
                start_new_session=True,
            )
        self.started.append(process)
        return process

    def processes(self) -> list[int]:
        """What runs here."""
        return [process for root in self.started for process in _tree(root.pid)]

    def power_off(self) -> None:
        """End everything that runs here at once, as a machine that loses its power does."""
        while left := self.processes():
            for process in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process, signal.SIGKILL)
            for root in self.started:
                root.poll()  # or it stays as a zombie
            time.sleep(0.05)
        for root in self.started:
            root.wait()
        self.started = []


class _Namespace(Machine):
    def processes(self) -> list[int]:
        listed = subprocess.run(["ip", "netns", "pids", self.name], check=True, capture_output=True, text=True)
        return [int(word) for word in listed.stdout.split()]


class Machines:
    """Makes machines; all of them are gone when the ``with`` block ends.

    Args:
        apart: whether they have networks and disks of their own; None where this machine lets us.
    """

    def __init__(self, folder: Path, *, apart: bool | None = None) -> None:
        self.folder = folder
        self.apart = _may_be_apart() if apart is None else apart
        self._made: list[Machine] = []
        self._bridge, self._network = "", ipaddress.ip_network("127.77.0.0/24")

    def __enter__(self) -> "Machines":
        if self.apart:
            self._bridge, self._network = _new_bridge()
        return self

    def __exit__(self, *_: object) -> None:
        for machine in self._made:
            machine.power_off()
            if self.apart:
                _ip("netns", "delete", machine.name)
                shutil.rmtree(f"/etc/netns/{machine.name}")
        if self.apart:
            _ip("link", "delete", self._bridge)

    def new(self) -> Machine:
        """One more machine."""
        number = len(self._made) + 1
        address = str(self._network[number])
        own = self.folder / "disks" / str(number)
        own.mkdir(parents=True)
        if not self.apart:
            self._made.append(Machine(str(number), address, own))
            return self._made[-1]
        (disk := self.folder / "disk").mkdir(exist_ok=True)
        name, cable = f"{self._bridge}-{number}", self._cable(number)
        _ip("netns", "add", name)
        # `ip netns exec` mounts it over /etc/hosts: libraries look up their own address by the hostname.
        hosts = Path("/etc/netns") / name / "hosts"
        hosts.parent.mkdir(parents=True)
        hosts.write_text(f"127.0.0.1 localhost\n{address} {socket.gethostname()}\n")
        _ip("link", "add", cable, "type", "veth", "peer", "name", "eth0", "netns", name)
        _ip("link", "set", cable, "master", self._bridge, "up")
        _ip("-n", name, "address", "add", f"{address}/{self._network.prefixlen}", "dev", "eth0")
        for device in ("lo", "eth0"):
            _ip("-n", name, "link", "set", device, "up")
        _ip("-n", name, "route", "add", "default", "via", str(self._network[254]))
        mounted = 'mount --bind "$0" "$1" && cd "$1" && shift && exec "$@"'
        # Processes of its own, or `ray start --head` would take other machines' for those of a head that is there.
        alone = ("unshare", "--pid", "--fork", "--kill-child", "--mount-proc")
        within = ("ip", "netns", "exec", name, *alone, "sh", "-c", mounted, str(own), str(disk))
        self._made.append(_Namespace(name, address, disk, within))
        return self._made[-1]

    @contextlib.contextmanager
    def cut_off(self, machine: Machine) -> Iterator[None]:
        """Nothing comes to a machine or from it meanwhile, and nobody is told; without cables, it stands still."""
        if self.apart:
            cable = self._cable(self._made.index(machine) + 1)
            _ip("link", "set", cable, "down")
            try:
                yield
            finally:
                _ip("link", "set", cable, "up")
            return
        stopped = machine.processes()
        for process in stopped:
            os.kill(process, signal.SIGSTOP)
        try:
            yield
        finally:
            for process in stopped:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process, signal.SIGCONT)

    def _cable(self, number: int) -> str:
        return f"{self._bridge}v{number}"


def title(process: int) -> str:
    """How a process calls itself; Ray's workers say what they are at. Empty when it is gone."""
    try:
        return Path(f"/proc/{process}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    except OSError:
        return ""


def _tree(root: int) -> list[int]:
    """A process and all that it started, and those started."""
    found = []
    with contextlib.suppress(OSError):
        # The third word of what follows the name: zombies are gone.
        if Path(f"/proc/{root}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
            return []
        found.append(root)
        for task in Path(f"/proc/{root}/task").iterdir():
            found += [p for child in (task / "children").read_text().split() for p in _tree(int(child))]
    return found


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


def _may_be_apart() -> bool:
    if os.geteuid() != 0 or shutil.which("ip") is None:
        return False
    try:
        name, _ = _new_bridge()
    except OSError:
        return False
    _ip("link", "delete", name)
    return True


def _new_bridge() -> tuple[str, ipaddress.IPv4Network]:
    """A bridge, with an address of this machine: 254 of the network.

    Raises:
        OSError: this machine lets nobody make one.
    """
    for number in range(256):
        name, network = f"drill{number}", ipaddress.IPv4Network(f"10.77.{number}.0/24")
        made = subprocess.run(
            ["ip", "link", "add", name, "type", "bridge"], capture_output=True, text=True, check=False
        )
        if made.returncode == 0:
            _ip("address", "add", f"{network[254]}/24", "dev", name)
            _ip("link", "set", name, "up")
            return name, network
        if "exists" not in made.stderr:
            raise OSError(made.stderr.strip())
    raise OSError("every bridge is taken")
