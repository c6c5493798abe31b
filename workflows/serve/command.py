"""`balletal serve`: bundles behind HTTP, on Ray Serve."""

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

from balletal import files
from balletal.backbones.weights import SOURCES
from balletal.errors import InputError
from workflows.cluster import ray_session
from workflows.console import run, say
from workflows.serve.access import LOOPBACK, Access, Token, session_secret, tokens_from
from workflows.serve.bundles import load_bundles
from workflows.serve.deployments import APP, ServeArgs, application


@contextlib.contextmanager
def serving(
    args: ServeArgs,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    tokens: tuple[Token, ...] = (),
    address: str | None = None,
) -> Iterator[str]:
    """Serve bundles for the length of a ``with`` block; gives the URL.

    On a cluster that runs Serve already, its host and port stay as they are, and so do its other applications.

    Args:
        args: what an extractor reserves is decided here.
        tokens: of those who may ask; none: everybody may.

    Raises:
        InputError: no bundle, one whose features cannot be made from video, or a port in use.
    """
    # Here, because what is wrong would cost a start of Ray otherwise.
    bundles = load_bundles(args.bundles, args.weights, args.flow)
    if address is None:
        _require_free(host, port)
    # A service for this machine alone is called by its names, and nobody else's page is to call it.
    hosts = (*LOOPBACK, host) if is_loopback(host) and not tokens else ()
    access = Access(tokens, session_secret(args.data) if tokens else b"", hosts)
    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    with ray_session(address, dashboard=True):
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        largest = {name: max(node.get(name, 0.0) for node in nodes) for name in ("CPU", "GPU")}
        # Little is reserved, for jobs want CPUs too; and half of a GPU, as jobs do.
        shares = {"cpus": 0.25, "threads": max(1, min(4, int(largest["CPU"])))}
        shares["gpus"] = 0.5 if largest["GPU"] >= len({one.spec for one in bundles}) else 0.0
        try:
            serve.start(
                http_options=HTTPOptions(host=host, port=port), logging_config=LoggingConfig(log_level="WARNING")
            )
            app = application(args.model_copy(update=shares), access, bundles)
            serve.run(app, name=APP, route_prefix="/")
            shown = f"[{host}]" if ":" in host else host
            yield f"http://{shown}:{port}"
        finally:
            # Not serve.shutdown(), which would take the cluster's other applications along.
            serve.delete(APP)


def _places(given: list[str] | None) -> tuple[str, ...]:
    return tuple(place if "://" in place else files.absolute(place) for place in given or ())


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
    bundle: Annotated[list[str], typer.Option(help="Bundle: a folder or URI; several times: the last is the default.")],
    data: Annotated[
        str, typer.Option(help="Folder or URI for uploads, videos and jobs; kept when the service ends.")
    ] = "serve-data",
    tokens: Annotated[
        str | None,
        typer.Option(help="File of lines `name token` or `name sha256:<hex>`; or in the environment: BALLETAL_TOKENS."),
    ] = None,
    source: Annotated[
        list[str] | None, typer.Option(help="Folder or s3://bucket/prefix whose videos clients may name.")
    ] = None,
    output_to: Annotated[
        list[str] | None, typer.Option(help="Folder or s3://bucket/prefix that clients may have results copied to.")
    ] = None,
    host: Annotated[str, typer.Option(help="Address to bind.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535)] = 8000,
    weights: Annotated[
        list[str] | None, typer.Option(help="Backbone weights: a name or a file, once a stream.", show_default="own")
    ] = None,
    flow: Annotated[str | None, typer.Option(help="File of the optical flow module, if the bundle wants one.")] = None,
    address: Annotated[str | None, typer.Option(help="Ray cluster to join; default: a private local one.")] = None,
    insecure: Annotated[
        bool, typer.Option("--insecure", help="Allow a public bind without tokens: anyone may use it.")
    ] = False,
) -> None:
    """Serve bundles over HTTP, with a page to watch what they find."""
    known = tokens_from(tokens)
    if not insecure and not known and not is_loopback(host):
        raise typer.BadParameter(
            f"{host} can be reached from other machines: give --tokens, or --insecure to let everybody in",
            param_hint="--host",
        )
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    args = ServeArgs(
        bundles=[files.absolute(one) for one in bundle],
        data=files.absolute(data),
        sources=_places(source),
        outputs=_places(output_to),
        weights=weights and [one if one in SOURCES else files.absolute(one) for one in weights],
        flow=flow and files.absolute(flow),
    )
    with serving(args, host=host, port=port, tokens=known, address=address) as url:
        # Ray sets a handler of its own when it starts.
        signal.signal(signal.SIGINT, lambda *_: stop.set())
        signal.signal(signal.SIGTERM, lambda *_: stop.set())
        say(f"serving {', '.join(bundle)} at {url}; Ctrl-C stops. Open it in a browser, or try:")
        token = "-H 'Authorization: Bearer TOKEN' " if known else ""
        say(f"  curl {token}-H 'Content-Type: video/mp4' --data-binary @video.mp4 '{url}/v1/localize?min_score=0.3'")
        stop.wait()
        say("stopping")


if __name__ == "__main__":
    run(main)
