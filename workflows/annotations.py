"""Annotations: contents, problems, other formats, splits, pictures. `python -m workflows.annotations`."""

from collections import Counter
from typing import Annotated, Literal

import typer
from rich import box
from rich.console import Console
from rich.table import Table

from balletal import files
from balletal.annotations import (
    Annotations,
    Problem,
    cleaning_report,
    closest_label_set,
    make_split,
    read_annotations,
    save_split,
    write_activitynet,
    write_csv,
    write_results,
    write_via_csv,
    write_webvtt,
)
from balletal.annotations.splits import By
from balletal.errors import InputError
from balletal.labels import LabelSet
from balletal.report.sheets import choose_examples, contact_sheet
from balletal.video.probe import VIDEO_SUFFIXES
from workflows.console import FAILED, SOME_VIDEOS_FAILED, finish, print_json, run, say
from workflows.sources import list_sources

app = typer.Typer(help="Annotations: contents, problems, other formats, splits, pictures.", no_args_is_help=True)

Path_ = Annotated[
    str, typer.Argument(metavar="PATH", help="VIA CSV or project, ActivityNet JSON, CSV, Parquet, or a folder of them.")
]
Labels = Annotated[
    str | None,
    typer.Option(help="Label set: annchor-fine, annchor-coarse or a JSON file; finer names become its own."),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")]
# Problems of one kind, or missing videos, that a person is shown; --json has all problems.
_SHOWN = 10


def load(path: str, labels: str | None) -> tuple[Annotations, LabelSet | None]:
    """Annotations by the names of a label set (by name), and that set."""
    label_set = LabelSet.load(labels) if labels else None
    return read_annotations(path, label_set), label_set


def summary(annotations: Annotations, labels: LabelSet | None = None) -> dict:
    """Counts of videos, segments by class with their lengths in seconds, tags and problems; JSON-able."""
    steps = annotations.segments.assign(length=annotations.segments["end"] - annotations.segments["start"])
    labels = labels or closest_label_set(annotations)
    classes = {}
    for name, lengths in sorted(steps.groupby("label")["length"], key=lambda group: -len(group[1])):
        p5, median, p95 = (round(float(lengths.quantile(q)), 3) for q in (0.05, 0.5, 0.95))
        videos = int(steps.loc[lengths.index, "video_id"].nunique())
        classes[str(name)] = {"segments": len(lengths), "videos": videos, "p5_s": p5, "median_s": median, "p95_s": p95}
    subsets = Counter(str(name) for name in annotations.videos["subset"].dropna())
    return {
        "videos": len(annotations.videos),
        "videos_without_segments": len(set(annotations.videos["video_id"]) - set(steps["video_id"])),
        "hours": round(float(annotations.videos["duration"].sum()) / 3600, 3),
        "subsets": dict(sorted(subsets.items())),
        "segments": len(steps),
        "label_set": labels.name if labels else None,
        "classes": classes,
        "tags": {str(name): int(n) for name, n in sorted(annotations.tags["label"].value_counts().items())},
        "problems": count_kinds(cleaning_report(annotations, labels)),
    }


def count_kinds(problems: list[Problem]) -> dict[str, int]:
    """How many problems of each kind, errors first."""
    counts = Counter((problem.severity, problem.kind) for problem in problems)
    return {kind: n for (_, kind), n in sorted(counts.items())}


@app.command()
def stats(path: Path_, labels: Labels = None, json: Json = False) -> None:
    """Counts and lengths of videos, classes, tags, and problems by kind."""
    result = summary(*load(path, labels))
    if json:
        print_json(result)
        return
    table = Table("label", box=box.SIMPLE)
    for name in ("segments", "videos", "5 % s", "median s", "95 % s"):
        table.add_column(name, justify="right")
    for name, row in result["classes"].items():
        table.add_row(name, *(str(row[key]) for key in ("segments", "videos", "p5_s", "median_s", "p95_s")))
    console = Console(highlight=False)
    console.print(table)
    console.print(f"{result['segments']} segments in {result['videos']} videos ({result['hours']} h of known duration)")
    for title in ("subsets", "tags", "problems"):
        said = ", ".join(f"{n} {name}" for name, n in result[title].items())
        console.print(f"{title}: {said or 'none'}", markup=False)


@app.command()
def validate(path: Path_, labels: Labels = None, json: Json = False) -> None:
    """The cleaning report. Exit code 1 when there are errors: steps that cannot be used as they stand.

    Overlaps, duplicates, rows that say nothing and segments that reach a little out of their video are warnings.
    """
    annotations, label_set = load(path, labels)
    label_set = label_set or closest_label_set(annotations)
    problems = cleaning_report(annotations, label_set)
    errors = sum(problem.severity == "error" for problem in problems)
    if json:
        print_json(
            {
                "segments": len(annotations.segments),
                "label_set": label_set.name if label_set else None,
                "errors": errors,
                "warnings": len(problems) - errors,
                "kinds": count_kinds(problems),
                "problems": [
                    {"severity": p.severity, "kind": p.kind, "where": p.where, "row": p.row, "message": p.message}
                    for p in problems
                ],
            }
        )
    else:
        _print_report(annotations, problems, label_set)
    if errors:
        finish(FAILED)


def _print_report(annotations: Annotations, problems: list[Problem], labels: LabelSet | None) -> None:
    console = Console(highlight=False, soft_wrap=True, markup=False)
    for kind, n in count_kinds(problems).items():
        mine = [problem for problem in problems if problem.kind == kind]
        console.print(f"{mine[0].severity}: {kind} ({n})", style="red" if mine[0].severity == "error" else "yellow")
        for problem in mine[:_SHOWN]:
            console.print(f"  {problem.where}:{problem.row}  {problem.message}")
        if n > _SHOWN:
            console.print(f"  and {n - _SHOWN} more (--json has all)")
    errors = sum(problem.severity == "error" for problem in problems)
    known = f"label set {labels.name}" if labels else "no label set: names are not checked"
    console.print(
        f"{len(annotations.segments)} segments in {len(annotations.videos)} videos; {errors} errors, "
        f"{len(problems) - errors} warnings; {known}"
    )


@app.command()
def convert(
    path: Path_,
    to: Annotated[Literal["activitynet", "csv", "via", "vtt"], typer.Option(help="Format to write.")],
    out: Annotated[
        str,
        typer.Option(
            help="File to write; for vtt of several videos a folder; for via a .csv file, or a folder for one file a "
            "variation."
        ),
    ],
    labels: Labels = None,
) -> None:
    """Write annotations in another format. Rows that cannot be segments are told on stderr."""
    annotations, label_set = load(path, labels)
    for problem in annotations.problems:
        say(f"left out: {problem.where}:{problem.row} {problem.kind}: {problem.message}")
    write(annotations, to, out, label_set)
    say(f"{len(annotations.segments)} segments of {len(annotations.videos)} videos -> {out}")


def write(annotations: Annotations, to: str, out: str, labels: LabelSet | None = None) -> None:
    """Write as ``to``, ``activitynet`` in the results form where there are scores; tells what cannot be written."""
    if to == "csv":
        write_csv(out, annotations)
    elif to == "via":
        write_via_csv(out, annotations)
        if "score" in annotations.segments:
            say("VIA has no scores: they are left out")
    elif to == "vtt":
        left_out = write_webvtt(out, annotations)
        if left_out:
            say(f"{left_out} segments cannot be subtitles: they end where they start, or before")
    elif "score" in annotations.segments:
        write_results(out, annotations.segments, video_ids=annotations.videos["video_id"])
    else:
        write_activitynet(out, annotations, labels)


@app.command()
def sheet(
    path: Path_,
    videos: Annotated[str, typer.Option(help="Folder or URI of the videos.")],
    out: Annotated[str, typer.Option(help="PNG file to write.")],
    labels: Labels = None,
    rows_per_label: Annotated[int, typer.Option(min=1, help="How many steps of each class.")] = 1,
    seed: Annotated[int, typer.Option(min=0, help="Another seed, other steps.")] = 0,
) -> None:
    """A contact sheet: for each class a step in pictures, from start to end. Missing videos are told on stderr."""
    annotations, label_set = load(path, labels)
    sources = {source.video_id: source.uri for source in list_sources(videos, VIDEO_SUFFIXES)}
    missing = sorted(set(annotations.videos["video_id"]) - set(sources))
    if missing:
        more = f" and {len(missing) - _SHOWN} more" if len(missing) > _SHOWN else ""
        say(f"not in {videos}: {', '.join(missing[:_SHOWN])}{more}")
    label_set = label_set or closest_label_set(annotations)
    examples = choose_examples(annotations, sources, label_set, rows_per_label=rows_per_label, seed=seed)
    if examples.empty:
        raise InputError(videos, expected=f"a video with a segment in {path}", found="none")
    names = {*annotations.segments["label"], *annotations.tags["label"]}
    if absent := sorted(names - set(examples["label"])):
        say(f"in none of these videos: {', '.join(absent)}")
    picture, problems = contact_sheet(examples, sources)
    for problem in problems:
        say(f"not shown: {problem}")
    files.write_bytes(out, picture)
    say(f"{len(examples)} steps of {examples['label'].nunique()} classes -> {out}")
    if problems:
        finish(SOME_VIDEOS_FAILED)


@app.command()
def split(
    path: Path_,
    by: Annotated[By, typer.Option(help="video, variation (all its videos in one subset), or the file's own subsets.")],
    out: Annotated[str, typer.Option(help="JSON file to write.")],
    seed: Annotated[int, typer.Option(help="Another seed, another draw.")] = 0,
    json: Json = False,
) -> None:
    """Split the videos 80/10/10 into training, validation and testing, or take the published split."""
    drawn = make_split(read_annotations(path), by, seed)
    save_split(out, drawn)
    counts = {subset: len(drawn.video_ids(subset)) for subset in ("training", "validation", "testing")}
    if json:
        print_json({"by": by, "seed": seed, "out": out, "counts": counts})
    else:
        say(", ".join(f"{n} {subset}" for subset, n in counts.items()) + f" -> {out}")


if __name__ == "__main__":
    run(app)
