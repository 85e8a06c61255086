"""Resource names: parsed and formatted here only."""

from __future__ import annotations

import re

from micromodels.errors import InvalidInput

__all__ = [
    "ASSIGNMENT",
    "COMMENT",
    "DELETION_RECEIPT",
    "EXPORT_FILE",
    "LATEST",
    "MEMBER",
    "MICRO_MODEL",
    "MODEL_FILE",
    "MODEL_VERSION",
    "OPERATION",
    "PROJECT",
    "TOKEN",
    "UPLOAD",
    "VIDEO",
    "Template",
    "provenance_from_wire",
    "provenance_to_wire",
    "video_ids",
]

_LONGEST = 1000
LATEST = "latest"
"""Stands for the newest version in place of a version number."""


class Template:
    """A pattern of resource names.

    Args:
        pattern: with ``{id}`` for each id, such as ``"projects/{project}/videos/{video}"``; ``{file}`` may contain
            slashes.
    """

    def __init__(self, pattern: str) -> None:
        self.pattern = pattern
        parts = re.split(r"\{(\w+)\}", pattern)
        literals, ids = parts[::2], parts[1::2]
        groups = ["(.+)" if name == "file" else "([a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?|-)" for name in ids]
        self._regex = re.compile("".join(a + b for a, b in zip(literals, [*groups, ""], strict=True)))

    def parse(self, name: str, field: str = "name") -> tuple[str, ...]:
        """Parse the ids of a name.

        Args:
            name: what the caller sent.
            field: name of the field, for the error.

        Raises:
            InvalidInput: the name does not match the pattern.
        """
        match = self._regex.fullmatch(name) if len(name) <= _LONGEST else None
        if match is None:
            raise InvalidInput(field, name, self.pattern)
        return match.groups()

    def matches(self, name: str) -> bool:
        """Whether a name matches the pattern."""
        return self._regex.fullmatch(name) is not None

    def format(self, *ids: str | int) -> str:
        """The name with these ids."""
        values = iter(ids)
        return re.sub(r"\{\w+\}", lambda _: str(next(values)), self.pattern)


PROJECT = Template("projects/{project}")
VIDEO = Template("projects/{project}/videos/{video}")
UPLOAD = Template("projects/{project}/uploads/{upload}")
OPERATION = Template("projects/{project}/operations/{operation}")
MICRO_MODEL = Template("projects/{project}/microModels/{micro_model}")
MODEL_VERSION = Template("projects/{project}/microModels/{micro_model}/versions/{version}")
DELETION_RECEIPT = Template("projects/{project}/videos/{video}/deletionReceipt")
MEMBER = Template("projects/{project}/members/{member}")
TOKEN = Template("tokens/{token}")
ASSIGNMENT = Template("projects/{project}/videos/{video}/assignments/{assignment}")
COMMENT = Template("projects/{project}/videos/{video}/comments/{comment}")
EXPORT_FILE = Template("projects/{project}/operations/{operation}/files/{file}")
MODEL_FILE = Template("projects/{project}/microModels/{micro_model}/versions/{version}/files/{file}")


def video_ids(name: str, field: str = "parent") -> tuple[str, str]:
    """Project and video of a video's name.

    Raises:
        InvalidInput: not the name of a video.
    """
    project_id, video_id = VIDEO.parse(name, field)
    return project_id, video_id


_SHORT = re.compile(r"([a-z0-9-]{1,63})@([0-9]{1,9})")


def provenance_to_wire(project_id: str, version: str) -> str:
    """Convert the store's ``model@3`` to a resource name; other values stay unchanged."""
    match = _SHORT.fullmatch(version)
    return MODEL_VERSION.format(project_id, *match.groups()) if match else version


def provenance_from_wire(version: str) -> str:
    """Convert a resource name to the store's ``model@3``; other values stay unchanged."""
    if not MODEL_VERSION.matches(version):
        return version
    _, model_id, number = MODEL_VERSION.parse(version)
    return f"{model_id}@{number}"
