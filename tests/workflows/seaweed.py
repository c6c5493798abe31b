"""A real S3 server (SeaweedFS) that can be killed and started again, and a proxy that says "slow down"."""

import contextlib
import http.client
import http.server
import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import s3fs
from botocore.exceptions import BotoCoreError

from balletal.video.guard import end_idle


def find_weed() -> str | None:
    return shutil.which("weed", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}")


class Server:
    """SeaweedFS with its files in ``folder``: an identity that may do all, a ``reader``, and the bucket ``videos``.

    Args:
        host: the address that it listens on.
        within: words before the command, which have it run on another machine.
    """

    def __init__(self, weed: str, folder: Path, host: str = "127.0.0.1", within: Sequence[str] = ()) -> None:
        self.weed, self.folder, self.host, self.within = weed, folder, host, within
        self.key, self.secret = "test-key", secrets.token_hex(16)
        self.reader = ("reader-key", secrets.token_hex(16))
        identities = [
            _identity("all", self.key, self.secret, ["Admin", "Read", "List", "Tagging", "Write"]),
            _identity("reader", *self.reader, ["Read", "List"]),
        ]
        (folder / "ids.json").write_text(json.dumps({"identities": identities}))
        (folder / "data").mkdir()
        self.ports = free_ports(4)
        self.endpoint = f"http://{host}:{self.ports[3]}"
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def environment(self) -> dict[str, str]:
        """What lets fsspec find the server."""
        return {
            "AWS_ACCESS_KEY_ID": self.key,
            "AWS_SECRET_ACCESS_KEY": self.secret,
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_DEFAULT_REGION": "us-east-1",
        }

    def start(self) -> "subprocess.Popen[bytes]":
        """Start it, or start it again with the files that it had; it answers some seconds later."""
        master, volume, filer, port = self.ports
        folder = self.folder
        command = [*self.within, self.weed, "server", f"-dir={folder / 'data'}"]
        command += [f"-ip={self.host}", f"-ip.bind={self.host}"]
        command += [f"-master.port={master}", f"-volume.port={volume}", "-filer", f"-filer.port={filer}"]
        command += ["-s3", f"-s3.port={port}", f"-s3.config={folder / 'ids.json'}"]
        command += ["-s3.port.iceberg=0", "-s3.port.lance=0"]
        command += ["-master.volumeSizeLimitMB=256", "-volume.max=20", "-master.telemetry=false"]
        with (folder / "log").open("ab") as log:
            # It would take credentials of another server's from its environment for its own.
            bare = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
            self.process = subprocess.Popen(command, stdout=log, stderr=log, cwd=folder, env=bare)
        return self.process

    def make_bucket(self) -> None:
        """Wait until it answers, and make the bucket."""
        for _ in range(60):
            assert self.process is not None
            assert self.process.poll() is None, self._log()
            try:
                s3fs.S3FileSystem(
                    key=self.key, secret=self.secret, endpoint_url=self.endpoint, skip_instance_cache=True
                ).mkdir("videos")
            except (OSError, BotoCoreError):  # the second where nobody listens yet
                time.sleep(0.5)
            else:
                return
        raise AssertionError(f"SeaweedFS did not answer: {self._log()}")

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()  # asked nicely it takes more than ten seconds
            self.process.wait()

    def _log(self) -> str:
        return (self.folder / "log").read_text(errors="replace")[-2000:]


@contextlib.contextmanager
def serving(weed: str, folder: Path) -> Iterator[Server]:
    """A server that answers, and that fsspec finds by the environment."""
    server = Server(weed, folder)
    server.start()
    try:
        with using(server.environment):
            server.make_bucket()
            yield server
    finally:
        server.kill()


@contextlib.contextmanager
def using(environment: dict[str, str]) -> Iterator[None]:
    """Another environment, for file systems that are made while it holds."""
    forget()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        yield
    forget()


def forget() -> None:
    """End what holds on to the environment that it was made in."""
    s3fs.S3FileSystem.clear_instance_cache()
    end_idle()


class Throttle:
    """A proxy in front of a server, which answers 503 SlowDown to the first requests of some kind."""

    def __init__(self, server: Server) -> None:
        self.left = {"GET": 0, "HEAD": 0, "PUT": 0, "DELETE": 0}
        """How many requests of each kind will be refused."""
        self.seen: Counter[str] = Counter()
        throttle, upstream = self, server.ports[3]

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def _serve(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                throttle.seen[self.command] += 1
                if throttle.left[self.command] > 0:
                    throttle.left[self.command] -= 1
                    self._reply(503, {"Content-Type": "application/xml"}, _SLOW_DOWN)
                    return
                connection = http.client.HTTPConnection("127.0.0.1", upstream)
                connection.request(self.command, self.path, body, dict(self.headers))
                answer = connection.getresponse()
                self._reply(answer.status, dict(answer.getheaders()), answer.read())
                connection.close()

            def _reply(self, status: int, headers: dict[str, str], body: bytes) -> None:
                self.send_response(status)
                for name, value in headers.items():
                    if name.lower() not in ("content-length", "transfer-encoding", "connection", "date", "server"):
                        self.send_header(name, value)
                length = headers.get("Content-Length") if self.command == "HEAD" else None
                self.send_header("Content-Length", length or str(len(body)))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(body)

            do_GET = do_HEAD = do_PUT = do_DELETE = _serve  # noqa: N815

            def log_message(self, format: str, *args: object) -> None:
                pass

        self.proxy = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.endpoint = f"http://127.0.0.1:{self.proxy.server_port}"
        threading.Thread(target=self.proxy.serve_forever, daemon=True).start()

    def close(self) -> None:
        self.proxy.shutdown()
        self.proxy.server_close()


_SLOW_DOWN = b"""<?xml version="1.0" encoding="UTF-8"?>
<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"""


def _identity(name: str, key: str, secret: str, actions: list[str]) -> dict[str, object]:
    return {"name": name, "credentials": [{"accessKey": key, "secretKey": secret}], "actions": actions}


def free_ports(n: int) -> list[int]:
    """Ports that are free together with the port 10000 above, where SeaweedFS puts its gRPC.

    All below 32768: from there on the kernel gives them to connections, also between this look and their use.
    """
    found: list[int] = []
    random = np.random.default_rng()
    while len(found) < n:
        port = int(random.integers(20000, 22768))
        try:
            for one in (port, port + 10000):
                with socket.socket() as probe:
                    probe.bind(("127.0.0.1", one))
        except OSError:
            continue
        if port not in found:
            found.append(port)
    return found
