"""The page of `balletal app`: a thin client of a service. Streamlit runs all of it anew for whatever a user does."""

import os
import re
import shutil
import tempfile
import time
from pathlib import Path, PurePath
from typing import Any

import pandas as pd
import streamlit as st

from balletal.client import Client, Job, ServiceError, Upload, Video
from balletal.errors import InputError
from balletal.video.probe import VIDEO_SUFFIXES
from workflows.app.player import player
from workflows.request import URL, connect, step

STAGES = {
    "queued": "Waiting for its turn",
    "validating": "Checking the video",
    "extracting": "Watching the video",
    "localizing": "Finding the steps",
    "writing": "Writing them down",
}
ENDS = {"failed": "It did not work. Try again, or choose another model.", "cancelled": "Stopped."}
FORMATS = {
    "csv": "CSV: a table, for spreadsheets",
    "eaf": "EAF: for ELAN",
    "vtt": "WebVTT: subtitles",
    "srt": "SRT: subtitles",
    "otio": "OTIO: for video editors",
    "json": "JSON: everything, for programs",
    "activitynet": "ActivityNet: for research",
    "label-studio": "Label Studio: to correct by hand",
}
POLL_S = 0.5


def main() -> None:
    """The question, and the answer that the page's address names, so that it outlives a reload."""
    st.set_page_config("balletal", layout="wide")
    st.title("Find the steps in a dance", anchor=False)
    url = os.environ[URL]
    with connect(url, None) as client:
        try:
            answered = {"video", "job"} <= set(st.query_params)
            with st.expander("Another video, or other models") if answered else st.container():
                st.write(
                    "Choose a video. Each step is named, with the moment when it begins and the moment when it ends."
                )
                ask(client)
            if answered:
                show(client, client.video(st.query_params["video"]), client.jobs.show(st.query_params["job"]))
                address = f"{url}/#/videos/{st.query_params['video']}"
                st.caption(f"Slow motion, frame by frame and more: on [the service's own page]({address}).")
        except ServiceError as error:
            st.error(told(error, url))
        except InputError as error:  # the address names what no service has
            st.error(plain(str(error)))


def ask(client: Client) -> None:
    """A video, models, and a button that begins a job."""
    videos = {one.video_id: one for one in client.videos()}
    models = client.models()
    here, there = "one from this computer", "one that was sent before"
    chosen: Any = None
    if not videos or st.radio("Video", [here, there], horizontal=True, label_visibility="collapsed") == here:
        chosen = file = st.file_uploader("Video", VIDEO_SUFFIXES, label_visibility="collapsed")
    else:
        file = None
        chosen = st.selectbox("Which one", list(videos), format_func=lambda key: described(videos[key]))
    ids = [one.id for one in models.models]
    wanted = ids
    if len(ids) > 1:
        help_ = "Each model has a line of its own in the timeline, so that they can be compared."
        wanted = st.multiselect("Models", ids, [models.default], format_func=short(ids).get, help=help_)
    if st.button("Find the steps", type="primary", disabled=not (chosen and wanted)):
        video_id = chosen if file is None else send(client, file)
        job = client.jobs.submit([{"video_id": video_id}], models=wanted)
        st.query_params.from_dict({"video": video_id, "job": job.id})
        st.rerun()


def send(client: Client, file: Any) -> str:
    """The id of a file that was chosen, uploaded once however often it is asked about."""
    sent = st.session_state.setdefault("sent", {})
    if file.file_id not in sent:
        bar = st.progress(0.0, "Sending the video")

        def tell(upload: Upload) -> None:
            bar.progress(upload.offset / max(upload.bytes, 1), "Sending the video")

        with tempfile.NamedTemporaryFile() as copy:
            shutil.copyfileobj(file, copy)
            copy.flush()
            sent[file.file_id] = client.upload(copy.name, name=file.name, progress=tell).video_id
        bar.empty()
    return sent[file.file_id]


def show(client: Client, video: Video, job: Job) -> None:
    """A job on its way, or what came of it."""
    st.header(plain(video.name), anchor=False)
    if not job.finished:
        follow(client, job)
    for warning in (*video.warnings, *(failure.message for failure in client.jobs.errors(job.id))):
        st.warning(plain(warning))
    if job.status in ENDS:
        st.error(f"{ENDS[job.status]} {plain(job.error or '')}")
        return
    table = found(job.id, video.video_id, client)
    labels = sorted(table["label"].unique())
    place = st.container()
    # Weak guesses are there for those who look for them; where all are weak, they are what there is.
    usual = 30 if (table["score"] >= 0.3).any() else 0
    least = st.slider("Leave out guesses less sure than", 0, 100, usual, format="%d %%", key=f"least-{job.id}") / 100
    table = table[table["score"] >= least]
    names = short(list(job.models))
    columns = ["label", "start", "end", "score"]
    rows = {model: table[table["model"] == model] for model in job.models}
    tracks = [{"name": names[model], "segments": rows[model][columns].to_dict("records")} for model in job.models]
    with place:
        player(job.id, video.video_id, name=video.name, duration=video.duration, labels=labels, tracks=tracks)
        st.caption("Click on a step in the timeline: the video goes to its first moment.")
    listed(table, names)
    save(video, job, names, least)


def follow(client: Client, job: Job) -> None:
    """Wait until a job is finished, then draw the page anew."""
    bar = st.progress(0.0)
    if st.button("Stop"):
        job = client.jobs.cancel(job.id)
    while not job.finished:
        share = min(job.progress.done / max(job.progress.total, 1), 1.0)
        bar.progress(share, STAGES[job.status])
        time.sleep(POLL_S)  # not the job's events: a click is heard only between calls of Streamlit
        job = client.jobs.show(job.id)
    st.rerun()


@st.cache_data(max_entries=8, show_spinner=False)
def found(job_id: str, video_id: str, _client: Client) -> pd.DataFrame:
    """Segments of a finished job, as :meth:`balletal.client.Jobs.results`."""
    table = pd.concat(_client.jobs.results(job_id), ignore_index=True)
    return table[table["video_id"] == video_id]


def listed(table: pd.DataFrame, names: dict[str, str]) -> None:
    """The steps, in the order of the dance."""
    table = table.assign(label=[step(row).plain for row in table.itertuples()], model=table["model"].map(names))
    seconds = "%.2f s"
    columns = {
        "label": "Step",
        "start": st.column_config.NumberColumn("From", format=seconds),
        "end": st.column_config.NumberColumn("To", format=seconds),
        "score": st.column_config.ProgressColumn("How sure", format="percent", min_value=0.0, max_value=1.0),
    } | ({"model": "Model"} if len(names) > 1 else {})
    st.dataframe(table.sort_values(["start", "end"]), hide_index=True, column_order=[*columns], column_config=columns)


def save(video: Video, job: Job, names: dict[str, str], least: float) -> None:
    """The steps of a model as a file."""
    left, middle, right = st.columns(3, vertical_alignment="bottom")
    form = left.selectbox("Save the steps as", list(FORMATS), format_func=FORMATS.get)
    model = middle.selectbox("Of", list(names), format_func=names.get) if len(names) > 1 else job.models[0]

    def content() -> bytes:
        with connect(os.environ[URL], None) as client, tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "steps"
            client.jobs.export(job.id, form, str(path), model=model, min_score=least, video_id=video.video_id)
            return path.read_bytes()

    suffix = "json" if form in ("activitynet", "label-studio") else form
    right.download_button("Save", content, f"{PurePath(video.name).stem}.{suffix}", on_click="ignore")


def described(video: Video) -> str:
    """A video in a list: its name, how long it is, when it was sent."""
    minutes, seconds = divmod(round(video.duration), 60)
    return f"{video.name} · {minutes}:{seconds:02} · {video.created.astimezone():%Y-%m-%d %H:%M}"


def short(ids: list[str]) -> dict[str, str]:
    """What models ``name@version`` are called: their names where that is enough."""
    names = [one.partition("@")[0] for one in ids]
    return {one: name if names.count(name) == 1 else one for one, name in zip(ids, names, strict=True)}


def told(error: ServiceError, url: str) -> str:
    """A problem in words, and what to do about it."""
    if error.status is None:
        return f"The service at {url} does not answer. Is `balletal serve` running there? Reload this page then."
    if error.status == 401:
        return "The service wants a token. End `balletal app` and start it again with `--token-file`."
    return plain(str(error))


def plain(text: str) -> str:
    """As it is: Streamlit reads Markdown, and names of files are not ours."""
    return re.sub(r"([!-/:-@\[-`{-~])", r"\\\1", text)


if __name__ == "__main__":
    main()
