"""A cluster of several nodes on this machine, and what happens to it: `python -m tests.drill [--out table.md]`."""

import os
import shutil
import tempfile
import time
from pathlib import Path
from typing import Annotated

import typer

from tests.drill.cluster import BUCKET, Cluster
from tests.drill.drill import HEADER, drilled, line
from tests.drill.faults import STEPS
from tests.drill.machines import Machines
from tests.drill.stages import Corpus
from tests.workflows.seaweed import find_weed, using
from workflows.console import run, say

_REFERENCE = f"{BUCKET}/reference"


def main(
    out: Annotated[Path | None, typer.Option(help="File for the table.", show_default="printed alone")] = None,
    stages: Annotated[
        list[str] | None, typer.Option(help="Disturb these alone; several times for several.", show_default="all")
    ] = None,
    undisturbed: Annotated[bool, typer.Option("--undisturbed", help="Let nothing happen.")] = False,
    videos: Annotated[int, typer.Option(help="How many videos there are.")] = 40,
) -> None:
    """Run each stage on a cluster of real Ray nodes while nodes die, and compare with what one process makes."""
    if (weed := find_weed()) is None:
        raise typer.BadParameter("no SeaweedFS (weed) is installed")
    if unknown := set(stages or ()) - set(STEPS):
        raise typer.BadParameter(f"expected {', '.join(STEPS)}, found {', '.join(unknown)}", param_hint="--stages")
    folder = Path(tempfile.mkdtemp(prefix="drill-", dir="/tmp"))  # a short path, for sockets
    lines = [HEADER]

    def tell(text: str) -> None:
        lines.append(text)
        say(text)
        if out is not None:
            out.write_text("\n".join(lines) + "\n")

    good, began = True, time.monotonic()
    with Machines(folder) as machines:
        cluster = Cluster(machines, weed)
        say(f"{'network namespaces' if machines.apart else 'loopback addresses'}, {os.cpu_count()} cores; {folder}")
        with using(cluster.environment):
            cluster.start(3)
            say(f"3 workers after {time.monotonic() - began:.0f} s")
            corpus = Corpus(BUCKET, folder, videos)
            corpus.write_features()
            wanted = set(stages or STEPS)
            for stage in corpus.stages(_REFERENCE):
                if not wanted:
                    break
                stage.alone(f"{_REFERENCE}/{stage.name}")  # what later stages read as well
                if stage.name not in wanted:
                    continue
                wanted.remove(stage.name)
                reference = stage.read(f"{_REFERENCE}/{stage.name}")
                faults = [] if undisturbed else STEPS[stage.name]
                for steps in [[], faults] if faults and stage.divided else [faults]:
                    cluster.have_workers(3)
                    run_of = f"{stage.name}-{'run' if steps else 'undisturbed'}"
                    run_uri, log = f"{BUCKET}/{run_of}", folder / f"{run_of}.log"
                    try:
                        outcomes = drilled(cluster, stage, steps, reference, run_uri, log)
                    except (RuntimeError, TimeoutError) as error:
                        say(f"{stage.name}: {error}")
                        good = False
                        break
                    reference = stage.read(run_uri)
                    for outcome in outcomes:
                        tell(line(outcome))
                        good &= outcome.good
    if not good:
        raise SystemExit(f"not as it should be; the logs are in {folder}")
    shutil.rmtree(folder)


if __name__ == "__main__":
    run(main)
