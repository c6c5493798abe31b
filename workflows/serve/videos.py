"""Videos over HTTP: sent in one request or piece after piece, listed, watched, removed."""

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Annotated, Any
from urllib.parse import quote

from fastapi import APIRouter, FastAPI, Header, Query, Request
from pydantic import BaseModel
from starlette.responses import Response

from workflows.serve.bodies import BINARY, check_media_type, receive, scratch
from workflows.serve.context import Context, Here, Owner, meanwhile
from workflows.serve.data import ID
from workflows.serve.jobforms import NEXT_PAGE
from workflows.serve.jobstore import JobStore
from workflows.serve.library import Id, Library, Name, StoredVideo, Video
from workflows.serve.media import MEDIA_TYPES, looking
from workflows.serve.preview import preview
from workflows.serve.problems import answers
from workflows.serve.ranges import file_response
from workflows.serve.sweep import tend
from workflows.serve.uploads import NewUpload, StoredUpload, Upload, Uploads


@asynccontextmanager
async def _life(app: FastAPI) -> AsyncIterator[None]:
    """Old videos go while the app runs."""
    here: Context = app.state.context
    async with meanwhile(tend(here.data, here.limits, JobStore(here.data).videos_in_use)):
        yield


router = APIRouter(tags=["videos"], lifespan=_life)

_HEADERS = {"Upload-Offset": {"description": "bytes that are here", "schema": {"type": "integer", "minimum": 0}}}
_OFFSET: dict[int | str, dict[str, Any]] = {200: {"headers": _HEADERS}}
_NEXT_OFFSET: dict[int | str, dict[str, Any]] = {204: {"headers": _HEADERS}}


class Videos(BaseModel):
    """A page of videos, newest first. The next one begins behind ``next_page_token``; the last has none."""

    videos: list[Video]
    next_page_token: str | None = None


def _body(*types: str) -> dict[str, Any]:
    return {"requestBody": {"required": True, "content": dict.fromkeys(types, BINARY)}}


@router.put(
    "/v1/videos",
    status_code=201,
    response_model=Video,
    responses=answers(400, 408, 413, 415, 429, 507),
    openapi_extra=_body("application/octet-stream", "video/*"),
)
async def put_video(
    request: Request,
    here: Here,
    owner: Owner,
    response: Response,
    name: Annotated[Name, Query(description="what you call it")] = "video",
) -> StoredVideo:
    """Send a short video as the body of one request."""
    check_media_type(request, "application/octet-stream", "video/")
    uploads, most = Uploads(here.data, here.limits), here.limits.max_body_bytes
    declared = request.headers.get("content-length", "")
    size = min(most, max(1, int(declared))) if declared.isdecimal() and len(declared) < 20 else most
    # Its place is taken first, as that of an upload, so that what is left of a killed replica is found.
    upload = await asyncio.to_thread(uploads.create, owner, NewUpload(filename=name, bytes=size))
    try:
        with scratch(here.data.folder("videos", upload.id)) as folder:
            await receive(request, folder / "content", most)
            video = await looking(partial(uploads.take_in, upload, folder / "content"))
    except BaseException:
        await asyncio.to_thread(uploads.remove, upload.id)
        raise
    response.headers["Location"] = f"/v1/videos/{video.video_id}"
    return video


@router.post("/v1/uploads", status_code=201, response_model=Upload, responses=answers(413, 429, 507))
async def begin_upload(new: NewUpload, here: Here, owner: Owner, response: Response) -> Upload:
    """Begin to send a video piece after piece."""
    uploads = Uploads(here.data, here.limits)
    upload = await asyncio.to_thread(uploads.create, owner, new)
    response.headers["Location"] = f"/v1/uploads/{upload.id}"
    told = upload.model_dump(exclude={"owner", "sha256"})
    return Upload(offset=0, chunk_max=here.limits.max_chunk_bytes, **told)


@router.head("/v1/uploads/{upload_id}", response_class=Response, responses=_OFFSET | answers(404))
async def upload_offset(upload_id: Id, here: Here, owner: Owner) -> Response:
    """How much of an upload is here: all of it, once it is complete."""

    def find() -> tuple[int, int]:
        video = Library(here.data).get(upload_id)
        if video is not None and video.owner == owner:
            return video.bytes, video.bytes
        uploads = Uploads(here.data, here.limits)
        upload = uploads.find(owner, upload_id)
        return uploads.offset(upload), upload.bytes

    offset, size = await asyncio.to_thread(find)
    return Response(headers={"Upload-Offset": str(offset), "Upload-Length": str(size)})


@router.patch(
    "/v1/uploads/{upload_id}",
    status_code=204,
    response_class=Response,
    responses=_NEXT_OFFSET | answers(400, 404, 408, 409, 413, 415, 507),
    openapi_extra=_body("application/offset+octet-stream", "application/octet-stream"),
)
async def add_piece(
    request: Request,
    upload_id: Id,
    here: Here,
    owner: Owner,
    offset: Annotated[int, Header(alias="Upload-Offset", ge=0, le=1 << 53, description="where the piece begins")],
) -> Response:
    """Add a piece at the upload's offset; at any other nothing is taken, and the answer tells the right one."""
    check_media_type(request, "application/offset+octet-stream", "application/octet-stream")
    uploads = Uploads(here.data, here.limits)
    upload: StoredUpload = await asyncio.to_thread(uploads.find, owner, upload_id)
    if await asyncio.to_thread(uploads.offset, upload) != offset:  # before the body is read
        await asyncio.to_thread(uploads.refuse_offset, upload)
    with scratch(here.data.folder("uploads", upload_id)) as folder:
        await receive(request, folder / "piece", here.limits.max_chunk_bytes)
        offset = await asyncio.to_thread(uploads.add_piece, upload, offset, folder / "piece")
    return Response(status_code=204, headers={"Upload-Offset": str(offset)})


@router.post(
    "/v1/uploads/{upload_id}/complete", status_code=201, response_model=Video, responses=answers(404, 409, 507)
)
async def complete_upload(upload_id: Id, here: Here, owner: Owner, response: Response) -> StoredVideo:
    """Make a video of an upload whose bytes are all here. Asked again, the answer is the same."""
    video = await looking(partial(Uploads(here.data, here.limits).complete, owner, upload_id))
    response.headers["Location"] = f"/v1/videos/{video.video_id}"
    return video


@router.delete("/v1/uploads/{upload_id}", status_code=204, response_class=Response, responses=answers(404))
async def remove_upload(upload_id: Id, here: Here, owner: Owner) -> Response:
    """Give an upload up."""

    def remove() -> None:
        uploads = Uploads(here.data, here.limits)
        uploads.remove(uploads.find(owner, upload_id).id)

    await asyncio.to_thread(remove)
    return Response(status_code=204)


@router.get("/v1/videos", response_model=Videos, response_model_exclude_none=True)
async def list_videos(
    here: Here,
    owner: Owner,
    limit: Annotated[int, Query(ge=1, le=1000, description="at most so many in a page")] = 100,
    page_token: Annotated[str | None, Query(pattern=rf"^\d{{1,20}}-{ID}$", description=NEXT_PAGE)] = None,
) -> Videos:
    """Your videos."""
    videos = await asyncio.to_thread(Library(here.data).of, owner)
    if page_token is not None:
        time, _, last = page_token.partition("-")
        videos = [video for video in videos if _place(video) < (int(time), last)]
    token = "-".join(map(str, _place(videos[limit - 1]))) if len(videos) > limit else None
    return Videos(videos=list(videos[:limit]), next_page_token=token)


def _place(video: Video) -> tuple[int, str]:
    """Where a video is in the list. It stays there whatever comes and goes, so that pages do not shift."""
    seconds, micros = int(video.created.timestamp()), video.created.microsecond
    return seconds * 1_000_000 + micros, video.video_id


@router.get("/v1/videos/{video_id}", response_model=Video, responses=answers(404))
async def show_video(video_id: Id, here: Here, owner: Owner) -> StoredVideo:
    """What a video is."""
    return await asyncio.to_thread(Library(here.data).find, owner, video_id)


@router.delete("/v1/videos/{video_id}", status_code=204, response_class=Response, responses=answers(404))
async def remove_video(video_id: Id, here: Here, owner: Owner) -> Response:
    """Remove a video. A job that needs it tells of it as of any video that is missing."""

    def remove() -> None:
        library = Library(here.data)
        library.remove(library.find(owner, video_id).video_id)

    await asyncio.to_thread(remove)
    return Response(status_code=204)


_CONTENT: dict[int | str, dict[str, Any]] = {
    200: {"description": "the video", "content": dict.fromkeys(MEDIA_TYPES.values(), BINARY)},
    206: {"description": "a range of it", "content": dict.fromkeys(MEDIA_TYPES.values(), BINARY)},
    304: {"description": "the client has it"},
}


@router.head(
    "/v1/videos/{video_id}/content",
    operation_id="head_content",
    response_class=Response,
    responses=_CONTENT | answers(404, 507),
)
@router.get(
    "/v1/videos/{video_id}/content",
    operation_id="get_content",
    response_class=Response,
    responses=_CONTENT | answers(404, 416, 507),
)
async def content(
    request: Request,
    video_id: Id,
    here: Here,
    owner: Owner,
    download: Annotated[bool, Query(description="the file as it was sent, whether browsers play it or not")] = False,
) -> Response:
    """The video as browsers play it: the file itself, or a preview on the same clock where they do not play that.

    A preview is made when it is first asked for; until it is ready the answer is 503.
    """
    library = Library(here.data)
    video = await asyncio.to_thread(library.find, owner, video_id)
    headers = {"Content-Type": MEDIA_TYPES[video.suffix], "Cache-Control": "private, max-age=3600"}
    if download or video.playable:
        if download:
            headers["Content-Disposition"] = _attachment(video)
        return await file_response(request, library.content(video), video.bytes, f'"{video.sha256}"', headers)
    uri, size = await preview(library, video)
    headers["Content-Type"] = MEDIA_TYPES[".mp4"]
    return await file_response(request, uri, size, f'"{video.sha256}-preview-{size}"', headers)


def _attachment(video: StoredVideo) -> str:
    """RFC 6266: the name for old clients in ASCII, and as it is."""
    plain = re.sub(r'[^ -~]|["\\%]', "_", video.name)
    return f"attachment; filename=\"{plain}\"; filename*=UTF-8''{quote(video.name, safe='')}"
