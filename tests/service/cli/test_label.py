"""`micromodels label`: what it writes, and how it is stopped."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from micromodels.labels.files import read_labels
from micromodels.labels.video_info import VideoInfo
from micromodels.recipes.base import TrainSettings
from micromodels.types import Box, Polygon
from micromodels.video import open_video
from service.cli.exit_codes import ExitCode
from tests.service.cli.helpers import FRAMES, StandIn, label_clip, micromodels


def test_label_writes_every_file(clip: Path, tmp_path: Path, stand_in: type[StandIn]) -> None:
    """Labels of every frame in both forms, overlay, flip book, report, frame table and model; seeds unchanged."""
    out = tmp_path / "deep" / "out"
    settings = ("--recipe", "head", "--encoder", "pixels+lite0", "--experiments", 2)
    result = label_clip(clip, out, *settings, "--device", "cpu")
    assert result.exit_code == ExitCode.OK, result.output
    assert stand_in.asked["settings"] == TrainSettings("head", 2, encoder="pixels+lite0")
    assert stand_in.asked["device"] == "cpu"
    assert stand_in.asked["cache"] is not None
    assert not stand_in.asked["cache"].exists()
    assert sorted(p.name for p in out.iterdir()) == sorted(
        ["labels.jsonl", "coco.json", "report.json", "overlay.mp4", "flipbook.png", "video.json", "model"]
    )
    labels = read_labels(out / "labels.jsonl", video=VideoInfo(FRAMES, 128, 96))
    assert [label.frame for label in labels] == list(range(FRAMES))
    seeds = read_labels(clip / "seeds.jsonl")
    assert [label for label in labels if label.is_anchor] == seeds
    assert len(read_labels(out / "coco.json", video=VideoInfo(FRAMES, 128, 96))) == FRAMES
    with open_video(out / "overlay.mp4") as overlay:
        assert overlay.table.frame_count == FRAMES
        assert (overlay.table.width_px, overlay.table.height_px) == (128, 96)
    report = json.loads((out / "report.json").read_text())
    assert report["seeds"]["share_of_frames_drawn_by_hand"] == pytest.approx(3 / 24)
    assert report["frames"] == {"total": FRAMES, "labeled": FRAMES}
    assert report["experiments"][0]["score"] == 0.912
    assert report["model"] == {"recipe": "stand-in"}
    assert report["seconds"]["stages"]["write"] > 0
    assert report["seconds"]["first_label"] <= report["seconds"]["last_label"] <= report["seconds"]["total"]
    assert report["memory"]["peak_rss_of_largest_child_bytes"] > 0
    assert report["warnings"] == ["a warning [not markup]"]
    assert "a warning [not markup]" in result.stderr
    assert "score 0.912" in result.stderr
    assert "12.5 % of them drawn by hand" in result.stderr
    assert result.stdout == ""


def test_label_takes_coco_seeds_of_a_folder_of_frames(clip: Path, tmp_path: Path, stand_in: type[StandIn]) -> None:
    """Images are found by their names in the folder, wherever its numbers start; results are named likewise."""
    from PIL import Image

    frames = tmp_path / "frames"
    frames.mkdir()
    for index in range(3):
        Image.fromarray(np.full((96, 128, 3), 40 * index, np.uint8)).save(frames / f"img{index + 100}.png")
    seeds = tmp_path / "seeds.json"
    seeds.write_text(
        json.dumps(
            {
                "images": [{"id": 1, "file_name": "img101.png"}],
                "categories": [{"id": 1, "name": "square"}],
                "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 2, 3, 4]}],
            }
        )
    )
    result = micromodels("label", frames, "--seeds", seeds, "--out", tmp_path / "out")
    assert result.exit_code == ExitCode.OK, result.output
    assert [seed.frame for seed in stand_in.asked["seeds"]] == [1]
    images = json.loads((tmp_path / "out" / "coco.json").read_text())["images"]
    assert [image["file_name"] for image in images] == ["img100.png", "img101.png", "img102.png"]


def test_what_is_repaired_in_seeds_is_warned_of(clip: Path, tmp_path: Path, stand_in: type[StandIn]) -> None:
    """On the screen and in the report; options say how frames are numbered and rotated boxes are read, or refuse."""
    seeds = tmp_path / "seeds.json"
    entry = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [100, 40, 29.5, 10], "segmentation": None}
    turned = {**entry, "id": 2, "image_id": 2, "bbox": [10, 20, 40, 20], "attributes": {"rotation": 90}}
    images = [{"id": number, "file_name": f"img_{number:05d}.png"} for number in (1, 2)]
    categories = [{"id": 1, "name": "square"}]
    seeds.write_text(json.dumps({"images": images, "categories": categories, "annotations": [entry, turned]}))

    def run(out: str, *options: object) -> Any:
        return micromodels("label", clip / "video.mp4", "--seeds", seeds, "--out", tmp_path / out, *options)

    result = run("one")
    assert result.exit_code == ExitCode.OK, result.output
    assert [(seed.frame, type(seed.shape)) for seed in stand_in.asked["seeds"]] == [(1, Box), (2, Polygon)]
    warnings = json.loads((tmp_path / "one" / "report.json").read_text())["warnings"]
    assert "'img_00001.png' is taken as frame 1" in warnings[0]
    assert "null, taken as left out: 2, the first at annotations[0]: segmentation" in warnings[1]
    assert all(message in " ".join(result.stderr.split()) for message in warnings[:2])
    result = run("two", "--seeds-first-frame", 1, "--rotated-as-boxes")
    assert result.exit_code == ExitCode.OK, result.output
    assert [(seed.frame, type(seed.shape)) for seed in stand_in.asked["seeds"]] == [(0, Box), (1, Box)]
    assert "is taken as frame" not in result.stderr
    result = run("three", "--strict")
    assert result.exit_code == ExitCode.INVALID
    assert "annotations[0]: segmentation: got None" in " ".join(result.stderr.split())
    arguments = ["--format", "jsonl", "--out", tmp_path / "x.jsonl", "--source", clip / "video.mp4"]
    assert micromodels("export", seeds, *arguments, "--strict").exit_code == ExitCode.INVALID
    result = micromodels("export", seeds, *arguments, "--first-frame", 1, "--rotated-as-boxes")
    assert result.exit_code == ExitCode.OK, result.output
    assert "seeds.json was read with changes" in result.stderr
    assert [label.frame for label in read_labels(tmp_path / "x.jsonl")] == [0, 1]


def test_predicted_labels_are_no_seeds(clip: Path, tmp_path: Path, stand_in: type[StandIn]) -> None:
    """A file that label has written can be corrected and given back: only hand labels count."""
    with (clip / "seeds.jsonl").open("a") as file:
        file.write('{"frame":5,"track":"1","class":"square","state":"uncertain","provenance":{"kind":"model"}}\n')
    result = label_clip(clip, tmp_path / "out")
    assert result.exit_code == ExitCode.OK, result.output
    assert [seed.frame for seed in stand_in.asked["seeds"]] == [0, 12, 23]
    assert "1 predicted labels in seeds.jsonl are ignored" in result.stderr


def test_the_seeds_are_never_written_over(clip: Path, tmp_path: Path) -> None:
    """Results that would replace the file of the seeds are refused before anything is done."""
    seeds = clip / "labels.jsonl"
    (clip / "seeds.jsonl").rename(seeds)
    before = seeds.read_text()
    result = micromodels("label", clip / "video.mp4", "--seeds", seeds, "--out", clip, "--overwrite")
    assert result.exit_code == ExitCode.INVALID
    assert "a folder that does not contain the input" in result.stderr
    assert seeds.read_text() == before


def test_ctrl_c_keeps_the_frames_that_are_done(clip: Path, tmp_path: Path, stand_in: type[StandIn]) -> None:
    """Exit code 130, and every file is there for the finished frames."""
    stand_in.at_frame = staticmethod(lambda index: os.kill(os.getpid(), signal.SIGINT) if index == 5 else None)  # type: ignore[method-assign]
    before = signal.getsignal(signal.SIGINT)
    out = tmp_path / "out"
    result = label_clip(clip, out)
    assert result.exit_code == ExitCode.STOPPED
    assert "finished work is kept" in result.stderr
    assert "stopped after 5 of 24 frames" in result.stderr
    assert [label.frame for label in read_labels(out / "labels.jsonl")] == list(range(5))
    with open_video(out / "overlay.mp4") as overlay:
        assert overlay.table.frame_count == 5
    report = json.loads((out / "report.json").read_text())
    assert report["stopped_by_user"] is True
    assert report["frames"] == {"total": FRAMES, "labeled": 5}
    assert signal.getsignal(signal.SIGINT) is before, "the handler is given back"


def test_ctrl_c_before_the_first_frame_leaves_no_labels(clip: Path, tmp_path: Path, stand_in: type[StandIn]) -> None:
    """In training there is nothing to keep."""
    stand_in.at_step = staticmethod(lambda step: os.kill(os.getpid(), signal.SIGINT))  # type: ignore[method-assign]
    result = label_clip(clip, tmp_path / "out")
    assert result.exit_code == ExitCode.STOPPED
    assert not (tmp_path / "out").exists()


def test_a_second_ctrl_c_quits_at_once(clip: Path, tmp_path: Path, stand_in: type[StandIn]) -> None:
    """Nothing half-written stays behind."""

    def twice(index: int) -> None:
        if index == 5:
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)

    stand_in.at_frame = staticmethod(twice)  # type: ignore[method-assign]
    result = label_clip(clip, tmp_path / "out")
    assert result.exit_code == ExitCode.STOPPED
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["model", "video.json"]


def test_good_enough_ends_training_and_labels(clip: Path, tmp_path: Path, stand_in: type[StandIn]) -> None:
    """Ctrl-\\ (SIGQUIT) during training: the rest goes on as usual."""
    steps: list[int] = []

    def quit_at_three(step: int) -> None:
        steps.append(step)
        if step == 3:
            os.kill(os.getpid(), signal.SIGQUIT)

    stand_in.at_step = staticmethod(quit_at_three)  # type: ignore[method-assign]
    result = label_clip(clip, tmp_path / "out")
    assert result.exit_code == ExitCode.OK, result.output
    assert steps == [0, 1, 2, 3]
    assert "ending training early" in result.stderr
    assert len(read_labels(tmp_path / "out" / "labels.jsonl")) == FRAMES
