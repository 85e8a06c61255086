"""The light client of the gRPC API: typed, synchronous, without torch and numpy.

>>> from micromodels.client import Client                                             # doctest: +SKIP
>>> with Client("localhost:50051") as client:
...     project = client.create_project("Colon", Ontology(object_classes=(ObjectClass("polyp"),)))
...     video = client.upload_video(project.name, "clip.mp4")
...     run = client.auto_label(video.name, seeds)
...     for progress in run:
...         print(progress)
...     labels = list(run.labels())
"""

from __future__ import annotations

from micromodels.client.api import Client
from micromodels.client.assignments import Assignments
from micromodels.client.errors import ApiError
from micromodels.client.operations import AutoLabelRun, Operation
from micromodels.client.reviewing import Reviewing, label_key

__all__ = ["ApiError", "Assignments", "AutoLabelRun", "Client", "Operation", "Reviewing", "label_key"]
