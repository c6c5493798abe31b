"""What is older than the service keeps it goes. Any number of replicas may sweep at once."""

import asyncio
import logging
import random
from collections.abc import Callable, Collection
from datetime import UTC, datetime, timedelta

from balletal import files
from workflows.serve.data import Data, is_id
from workflows.serve.limits import Limits
from workflows.serve.uploads import Uploads

log = logging.getLogger(__name__)


def sweep(data: Data, limits: Limits, in_use: Callable[[], Collection[str]], now: datetime | None = None) -> list[str]:
    """Remove uploads and videos older than ``limits.ttl_s``, and what a killed replica left half removed or half made.

    Args:
        in_use: ids of the videos that unfinished jobs need; these stay. Asked after the old ones are known, so that a
            job which found its video is counted.

    Returns:
        The ids of what was removed.

    Raises:
        StorageError: the data folder cannot be read or written; the next sweep goes on.
    """
    uploads = Uploads(data, limits)
    library = uploads.library
    oldest = (now or datetime.now(UTC)) - timedelta(seconds=limits.ttl_s)
    gone = [upload.id for upload in uploads.all() if upload.created < oldest]
    for upload_id in gone:
        uploads.remove(upload_id)
    videos = library.all()
    if old := [video.video_id for video in videos if video.created < oldest]:
        needed = frozenset(in_use())
        for video_id in old:
            if video_id not in needed:
                library.remove(video_id)
                gone.append(video_id)
    known = {video.video_id for video in videos}
    for name in files.list_names(data.folder("videos")):
        # In this order: an upload goes after its video has come.
        if is_id(name) and name not in known and not uploads.exists(name) and not library.exists(name):
            library.remove(name)
            gone.append(name)
    if gone:
        log.info("removed %d old uploads and videos", len(gone))
    return gone


async def tend(data: Data, limits: Limits, in_use: Callable[[], Collection[str]]) -> None:
    """Sweep again and again, for the lifespan of an app. See :func:`sweep`."""
    every_s = min(3600.0, limits.ttl_s / 10)
    while True:
        await asyncio.sleep(every_s * random.uniform(0.5, 1.0))  # replicas that started together part
        try:
            await asyncio.to_thread(sweep, data, limits, in_use)
        except Exception as error:  # storage is away, or nobody foresaw it: the next sweep comes all the same
            log.warning("not swept: %s", error)
