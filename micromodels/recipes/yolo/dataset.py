"""What goes into a YOLO network and what comes out: training samples and detections."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime as ort
import torch
from torchvision.ops import batched_nms

from micromodels.encoding.encoded_video import to_work_image
from micromodels.labels.geometry import mask_bounds
from micromodels.labels.targets import TrackSpec
from micromodels.training.augmentation import View

__all__ = ["MASK_STRIDE", "Detection", "Detector", "MaskCrop", "ViewDataset", "class_names", "uses_masks", "yolo_size"]

Floats = npt.NDArray[np.float32]
Image = npt.NDArray[np.uint8]

GRID_PX = 32
MASK_STRIDE = 4
MIN_SCORE = 0.003
MAX_DETECTIONS = 100
NMS_IOU = 0.6
MIN_VISIBLE_SHARE = 0.25
"""An object cut by the border of a view is still one to be found if this much of its box is inside."""


def class_names(tracks: Sequence[TrackSpec]) -> list[str]:
    """Names of the network's classes: those of the tracks, sorted."""
    return sorted({spec.object_class for spec in tracks})


def uses_masks(tracks: Sequence[TrackSpec]) -> bool:
    """Whether the network learns masks: any track was drawn as one."""
    return any(not spec.is_box for spec in tracks)


def yolo_size(height_px: int, width_px: int, long_side_px: int) -> tuple[int, int]:
    """``(height, width)`` of the network's input: the long side near ``long_side_px``, sides multiples of 32."""
    scale = long_side_px / max(height_px, width_px)
    height, width = (max(2 * GRID_PX, round(side * scale / GRID_PX) * GRID_PX) for side in (height_px, width_px))
    return height, width


class ViewDataset(torch.utils.data.Dataset[dict[str, torch.Tensor]]):
    """Views as ultralytics' training loop takes them, in memory.

    Args:
        views: all of one size.
        tracks: the tracks of their label maps.
        classes: names of the network's classes.
        masks: whether the network learns masks.
    """

    def __init__(self, views: Sequence[View], tracks: Sequence[TrackSpec], classes: Sequence[str], masks: bool) -> None:
        self._samples = [_sample(view, tracks, classes, masks) for view in views]

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return self._samples[index]

    @staticmethod
    def collate_fn(samples: Sequence[dict[str, torch.Tensor]]) -> dict[str, Any]:
        """Batch samples; ``batch_idx`` says which image each object is on."""
        batch: dict[str, Any] = {"img": torch.stack([sample["img"] for sample in samples])}
        for key in ("cls", "bboxes"):
            batch[key] = torch.cat([sample[key] for sample in samples])
        batch["batch_idx"] = torch.cat([torch.full((len(s["cls"]),), float(i)) for i, s in enumerate(samples)])
        if "masks" in samples[0]:
            batch["masks"] = torch.stack([sample["masks"] for sample in samples])
        return batch


def _sample(view: View, tracks: Sequence[TrackSpec], classes: Sequence[str], masks: bool) -> dict[str, torch.Tensor]:
    """One view: image ``(3, h, w)``, classes ``(n, 1)``, boxes ``(n, 4)`` as center and size from 0 to 1, and masks
    ``(h / 4, w / 4)`` with 0 for the background and i + 1 for object i.
    """
    height, width = view.label_map.shape
    small = view.label_map[MASK_STRIDE // 2 :: MASK_STRIDE, MASK_STRIDE // 2 :: MASK_STRIDE]
    index_map = np.zeros(small.shape, np.float32)
    rows, boxes = [], []
    for number, spec in enumerate(tracks):
        box = _target_box(view, number, spec.is_box)
        if box is None:
            continue
        rows.append(float(classes.index(spec.object_class)))
        x1, y1, x2, y2 = box.tolist()
        boxes.append([(x1 + x2) / 2 / width, (y1 + y2) / 2 / height, (x2 - x1) / width, (y2 - y1) / height])
        index_map[small == number + 1] = len(rows)
    sample = {
        "img": torch.from_numpy(np.ascontiguousarray(view.image.transpose(2, 0, 1))),
        "cls": torch.tensor(rows, dtype=torch.float32).reshape(-1, 1),
        "bboxes": torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
    }
    if masks:
        sample["masks"] = torch.from_numpy(index_map)
    return sample


def _target_box(view: View, number: int, drawn_as_box: bool) -> Floats | None:
    """Box of a track on a view, cut at the border: the moved box, or that around its pixels where it has a mask."""
    height, width = view.label_map.shape
    own = view.label_map == number + 1
    if not own.any():
        return None
    moved = view.boxes[number]
    if drawn_as_box:
        box = np.clip(moved, 0, np.array([width, height, width, height], np.float32))
    else:
        around = mask_bounds(own)
        assert around is not None
        box = np.array(around.as_list(), np.float32)
    size = box[2:] - box[:2]
    enough = size.prod() >= MIN_VISIBLE_SHARE * (moved[2:] - moved[:2]).prod()
    return box if size.min() >= 2 and enough else None


@dataclass(frozen=True, slots=True)
class MaskCrop:
    """Log-odds of a mask inside its box: float16 at a quarter of the network's input, placed at ``left``, ``top``."""

    left: int
    top: int
    log_odds: npt.NDArray[np.float16] = field(repr=False)

    def placed(self, size: tuple[int, int]) -> Floats:
        """On a map of ``size`` = (height, width) that says no elsewhere."""
        out = np.full(size, -8.0, np.float32)
        height, width = self.log_odds.shape
        out[self.top : self.top + height, self.left : self.left + width] = self.log_odds
        return out


@dataclass(frozen=True, slots=True)
class Detection:
    """One object found, or drawn by hand, on one frame.

    Attributes:
        box: float32 ``(4,)`` x1, y1, x2, y2 in pixels of the video.
        score: 0 to 1.
        class_index: into the network's classes.
        mask: None for a network that learned boxes only.
        anchor: number of the track, where it was drawn by hand; else -1.
    """

    box: Floats = field(repr=False)
    score: float
    class_index: int
    mask: MaskCrop | None = field(default=None, repr=False)
    anchor: int = -1


class Detector:
    """An exported network, run by ONNX Runtime.

    Args:
        graph: ONNX with input ``image`` and outputs ``predictions`` and, for masks, ``prototypes``.
        classes: number of classes.
        device: where it runs.
    """

    def __init__(self, graph: bytes, classes: int, device: torch.device) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = min(os.cpu_count() or 1, 8)
        # Spinning threads starve whatever else runs on the same cores (docs/explanation/architecture.md, "Threads").
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        providers = ["CUDAExecutionProvider"] if device.type == "cuda" else []
        self._session = ort.InferenceSession(graph, options, providers=[*providers, "CPUExecutionProvider"])
        self._classes = classes

    def detect(self, image: Image, size: tuple[int, int]) -> list[Detection]:
        """Objects on an RGB uint8 image of any size, best first; ``size`` is that of the network's input."""
        work = to_work_image(image, size)
        pixels = np.ascontiguousarray((work.astype(np.float32) / 255).transpose(2, 0, 1)[None])
        outputs = self._session.run(None, {"image": pixels})
        predictions = outputs[0][0]
        scores = predictions[4 : 4 + self._classes]
        class_indices, best = scores.argmax(axis=0), scores.max(axis=0)
        likely = np.flatnonzero(best >= MIN_SCORE)
        x, y, w, h = predictions[:4, likely]
        boxes = np.stack([x - w / 2, y - h / 2, x + w / 2, y + h / 2], axis=1)
        boxes = boxes.clip(0, np.array([size[1], size[0], size[1], size[0]], np.float32))
        kept = batched_nms(
            torch.from_numpy(boxes), torch.from_numpy(best[likely]), torch.from_numpy(class_indices[likely]), NMS_IOU
        )
        scale = np.array([image.shape[1] / size[1], image.shape[0] / size[0]] * 2, np.float32)
        found = []
        for row in kept[:MAX_DETECTIONS].tolist():
            index, box = likely[row], boxes[row]
            if (box[2:] - box[:2]).min() < 1:
                continue
            mask = None
            if len(outputs) > 1:
                mask = _mask_crop(predictions[4 + self._classes :, index], outputs[1][0], box)
            found.append(Detection(box * scale, float(best[index]), int(class_indices[index]), mask))
        return found


def _mask_crop(weights: Floats, prototypes: Floats, box: Floats) -> MaskCrop:
    """The mask that ``weights`` ``(m,)`` make of prototypes ``(m, h, w)``, inside the box."""
    left, top = (int(np.floor(side / MASK_STRIDE)) for side in box[:2])
    right, bottom = (int(np.ceil(side / MASK_STRIDE)) for side in box[2:])
    log_odds = np.tensordot(weights, prototypes[:, top:bottom, left:right], axes=1)
    return MaskCrop(left, top, log_odds.clip(-8, 8).astype(np.float16))
