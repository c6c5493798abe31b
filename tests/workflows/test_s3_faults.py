"""Buckets that go away, refuse or throttle: against a real S3 server of the tests' own."""

import contextlib
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import av
import numpy as np
import pytest
import s3fs

from balletal import files, storage
from balletal.backbones.spec import FeatureSpec
from balletal.errors import InputError, StorageError, VideoError
from balletal.features.extractor import Extractor
from balletal.features.store import FeatureStore
from balletal.video.decode import read_frames
from balletal.video.guard import guarded
from balletal.video.probe import open_video, probe
from tests.workflows.fault_points import Fault
from tests.workflows.faults_common import content, start, until, write_job
from tests.workflows.seaweed import Server, Throttle, serving, using
from workflows.sources import list_sources

BUCKET = "s3://videos"


def calls(uri: str) -> list[Callable[[], object]]:
    """One of each kind of call, of an object and of the bucket that it is in."""
    return [
        lambda: files.read_bytes(uri),
        lambda: files.write_bytes(uri, b"2"),
        lambda: files.exists(uri),
        lambda: files.exists(BUCKET),
        lambda: files.remove(uri),
        lambda: files.list_names(BUCKET),
        lambda: list_sources(BUCKET, (".mp4",)),
        lambda: probe(uri),
    ]


@pytest.fixture(scope="module")
def server(weed: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(weed, tmp_path_factory.mktemp("own")) as server:
        yield server


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "_LONGEST_WAIT_S", 0.5)


@pytest.fixture
def throttle(server: Server) -> Iterator[Throttle]:
    proxy = Throttle(server)
    with using({"AWS_ENDPOINT_URL": proxy.endpoint}):
        yield proxy
    proxy.close()


def test_a_restart_in_the_midst_of_everything_loses_nothing(
    server: Server, tmp_path: Path, make_video: Callable[..., Path]
) -> None:
    base = f"{BUCKET}/restart"
    content = os.urandom(100_000)
    files.write_bytes(f"{base}/read", content)
    local = make_video(tmp_path / "a.mp4", 3)
    video = f"{BUCKET}/restarted.mp4"
    files.write_bytes(video, local.read_bytes())
    guarded(read_frames, video, 25, 10, 60, uri=video, limit_s=120)  # the next call finds all imported
    stop = threading.Event()
    written: list[str] = []

    def write() -> None:
        while not stop.is_set():
            uri = f"{base}/w/{len(written):05d}"
            files.write_bytes(uri, uri.encode())
            written.append(uri)

    def read() -> None:
        while not stop.is_set():
            assert files.read_bytes(f"{base}/read") == content

    def look() -> None:
        while not stop.is_set():
            assert files.exists(f"{base}/read")
            assert not files.exists(f"{base}/nothing")
            assert files.list_names(base)[0] == "read"
            assert files.version(f"{base}/read") != "missing"

    with ThreadPoolExecutor(5) as pool:
        work = [pool.submit(job) for job in (write, read, look)]
        try:
            while len(written) < 5:
                time.sleep(0.01)
            server.kill()
            before = len(written)
            frames = [
                pool.submit(read_frames, video, 25, 10, 60),
                # By its own clock the decoder has less time than the server is away.
                pool.submit(guarded, read_frames, video, 25, 10, 60, uri=video, limit_s=6),
            ]
            time.sleep(6)
            server.start()
            while len(written) < before + 5 and not any(job.done() for job in work):
                time.sleep(0.01)
        finally:
            stop.set()
        for job in work:
            job.result()
    expected = read_frames(str(local), 25, 10, 60)
    for got in frames:
        assert got.result().damage is None
        np.testing.assert_array_equal(got.result().pixels, expected.pixels)
    assert files.list_files(f"{base}/w") == written
    for uri in written:
        assert files.read_bytes(uri) == uri.encode()


def test_a_restart_amid_an_extraction_loses_nothing(
    server: Server, tmp_path: Path, spec: FeatureSpec, weights: str, make_video: Callable[..., Path]
) -> None:
    base, local = f"{BUCKET}/film", tmp_path / "videos"
    for i in range(3):
        path = make_video(local / f"v{i}.mp4", 3, seed=i)
        files.write_bytes(f"{base}/{path.name}", path.read_bytes())
    fault = Fault("backbone", str(tmp_path), "v1")
    job = write_job(tmp_path / "job.json", base, f"{BUCKET}/store", spec, weights, frames=40, fault=fault)
    with tempfile.TemporaryDirectory(dir="/tmp") as scratch:  # a short path, for sockets
        extraction = start(job, scratch)
        try:
            assert until(fault.reached, extraction), job.with_suffix(".log").read_text()
            server.kill()
            fault.go()
            time.sleep(3)
            server.start()
            assert extraction.wait(400) == 0, job.with_suffix(".log").read_text()
        finally:
            extraction.kill()
    store = FeatureStore(f"{BUCKET}/store", spec)
    assert store.errors().empty
    assert len(content(store).units) == 6
    extractor = Extractor(spec, weights)
    for video in store.iter_videos():
        expected = extractor.extract_video(probe(str(local / f"{video.video_id}.mp4"))).features
        np.testing.assert_allclose(video.features, expected, rtol=1e-4, atol=1e-5)
    said = job.with_suffix(".log").read_text()
    assert server.secret not in said
    assert server.key not in said


def test_a_server_that_stays_away_is_a_storage_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make_video: Callable[..., Path]
) -> None:
    with using({"AWS_ENDPOINT_URL": "http://127.0.0.1:9"}):  # nobody listens there
        monkeypatch.setattr(storage, "PATIENCE_S", 0.3)
        uri = f"{BUCKET}/a.mp4"
        for call in calls(uri):
            with pytest.raises(StorageError, match=r"s3://videos.*answers within 0.3 s, found EndpointConnectionError"):
                call()


def test_a_wrong_secret_is_told_at_once_and_without_it(server: Server, caplog: pytest.LogCaptureFixture) -> None:
    files.write_bytes(f"{BUCKET}/secret/a.mp4", b"1")
    wrong = {"AWS_ACCESS_KEY_ID": server.key, "AWS_SECRET_ACCESS_KEY": "wrong-" + server.secret}
    unknown = {"AWS_ACCESS_KEY_ID": "nobody-knows-me", "AWS_SECRET_ACCESS_KEY": server.secret}
    uri = f"{BUCKET}/secret/a.mp4"
    for credentials in (wrong, unknown):
        with using(credentials):
            for call in calls(uri):
                with pytest.raises(StorageError, match=r"^s3://videos.*no permission") as caught:
                    call()
                for word in credentials.values():
                    assert word not in repr(caught.value) + str(caught.value) + caplog.text
    assert files.read_bytes(uri) == b"1"


def test_a_job_with_a_wrong_secret_ends_at_once(server: Server, tmp_path: Path, weights: str) -> None:
    wrong = "wrong-" + server.secret
    command = [sys.executable, "-m", "workflows.extract", "--videos", f"{BUCKET}/secret", "--store", str(tmp_path)]
    command += ["--backbone", "i3d-rgb", "--weights", weights]
    environment = os.environ | {"AWS_SECRET_ACCESS_KEY": wrong}
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=300, env=environment)
    assert done.returncode == 1
    assert done.stderr.startswith("error: s3://videos/secret: expected")
    assert "Traceback" not in done.stderr
    assert wrong not in done.stdout + done.stderr
    assert server.key not in done.stdout + done.stderr


def test_who_may_only_read_is_told_when_writing(server: Server) -> None:
    uri = f"{BUCKET}/reader/a"
    files.write_bytes(uri, b"1")
    key, secret = server.reader
    with using({"AWS_ACCESS_KEY_ID": key, "AWS_SECRET_ACCESS_KEY": secret}):
        assert files.read_bytes(uri) == b"1"
        for call in (lambda: files.write_bytes(uri, b"2"), lambda: files.remove(uri)):
            with pytest.raises(StorageError, match=r"s3://videos/reader/a: .*no permission \(AccessDenied\)"):
                call()
    assert files.read_bytes(uri) == b"1"


def test_a_bucket_that_is_not_there(server: Server) -> None:
    for call in (files.read_bytes, files.exists, files.list_files, files.list_names, files.version, probe):
        with pytest.raises(StorageError, match="s3://no-such-bucket/a: expected a bucket that exists"):
            call("s3://no-such-bucket/a")
    with pytest.raises(InputError, match="nothing there"):
        files.read_bytes(f"{BUCKET}/no-such-key")
    with pytest.raises(VideoError) as caught:
        probe(f"{BUCKET}/no-such-key.mp4")
    assert caught.value.kind == "missing"


def test_no_credentials_at_all(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    nowhere = using({"AWS_EC2_METADATA_DISABLED": "true", "HOME": "/nonexistent"})
    with nowhere, pytest.raises(StorageError, match="credentials in the environment or a profile, found none"):
        files.read_bytes(f"{BUCKET}/a")


@pytest.mark.parametrize("kind", ["GET", "HEAD", "PUT", "DELETE"])
def test_a_bucket_that_says_slow_down(throttle: Throttle, kind: str) -> None:
    uri = f"{BUCKET}/throttled/{kind}"
    throttle.left[kind] = 5
    files.write_bytes(uri, b"content")
    assert files.exists(uri)
    assert files.read_bytes(uri) == b"content"
    with files.open_file(uri) as file:
        file.seek(3)
        assert file.read() == b"tent"
    assert files.list_files(uri) == [uri]
    files.remove(uri)
    assert not files.exists(uri)
    assert throttle.left[kind] == 0


def test_a_bucket_that_says_slow_down_for_too_long(throttle: Throttle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "PATIENCE_S", 0.5)
    throttle.left["PUT"] = 1000
    with pytest.raises(
        StorageError, match=r"s3://videos/a: expected storage that answers within 0.5 s, found SlowDown"
    ):
        files.write_bytes(f"{BUCKET}/a", b"1")


def test_versions_come_from_one_listing(throttle: Throttle) -> None:
    keys = {f"videos/many/{i:05d}.mp4": b"%d" % i for i in range(1200)}  # two pages
    s3fs.S3FileSystem(use_listings_cache=False).pipe(keys)
    throttle.seen.clear()
    sources = list_sources(f"{BUCKET}/many", (".mp4",))
    assert [source.uri for source in sources] == [f"s3://{key}" for key in keys]
    assert sum(throttle.seen.values()) < 10
    assert len({source.version for source in sources}) == 1200
    for source in sources[:: len(sources) // 3]:
        assert files.version(source.uri) == source.version


def test_an_object_that_is_replaced_while_it_is_read(server: Server, tmp_path: Path) -> None:
    uri = f"{BUCKET}/replaced"
    files.write_bytes(uri, b"1" * (9 << 20))
    with files.open_file(uri) as file:
        file.read(10)
        files.write_bytes(uri, b"2" * (9 << 20))
        file.seek(8 << 20)
        with pytest.raises(InputError, match="expected the file that was opened, found another in its place"):
            file.read(10)


def test_a_video_that_is_replaced_while_it_is_read(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "_BLOCK", 1 << 20)  # the video is read in several requests
    path = tmp_path / "noise.avi"
    random = np.random.default_rng(0)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mjpeg", rate=25)
        stream.width, stream.height, stream.pix_fmt = 512, 512, "yuvj420p"
        for _ in range(50):
            noise = random.integers(0, 255, (512, 512, 3), np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(noise, "rgb24")))
        container.mux(stream.encode())
    content = path.read_bytes()
    assert len(content) > 2 * files._BLOCK
    uri = f"{BUCKET}/replaced.avi"
    files.write_bytes(uri, content)

    def read() -> None:
        with open_video(uri) as (container, stream):
            files.write_bytes(uri, content[::-1])
            with contextlib.suppress(av.error.FFmpegError):
                for _ in container.demux(stream):
                    pass

    with pytest.raises(VideoError) as caught:
        read()
    assert caught.value.kind == "changed"
