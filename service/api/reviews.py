"""``ReviewService``: reviewing labels and commenting on frames."""

from __future__ import annotations

import math
from typing import Any

from google.protobuf import empty_pb2

from micromodels.errors import InvalidInput
from micromodels.v1 import review_pb2, review_pb2_grpc
from service.access import current_caller
from service.api import names
from service.api.backend import Backend, Context
from service.api.history_messages import comment_message, review_action
from service.api.labels import MAX_LABELS, check_count, selection_query
from service.api.messages import key_from_message
from service.api.page_tokens import decode_token, encode_token, page_size
from service.domain.history import Comment, ReviewAction, ReviewResult

__all__ = ["ReviewServicer"]

_PAGE = (50, 1000)


class ReviewServicer(review_pb2_grpc.ReviewServiceServicer):
    """Reviews labels and comments on frames.

    Args:
        backend: the store.
    """

    def __init__(self, backend: Backend) -> None:
        self._run = backend.run
        self._store = backend.store

    async def ReviewLabels(
        self, request: review_pb2.ReviewLabelsRequest, context: Context
    ) -> review_pb2.ReviewLabelsResponse:
        """See the proto."""
        result = await self._run(self._review, request)
        return review_pb2.ReviewLabelsResponse(label_revision=result.revision, changed_count=result.changed)

    def _review(self, request: review_pb2.ReviewLabelsRequest) -> ReviewResult:
        ids = names.video_ids(request.parent)
        action = review_action(request.action)
        if request.HasField("selection") == bool(request.keys):
            raise InvalidInput("selection", None, "either keys, or a selection; an empty one selects every label")
        check_count("keys", len(request.keys), MAX_LABELS)
        which: dict[str, Any] = {}
        if request.keys:
            which["keys"] = [key_from_message(key, f"keys[{index}]") for index, key in enumerate(request.keys)]
        else:
            which = selection_query(request.selection, self._store.videos.get(*ids))
        return self._store.reviews.review(
            *ids,
            action,
            author=current_caller().name,
            comment=request.comment,
            base_revision=request.base_revision if request.HasField("base_revision") else None,
            request_id=request.request_id,
            **which,
        )

    async def AcceptLabels(
        self, request: review_pb2.AcceptLabelsRequest, context: Context
    ) -> review_pb2.AcceptLabelsResponse:
        """See the proto."""
        result = await self._run(self._accept, request)
        return review_pb2.AcceptLabelsResponse(
            label_revision=result.revision,
            accepted_count=result.changed,
            expected_wrong_share=result.expected_wrong_share,
        )

    def _accept(self, request: review_pb2.AcceptLabelsRequest) -> ReviewResult:
        ids = names.video_ids(request.parent)
        least = request.min_confidence
        if not (math.isfinite(least) and 0.0 <= least <= 1.0):
            raise InvalidInput("min_confidence", least, "a number from 0 to 1")
        return self._store.reviews.review(
            *ids,
            ReviewAction.ACCEPT,
            author=current_caller().name,
            min_confidence=least,
            base_revision=request.base_revision if request.HasField("base_revision") else None,
            request_id=request.request_id,
            validate_only=request.validate_only,
            **selection_query(request.selection, self._store.videos.get(*ids)),
        )

    async def CreateComment(self, request: review_pb2.CreateCommentRequest, context: Context) -> review_pb2.Comment:
        """See the proto."""
        return comment_message(await self._run(self._comment, request))

    def _comment(self, request: review_pb2.CreateCommentRequest) -> Comment:
        ids = names.video_ids(request.parent)
        comment = request.comment
        frames = range(comment.start_frame, comment.stop_frame or comment.start_frame + 1)
        return self._store.reviews.comment(
            *ids,
            comment.text,
            frames=frames,
            name=comment.track,
            author=current_caller().name,
            request_id=request.request_id,
        )

    async def ListComments(
        self, request: review_pb2.ListCommentsRequest, context: Context
    ) -> review_pb2.ListCommentsResponse:
        """See the proto."""
        ids = names.video_ids(request.parent)
        limit = page_size(request.page_size, _PAGE)
        after = decode_token("page_token", request.page_token, request.parent) or ""
        page = await self._run(self._store.reviews.comments, *ids, after=after, limit=limit)
        token = encode_token(request.parent, page.next_after) if page.next_after else ""
        return review_pb2.ListCommentsResponse(comments=map(comment_message, page.items), next_page_token=token)

    async def DeleteComment(self, request: review_pb2.DeleteCommentRequest, context: Context) -> empty_pb2.Empty:
        """See the proto."""
        await self._run(self._store.reviews.delete_comment, *names.COMMENT.parse(request.name))
        return empty_pb2.Empty()
