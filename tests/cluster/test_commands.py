"""Every command in `cluster/` is one that the command line has, with options that it takes."""

from pathlib import Path

import pytest
import typer._click
from click import ClickException

from tests.cluster.checks import CLUSTER
from tests.cluster.commands import check_command, commands, simple_commands

# Files, and how many of their commands are ours, Ray's or Serve's at least.
FILES = {
    "Dockerfile": 2,
    "README.md": 10,
    "aws.yaml": 4,
    "machines.yaml": 5,
    "kubernetes/rayjob-pipeline.yaml": 1,
    "kubernetes/rayjob-score.yaml": 1,
    "kubernetes/raycronjob-score.yaml": 1,
    "kubernetes/cronjob-score.yaml": 1,
}
REFUSED = (ClickException, typer._click.ClickException)  # typer has a copy of click of its own


@pytest.mark.parametrize("name", FILES)
def test_every_command_is_there(name: str) -> None:
    checked = [words for words in commands(CLUSTER / name) if check_command(words)]
    assert len(checked) >= FILES[name]


def test_no_other_file_has_commands() -> None:
    others = [path for path in CLUSTER.rglob("*") if path.suffix in (".yaml", ".md")]
    having = {str(path.relative_to(CLUSTER)) for path in others if any(map(check_command, commands(path)))}
    assert having == FILES.keys() - {"Dockerfile"}


@pytest.mark.parametrize(
    "line",
    [
        "balletal scroe --bundle b --videos v --out o",
        "balletal score --bundle b --video v --out o",
        "balletal score --bundle b --videos v",
        "balletal score --bundle b --videos v --out o --min-score 7",
        "cd /tmp && BALLETAL_CACHE=c /opt/balletal/bin/balletal weights gte i3d-rgb-kinetics400",
        "sh -c 'balletal pipeline config.yaml --sett a=b || test $? -eq 3'",
        "python -m workflows.extract --videos v",
        "ray job submit --address http://head:8265 -- balletal extract --videos v",
        "ray job sbumit -- balletal doctor",
        "balletal submit --no-working-dir extract --videos v --stor s",
        "ulimit -n 65536; ray start --haed",
        "serve deploy",
    ],
)
def test_a_mistake_in_a_command_is_found(line: str) -> None:
    with pytest.raises(REFUSED):
        [check_command(words) for words in simple_commands(line)]


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("Dockerfile", "weights get", "weight get"),
        ("machines.yaml", "ray start --head", "ray start --main"),
        ("kubernetes/rayjob-score.yaml", "--video-id path", "--video-id name"),
        ("kubernetes/raycronjob-score.yaml", "--out s3://", "--output s3://"),
        ("kubernetes/cronjob-score.yaml", "--out s3://", "--output s3://"),
        ("kubernetes/rayjob-pipeline.yaml", "balletal pipeline", "balletal pipelines"),
        ("README.md", "--gpus-per-actor", "--gpu-per-actor"),
    ],
)
def test_a_mistake_in_a_file_is_found(name: str, old: str, new: str, tmp_path: Path) -> None:
    text = (CLUSTER / name).read_text()
    assert old in text
    broken = tmp_path / Path(name).name
    broken.write_text(text.replace(old, new))
    with pytest.raises(REFUSED):
        [check_command(words) for words in commands(broken)]
