"""What failed in a feature store, and why."""

from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from balletal.features.store import WHOLE_VIDEO, read_errors
from workflows.console import print_json, run, say, stderr


def main(
    store: Annotated[str, typer.Option(help="Feature store: a folder or URI.")],
    json: Annotated[bool, typer.Option("--json", help="Print the rows as JSON.")] = False,
) -> None:
    """List the videos and segments that failed, with stage, kind and message."""
    errors = read_errors(store)
    if json:
        print_json(errors.to_dict("records"))
        return
    if errors.empty:
        say(f"{store}: no errors")
        return
    table = Table("video", "segment", "stage", "type", "message")
    for row in errors.to_dict("records"):
        segment = "all" if row["segment"] == WHOLE_VIDEO else str(row["segment"])
        table.add_row(*map(Text, (row["video_id"], segment, row["stage"], row["type"], row["message"])))
    stderr.print(table)


if __name__ == "__main__":
    run(main)
