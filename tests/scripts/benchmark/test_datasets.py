"""Readers of the sets, where seeds go, and what they say."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from micromodels.errors import FailedPrecondition, InvalidInput
from micromodels.types import Box, Mask, State
from scripts.benchmark.baselines import find_system
from scripts.benchmark.benchmark import plan
from scripts.benchmark.datasets import (
    SETS,
    Clip,
    ClipKind,
    data_root,
    frame_class_seed_frames,
    load_clips,
    seed_frames,
)
from scripts.benchmark.protocols import Protocol


def clip_of(root: Path, set_name: str) -> Clip:
    (clip,) = load_clips(root, [set_name])
    return clip


def test_seeds_go_to_the_middles_of_equal_spans() -> None:
    """k=1: frame 0; else round(linspace(0, n-1, 2k+1)[1::2]), as worked out by hand."""
    assert seed_frames(80, 1) == [0]
    assert seed_frames(61, 3) == [10, 30, 50]
    assert seed_frames(101, 5) == [10, 30, 50, 70, 90]
    assert seed_frames(40, 3) == [6, 20, 32]


@pytest.mark.parametrize("k", [0, -1, 6])
def test_an_impossible_number_of_seeds_is_refused(k: int) -> None:
    """At least one, at most one per frame."""
    with pytest.raises(InvalidInput, match="1 to the number of frames"):
        seed_frames(5, k)


def test_masks_are_read_above_the_threshold_of_their_set(small_data: Path) -> None:
    """davis2016: > 0; cvc612: > 127, three channels; an empty mask is an object that is not there."""
    davis, cvc = clip_of(small_data, "davis2016"), clip_of(small_data, "cvc612")
    for clip in (davis, cvc):
        truth = clip.truth(2)
        assert truth is not None
        mask = truth["1"]
        assert isinstance(mask, np.ndarray)
        assert mask.dtype == bool
        assert mask.sum() == 256
        assert mask[10:26, 10:26].all()
    assert davis.truth(11) == {"1": None}
    assert davis.truth(12) is None
    assert (davis.frame_count, davis.tracks, cvc.tracks) == (12, {"1": "object"}, {"1": "polyp"})


def test_seeds_of_masks_say_where_the_object_is_absent(small_data: Path) -> None:
    """A mask where it is, absent where it is not, always made by a human."""
    visible, absent = clip_of(small_data, "davis2016").seeds([11, 3])
    assert isinstance(visible.shape, Mask)
    assert (visible.frame, visible.state, visible.shape.area_px()) == (3, State.VISIBLE, 256)
    assert (absent.frame, absent.state, absent.is_anchor) == (11, State.ABSENT, True)


def test_a_frame_without_a_row_is_hidden_in_tld(small_data: Path) -> None:
    """tld: no row means not visible, and a seed there says absent; the video is decoded for its length."""
    clip = clip_of(small_data, "tld")
    assert clip.frame_count == 12
    assert clip.truth(5) == {"1": None}
    assert clip.truth(4) == {"1": Box(16, 10, 32, 26)}
    assert [seed.state for seed in clip.seeds([5, 7])] == [State.ABSENT, State.VISIBLE]
    assert clip.frame_class_truth(5) == {"visible": False}


def test_a_seed_that_says_only_absent_is_given(small_data: Path) -> None:
    """A clip of one object says that it is absent even where no seed shows it."""
    (seed,) = clip_of(small_data, "tld").seeds([5])
    assert seed.state is State.ABSENT


def test_nothing_is_known_after_the_last_row_in_otb(small_data: Path) -> None:
    """Frames 10 and 11 have no truth: not scored, and no seed goes there."""
    clip = clip_of(small_data, "otb")
    assert clip.truth(10) is None
    assert clip.frame_class_truth(10) is None
    assert clip.known_frames() == list(range(10))
    assert clip.seed_frames(3) == [2, 4, 8]
    with pytest.raises(InvalidInput, match="whose truth is known"):
        clip.seeds([10])


def test_seeds_of_many_boxes_name_known_tracks_only(small_data: Path) -> None:
    """Track 2 is absent on frame 0 as frame 8 shows it; track 3, on frame 3 only, is not spoken of."""
    clip = clip_of(small_data, "mot")
    said = {(seed.frame, seed.track): seed.state for seed in clip.seeds([0, 8])}
    assert said == {
        (0, "1"): State.VISIBLE,
        (0, "2"): State.ABSENT,
        (8, "1"): State.VISIBLE,
        (8, "2"): State.VISIBLE,
    }


def test_a_correction_draws_everything_that_is_there(small_data: Path) -> None:
    """Also a track that nobody knew, and absent for the known ones that are gone."""
    drawn = {label.track: label.state for label in clip_of(small_data, "mot").correction(3, ["1", "2"])}
    assert drawn == {"1": State.VISIBLE, "2": State.ABSENT, "3": State.VISIBLE}


def test_every_class_but_void_is_a_track(small_data: Path) -> None:
    """vocalfolds: tracks are named as the classes; void belongs to nobody."""
    clip = clip_of(small_data, "vocalfolds")
    assert clip.kind is ClipKind.REGIONS
    assert list(clip.tracks) == [
        "vocal_folds",
        "other_tissue",
        "glottal_space",
        "pathology",
        "surgical_tool",
        "intubation",
    ]
    truth = clip.truth(0)
    assert truth is not None
    assert {track for track, shape in truth.items() if shape is not None} == {"vocal_folds", "pathology"}
    assert sum(int(shape.sum()) for shape in truth.values() if isinstance(shape, np.ndarray)) == 47 * 64
    states = {(s.frame, s.track): s.state for s in clip.seeds([2, 9])}
    assert states[9, "pathology"] is State.ABSENT
    assert (2, "intubation") not in states


@pytest.mark.parametrize("name", ["davis2016", "cvc612"])
def test_boxes_around_masks(small_data: Path, name: str) -> None:
    """The same pictures and frames; each box is as tight as the mask on its frame."""
    masks, boxes = clip_of(small_data, name), clip_of(small_data, f"{name}-boxes")
    assert (boxes.source, boxes.kind, boxes.known_frames()) == (masks.source, ClipKind.BOX, masks.known_frames())
    for frame in masks.known_frames():
        drawn, box = (masks.truth(frame) or {})["1"], (boxes.truth(frame) or {})["1"]
        if drawn is None:
            assert box is None
            continue
        assert isinstance(drawn, np.ndarray)
        assert isinstance(box, Box)
        rows, columns = np.nonzero(drawn)
        assert box.as_list() == [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
    (job,) = plan([Protocol.BOXES], [boxes], [find_system("copy")], [1])
    assert job.clip is boxes
    assert plan([Protocol.ANNOTATION_COST], [boxes], [find_system("copy")], [1]) == []


def test_frame_class_seeds_move_until_each_value_is_seen(small_data: Path) -> None:
    """tld hides its object on frames 5 and 6 only; the nearest of three seeds moves there."""
    clip = clip_of(small_data, "tld")
    assert clip.seed_frames(3) == [2, 6, 9]
    assert frame_class_seed_frames(clip, 3) == [2, 6, 9]
    assert clip.seed_frames(2) == [3, 8]
    assert frame_class_seed_frames(clip, 2) == [5, 8]
    assert frame_class_seed_frames(clip, 1) == [0]
    assert [(s.frame, s.present) for s in clip.frame_class_seeds([5, 8])] == [(5, False), (8, True)]


def test_clips_are_chosen_by_name(small_data: Path) -> None:
    """An unknown set or name is refused, with what there is."""
    assert [clip.set_name for clip in load_clips(small_data, SETS)] == list(SETS)
    assert [clip.name for clip in load_clips(small_data, ["otb"], ["clip"])] == ["clip"]
    with pytest.raises(InvalidInput, match="davis2016"):
        load_clips(small_data, ["imagenet"])
    with pytest.raises(InvalidInput, match="allowed: clip"):
        load_clips(small_data, ["otb"], ["other"])
    with pytest.raises(FailedPrecondition, match="no such folder"):
        load_clips(small_data / "otb", ["otb"])


def test_the_data_must_be_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the variable there is nothing to measure on."""
    monkeypatch.delenv("MICROMODELS_REAL_DATA", raising=False)
    with pytest.raises(FailedPrecondition, match="MICROMODELS_REAL_DATA"):
        data_root()


def test_the_real_sets_are_as_described(real_data: Path) -> None:
    """Numbers of frames, tracks and hidden frames of the real sets."""
    clips = {f"{clip.set_name}/{clip.name}": clip for clip in load_clips(real_data, SETS)}
    assert len(clips) == 8 + 2 + 3 + 4 + 1 + 2 + 8 + 2
    assert {name: clip.frame_count for name, clip in clips.items() if clip.set_name == "tld"} == {
        "tld/car": 945,
        "tld/jumping": 313,
        "tld/pedestrian2": 338,
        "tld/pedestrian3": 184,
    }
    pedestrian = clips["tld/pedestrian3"]
    hidden = [frame for frame in range(184) if pedestrian.truth(frame) == {"1": None}]
    assert hidden == list(range(52, 80))
    assert clips["otb/Football1"].known_frames() == list(range(74))
    assert list(clips["mot/TUD-Campus"].tracks) == [str(number) for number in range(1, 9)]
    folds = clips["vocalfolds/seq2"]
    assert [frame for frame in range(34) if (folds.truth(frame) or {})["vocal_folds"] is None] == [2, 20, 21]
