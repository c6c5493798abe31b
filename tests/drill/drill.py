"""A run of the drill: the stage begins, faults happen, what came of it is held against what one process makes."""

import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.drill.cluster import Cluster, until
from tests.drill.faults import Step
from tests.drill.stages import Result, Stage
from tests.workflows.seaweed import forget
from workflows.console import say

_LIMIT_S = 600.0


@dataclass(frozen=True)
class Outcome:
    """A line of the table. Seconds are of the wall clock; ``recovery_s`` until more of the stage was done than before.

    Attributes:
        difference: the largest between a number and what one process makes.
    """

    stage: str
    fault: str
    happened: str = ""
    recovery_s: float | None = None
    seconds: float = 0.0
    lost: int = 0
    doubled: int = 0
    difference: float = 0.0

    @property
    def good(self) -> bool:
        """Whether every row is there once."""
        return not self.lost and not self.doubled


HEADER = (
    "| stage | fault | what happened | recovery, s | whole stage, s | rows lost | rows doubled | largest difference |\n"
)
HEADER += "|---|---|---|--:|--:|--:|--:|--:|"


def line(outcome: Outcome) -> str:
    """Of a Markdown table."""
    recovery = "" if outcome.recovery_s is None else f"{outcome.recovery_s:.0f}"
    difference = "0" if outcome.difference == 0 else f"{outcome.difference:.1e}"
    words = (outcome.stage, outcome.fault, outcome.happened, recovery, f"{outcome.seconds:.0f}")
    return f"| {' | '.join(words)} | {outcome.lost} | {outcome.doubled} | {difference} |"


def drilled(
    cluster: Cluster, stage: Stage, steps: Sequence[Step], reference: Result, out: str, log: Path
) -> list[Outcome]:
    """Run a stage in which faults happen one after another; a line for each, or one where there is none.

    Rows and differences are those of the whole run.

    Raises:
        RuntimeError: the job failed, or was over before a fault.
        TimeoutError: something that should come did not.
    """
    began, happened = time.monotonic(), []
    job = cluster.submit(log, *stage.words(out))
    for step in steps:
        _await_moment(cluster, stage, step, job, out, log)
        struck = time.monotonic()
        told = step.fault.happen(cluster, stage)
        forget()  # connections that waited for the store
        before = stage.done(out)
        if step.fault.resubmitted:
            told += f"; its follower ended with {job.wait(_LIMIT_S)}, the same command was given again"
            job = cluster.submit(log, *stage.words(out))
        _await_progress(stage, out, before, job)
        happened.append((step.fault.name, told, time.monotonic() - struck))
        say(f"{stage.name}, {step.fault.name}: {told}; {happened[-1][2]:.0f} s")
    if job.wait(_LIMIT_S) != 0:
        raise RuntimeError(f"{log}: exit code {job.returncode}: {_end(log)}")
    seconds, result = time.monotonic() - began, stage.read(out)
    compared = {
        "seconds": seconds,
        "lost": (reference.keys - result.keys).total(),
        "doubled": (result.keys - reference.keys).total(),
        "difference": reference.difference(result),
    }
    return [Outcome(stage.name, *of_one, **compared) for of_one in happened or [("none", "", None)]]


def _await_moment(
    cluster: Cluster, stage: Stage, step: Step, job: "subprocess.Popen[bytes]", out: str, log: Path
) -> None:
    goal = stage.done(out) + step.more

    def reached() -> bool:
        if job.poll() is not None:
            raise RuntimeError(f"{log}: over before the fault: {_end(log)}")
        return stage.done(out) >= goal and bool(cluster.at(step.sign))

    until(reached, _LIMIT_S, f"moment for {step.fault.name} in {stage.name}")


def _await_progress(stage: Stage, out: str, before: int, job: "subprocess.Popen[bytes]") -> None:
    until(lambda: stage.done(out) > before or job.poll() is not None, _LIMIT_S, f"progress of {stage.name}")


def _end(log: Path) -> str:
    return log.read_text(errors="replace").strip()[-1000:]
