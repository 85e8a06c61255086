"""What a micro-model has learned from corrections, laid out for a child process to go on with."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

from service.errors import NotFound

if TYPE_CHECKING:
    from service.store import Store

__all__ = ["lay_out_learned"]

_LOG = logging.getLogger(__name__)


def lay_out_learned(
    store: Store, ids: tuple[str, str], model_version: str, scratch: Path, newest: int = 0
) -> list[str]:
    """Write out what a version has learned on a video; returns the folders, the oldest state first.

    Args:
        store: where it is kept.
        ids: of project and video.
        model_version: as labels name it.
        scratch: where to.
        newest: how many states at most; 0 for all.
    """
    folders = []
    for state in store.learned.of(*ids, model_version)[-newest:]:
        folder = scratch / f"learned-{state.number}"
        try:
            store.learned.materialise(state, folder)
        except NotFound:  # its files are lost: what was before it is used
            _LOG.warning("state %d of %s has no files", state.number, model_version)
        else:
            folders.append(str(folder))
    return folders
