"""``CapabilityService``: what this server supports, as installed and configured."""

from __future__ import annotations

import micromodels
from micromodels.encoding.encoders import EncoderInfo, default_encoder_name, encoders
from micromodels.labels.formats import LabelFormat, label_formats
from micromodels.recipes.base import DEFAULT_RECIPE, MAX_EFFORT, MAX_EXPERIMENTS, MIN_EFFORT, RecipeInfo, recipes
from micromodels.types import MAX_MASK_PIXELS, MAX_POLYGON_VERTICES
from micromodels.v1 import capabilities_pb2 as pb
from micromodels.v1 import capabilities_pb2_grpc
from service.api.backend import Backend, Context
from service.api.labels import MAX_LABELS
from service.domain.job_specs import export_formats
from service.settings import Settings

__all__ = ["CapabilityServicer"]


class CapabilityServicer(capabilities_pb2_grpc.CapabilityServiceServicer):
    """Reports what the server supports.

    Args:
        backend: the store.
    """

    def __init__(self, backend: Backend) -> None:
        self._run = backend.run
        self._settings = backend.store.settings

    async def GetCapabilities(self, request: pb.GetCapabilitiesRequest, context: Context) -> pb.Capabilities:
        """See the proto."""
        return await self._run(_capabilities, self._settings)


def _capabilities(settings: Settings) -> pb.Capabilities:
    exported = [one.name for one in export_formats()]
    return pb.Capabilities(
        server_version=micromodels.__version__,
        label_formats=[_format_message(one, one.name in exported) for one in label_formats()],
        recipes=map(_recipe_message, recipes()),
        encoders=map(_encoder_message, encoders()),
        default_encoder=default_encoder_name(),
        limits=_limits(settings),
    )


def _format_message(one: LabelFormat, can_write: bool) -> pb.LabelFormat:
    return pb.LabelFormat(
        name=one.name,
        title=one.title,
        extension=one.extension,
        file_name=one.file_name,
        is_folder=one.is_folder,
        can_read=one.can_read,
        can_write=can_write,
        keeps=sorted(part.value for part in one.keeps),
        loses=one.loses,
    )


def _recipe_message(info: RecipeInfo) -> pb.Recipe:
    return pb.Recipe(
        name=info.name,
        title=info.title,
        description=info.description,
        missing_packages=info.missing,
        is_default=info.name == DEFAULT_RECIPE,
        needs_gpu=info.needs_gpu,
        supports_corrections=info.supports_corrections,
        supports_frame_classes=info.supports_frame_classes,
        max_experiments=info.max_experiments,
    )


def _encoder_message(info: EncoderInfo) -> pb.Encoder:
    return pb.Encoder(name=info.name, title=info.title, forms=info.forms, missing_packages=info.missing)


def _limits(settings: Settings) -> pb.Limits:
    return pb.Limits(
        max_labels_per_call=MAX_LABELS,
        max_polygon_points=MAX_POLYGON_VERTICES,
        max_mask_pixels=MAX_MASK_PIXELS,
        max_experiments=MAX_EXPERIMENTS,
        min_effort=MIN_EFFORT,
        max_effort=MAX_EFFORT,
        max_upload_bytes=settings.max_upload_bytes,
    )
