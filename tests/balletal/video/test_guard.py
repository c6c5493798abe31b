"""Calls in a guarded child: what goes over, what comes back, and what dies with whom."""

import os
import pickle
import select
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from balletal import storage
from balletal.errors import InputError, StorageError, VideoError
from balletal.video import guard
from balletal.video.decode import Frames
from balletal.video.guard import guarded
from balletal.video.probe import probe

ROOT = Path(__file__).resolve().parents[3]


def pid() -> int:
    return os.getpid()


def arrays(n: int) -> dict[str, object]:
    frames = Frames(np.arange(n * 12, dtype=np.uint8).reshape(n, 2, 2, 3), "some")
    return {"odd": np.ones(7, np.uint8), "frames": frames, "empty": np.empty((0, 3)), "f": np.linspace(0, 1, n)}


def environment(name: str) -> str | None:
    return os.environ.get(name)


def chatter() -> str:
    os.write(1, b"chatter on stdout\n")
    os.write(2, b"chatter on stderr\n")
    return "said"


def fail(kind: str) -> None:
    if kind == "input":
        raise InputError("a", expected="b", found="c")
    if kind == "video":
        raise VideoError("a", "corrupt", expected="b", found="c")
    if kind == "value":
        raise ValueError("no such value")

    class LocalError(Exception):
        pass

    raise LocalError("of a class that no other process knows")


def crash(number: int) -> None:
    os.kill(os.getpid(), number)


def crash_once(marker: str) -> str:
    if not Path(marker).exists():
        Path(marker).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return "done"


def hang(marker: str = "") -> None:
    if marker:
        Path(marker).write_text(str(os.getpid()))
    time.sleep(600)


def grab(n_bytes: int) -> int:
    return len(np.ones(n_bytes, np.uint8))


def modules() -> list[str]:
    return sorted({name.partition(".")[0] for name in sys.modules})


def wait_for_storage(times: int, seconds: float) -> str:
    for _ in range(times):
        for listener in storage._listeners:
            listener(seconds)
        time.sleep(seconds)
    return "read"


def call(function, *args, limit_s: float = 60.0):
    return guarded(function, *args, uri="a.mp4", limit_s=limit_s)


def test_one_child_answers_call_after_call() -> None:
    first = call(pid)
    assert first != os.getpid()
    assert call(pid) == first


def test_the_child_loads_no_ray_and_no_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "_idle", [])  # others may have loaded what other tests called
    assert not {"ray", "torch", "workflows"} & set(call(modules))


def test_arrays_come_back_equal_aligned_and_writable() -> None:
    sent, got = arrays(1000), call(arrays, 1000)
    for name in ("odd", "empty", "f"):
        np.testing.assert_array_equal(got[name], sent[name])
        assert got[name].dtype == sent[name].dtype
        assert got[name].flags.aligned
    np.testing.assert_array_equal(got["frames"].pixels, sent["frames"].pixels)
    assert got["frames"].damage == "some"
    got["frames"].pixels[:] = 0


def test_the_environment_as_it_is_when_the_child_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_TEST_ONLY", "here")
    monkeypatch.setattr(guard, "_idle", [])  # a child of its own
    assert call(environment, "AWS_TEST_ONLY") == "here"
    guard.end_idle()


def test_what_the_child_says_stays_off_the_terminal(capfd: pytest.CaptureFixture[str]) -> None:
    assert call(chatter) == "said"
    assert capfd.readouterr() == ("", "")


def test_what_the_function_raises_is_raised() -> None:
    before = call(pid)
    with pytest.raises(InputError, match="a: expected b, found c"):
        call(fail, "input")
    with pytest.raises(VideoError) as caught:
        call(fail, "video")
    assert caught.value.kind == "corrupt"
    with pytest.raises(ValueError, match="no such value") as failed:
        call(fail, "value")
    assert "in fail" in failed.value.__notes__[0]  # where it was raised
    with pytest.raises(RuntimeError, match="LocalError: of a class that no other process knows"):
        call(fail, "local")
    assert call(pid) == before


def test_a_video_error_of_a_real_video(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    path.write_bytes(b"no video")
    with pytest.raises(VideoError) as caught:
        guarded(probe, str(path), uri=str(path), limit_s=60)
    assert caught.value.kind == "not-a-video"


@pytest.mark.parametrize(("number", "name"), [(signal.SIGSEGV, "SIGSEGV"), (signal.SIGKILL, "SIGKILL")])
def test_a_crash_is_an_error_of_that_call_alone(number: int, name: str) -> None:
    before = call(pid)
    with pytest.raises(VideoError, match=f"a.mp4: .* its decoder was ended by {name}") as caught:
        call(crash, number)
    assert caught.value.kind == "decoder-crashed"
    assert call(pid) != before


def test_a_child_that_is_killed_once_costs_nothing(tmp_path: Path) -> None:
    assert call(crash_once, str(tmp_path / "marker")) == "done"


def test_an_idle_child_that_died_is_replaced() -> None:
    before = call(pid)
    os.kill(before, signal.SIGKILL)
    assert call(pid) != before


def test_a_call_that_hangs_is_ended(tmp_path: Path) -> None:
    marker = tmp_path / "pid"
    call(pid)  # so that the child has imported this module, which takes its time
    with pytest.raises(VideoError, match=r"expected a video that decodes, 3 s a part at most") as caught:
        call(hang, str(marker), limit_s=3.0)
    assert caught.value.kind == "timeout"
    with pytest.raises(ProcessLookupError):
        os.kill(int(marker.read_text()), 0)
    assert call(arrays, 1)["odd"].sum() == 7


def test_waiting_for_storage_is_not_the_video_s_time() -> None:
    call(pid)
    assert call(wait_for_storage, 4, 1.0, limit_s=3.0) == "read"


def test_a_call_that_takes_too_much_memory() -> None:
    before = call(pid)
    with pytest.raises(VideoError, match="decodes in 4 GiB of memory") as caught:
        call(grab, guard.MEMORY + (64 << 20))
    assert caught.value.kind == "too-large"
    assert call(pid) != before
    assert call(grab, guard.MEMORY // 16) == guard.MEMORY // 16


def test_threads_call_at_the_same_time() -> None:
    together = threading.Barrier(3)

    def work(n: int) -> int:
        together.wait()
        return len(call(arrays, n)["f"])

    with ThreadPoolExecutor(3) as pool:
        assert list(pool.map(work, (5, 6, 7))) == [5, 6, 7]


def test_a_child_that_cannot_start_is_no_fault_of_a_video(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "_idle", [])
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(RuntimeError, match="the decoders' process ended with exit code 1 at its start"):
        call(pid)


def _parent_of_a_hanging_child(marker: Path) -> "subprocess.Popen[bytes]":
    code = "from tests.balletal.video.test_guard import call, hang, pid\n"
    code += f"call(pid); hang_in = {str(marker)!r}\nif {marker.name != 'idle'}: call(hang, hang_in)\n"
    code += "open(hang_in, 'w').write(str(call(pid)))\nimport time; time.sleep(600)\n"
    return subprocess.Popen([sys.executable, "-c", code], cwd=ROOT)


@pytest.mark.parametrize("state", ["idle", "busy"])
def test_a_child_ends_with_its_killed_parent(tmp_path: Path, state: str) -> None:
    marker = tmp_path / state
    parent = _parent_of_a_hanging_child(marker)
    try:
        while not (marker.exists() and marker.read_text()):
            assert parent.poll() is None
            time.sleep(0.02)
        child = os.pidfd_open(int(marker.read_text()))
    finally:
        parent.kill()
        parent.wait()
    poller = select.poll()
    poller.register(child)
    assert poller.poll(120_000)  # a descriptor of a process is ready when that has ended
    os.close(child)


def test_a_child_ends_with_its_interpreter() -> None:
    code = "from tests.balletal.video.test_guard import call, pid; print(call(pid))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert not done.stderr
    with pytest.raises(ProcessLookupError):
        os.kill(int(done.stdout), 0)


def test_storage_errors_travel() -> None:
    error = pickle.loads(pickle.dumps(StorageError("s3://b/k", expected="e", found="f")))
    assert isinstance(error, StorageError)
    assert str(error) == "s3://b/k: expected e, found f"
