"""Where a job finds its videos, those that were sent and those in places that are allowed, and leaves its results."""

from balletal.video.probe import VIDEO_SUFFIXES
from workflows.serve.context import Context
from workflows.serve.library import Library
from workflows.serve.problems import Problem


def library_video(here: Context, owner: str, video_id: str) -> str:
    """The URI of a video of an owner.

    Raises:
        Problem: 404.
    """
    library = Library(here.data)
    return library.content(library.find(owner, video_id))


def output_uri(here: Context, uri: str) -> str:
    """A folder that may be written to, as it is opened.

    Raises:
        Problem: 422.
    """
    if not here.outputs.allows(uri):
        detail = "The service does not write to this place. Fetch the results, or ask for the place to be allowed."
        raise Problem(422, "forbidden-uri", "Place not allowed", detail)
    return here.outputs.require(uri)


def video_uri(here: Context, uri: str, *, suffix: bool = False) -> str:
    """A URI that may be used, as it is opened.

    Args:
        suffix: whether it must be called as videos are.

    Raises:
        Problem: 422.
    """
    found = here.sources.require(uri)
    if suffix and not found.lower().endswith(VIDEO_SUFFIXES):
        detail = f"A video's name ends in one of {', '.join(VIDEO_SUFFIXES)}."
        raise Problem(422, "bad-parameters", "No video's name", detail)
    return found
