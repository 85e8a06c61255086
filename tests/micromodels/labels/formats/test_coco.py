"""COCO files: what the reader accepts and refuses, and that what is written is read back."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from micromodels.errors import InvalidInput, OutOfRange
from micromodels.labels.files import read_labels, write_labels
from micromodels.labels.formats import FormatOptions
from micromodels.labels.geometry import to_mask
from micromodels.types import MAX_POLYGON_VERTICES, AnyLabel, Box, Label, Mask, ObjectClass, Ontology, Polygon, State
from tests.micromodels.labels.helpers import (
    COUNTS,
    FRAMES,
    HEIGHT,
    LABELS,
    VIDEO,
    WIDTH,
    annotation,
    assert_same_labels,
    coco,
    disc,
)

FLAT_BOW_TIE = [0, 0, 10, 10, 10, 0, 0, 10]


def read_coco_document(tmp_path: Path, document: object, frame_names: tuple[str, ...] = ()) -> list[AnyLabel]:
    """Read a document as the seeds of the test's video."""
    path = tmp_path / "a.json"
    path.write_text(json.dumps(document))
    return read_labels(path, video=replace(VIDEO, frame_names=frame_names))


def test_coco_file_round_trips(tmp_path: Path) -> None:
    """Also absent objects, objects without a shape and frame classes, which COCO has no place for."""
    path = tmp_path / "coco.json"
    assert write_labels(path, LABELS, video=VIDEO, options=FormatOptions(Ontology.from_labels(LABELS))) == len(LABELS)
    assert_same_labels(read_labels(path, video=VIDEO), LABELS)


def test_pycocotools_reads_what_is_written(tmp_path: Path) -> None:
    """The reference reader finds images, categories and the same masks."""
    from pycocotools.coco import COCO

    options = FormatOptions(Ontology((ObjectClass("tool"),)))
    write_labels(tmp_path / "coco.json", LABELS, video=VIDEO, options=options)
    reader = COCO(str(tmp_path / "coco.json"))
    assert len(reader.getImgIds()) == FRAMES
    assert {c["id"]: c["name"] for c in reader.loadCats(reader.getCatIds())} == {1: "tool", 2: "polyp"}
    mask, polygon = reader.loadAnns(reader.getAnnIds(imgIds=[1]))[0], reader.loadAnns(reader.getAnnIds(imgIds=[4]))[0]
    assert np.array_equal(reader.annToMask(mask).astype(bool), disc().to_array())
    assert mask["bbox"] == [12, 12, 17, 17]
    assert mask["area"] == disc().area_px()
    assert np.array_equal(reader.annToMask(polygon), to_mask(LABELS[3].shape, HEIGHT, WIDTH))  # type: ignore[union-attr]
    assert polygon["area"] == pytest.approx(19.5 * 29.125 / 2)
    image = reader.loadImgs([4])[0]
    assert (image["frame"], image["pts"], image["video_id"]) == (3, 1536, 1)
    assert reader.dataset["videos"][0]["time_base"] == "1/12800"


def test_an_empty_list_is_a_valid_coco_file(tmp_path: Path) -> None:
    """A video without a single label is still a document with all its images."""
    write_labels(tmp_path / "coco.json", [], video=VIDEO)
    assert len(json.loads((tmp_path / "coco.json").read_text())["images"]) == FRAMES
    assert read_labels(tmp_path / "coco.json", video=VIDEO) == []


def test_plain_coco_instances_of_other_tools_are_read(tmp_path: Path) -> None:
    """Box, polygon, both kinds of RLE; the frame from the end of the file name; iscrowd does not matter."""
    runs = np.diff(np.flatnonzero(np.diff(np.r_[2, disc().to_array().T.ravel(), 2]))).tolist()
    labels = read_coco_document(
        tmp_path,
        coco(
            annotation(segmentation=[]),
            annotation(id=2, image_id=2, segmentation=[[1, 1, 20, 1, 20, 20]]),
            annotation(id=3, category_id=4, segmentation={"size": [HEIGHT, WIDTH], "counts": runs}, iscrowd=1),
            annotation(id=4, image_id=2, category_id=4, segmentation={"size": [HEIGHT, WIDTH], "counts": COUNTS}),
        ),
    )
    assert labels == [
        Label(7, "polyp", "polyp", State.VISIBLE, Box(4, 5, 14, 25)),
        Label(7, "tool", "tool", State.VISIBLE, disc()),
        Label(8, "polyp", "polyp", State.VISIBLE, Polygon(((1, 1), (20, 1), (20, 20)))),
        Label(8, "tool", "tool", State.VISIBLE, disc()),
    ]


def test_parts_of_one_object_are_one_mask(tmp_path: Path) -> None:
    """Several rings cover what pycocotools says that they cover."""
    rings = [[1, 1, 20, 1, 20, 20], [30, 30, 40, 30, 40, 40, 30, 40]]
    (label,) = read_coco_document(tmp_path, coco(annotation(segmentation=rings)))
    assert isinstance(label, Label)
    assert isinstance(label.shape, Mask)
    wanted = np.zeros((HEIGHT, WIDTH), np.bool_)
    for ring in rings:
        wanted |= to_mask(Polygon(tuple(zip(ring[::2], ring[1::2], strict=True))), HEIGHT, WIDTH)
    assert np.array_equal(label.shape.to_array(), wanted)


@pytest.mark.parametrize(
    ("image", "frame"),
    [
        ({"frame": 5, "file_name": "x_00009.png"}, 5),
        ({"frame_index": 6, "frame_id": 9}, 6),
        ({"frame_id": 7}, 7),
        ({"file_name": "C:\\clips\\12_0008.PNG"}, 8),
        ({"file_name": "a/b.v2/11.tif"}, 11),
        ({"file_name": "a/first.png"}, 0),
        ({"file_name": "third_99.png"}, 2),
    ],
)
def test_the_frame_of_an_image(image: dict[str, Any], frame: int, tmp_path: Path) -> None:
    """A field, else the name in the folder, else the number at the end of the name."""
    document = coco(annotation(image_id=9), images=[{"id": 9, **image}])
    names = ("first.png", "second.png", "third_99.png", *(f"later{number}.png" for number in range(FRAMES - 3)))
    assert [label.frame for label in read_coco_document(tmp_path, document, frame_names=names)] == [frame]


def test_tracks_are_never_guessed(tmp_path: Path) -> None:
    """Ids wherever tools put them; without any only what is plain: one of a class a frame, or a single frame."""
    labels = read_coco_document(
        tmp_path,
        coco(
            annotation(track_id=7),
            annotation(id=2, instance_id="b"),
            annotation(id=3, attributes={"track_id": 9, "occluded": True, "keyframe": True}),
        ),
    )
    assert [(label.track, label.state.value) for label in labels if isinstance(label, Label)] == [
        ("7", "visible"),
        ("b", "visible"),
        ("9", "occluded"),
    ]
    several = [annotation(), annotation(id=2), annotation(id=3, category_id=4)]
    labels = read_coco_document(tmp_path, coco(*several))
    assert [label.track for label in labels if isinstance(label, Label)] == ["polyp-1", "polyp-2", "tool"]
    with pytest.raises(InvalidInput, match=r"annotations\[0\]: track_id.*'polyp'.*2 frames"):
        read_coco_document(tmp_path, coco(*several, annotation(id=4, image_id=2)))


@pytest.mark.parametrize(
    ("field", "document"),
    [
        ("file", [1]),
        ("images", coco(images=None)),
        ("images[0]", coco(images=[5])),
        ("annotations", {"images": [], "categories": []}),
        ("categories", coco(categories={})),
        ("categories[1]: id", coco(categories=[{"id": 1, "name": "a"}, {"id": 1, "name": "b"}])),
        ("categories[0]: name", coco(categories=[{"id": 1}])),
        ("videos", coco(videos=[{"id": 1}, {"id": 2}])),
        ("images[0]: id", coco(images=[{"file_name": "1.png"}])),
        ("images[1]: id", coco(images=[{"id": 1, "frame": 1}, {"id": 1, "frame": 2}])),
        ("images[1]: frame", coco(images=[{"id": 1, "frame": 1}, {"id": 2, "frame": 1}])),
        ("images[0]: frame", coco(images=[{"id": 1, "frame": "1"}])),
        ("images[0]: file_name", coco(images=[{"id": 1, "file_name": "frame.png"}])),
        ("images[0]: file_name", coco(images=[{"id": 1}])),
        ("images[0]: width", coco(images=[{"id": 1, "frame": 1, "width": 99, "height": HEIGHT}])),
        ("annotations[0]: image_id", coco(annotation(image_id=99))),
        ("annotations[0]: image_id", coco(annotation(image_id=[1]))),
        ("annotations[0]: category_id", coco(annotation(category_id=99))),
        ("annotations[0]: category_id", coco(annotation(category_id=None))),
        ("annotations[0]: iscrowd", coco(annotation(iscrowd="yes"))),
        ("annotations[0]: attributes", coco(annotation(attributes=[]))),
        ("annotations[0]: state", coco(annotation(attributes={"state": "gone"}))),
        ("annotations[0]: confidence", coco(annotation(attributes={"confidence": 7}))),
        ("annotations[0]: track_id", coco(annotation(track_id=1.5))),
        ("annotations[0]: bbox", coco(annotation(bbox=None))),
        ("annotations[0]: bbox", coco(annotation(bbox=[1, 2, 3]))),
        ("annotations[0]: bbox", coco(annotation(bbox=[1, 2, 0, 5]))),
        ("annotations[0]: bbox[0]", coco(annotation(bbox=["1", 2, 3, 5]))),
        ("annotations[0]: bbox[2]", coco(annotation(bbox=[1, 2, 1e-30, 5]))),
        ("annotations[0]: segmentation", coco(annotation(segmentation="x"))),
        ("annotations[0]: segmentation[0]", coco(annotation(segmentation=[[1, 2, 3, 4]]))),
        ("annotations[0]: segmentation[0]", coco(annotation(segmentation=[[0] * (2 * MAX_POLYGON_VERTICES + 2)]))),
        ("annotations[0]: segmentation[0][3]", coco(annotation(segmentation=[[1, 2, 3, None, 5, 6]]))),
        ("annotations[0]: segmentation[1]", coco(annotation(segmentation=[[1, 1, 9, 1, 9, 9], FLAT_BOW_TIE]))),
        ("annotations[0]: polygon", coco(annotation(segmentation=[FLAT_BOW_TIE]))),
        ("annotations[0]: segmentation.size", coco(annotation(segmentation={"counts": COUNTS}))),
        ("annotations[0]: segmentation.counts", coco(annotation(segmentation={"size": [HEIGHT, WIDTH]}))),
        ("annotations[0]: segmentation.counts", coco(annotation(segmentation={"size": [2, 2], "counts": [1, 2]}))),
        ("annotations[0]: segmentation.counts", coco(annotation(segmentation={"size": [2, 2], "counts": [5, -1]}))),
        ("annotations[0]: mask.size", coco(annotation(segmentation={"size": [2, 2], "counts": [0, 4]}))),
        ("annotations[0]: mask.counts", coco(annotation(segmentation={"size": [2, 2], "counts": "!"}))),
        ("annotations[0]: box[2]", coco(annotation(bbox=[1, 2, 300, 5]))),
        ("annotations[1]: track", coco(annotation(track_id=1), annotation(id=2, track_id=1))),
        ("micromodels", coco(micromodels={"format": 2, "labels": []})),
        ("micromodels.labels[0]: state", coco(micromodels={"format": 1, "labels": [{"frame": 1, "class": "x"}]})),
    ],
)  # fmt: skip
def test_a_wrong_coco_file_is_refused_with_its_entry_and_field(field: str, document: object, tmp_path: Path) -> None:
    """The error names the entry and the field."""
    with pytest.raises(InvalidInput) as caught:
        read_coco_document(tmp_path, document)
    assert caught.value.field == field


def test_a_coco_image_past_the_end_is_out_of_range(tmp_path: Path) -> None:
    """As in the native format."""
    with pytest.raises(OutOfRange, match=r"annotations\[0\]: frame: got 30; allowed: 0 to 29"):
        read_coco_document(tmp_path, coco(annotation(), images=[{"id": 1, "file_name": "30.png"}]))
