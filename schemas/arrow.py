"""Arrow schemas of the tables that balletal writes. Plain types only, so that pandas, DuckDB and Spark read them."""

import pyarrow as pa

VIDEO_ID = pa.dictionary(pa.int32(), pa.string())


def features(dim: int, dtype: str = "float16") -> pa.Schema:
    """Feature rows, one a clip; (video_id, segment, clip) is unique.

    Args:
        dim: length of a feature.
        dtype: ``float16`` or ``float32``.
    """
    value = {"float16": pa.float16(), "float32": pa.float32()}[dtype]
    return pa.schema(
        [
            pa.field("video_id", VIDEO_ID, nullable=False),
            pa.field("segment", pa.int32(), nullable=False),
            pa.field("clip", pa.int32(), nullable=False),
            pa.field("start_s", pa.float64(), nullable=False),
            pa.field("end_s", pa.float64(), nullable=False),
            pa.field("feature", pa.list_(value, dim), nullable=False),
        ]
    )


VIDEOS = pa.schema(
    [
        pa.field("video_id", pa.string(), nullable=False),
        pa.field("uri", pa.string(), nullable=False),
        # What tells a changed source from an unchanged one: the etag, else "<mtime>-<size>".
        pa.field("version", pa.string(), nullable=False),
        pa.field("duration", pa.float64()),
        pa.field("fps", pa.float64()),
        pa.field("width", pa.int32()),
        pa.field("height", pa.int32()),
        pa.field("codec", pa.string()),
        pa.field("rotation", pa.int32()),
        pa.field("frames", pa.int64()),
    ]
)

ERRORS = pa.schema(
    [
        pa.field("uri", pa.string(), nullable=False),
        pa.field("version", pa.string(), nullable=False),
        pa.field("segment", pa.int32(), nullable=False),  # -1: the whole video
        pa.field("stage", pa.string(), nullable=False),  # probe | track | decode | extract | damage | import | localize
        pa.field("type", pa.string(), nullable=False),  # VideoError.kind, or the exception's class name
        pa.field("message", pa.string(), nullable=False),
    ]
)

ANNOTATIONS = pa.schema(
    [
        pa.field("video_id", pa.string(), nullable=False),
        pa.field("start", pa.float64(), nullable=False),
        pa.field("end", pa.float64(), nullable=False),
        pa.field("label", pa.string(), nullable=False),
    ]
)

DETECTIONS = pa.schema(
    [
        *ANNOTATIONS,
        pa.field("score", pa.float32(), nullable=False),
        pa.field("bundle", pa.string(), nullable=False),
    ]
)

# Of a bundle that tells tags: the names of those that go with each detection.
TAGGED_DETECTIONS = DETECTIONS.append(pa.field("tags", pa.list_(pa.string()), nullable=False))

# The videos that a file of detections is of (:mod:`balletal.detections`).
SCORED = pa.schema(
    [
        pa.field("video_id", pa.string(), nullable=False),
        pa.field("version", pa.string(), nullable=False),  # as in VIDEOS; empty where it is not known
        pa.field("features", pa.string(), nullable=False),  # changes with any of the video's files of features
        pa.field("detections", pa.int32(), nullable=False),  # how many were found
    ]
)

# Where every joint of every dancer is in every picture of a synthetic video; joints in the order of
# balletal.synthetic.body.JOINTS, coordinates side by side.
JOINTS = pa.schema(
    [
        pa.field("video_id", pa.string(), nullable=False),
        pa.field("frame", pa.int32(), nullable=False),
        pa.field("time_s", pa.float64(), nullable=False),
        pa.field("dancer", pa.int32(), nullable=False),  # 0: the annotated one
        pa.field("joints_2d", pa.list_(pa.float32(), 44), nullable=False),  # x, y: pixels, also outside the picture
        pa.field("joints_3d", pa.list_(pa.float32(), 66), nullable=False),  # x, y, z: metres
    ]
)

# The dancer crop at every analysis frame: a square, its centre in fractions of the displayed picture's width and
# height, its side of the short one. The metadata holds the rate (`balletal.fps`) and the tracker (`balletal.tracker`).
TRACKS = pa.schema(
    [
        pa.field("frame", pa.int32(), nullable=False),
        pa.field("time_s", pa.float64(), nullable=False),
        pa.field("x", pa.float32(), nullable=False),
        pa.field("y", pa.float32(), nullable=False),
        pa.field("side", pa.float32(), nullable=False),
        pa.field("mover", pa.bool_(), nullable=False),  # False: nobody was found to move, the crop is the whole picture
        pa.field("shot", pa.int32(), nullable=False),
    ]
)
