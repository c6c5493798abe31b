"""`balletal serve`: a bundle behind HTTP, on Ray Serve."""

import contextlib
import ipaddress
import logging
import signal
import socket
import threading
from collections.abc import Iterator
from typing import Annotated

import ray
import typer
from ray import serve
from ray.serve.config import HTTPOptions
from ray.serve.schema import LoggingConfig

from balletal.errors import InputError
from balletal.features.extractor import Extractor, Weights
from balletal.tal.localizer import Localizer
from workflows.cluster import ray_session
from workflows.console import run, say
from workflows.serve.deployments import APP, application


@contextlib.contextmanager
def serving(
    bundle: str,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    weights: Weights = None,
    flow: str | None = None,
    address: str | None = None,
) -> Iterator[str]:
    """Serve a bundle for the length of a ``with`` block; gives the URL.

    On a cluster that runs Serve already, its host and port stay as they are, and so do its other applications.

    Raises:
        InputError: no bundle, one whose features cannot be made from video, or a port in use.
    """
    localizer = Localizer.load(bundle)
    # Here, because what is wrong would be a replica's log otherwise.
    Extractor(localizer.spec, weights, device="cpu", flow=flow)
    if address is None:
        _require_free(host, port)
    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    with ray_session(address):
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        largest = {name: max(node.get(name, 0.0) for node in nodes) for name in ("CPU", "GPU")}
        try:
            serve.start(
                http_options=HTTPOptions(host=host, port=port), logging_config=LoggingConfig(log_level="WARNING")
            )
            app = application(localizer, weights, flow, cpus=largest["CPU"], gpus=largest["GPU"])
            serve.run(app, name=APP, route_prefix="/")
            shown = f"[{host}]" if ":" in host else host
            yield f"http://{shown}:{port}"
        finally:
            # Not serve.shutdown(), which would take the cluster's other applications along.
            serve.delete(APP)


def _require_free(host: str, port: int) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise InputError(f"{host}:{port}", expected="a free port", found=error.strerror or str(error)) from None


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a server bound to ``host``."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def main(
    bundle: Annotated[str, typer.Option(help="Bundle: a folder or URI that `balletal train` wrote.")],
    host: Annotated[str, typer.Option(help="Address to bind.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535)] = 8000,
    weights: Annotated[
        list[str] | None, typer.Option(help="Backbone weights: a name or a file, once a stream.", show_default="own")
    ] = None,
    flow: Annotated[str | None, typer.Option(help="File of the optical flow module, if the bundle wants one.")] = None,
    address: Annotated[str | None, typer.Option(help="Ray cluster to join; default: a private local one.")] = None,
    insecure: Annotated[bool, typer.Option("--insecure", help="Allow a public bind: anyone may send videos.")] = False,
) -> None:
    """Answer HTTP requests: send a video, get its steps."""
    if not insecure and not is_loopback(host):
        raise typer.BadParameter(
            f"{host} can be reached from other machines, and there is no authentication; --insecure allows it",
            param_hint="--host",
        )
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    with serving(bundle, host=host, port=port, weights=weights, flow=flow, address=address) as url:
        # Ray sets a handler of its own when it starts.
        signal.signal(signal.SIGINT, lambda *_: stop.set())
        signal.signal(signal.SIGTERM, lambda *_: stop.set())
        say(f"serving {bundle} at {url}; Ctrl-C stops. Try:")
        say(f"  curl -H 'Content-Type: video/mp4' --data-binary @video.mp4 '{url}/v1/localize?min_score=0.3'")
        stop.wait()
        say("stopping")


if __name__ == "__main__":
    run(main)
