"""Where a workflow's Ray comes from: an open session, a cluster that was named, or a private local one."""

import logging
import os
import secrets
import shutil
import socket
import sys
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, redirect_stdout
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

import ray
import requests
from ray._private import parameter
from ray._private.authentication import authentication_token_setup
from ray._private.utils import write_ray_address
from ray._raylet import GcsClient  # type: ignore[attr-defined]
from ray.exceptions import AuthenticationError

from balletal.errors import InputError

# 107, less "/balletal-<8>/session_<date>_<time>_<microseconds>_<pid>/sockets/plasma_store".
_LONGEST_BASE = 24
_ANSWER_S = 5.0


@contextmanager
def ray_session(address: str | None = None, num_cpus: int | None = None, *, dashboard: bool = False) -> Iterator[None]:
    """Ray for the length of a ``with`` block.

    A session that is already open in this process is used as it is, and left open. Otherwise ``address`` (or the
    environment's ``RAY_ADDRESS``, which ``ray job submit`` sets) names a cluster to join. Otherwise a local Ray of
    this process alone is started and stopped again: it has its own folder and its own token, never joins a cluster
    that happens to run on this machine, and sends no usage report.

    Args:
        address: such as ``auto``, ``10.0.0.1:6379`` or ``ray://10.0.0.1:10001``.
        num_cpus: CPUs of a private local Ray; None takes what the machine has.
        dashboard: a private local Ray gets one, on a free port of this machine alone: jobs are submitted through it.

    Raises:
        InputError: no cluster at ``address``, or one that takes another token; ``RAY_TMPDIR`` is too long for the
            sockets below it.
    """
    # Ray prints warnings of its own to stdout, where a command's JSON goes.
    with redirect_stdout(sys.stderr):
        if ray.is_initialized():
            yield
        else:
            with _open(address, num_cpus, dashboard):
                yield


def nodes() -> list[dict[str, float]]:
    """What each node has; its part of what Ray Data may use, where that is limited."""
    from ray.data import DataContext

    limits, total = DataContext.get_current().execution_options.resource_limits, ray.cluster_resources()
    allowed = {"CPU": limits.cpu, "GPU": limits.gpu}
    parts = {
        kind: min(1.0, limit / total[kind]) for kind, limit in allowed.items() if total.get(kind) and limit is not None
    }
    found = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return [{kind: amount * parts.get(kind, 1.0) for kind, amount in node.items()} for node in found]


@contextmanager
def _open(address: str | None, num_cpus: int | None, dashboard: bool) -> Iterator[None]:
    _quiet()
    address = address or os.environ.get("RAY_ADDRESS")
    if address and address != "local":
        _join(address)
        try:
            yield
        finally:
            ray.shutdown()
        return

    folder = _short_folder()
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # Serve gives up on its HTTP proxy after 5 s, which a busy laptop needs to start it.
    os.environ.setdefault("RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S", "60")
    # It watches for nodes that a cloud takes away: none here, and it logs an error about itself.
    os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")
    if "RAY_AUTH_TOKEN_PATH" not in os.environ:
        # Without a token of our own, Ray writes one into the home folder, which may be shared or read-only. It is
        # kept for the life of the process because Ray reads it once.
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    try:
        with _any_agent_port() if dashboard else nullcontext():
            ray.init(
                address="local",
                num_cpus=num_cpus,
                include_dashboard=dashboard,
                dashboard_port=_free_port() if dashboard else None,
                # What workers print is Ray talking of itself; errors reach the driver as exceptions all the same.
                log_to_driver=False,
                logging_level=logging.ERROR,  # the warning that token authentication is on says nothing to a user
                logging_config=ray.LoggingConfig(log_level="ERROR"),
                _temp_dir=str(folder),
                # Ray ends workers beyond one a CPU after a second of rest, and a task of another stage then waits
                # seconds for a new one to import its libraries.
                _system_config={"idle_worker_killing_time_threshold_ms": 600_000},
            )
        if dashboard:
            # Ray tells its jobs this address; without it, any Ray's that runs on this machine.
            write_ray_address(ray.get_runtime_context().gcs_address, str(folder))
        yield
    finally:
        ray.shutdown()
        shutil.rmtree(folder, ignore_errors=True)


def _join(address: str) -> None:
    if address.startswith(("http://", "https://")):
        expected = "a cluster to join, such as auto, HOST:6379 or ray://HOST:10001"
        raise InputError(address, expected=expected, found="a dashboard, which takes jobs (balletal submit)")
    check_reachable(address)
    try:
        if "://" not in address and address != "auto":
            GcsClient(address=address)  # which tells of a wrong token at once, ray.init not at all
        ray.init(address=address, log_to_driver=False, logging_level=logging.WARNING)
    except AuthenticationError:
        raise wrong_token(address) from None
    except ConnectionError as error:
        expected = "a Ray cluster with a node on this machine (ray://HOST:10001 needs none), and its token"
        raise InputError(address, expected=expected, found=str(error).splitlines()[0]) from None


def check_reachable(address: str) -> None:
    """See that something listens at an address of a cluster or its dashboard, which Ray would wait for a minute or two.

    Ray finds ``auto`` itself. A token that there is will be sent: ``ray.init`` does, Ray's client of jobs must be told.

    Raises:
        InputError: nothing listens there, or a dashboard where a cluster was named.
    """
    logging.getLogger(authentication_token_setup.__name__).setLevel(logging.ERROR)
    if not ray.is_initialized():
        authentication_token_setup.maybe_enable_token_auth_if_token_available(warn_if_disabled=False)
    if address == "auto":
        return
    expected = "auto, HOST:6379 or ray://HOST:10001 of a cluster, or http://HOST:8265 of its dashboard"
    try:
        url = urlsplit(address if "://" in address else f"//{address}")
        port = url.port or {"http": 80, "https": 443, "ray": 10001}.get(url.scheme)
    except ValueError:
        raise InputError(address, expected=expected, found="no host and port") from None
    if not url.hostname or port is None:
        raise InputError(address, expected=expected, found="no host and port")
    try:
        socket.create_connection((url.hostname, port), _ANSWER_S).close()
    except OSError as error:
        found = error.strerror or "no answer"
        raise InputError(address, expected="a cluster that can be reached", found=found) from None
    if not url.scheme and _is_web_server(address):
        raise InputError(address, expected=expected, found="a web server without http:// before it")


def _is_web_server(address: str) -> bool:
    try:
        requests.get(f"http://{address}", timeout=_ANSWER_S)
    except requests.RequestException:
        return False
    return True


def wrong_token(address: str) -> InputError:
    """What to say where a cluster refuses the token in the environment, or asks for one."""
    expected = "the cluster's token (RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH)"
    has_one = authentication_token_setup.AuthenticationTokenLoader.instance().has_token(ignore_auth_mode=True)
    return InputError(address, expected=expected, found="another" if has_one else "none")


@contextmanager
def _any_agent_port() -> Iterator[None]:
    """A Ray that starts meanwhile gives its agent, which starts jobs, a port that is free.

    It would take 52365, which belongs to the first Ray of a machine, and take no jobs where it is not the first.
    ``ray start`` has an option for it, ``ray.init`` has none.
    """
    made = parameter.RayParams
    parameter.RayParams = partial(made, dashboard_agent_listen_port=None)
    try:
        yield
    finally:
        parameter.RayParams = made


def _free_port() -> int:
    """A port that nobody has, outside of those that Ray gives to its workers."""
    while True:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = int(probe.getsockname()[1])
        if not 10002 <= port <= 19999:
            return port


def _short_folder() -> Path:
    """A new folder for Ray's session: its sockets lie below it, and a socket's path has at most 107 bytes."""
    base = os.environ.get("RAY_TMPDIR") or ("/tmp" if os.access("/tmp", os.W_OK) else tempfile.gettempdir())
    if len(os.fsencode(base)) > _LONGEST_BASE:
        raise InputError(base, expected=f"a RAY_TMPDIR of at most {_LONGEST_BASE} bytes", found=str(len(base)))
    return Path(tempfile.mkdtemp(prefix="balletal-", dir=base))


def _quiet() -> None:
    """Keep what Ray Data and Ray Train print about themselves out of a command's own lines."""
    from ray.data import DataContext
    from ray.util.annotations import RayDeprecationWarning

    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    logging.getLogger("ray.train").setLevel(logging.ERROR)
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)  # what ends a job comes to the command as an exception
    warnings.filterwarnings("ignore", category=RayDeprecationWarning)
