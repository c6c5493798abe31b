"""The player: a video above `balletal/report/timeline.js`, the same file that the report and the service mount."""

from pathlib import Path
from typing import Any

import streamlit as st

import balletal.report

_HERE = Path(__file__).parent
_TIMELINE = Path(balletal.report.__file__).with_name("timeline.js")

# One module, because Streamlit takes one. Not in a shadow root, where the timeline could not see what has the focus.
_mount = st.components.v2.component(
    "balletal",
    html='<div class="balletal"></div>',
    css=(_HERE / "player.css").read_text(encoding="utf-8"),
    js="\n".join(path.read_text(encoding="utf-8") for path in (_TIMELINE, _HERE / "player.js")),
    isolate_styles=False,
)


def player(
    job_id: str, video_id: str, *, name: str, duration: float, labels: list[str], tracks: list[dict[str, Any]]
) -> None:
    """Show a video and its timeline; a click on a segment goes to its first moment.

    Args:
        job_id: whose segments these are. Of the same job, ``tracks`` alone may change; another one has its own player.
        duration: seconds.
        labels: of all segments that may come to be shown, in the order of their colours.
        tracks: each ``{"name", "segments": [{"label", "start", "end", "score"}]}``; times are seconds.
    """
    data = {"src": f"/videos/{video_id}", "name": name, "duration": duration, "labels": labels, "tracks": tracks}
    _mount(key=f"player-{job_id}", data=data)
