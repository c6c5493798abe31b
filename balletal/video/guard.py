"""Decoding where it can do no harm: in a child process with limits on time and memory.

Decoders are large programs in C that are fed whatever people find. A file that crashes one, hangs it or blows it up
costs the one call. That is all the guard is for: it is no sandbox, a child may read and write what its parent may.

The child is a new interpreter, since a fork of a process with threads may stand still on a lock that it inherited. It
answers one call after another; a dead one is replaced at the next call. It ends when its parent does, however it ends.
"""

import atexit
import contextlib
import itertools
import mmap
import os
import pickle
import resource
import select
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from multiprocessing import Pipe, reduction
from multiprocessing.connection import Connection
from pathlib import Path
from typing import IO, Any, NoReturn, TypeVar

from balletal.errors import BalletalError, VideoError
from balletal.storage import tell_of_waiting

T = TypeVar("T")

MEMORY = 4 << 30
"""Bytes that a child may map beyond what it has mapped once the first call's module is imported."""

_START_S = 120.0
# Units of work run in parallel, so each has one thread, whatever the libraries in it would take.
_ONE_THREAD = {"OPENCV_FOR_THREADS_NUM": "1", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
# Threads of this process that call at the same time have a child each.
_idle: list["_Child"] = []


def guarded(function: Callable[..., T], *args: Any, uri: str, limit_s: float, **kwargs: Any) -> T:
    """``function(*args, **kwargs)`` in a child process; what it returns or raises is returned or raised here.

    Thread-safe. A call whose child dies is made once more, in a new child: whatever killed it may have been meant for
    another (the kernel short of memory, an operator), or be left from an earlier file.

    Args:
        function: of a module that can be imported, by its name; may be called twice.
        uri: the video that errors name.
        limit_s: wall-clock seconds for a call. Waiting for storage that does not answer counts anew: an outage is no
            fault of the video, and storage's own patience bounds it.

    Returns:
        What the function returned; large arrays come by shared memory and can be written to.

    Raises:
        VideoError: ``decoder-crashed``, ``timeout``, or ``too-large`` when it needs more than :data:`MEMORY`.
        GuardError: no child can be started.
        RuntimeError: the function raised what cannot be pickled.
    """
    call = pickle.dumps((function, args, kwargs), protocol=5)
    last_attempt = False
    while True:
        child = _take()
        try:
            answer = child.answer(call, uri, limit_s)
        except (EOFError, ConnectionError):
            how = child.end(wait_s=10)  # it may still be on its way out, and then tells why
            if last_attempt:
                expected = "a video that decodes"
                raise VideoError(uri, "decoder-crashed", expected=expected, found=f"its decoder {how}") from None
            last_attempt = True
            continue
        except BaseException:  # in the midst of a call: what it would answer is of no use to the next one
            child.end()
            raise
        if isinstance(answer, _Raised):
            if isinstance(answer.error, MemoryError):
                child.end()  # libraries that ran out of memory may be in any state
                expected = f"a video that decodes in {MEMORY >> 30} GiB of memory"
                raise VideoError(uri, "too-large", expected=expected, found="one that needs more")
            _idle.append(child)
            raise answer.error
        _idle.append(child)
        value: T = answer
        return value


class GuardError(RuntimeError):
    """No child can be started: a matter of this machine, and no video's fault."""


class _Raised:
    def __init__(self, error: BaseException) -> None:
        self.error = error


class _Child:
    """The parent's side."""

    def __init__(self) -> None:
        self.connection, theirs = Pipe()
        # The parent may have been started in ways that its environment does not tell of (pytest, Ray).
        path = os.pathsep.join(entry or str(Path.cwd()) for entry in sys.path)
        with tempfile.TemporaryFile() as said, theirs:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "balletal.video.guard", str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=said,
                env=os.environ | {"PYTHONPATH": path} | _ONE_THREAD,
            )
            theirs.close()
            try:
                self._receive(time.monotonic() + _START_S)
            except (EOFError, ConnectionError, TimeoutError):
                how = self.end(wait_s=1)
                raise GuardError(f"the decoders' process {how} at its start: {_tail(said)}") from None

    def answer(self, call: bytes, uri: str, limit_s: float) -> Any:
        """What the child returns, or :class:`_Raised`.

        Raises:
            EOFError, ConnectionError: it died.
            VideoError: ``timeout``.
        """
        self.connection.send_bytes(call)
        deadline = time.monotonic() + limit_s
        while True:
            try:
                kind, content, sizes = self._receive(deadline)
            except TimeoutError:
                expected = f"a video that decodes, {limit_s:g} s a part at most"
                raise VideoError(uri, "timeout", expected=expected, found="no end") from None
            if kind != "waiting":
                break
            deadline = time.monotonic() + content + limit_s
        offsets, total = _layout(sizes)
        shared = memoryview(bytearray())
        if total:
            handle = reduction.recv_handle(self.connection)
            shared = memoryview(mmap.mmap(handle, total))
            os.close(handle)
        parts = [shared[start : start + size] for start, size in zip(offsets, sizes, strict=True)]
        value = pickle.loads(content, buffers=parts)
        return _Raised(value) if kind == "raised" else value

    def _receive(self, deadline: float) -> tuple[str, Any, list[int]]:
        if not self.connection.poll(max(0.0, deadline - time.monotonic())):
            raise TimeoutError
        message: tuple[str, Any, list[int]] = self.connection.recv()
        return message

    def end(self, wait_s: float = 0) -> str:
        """Make sure that it is gone; how it went, for a message."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(wait_s)
        self.connection.close()
        self.process.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):  # one that hangs in the kernel goes when that lets it
            self.process.wait(10)
        code = self.process.returncode
        if code is None:
            return "hangs"
        return f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"


def _take() -> _Child:
    while True:
        try:
            child = _idle.pop()
        except IndexError:
            return _started()
        if child.process.poll() is None:
            return child
        child.end()


def _started() -> _Child:
    try:
        return _Child()
    except OSError as error:  # no memory, processes or files left
        raise GuardError(f"the decoders' process cannot be started: {error}") from None


def _tail(file: IO[bytes]) -> str:
    file.seek(0)
    lines = file.read().decode(errors="replace").strip().splitlines()
    return lines[-1] if lines else "it said nothing"


@atexit.register
def end_idle() -> None:
    """End the children that wait for a call; those to come have the environment as it is then."""
    while _idle:
        _idle.pop().end()


# A forked copy of this process must not talk to the children of the original.
os.register_at_fork(after_in_child=_idle.clear)


def serve(descriptor: int) -> NoReturn:
    """The child: answer calls until the parent closes the connection or ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, whose end is ours
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    connection = Connection(descriptor)
    sending = threading.Lock()

    def send(kind: str, content: Any = None, buffers: Sequence[memoryview] = ()) -> None:
        sizes = [buffer.nbytes for buffer in buffers]
        shared = _shared(buffers, *_layout(sizes)) if any(sizes) else None
        with sending:
            connection.send((kind, content, sizes))
            if shared is not None:
                reduction.send_handle(connection, shared, os.getppid())
                os.close(shared)

    def end_with_parent() -> None:
        poller = select.poll()
        poller.register(descriptor, 0)  # a hang-up alone
        poller.poll()
        os._exit(0)

    threading.Thread(target=end_with_parent, daemon=True).start()
    tell_of_waiting(lambda seconds: send("waiting", seconds))
    send("ready")
    with Path(os.devnull).open("wb") as nothing:  # decoders chatter
        os.dup2(nothing.fileno(), 2)
    limited = False
    while True:
        try:
            call = connection.recv_bytes()
        except (EOFError, ConnectionError):
            os._exit(0)
        try:
            function, args, kwargs = pickle.loads(call)
            if not limited:
                _limit_memory()
                limited = True
            send("returned", *_flat(function(*args, **kwargs)))
        except BaseException as error:
            send("raised", _pickled(error))


def _limit_memory() -> None:
    try:
        mapped = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    except OSError:  # not Linux, where the limit would not hold either
        return
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    limit = mapped + MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (limit if hard == resource.RLIM_INFINITY else min(limit, hard), hard))


def _flat(value: Any) -> tuple[bytes, list[memoryview]]:
    """A pickle, and the arrays that it leaves out."""
    arrays: list[pickle.PickleBuffer] = []
    content = pickle.dumps(value, protocol=5, buffer_callback=arrays.append)
    return content, [array.raw() for array in arrays]


def _layout(sizes: Sequence[int]) -> tuple[list[int], int]:
    """Where buffers of these sizes lie in shared memory, aligned for any type, and how much they take in all."""
    ends = list(itertools.accumulate(-(-size // 64) * 64 for size in sizes))
    return [0, *ends][: len(sizes)], ends[-1] if ends else 0


def _shared(buffers: Sequence[memoryview], offsets: Sequence[int], total: int) -> int:
    """A descriptor of memory that holds the buffers.

    On 300 MB three times as fast as sending them over the socket, and six times as fast as a plain pickle.
    """
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create("balletal")
    else:
        with tempfile.TemporaryFile() as file:
            descriptor = os.dup(file.fileno())
    try:
        os.ftruncate(descriptor, total)
        for buffer, offset in zip(buffers, offsets, strict=True):
            done = 0
            while done < buffer.nbytes:
                done += os.pwrite(descriptor, buffer[done:], offset + done)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _pickled(error: BaseException) -> bytes:
    if isinstance(error, MemoryError):  # numpy's and FFmpeg's kinds need not travel
        return pickle.dumps(MemoryError())
    if not isinstance(error, BalletalError | OSError):
        error.add_note("In the decoders' process:\n" + "".join(traceback.format_exception(error)).rstrip())
    try:
        content = pickle.dumps(error)
        pickle.loads(content)
    except Exception:
        return pickle.dumps(RuntimeError(f"{type(error).__name__}: {error}"))
    return content


if __name__ == "__main__":
    serve(int(sys.argv[1]))
