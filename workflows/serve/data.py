"""Where the service keeps what outlives a request: one folder, or prefix of a bucket, that all replicas share.

    uploads/<id>/upload.json, <offset>.part       a video on its way in, piece after piece
    videos/<id>/video.json, content<suffix>       a video that is here; preview.mp4 where browsers cannot play it, or
                                                  preview.json, why there is none
    jobs/<id>/job.json, state.json, ...           see :mod:`workflows.serve.jobstore`

Files appear as a whole (:mod:`balletal.files`). What is not in the folder is not known: replicas come and go.
"""

import re
import secrets
from dataclasses import dataclass

from balletal import files

ID = r"[0-9a-f]{24}"
"""The form of every id of an upload, video or job: 96 bits of chance, so that none can be guessed."""


def new_id() -> str:
    """An id that nobody has."""
    return secrets.token_hex(12)


def is_id(name: str) -> bool:
    """Whether it has the form of an id. A name from a request must not become a path of its choice."""
    return re.fullmatch(ID, name) is not None


@dataclass(frozen=True)
class Data:
    """The data folder."""

    uri: str

    def folder(self, kind: str, name: str | None = None) -> str:
        """The folder of all uploads, videos or jobs, or of one of them."""
        if name is None:
            return files.join(self.uri, kind)
        if not is_id(name):
            raise ValueError(f"no id: {name!r}")
        return files.join(self.uri, kind, name)
