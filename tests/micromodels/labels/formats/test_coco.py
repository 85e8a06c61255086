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
from micromodels.labels.geometry import area_px, to_mask
from micromodels.types import (
    MAX_POLYGON_VERTICES,
    AnyLabel,
    Box,
    Label,
    Mask,
    ObjectClass,
    Ontology,
    Polygon,
    Shape,
    State,
)
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


def read_coco_document(
    tmp_path: Path, document: object, frame_names: tuple[str, ...] = (), **options: Any
) -> list[AnyLabel]:
    """Read a document as the seeds of the test's video."""
    path = tmp_path / "a.json"
    path.write_text(json.dumps(document))
    return read_labels(path, video=replace(VIDEO, frame_names=frame_names), options=FormatOptions(**options))


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
        ({"file_name": "a/first.png"}, 0),
        ({"file_name": "third_99.png"}, 2),
        ({"file_name": "C:\\clips\\THIRD_99.JPG"}, 2),
    ],
)
def test_the_frame_of_a_picture_of_a_folder(image: dict[str, Any], frame: int, tmp_path: Path) -> None:
    """A field, else the picture's name."""
    document = coco(annotation(image_id=9), images=[{"id": 9, **image}])
    names = ("first.png", "second.png", "third_99.png", *(f"later{number}.png" for number in range(FRAMES - 3)))
    assert [label.frame for label in read_coco_document(tmp_path, document, frame_names=names)] == [frame]


@pytest.mark.parametrize("image", [{"file_name": "later_12.png"}, {"file_name": "second.png", "frame_id": 2}])
def test_a_picture_that_is_no_frame_of_the_folder_is_refused(image: dict[str, Any], tmp_path: Path) -> None:
    """By its name: a number in it says nothing, and a field that says otherwise neither."""
    names = ("first.png", "second.png", "third_99.png", *(f"later{number}.png" for number in range(FRAMES - 3)))
    with pytest.raises(InvalidInput) as caught:
        read_coco_document(tmp_path, coco(images=[{"id": 9, **image}]), frame_names=names)
    assert caught.value.field == "images[0]: file_name"
    assert caught.value.value == image["file_name"]


def test_names_of_pictures_need_the_folder_that_they_lie_in(tmp_path: Path) -> None:
    """A frame table of a folder does not have its names: numbers in names are not taken for frames."""
    path = tmp_path / "a.json"
    path.write_text(json.dumps(coco(annotation())))
    with pytest.raises(InvalidInput, match=r"images\[0\]: file_name.*the folder of pictures itself"):
        read_labels(path, video=replace(VIDEO, is_folder=True))


def test_where_counting_starts_is_warned_of_unless_it_is_plain(tmp_path: Path) -> None:
    """No picture has the number 0: one warning that names the first; none where somebody has said, or where one has."""
    seen: list[str] = []
    document = coco(annotation())
    for options, frame in (({}, 7), ({"first_frame": 0}, 7), ({"first_frame": 1}, 6)):
        assert [x.frame for x in read_coco_document(tmp_path, document, warn=seen.append, **options)] == [frame]
    assert len(seen) == 1
    assert "'clip/frame_00007.jpg' is taken as frame 7" in seen[0]
    zero = coco(images=[{"id": 1, "file_name": "0.png"}, {"id": 2, "file_name": "7.png"}])
    assert read_coco_document(tmp_path, zero, warn=seen.append) == []
    assert read_coco_document(tmp_path, coco(images=[{"id": 1, "frame": 1}]), warn=seen.append) == []
    assert len(seen) == 1
    with pytest.raises(InvalidInput, match=r"images\[0\]: file_name.*from 1"):
        read_coco_document(tmp_path, zero, first_frame=1)
    with pytest.raises(InvalidInput, match="first_frame"):
        FormatOptions(first_frame=2)


SQUARE = [10, 10, 40, 10, 40, 40, 10, 40]
RING = Polygon(((10, 10), (40, 10), (40, 40), (10, 40)))


@pytest.mark.parametrize(
    ("changes", "shape", "first"),
    [
        ({"segmentation": [[]]}, Box(10, 10, 40, 40), "segmentation[0]"),
        ({"segmentation": [SQUARE, []]}, RING, "segmentation[1]"),
        ({"segmentation": [[5, 5, 6, 6], SQUARE]}, RING, "segmentation[0]"),
        ({"segmentation": [SQUARE, [5, 5, 6, 6, 7, 7]]}, RING, "segmentation[1]"),
        ({"segmentation": SQUARE}, RING, "segmentation"),
        ({"segmentation": [None], "attributes": {"track_id": None}}, None, ""),
        ({"iscrowd": None}, Box(10, 10, 40, 40), "iscrowd"),
        ({"segmentation": None}, Box(10, 10, 40, 40), "segmentation"),
        ({"attributes": None}, Box(10, 10, 40, 40), "attributes"),
        ({"bbox": None, "segmentation": [SQUARE]}, RING, "bbox"),
        ({"attributes": {"rotation": None}}, Box(10, 10, 40, 40), "attributes.rotation"),
        ({"bbox": [10, 10, WIDTH - 8.5, 30]}, Box(10, 10, WIDTH, 40), "box[2]"),
        ({"bbox": [-2, 10, 42, HEIGHT - 8]}, Box(0, 10, 40, HEIGHT), "box[0]"),
        ({"bbox": [10, 10, WIDTH - 7.9, 30]}, None, ""),
        ({"segmentation": [[-1.5, 10, 40, 10, 40, 40]]}, Polygon(((0, 10), (40, 10), (40, 40))), "polygon[0][0]"),
    ],
)
def test_trifles_are_repaired_with_one_warning(
    changes: dict[str, Any], shape: Shape | None, first: str, tmp_path: Path
) -> None:
    """The warning counts them and names the first; strict readers refuse the same by the same name."""
    entry = {"id": 1, "image_id": 1, "category_id": 3, "bbox": [10, 10, 30, 30], **changes}
    document = coco(entry, {**entry, "image_id": 2})
    seen: list[str] = []
    if shape is None:
        with pytest.raises(InvalidInput):
            read_coco_document(tmp_path, document)
        return
    labels = read_coco_document(tmp_path, document, first_frame=0, warn=seen.append)
    assert [label.shape for label in labels if isinstance(label, Label)] == [shape] * 2
    assert len(seen) == 1
    assert f": 2, the first at annotations[0]: {first}." in seen[0]
    with pytest.raises(InvalidInput) as caught:
        read_coco_document(tmp_path, document, strict=True)
    assert caught.value.field == f"annotations[0]: {first}"


def test_images_and_categories_have_trifles_too(tmp_path: Path) -> None:
    """Null sizes; a group of categories with the name of a class, a class that stands twice, one without a name."""
    seen: list[str] = []
    classes = [{"id": 0, "name": "car", "supercategory": "none"}, {"id": 3, "name": "car"}, {"id": 3, "name": "car"}]
    document = coco(
        annotation(),
        images=[{"id": 1, "file_name": "frame_3.png", "frame": None, "width": None, "height": None}],
        categories=[*classes, {"id": 5, "name": None}],
    )
    (label,) = read_coco_document(tmp_path, document, first_frame=0, warn=seen.append)
    assert (label.frame, isinstance(label, Label) and label.object_class) == (3, "car")
    (message,) = seen
    assert "taken as left out: 3, the first at images[0]: frame" in message
    assert "no annotation uses, left aside: 2, the first at categories[0]: id" in message
    assert "taken once: 1, the first at categories[2]: id" in message
    both = coco(annotation(category_id=0), annotation(image_id=2), categories=classes)
    with pytest.raises(InvalidInput, match=r"categories\[1\]: id.*each name once"):
        read_coco_document(tmp_path, both)


def test_a_rotated_box_is_a_polygon(tmp_path: Path) -> None:
    """Turned clockwise about its middle, as CVAT does; upright on request; cut where it leaves the picture."""

    def read(box: list[float], rotation: object, **options: Any) -> Shape | None:
        document = coco(annotation(bbox=box, attributes={"track_id": 0, "keyframe": True, "rotation": rotation}))
        (label,) = read_coco_document(tmp_path, document, first_frame=0, **options)
        return label.shape if isinstance(label, Label) else None

    flat = [20.0, 20.0, 20.0, 10.0]
    assert read(flat, 90) == Polygon(((35, 15), (35, 35), (25, 35), (25, 15)))
    assert read(flat, "-270.0") == read(flat, 90)
    assert read(flat, 90, rotated_as_boxes=True) == Box(25, 15, 35, 35)
    assert read(flat, 360.0) == Box(20, 20, 40, 30)
    assert read(flat, "left") == Box(20, 20, 40, 30)
    turned = read(flat, 30)
    assert isinstance(turned, Polygon)
    assert turned.points[1][1] > turned.points[0][1], "clockwise: the right end goes down"
    assert area_px(turned) == pytest.approx(200)
    seen: list[str] = []
    cut = read([50, 10, 13, 13], 45, warn=seen.append)
    assert isinstance(cut, Polygon)
    assert max(x for x, _ in cut.points) == WIDTH
    assert "rotated boxes that reach over the edge, cut to the picture: 1, the first at annotations[0]" in seen[0]
    drawn = coco(annotation(segmentation=[SQUARE], attributes={"rotation": 90}))
    assert [x.shape for x in read_coco_document(tmp_path, drawn) if isinstance(x, Label)] == [RING]


def test_attributes_of_others_are_left_aside(tmp_path: Path) -> None:
    """Also those that are called like ours: counted in the warning, refused only where the file is ours, or strict."""
    foreign = {"state": "open", "confidence": "high", "provenance": "ward 3", "track_id": 1.5, "weather": "sun"}
    seen: list[str] = []
    document = coco(annotation(attributes={**foreign, "occluded": True}))
    (label,) = read_coco_document(tmp_path, document, first_frame=0, warn=seen.append)
    assert label == Label(7, "polyp", "polyp", State.OCCLUDED, Box(4, 5, 14, 25))
    assert "left aside: 5, the first at annotations[0]: attributes.weather" in seen[0]
    (label,) = read_coco_document(tmp_path, coco(annotation(attributes={"state": "absent"})), warn=seen.append)
    assert isinstance(label, Label)
    assert label.state is State.VISIBLE, "an object with a shape is there"
    for key in ("state", "confidence", "provenance", "track_id"):
        wrong = annotation(attributes={key: foreign[key]})
        for where, options in (
            (coco(wrong), {"strict": True}),
            (coco(wrong, micromodels={"format": 1, "labels": []}), {}),
        ):
            with pytest.raises(InvalidInput, match=rf"annotations\[0\]: {key}"):
                read_coco_document(tmp_path, where, **options)


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
        ("categories[0]: name", coco(annotation(category_id=1), categories=[{"id": 1}])),
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
