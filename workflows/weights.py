"""Weights of the backbones: what there is, and fetching it. `python -m workflows.weights get i3d-rgb-kinetics400`."""

from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from balletal.backbones.weights import get_weights, list_weights
from workflows.console import print_json, run, say, stderr

app = typer.Typer(help="Weights of the backbones: list them, fetch them.", no_args_is_help=True)

Json = Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")]


@app.command("list")
def list_(json: Json = False) -> None:
    """The weights that can be fetched, and whether they have been."""
    rows = list_weights()
    if json:
        print_json(rows)
        return
    table = Table("name", "about", "licence", "MB", "cached", box=None)
    for row in rows:
        cached = row["path"] if row["cached"] else "no"
        table.add_row(row["name"], row["about"], row["licence"], f"{row['bytes'] / 1e6:.0f}", cached)
    Console(highlight=False).print(table)


@app.command()
def get(name: Annotated[str, typer.Argument(help="A name that `list` shows.")], json: Json = False) -> None:
    """Fetch weights into the cache (BALLETAL_CACHE, else ~/.cache/balletal), check them, and say where they are."""
    with stderr.status(f"fetching {name}"):
        path = get_weights(name)
    if json:
        print_json(next(row for row in list_weights() if row["name"] == name))
    else:
        say(f"{name}: {path}")


if __name__ == "__main__":
    run(app)
