"""The tables that training and scoring both write."""

import io
from collections.abc import Iterable

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from balletal import files
from balletal.annotations import write_results
from balletal.tal.localizer import Localizer
from schemas import arrow


def write_detections(out: str, detections: pd.DataFrame, localizer: Localizer, video_ids: Iterable[str] = ()) -> None:
    """Write `detections.parquet` (schemas.arrow.DETECTIONS or TAGGED_DETECTIONS) and `detections.json` (ActivityNet
    results).

    Args:
        detections: segment table with ``score``, and ``tags`` where the localizer has them.
        video_ids: videos that were looked at, also those in which nothing was found.
    """
    schema = arrow.TAGGED_DETECTIONS if localizer.tags else arrow.DETECTIONS
    detections = detections.assign(bundle=localizer.digest)[schema.names]
    table = pa.Table.from_pandas(detections, schema=schema, preserve_index=False).replace_schema_metadata(
        {"bundle": localizer.digest, "name": localizer.name, "spec": localizer.spec.spec_id}
    )
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd")
    files.write_bytes(files.join(out, "detections.parquet"), sink.getvalue())
    write_results(
        files.join(out, "detections.json"),
        detections,
        video_ids=video_ids,
        external_data={"bundle": localizer.digest, "name": localizer.name},
    )


def remove_detections(out: str) -> None:
    """Remove both files, if they are there."""
    for name in ("detections.parquet", "detections.json"):
        files.remove(files.join(out, name))
