"""Which labels the worker of a session has, and which of them others have changed since."""

from __future__ import annotations

from collections.abc import Sequence

from micromodels.labels.keys import LabelKey
from micromodels.types import AnyLabel
from service.domain.history import LabelDifference
from service.domain.labels import WriteResult
from service.store import Store

__all__ = ["LabelUpdates", "Updates", "removes_anchor"]

Updates = dict[LabelKey, tuple[AnyLabel | None, bool]]
"""Labels by key, None where there is none, and whether people have settled them."""


class LabelUpdates:
    """Follows the labels of a video on behalf of one worker.

    Args:
        store: where the labels are.
        ids: of project and video.
    """

    def __init__(self, store: Store, ids: tuple[str, str]) -> None:
        self._store = store
        self._ids = ids
        self._revision = 0
        """The worker has the labels up to this one; 0 for none."""
        self._own: set[int] = set()
        """Newer revisions that the worker itself has computed."""
        self._differing: set[LabelKey] = set()
        """Keys where the worker has another label than the store."""

    def take(self, correction: Sequence[LabelDifference]) -> Updates:
        """What the worker must be sent before its next request; afterwards it is taken to have it.

        Args:
            correction: what the request changes; the worker gets these keys as they were before. Empty for none.
        """
        records, revision = self._store.history.labels_since(
            *self._ids, self._revision, but=self._own, also=self._differing
        )
        updates: Updates = {record.key: (record.label, record.is_settled) for record in records}
        corrected = {item.key: item.revision for item in correction}
        self._differing = {r.key for r in records if r.key in corrected and r.revision > corrected[r.key]}
        for item in correction:
            keeps = item.before is not None and (item.after is not None or removes_anchor(item))
            updates[item.key] = (item.before.label if keeps and item.before is not None else None, False)
        self._revision, self._own = revision, set()
        return updates

    def note_stored(self, result: WriteResult) -> None:
        """Labels that the worker has computed were stored, but for those of keys that people hold."""
        if result.written or result.deleted:
            self._own.add(result.revision)
        self._differing |= set(result.kept_anchors)


def removes_anchor(item: LabelDifference) -> bool:
    """Whether a correction deletes a hand label."""
    label = item.before.label if item.before is not None else None
    return item.after is None and label is not None and label.is_anchor
