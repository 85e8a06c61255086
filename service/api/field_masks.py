"""Which fields an Update method changes, by AIP-134: one rule for all of them."""

from __future__ import annotations

from collections.abc import Sequence

from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.message import Message

from micromodels.errors import InvalidInput

__all__ = ["updated_fields"]

_ALL = "*"


def updated_fields(mask: FieldMask, resource: Message, mutable: Sequence[str]) -> tuple[str, ...]:
    """The fields to change, in the order of ``mutable``.

    Without a mask these are the populated fields: a field that is left out keeps its value. ``*`` is all fields, so
    that those left out are cleared. A field that the mask names is changed, also to its empty value.

    Args:
        mask: of the request.
        resource: with the new values.
        mutable: names of the fields that can be changed.

    Raises:
        InvalidInput: a path that is not one of ``mutable``, or ``*`` among other paths.
    """
    paths = list(mask.paths)
    if not paths:
        populated = {field.name for field, _ in resource.ListFields()}
        return tuple(name for name in mutable if name in populated)
    if paths == [_ALL]:
        return tuple(mutable)
    for index, path in enumerate(paths):
        if path not in mutable:
            allowed = f"{', '.join(mutable)}; or {_ALL} alone for all of them"
            raise InvalidInput(f"update_mask.paths[{index}]", path, allowed)
    return tuple(name for name in mutable if name in paths)
