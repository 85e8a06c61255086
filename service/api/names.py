"""Resource names: the one place where they are taken apart and put together."""

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
"""In place of the number of a version: the newest."""


class Template:
    """A kind of resource name.

    Args:
        pattern: with ``{id}`` where an id stands, e.g. ``"projects/{project}/videos/{video}"``; ``{file}`` may hold
            slashes.
    """

    def __init__(self, pattern: str) -> None:
        self.pattern = pattern
        parts = re.split(r"\{(\w+)\}", pattern)
        literals, ids = parts[::2], parts[1::2]
        groups = ["(.+)" if name == "file" else "([a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?|-)" for name in ids]
        self._regex = re.compile("".join(a + b for a, b in zip(literals, [*groups, ""], strict=True)))

    def parse(self, name: str, field: str = "name") -> tuple[str, ...]:
        """The ids of a name.

        Args:
            name: what the caller sent.
            field: where, for the error.

        Raises:
            InvalidInput: it is not a name of this kind.
        """
        match = self._regex.fullmatch(name) if len(name) <= _LONGEST else None
        if match is None:
            raise InvalidInput(field, name, self.pattern)
        return match.groups()

    def matches(self, name: str) -> bool:
        """Whether it is a name of this kind."""
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
        InvalidInput: it is not a name of this kind.
    """
    project_id, video_id = VIDEO.parse(name, field)
    return project_id, video_id


_SHORT = re.compile(r"([a-z0-9-]{1,63})@([0-9]{1,9})")


def provenance_to_wire(project_id: str, version: str) -> str:
    """``model@3``, as the store has it, as a resource name; anything else stays as it is."""
    match = _SHORT.fullmatch(version)
    return MODEL_VERSION.format(project_id, *match.groups()) if match else version


def provenance_from_wire(version: str) -> str:
    """The other way round."""
    if not MODEL_VERSION.matches(version):
        return version
    _, model_id, number = MODEL_VERSION.parse(version)
    return f"{model_id}@{number}"
