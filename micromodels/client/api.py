"""The client: every API call as a method."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from google.longrunning import operations_pb2
from google.protobuf import empty_pb2
from google.protobuf.message import Message

from micromodels.client.access import Access
from micromodels.client.assignments import Assignments
from micromodels.client.connection import Connection, Tls
from micromodels.client.messages import label_batches, label_from_message, label_to_message, ontology_to_message
from micromodels.client.operations import AutoLabelRun, Operation
from micromodels.client.reviewing import Reviewing
from micromodels.client.transfers import download, send_file
from micromodels.types import AnyLabel, Ontology
from micromodels.v1 import capabilities_pb2, file_pb2, label_pb2, labeling_pb2, micro_model_pb2, project_pb2, video_pb2

__all__ = ["Client"]

_RESPONSES: dict[labeling_pb2.OperationKind.ValueType, type[Message]] = {
    labeling_pb2.OPERATION_KIND_PROBE: video_pb2.Video,
    labeling_pb2.OPERATION_KIND_TRAIN: micro_model_pb2.MicroModelVersion,
    labeling_pb2.OPERATION_KIND_PROPAGATE: labeling_pb2.PropagateResponse,
    labeling_pb2.OPERATION_KIND_AUTO_LABEL: labeling_pb2.AutoLabelResult,
    labeling_pb2.OPERATION_KIND_EXPORT: labeling_pb2.ExportResponse,
    labeling_pb2.OPERATION_KIND_RETRAIN: labeling_pb2.RetrainResponse,
}


class Client:
    """A connection to a server. Calls block; several threads may share a client.

    Methods take resource names and return messages of ``micromodels.v1``; labels and ontologies are those of
    ``micromodels.types``. Every method may raise ``ApiError``. Calls that change something are safe to repeat, and are
    retried while the server is briefly unreachable.

    Args:
        address: ``host:port`` of the server.
        token: access token, sent with every call; without ``tls`` allowed only for a server on this machine.
        timeout_seconds: time limit of a single call; streams and waiting for operations may take longer.
        ca_file: PEM file of the authority of the server's certificate, such as the ``ca.pem`` that
            ``micromodels serve`` prints; turns TLS on.
        certificate_file: PEM file of a client certificate, if the server requires one; turns TLS on.
        key_file: PEM file of its key.
        tls: True for TLS with the system's authorities; None to decide by the files.

    Attributes:
        access: tokens, roles and the audit log.
        assignments: blind double annotation.
        review: corrections, reviews, tracks and history.
        stubs: the generated stubs, for calls without a method here.

    Raises:
        OSError: a file cannot be read.
        ValueError: a token for a remote server without TLS, or a certificate without its key.
    """

    def __init__(
        self,
        address: str,
        *,
        token: str | None = None,
        timeout_seconds: float = 60.0,
        ca_file: str | os.PathLike[str] | None = None,
        certificate_file: str | os.PathLike[str] | None = None,
        key_file: str | os.PathLike[str] | None = None,
        tls: bool | None = None,
    ) -> None:
        files = Tls(ca_file, certificate_file, key_file)
        encrypted = files != Tls() if tls is None else tls
        self._connection = Connection(address, token, timeout_seconds, files if encrypted else None)
        self.stubs = self._connection.stubs
        self.access = Access(self._connection)
        self.assignments = Assignments(self._connection)
        self.review = Reviewing(self._connection)

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def get_capabilities(self) -> capabilities_pb2.Capabilities:
        """What the server supports: label formats, recipes, encoders, limits."""
        request = capabilities_pb2.GetCapabilitiesRequest()
        found: capabilities_pb2.Capabilities = self._connection.call(self.stubs.capabilities.GetCapabilities, request)
        return found

    # Projects

    def create_project(self, display_name: str, ontology: Ontology, *, project_id: str = "") -> project_pb2.Project:
        """Create a project; if ``project_id`` is empty, the server chooses an id."""
        project = ontology_to_message(ontology)
        project.display_name = display_name
        request = project_pb2.CreateProjectRequest(project_id=project_id, project=project, request_id=_request_id())
        made: project_pb2.Project = self._connection.call(self.stubs.projects.CreateProject, request)
        return made

    def get_project(self, name: str) -> project_pb2.Project:
        """Read a project; ``ontology_from_message`` reads its classes."""
        request = project_pb2.GetProjectRequest(name=name)
        found: project_pb2.Project = self._connection.call(self.stubs.projects.GetProject, request)
        return found

    def list_projects(self) -> Iterator[project_pb2.Project]:
        """All projects, oldest first."""
        request = project_pb2.ListProjectsRequest()
        for page in self._connection.pages(self.stubs.projects.ListProjects, request):
            yield from page.projects

    def update_project(
        self,
        name: str,
        *,
        display_name: str | None = None,
        ontology: Ontology | None = None,
        retention_days: int | None = None,
        etag: str = "",
    ) -> project_pb2.Project:
        """Change the given fields; with ``etag``, only if the project has not changed since it was read."""
        request = project_pb2.UpdateProjectRequest()
        if ontology is not None:
            request.project.CopyFrom(ontology_to_message(ontology))
            request.update_mask.paths.extend(["object_classes", "frame_classes"])
        if display_name is not None:
            request.project.display_name = display_name
            request.update_mask.paths.append("display_name")
        if retention_days is not None:
            request.project.retention_days = retention_days
            request.update_mask.paths.append("retention_days")
        request.project.name, request.project.etag = name, etag
        changed: project_pb2.Project = self._connection.call(self.stubs.projects.UpdateProject, request)
        return changed

    def delete_project(self, name: str, *, force: bool = False) -> None:
        """Delete a project; ``force`` also deletes its videos."""
        request = project_pb2.DeleteProjectRequest(name=name, force=force)
        self._connection.call(self.stubs.projects.DeleteProject, request)

    # Videos

    def upload_video(
        self,
        project: str,
        path: str | os.PathLike[str],
        *,
        on_progress: Callable[[int, int], None] | None = None,
        timeout_seconds: float | None = None,
    ) -> video_pb2.Video:
        """Upload a file and wait until the server has read it.

        A repeat with the same file, even from another process, resumes an interrupted upload, or returns the video if
        the upload is complete.

        Args:
            project: name of the project.
            path: the file.
            on_progress: called with the uploaded bytes and the size of the file.
            timeout_seconds: how long to wait for the server to read the video; None for no limit.
        """
        upload = send_file(self._connection, project, Path(path), on_progress)
        finish = video_pb2.FinishUploadRequest(name=upload.name)
        started = self._connection.call(self.stubs.videos.FinishUpload, finish)
        return Operation(self._connection, started.name, video_pb2.Video).result(timeout_seconds)

    def get_upload(self, name: str) -> video_pb2.Upload:
        """State of an upload."""
        request = video_pb2.GetUploadRequest(name=name)
        found: video_pb2.Upload = self._connection.call(self.stubs.videos.GetUpload, request)
        return found

    def delete_upload(self, name: str) -> None:
        """Cancel an upload."""
        self._connection.call(self.stubs.videos.DeleteUpload, video_pb2.DeleteUploadRequest(name=name))

    def register_video(
        self, project: str, path: str, *, display_name: str = "", timeout_seconds: float | None = None
    ) -> video_pb2.Video:
        """Register a video on the server's disk, below an allowed root, and wait until it has been read."""
        request = video_pb2.RegisterVideoRequest(
            parent=project, path=path, display_name=display_name, request_id=_request_id()
        )
        started = self._connection.call(self.stubs.videos.RegisterVideo, request)
        return Operation(self._connection, started.name, video_pb2.Video).result(timeout_seconds)

    def get_video(self, name: str) -> video_pb2.Video:
        """Read a video."""
        found: video_pb2.Video = self._connection.call(self.stubs.videos.GetVideo, video_pb2.GetVideoRequest(name=name))
        return found

    def list_videos(self, project: str) -> Iterator[video_pb2.Video]:
        """All videos of a project, oldest first."""
        for page in self._connection.pages(self.stubs.videos.ListVideos, video_pb2.ListVideosRequest(parent=project)):
            yield from page.videos

    def list_frames(self, video: str) -> Iterator[video_pb2.Frame]:
        """The frame table of a video, in display order."""
        for page in self._connection.pages(self.stubs.videos.ListFrames, video_pb2.ListFramesRequest(parent=video)):
            yield from page.frames

    def delete_video(self, name: str) -> None:
        """Delete a video permanently, and micro-models trained on it; see ``access.get_deletion_receipt``."""
        self._connection.call(self.stubs.videos.DeleteVideo, video_pb2.DeleteVideoRequest(name=name))

    # Labels

    def write_labels(self, video: str, labels: Iterable[AnyLabel], *, base_revision: int | None = None) -> int:
        """Write labels in batches, each completely or not at all; returns the new revision of the video's labels.

        Args:
            video: name of the video.
            labels: any number.
            base_revision: the revision that the writer has seen; raises ``ApiError`` with code ``ABORTED`` if people
                have changed one of these labels since.
        """
        revision: int | None = None
        for batch in label_batches(labels):
            request = label_pb2.WriteLabelsRequest(parent=video, labels=batch, request_id=_request_id())
            if base_revision is not None:
                request.base_revision = base_revision
            revision = int(self._connection.call(self.stubs.labels.WriteLabels, request).label_revision)
        return int(self.get_video(video).label_revision) if revision is None else revision

    def read_labels(
        self,
        video: str,
        *,
        frames: range | None = None,
        tracks: Sequence[str] = (),
        class_names: Sequence[str] = (),
        anchors_only: bool = False,
    ) -> Iterator[AnyLabel]:
        """The labels of a video in order of frames; resumes after a broken connection.

        Args:
            video: name of the video.
            frames: half-open range; None for all.
            tracks: only these tracks or frame classes; empty for all.
            class_names: only these object or frame classes; empty for all.
            anchors_only: only human labels.
        """
        selection = _selection(frames, tracks, class_names, anchors_only)
        request = label_pb2.StreamLabelsRequest(parent=video, selection=selection)
        for message in self._connection.stream(lambda: (self.stubs.labels.StreamLabels, request)):
            request.resume_token = message.resume_token
            yield from map(label_from_message, message.labels)

    def delete_labels(
        self,
        video: str,
        *,
        frames: range | None = None,
        tracks: Sequence[str] = (),
        class_names: Sequence[str] = (),
        anchors_only: bool = False,
        base_revision: int | None = None,
    ) -> label_pb2.DeleteLabelsResponse:
        """Delete the labels that ``read_labels`` returns for the same arguments."""
        selection = _selection(frames, tracks, class_names, anchors_only)
        request = label_pb2.DeleteLabelsRequest(parent=video, selection=selection, base_revision=base_revision)
        answer: label_pb2.DeleteLabelsResponse = self._connection.call(self.stubs.labels.DeleteLabels, request)
        return answer

    # Work

    def train(
        self,
        video: str,
        *,
        recipe: str = "auto",
        experiments: int = 1,
        seed: int = 0,
        effort: float = 1.0,
        device: str = "",
        encoder: str = "auto",
        micro_model: str = "",
        display_name: str = "",
    ) -> Operation[micro_model_pb2.MicroModelVersion]:
        """Train on the human labels of a video.

        Args:
            video: name of the video.
            recipe: ``auto`` or the name of one of the server's recipes.
            experiments: how many settings to try.
            seed: seed of all random numbers.
            effort: factor on the amount of training, 0.01 to 20; below 1 is faster and less accurate.
            device: ``auto``, ``cpu`` or ``cuda``; empty for the server's setting.
            encoder: ``auto`` or names of the server's encoders, joined by ``+``.
            micro_model: name of the micro-model of this video that gets a new version; empty for a new micro-model.
            display_name: display name of a new micro-model.
        """
        settings = micro_model_pb2.TrainSettings(
            recipe=recipe, experiments=experiments, seed=seed, effort=effort, device=device, encoder=encoder
        )
        request = labeling_pb2.TrainRequest(
            video=video, micro_model=micro_model, display_name=display_name, settings=settings, request_id=_request_id()
        )
        started = self._connection.call(self.stubs.labeling.Train, request)
        return Operation(self._connection, started.name, micro_model_pb2.MicroModelVersion)

    def retrain(
        self,
        video: str,
        *,
        micro_model_version: str = "",
        experiments: int = 1,
        seed: int = 0,
        effort: float = 1.0,
        device: str = "",
    ) -> Operation[labeling_pb2.RetrainResponse]:
        """Retrain on the hand labels of a video; the result replaces the old one if it is better on held-out labels.

        Args:
            video: name of the video.
            micro_model_version: version of this video to compare with; empty for the one trained last on it.
            experiments: how many settings to try.
            seed: of all random numbers.
            effort: factor on the amount of training, 0.01 to 20.
            device: ``auto``, ``cpu`` or ``cuda``; empty for the server's setting.
        """
        settings = micro_model_pb2.TrainSettings(experiments=experiments, seed=seed, effort=effort, device=device)
        request = labeling_pb2.RetrainRequest(
            video=video, micro_model_version=micro_model_version, settings=settings, request_id=_request_id()
        )
        started = self._connection.call(self.stubs.labeling.Retrain, request)
        return Operation(self._connection, started.name, labeling_pb2.RetrainResponse)

    def propagate(
        self, video: str, micro_model_version: str, *, frames: range | None = None, device: str = ""
    ) -> Operation[labeling_pb2.PropagateResponse]:
        """Label a video, or a half-open range of its frames, with an existing micro-model."""
        request = labeling_pb2.PropagateRequest(
            video=video, micro_model_version=micro_model_version, device=device, request_id=_request_id()
        )
        if frames is not None:
            request.start_frame, request.stop_frame = frames.start, frames.stop
        started = self._connection.call(self.stubs.labeling.Propagate, request)
        return Operation(self._connection, started.name, labeling_pb2.PropagateResponse)

    def auto_label(
        self,
        source: str,
        seeds: Iterable[AnyLabel],
        *,
        project: str = "",
        recipe: str = "auto",
        experiments: int = 1,
        seed: int = 0,
        effort: float = 1.0,
        device: str = "",
        encoder: str = "auto",
        flip_book: bool = False,
    ) -> AutoLabelRun:
        """Label every frame of a video from a few seeds.

        Args:
            source: name of a video, or with ``project`` a path on the server below an allowed root.
            seeds: labels to start from; stored as human labels.
            project: name of the project for ``source`` as a path.
            recipe: as for ``train``.
            experiments: as for ``train``.
            seed: as for ``train``.
            effort: as for ``train``.
            device: as for ``train``.
            encoder: as for ``train``.
            flip_book: whether to receive flip-book pictures.
        """
        settings = micro_model_pb2.TrainSettings(
            recipe=recipe, experiments=experiments, seed=seed, effort=effort, device=device, encoder=encoder
        )
        request = labeling_pb2.AutoLabelRequest(
            parent=project or "/".join(source.split("/")[:2]),
            seeds=map(label_to_message, seeds),
            settings=settings,
            flip_book=flip_book,
            request_id=_request_id(),
        )
        if project:
            request.path = source
        else:
            request.video = source
        return AutoLabelRun(self._connection, request)

    def export(self, video: str, folder: str | os.PathLike[str], *, file_format: str = "jsonl") -> list[Path]:
        """Export the labels of a video, wait, and download the files.

        Args:
            video: name of the video.
            folder: folder for the files; created if missing.
            file_format: name of one of the ``label_formats`` of ``get_capabilities`` that can be written, or
                ``archive`` (everything stored about the video, as a zip), or ``review_report`` (who drew, corrected
                and accepted each label).
        """
        request = labeling_pb2.ExportRequest(video=video, format=file_format, request_id=_request_id())
        started = self._connection.call(self.stubs.labeling.Export, request)
        made = Operation(self._connection, started.name, labeling_pb2.ExportResponse).result()
        return [self.download(file, folder) for file in made.files]

    def download(self, file: file_pb2.File, folder: str | os.PathLike[str]) -> Path:
        """Download a file, check it and return its path. An interrupted download is resumed.

        Raises:
            ApiError: code ``DATA_LOSS``: the bytes do not match the server's checksum.
        """
        return download(self._connection, file, Path(folder))

    def operation(self, name: str) -> Operation[Any]:
        """An operation that was started earlier, by any client."""
        found = self._connection.call(self.stubs.operations.GetOperation, operations_pb2.GetOperationRequest(name=name))
        metadata = labeling_pb2.OperationMetadata()
        found.metadata.Unpack(metadata)
        return Operation(self._connection, name, _RESPONSES.get(metadata.kind, empty_pb2.Empty))

    def list_operations(self, project: str) -> Iterator[operations_pb2.Operation]:
        """All operations of a project, oldest first."""
        request = operations_pb2.ListOperationsRequest(name=project)
        for page in self._connection.pages(self.stubs.operations.ListOperations, request):
            yield from page.operations

    def get_micro_model_version(self, name: str) -> micro_model_pb2.MicroModelVersion:
        """Read one version; ``.../versions/latest`` for the newest."""
        request = micro_model_pb2.GetMicroModelVersionRequest(name=name)
        found: micro_model_pb2.MicroModelVersion = self._connection.call(
            self.stubs.micro_models.GetMicroModelVersion, request
        )
        return found

    def list_micro_model_versions(self, parent: str) -> Iterator[micro_model_pb2.MicroModelVersion]:
        """All versions of a micro-model, oldest first; ``projects/{project}/microModels/-`` for all micro-models."""
        request = micro_model_pb2.ListMicroModelVersionsRequest(parent=parent)
        for page in self._connection.pages(self.stubs.micro_models.ListMicroModelVersions, request):
            yield from page.micro_model_versions

    def delete_micro_model_version(self, name: str) -> None:
        """Delete a version; its labels stay."""
        request = micro_model_pb2.DeleteMicroModelVersionRequest(name=name)
        self._connection.call(self.stubs.micro_models.DeleteMicroModelVersion, request)


def _request_id() -> str:
    return str(uuid.uuid4())


def _selection(
    frames: range | None, tracks: Sequence[str], class_names: Sequence[str], anchors_only: bool
) -> label_pb2.LabelSelection:
    return label_pb2.LabelSelection(
        start_frame=frames.start if frames is not None else 0,
        stop_frame=frames.stop if frames is not None else 0,
        tracks=tracks,
        class_names=class_names,
        anchors_only=anchors_only,
    )
