"""A client of the service that `balletal serve` runs: videos in, steps out, from any program.

>>> client = Client("http://127.0.0.1:8000")
>>> client
Client('http://127.0.0.1:8000')
"""

from balletal.client.bodies import Counts, Event, Failure, Job, Model, Models, Progress, Result, Upload, Video
from balletal.client.client import Client
from balletal.client.jobs import Jobs
from balletal.errors import ServiceError

__all__ = [
    "Client",
    "Counts",
    "Event",
    "Failure",
    "Job",
    "Jobs",
    "Model",
    "Models",
    "Progress",
    "Result",
    "ServiceError",
    "Upload",
    "Video",
]
