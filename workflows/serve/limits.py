"""What one client may cost the service. All of it is told at `GET /v1/limits`."""

from pydantic import BaseModel, ConfigDict, Field


class Limits(BaseModel):
    """Limits of requests, videos, jobs and live sessions; per token where it says so."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    max_body_bytes: int = Field(64 << 20, gt=0, description="of a video that is sent in one request")
    max_json_bytes: int = Field(16 << 20, gt=0, description="of a body that is JSON")
    max_chunk_bytes: int = Field(8 << 20, gt=0, description="of one piece of an upload")
    max_upload_bytes: int = Field(8 << 30, gt=0, description="of a video")
    max_stored_bytes: int = Field(64 << 30, gt=0, description="of all uploads and videos of a token")
    max_duration_s: float = Field(4 * 3600.0, gt=0, description="of a video")
    max_pixels: int = Field(4096 * 2304, gt=0, description="of a picture")
    max_fps: float = Field(240.0, gt=0, description="frames a second of a video, on average")
    max_localize_s: float = Field(30.0, gt=0, description="of video that a request answers for at once; more is a job")
    max_part_of_s: float = Field(900.0, gt=0, description="of a video of which a request localizes a part")
    max_localize_at_once: int = Field(8, gt=0, description="requests with a video at the same time, in each replica")
    max_inputs: int = Field(1000, gt=0, description="videos and prefixes named in a job")
    max_jobs: int = Field(16, gt=0, description="jobs of a token that are not finished")
    max_live: int = Field(4, gt=0, description="live sessions of a token, in each replica")
    max_live_frame_bytes: int = Field(256 << 10, gt=0, description="of a live frame's JPEG")
    ttl_s: float = Field(7 * 86400.0, gt=0, description="after which uploads, videos and finished jobs are removed")
