"""The `balletal` command: every workflow as a subcommand. Each is also `python -m workflows.<name>`."""

import importlib
import sys

import typer

from workflows.console import INTERRUPTED, run

# Command -> module that holds a typer command `main` or a typer group `app`, by help panel.
COMMANDS = {
    "Data": {"annotations": "annotations", "import-features": "import_features", "synth": "synth"},
    "Features": {
        "weights": "weights",
        "extract": "extract",
        "track": "track",
        "fit-projection": "fit_projection",
        "errors": "errors",
    },
    "Models": {
        "train": "train",
        "tune": "tune",
        "ensemble": "ensemble",
        "compare": "compare",
        "evaluate": "evaluate",
        "report": "report",
    },
    "Use": {
        "score": "score",
        "export": "export",
        "serve": "serve.command",
        "app": "app.command",
        "request": "request",
        "jobs": "jobs",
        "pipeline": "pipeline",
    },
    "A cluster": {"submit": "submit", "submitted": "submitted"},
    "This machine, or a cluster": {"doctor": "doctor"},
}


def build() -> typer.Typer:
    """The whole command line."""
    app = typer.Typer(
        name="balletal",
        help="Finds ballet steps in video: which step, from when to when, how sure.",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode="rich",
    )
    for panel, commands in COMMANDS.items():
        for name, module_name in commands.items():
            module = importlib.import_module(f"workflows.{module_name}")
            if hasattr(module, "app"):
                app.add_typer(module.app, name=name, rich_help_panel=panel)
            else:
                settings = getattr(module, "SETTINGS", None)
                app.command(name, rich_help_panel=panel, context_settings=settings)(module.main)
    return app


def main() -> None:
    """Entry point of the console script."""
    try:
        run(build())
    except KeyboardInterrupt:  # while the commands are still being imported; later, each ends with this code itself
        sys.exit(INTERRUPTED)


if __name__ == "__main__":
    main()
