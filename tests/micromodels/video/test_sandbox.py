"""The sandbox around the decoding process: what is in it, and what happens where there can be none."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from micromodels.errors import VideoError
from micromodels.video import open_video, sandbox
from micromodels.video.process import DecodeProcess
from tests.databases import lacking


@pytest.fixture
def needs_sandbox() -> None:
    """Skips where the system allows none."""
    if shutil.which("bwrap") is None:
        lacking("bubblewrap (Debian: bubblewrap)")
    if not sandbox.is_available():
        pytest.skip("this system does not let a sandbox be made")


@pytest.fixture
def forgetful() -> Iterator[None]:
    """Whether there is a sandbox is found out again, now and afterwards."""
    sandbox._limits.cache_clear()
    yield
    sandbox._limits.cache_clear()


def test_the_decoder_sees_the_video_and_nothing_else(needs_sandbox: None, make_clip, tmp_path: Path) -> None:
    """No other file, nothing to write to, no network, no other process, no rights."""
    path = make_clip("clip.mp4", count=3)
    secret = path.with_name("secret.txt")
    secret.write_text("another patient")
    with open_video(path) as video:
        process = Path(f"/proc/{video.decoder_pid}")
        inside = process / "root" / path.parent.relative_to("/")
        assert [entry.name for entry in inside.iterdir()] == [path.name]
        assert not (process / "root/etc/passwd").exists()
        assert not (process / "root/proc/self").exists()
        mounts = [line.split() for line in (process / "mounts").read_text().splitlines()]
        writable = {target for _, target, _, options, *_ in mounts if "ro" not in options.split(",")}
        assert all(target == "/dev" or target.startswith("/dev/") for target in writable)
        for kind in ("net", "pid", "ipc", "mnt", "user"):
            assert os.readlink(process / "ns" / kind) != os.readlink(f"/proc/self/ns/{kind}"), kind
        assert (process / "net/route").read_text().splitlines()[1:] == []
        status = dict(line.split(":\t", 1) for line in (process / "status").read_text().splitlines())
        assert (int(status["CapEff"], 16), status["NoNewPrivs"]) == (0, "1")
        assert video.frame(2).shape[2] == 3


def test_pictures_may_be_links(make_clip, tmp_path: Path) -> None:
    """A folder of links to pictures elsewhere is decoded as one of pictures."""
    from PIL import Image

    for name in ("far", "near"):
        (tmp_path / name).mkdir()
    for number in range(3):
        Image.new("RGB", (64, 48), (80 * number, 0, 0)).save(tmp_path / "far" / f"{number}.png")
        (tmp_path / "near" / f"{number}.png").symlink_to(tmp_path / "far" / f"{number}.png")
    with open_video(tmp_path / "near") as video:
        assert [int(video.frame(number)[0, 0, 0]) for number in range(3)] == [0, 80, 160]


def test_a_crash_in_the_sandbox_is_no_way_out_of_it(needs_sandbox: None, make_clip, monkeypatch, caplog) -> None:
    """A decoder that dies over a file is not tried again without a sandbox; the next read has one again."""
    with open_video(make_clip("clip.mp4", count=3)) as video:
        os.kill(video.decoder_pid, signal.SIGSEGV)
        with pytest.raises(VideoError, match="SIGSEGV"):
            video.frame(1)
        assert video.frame(1).shape[2] == 3
        assert os.readlink(f"/proc/{video.decoder_pid}/ns/user") != os.readlink("/proc/self/ns/user")
    assert "without a sandbox" not in caplog.text


def test_a_sandbox_that_does_not_start_is_done_without(
    make_clip, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The video is decoded all the same, and the log says how."""
    monkeypatch.setattr(sandbox, "prefix", lambda path, names: ["/bin/sh", "-c", "echo no such mount >&2; exit 1"])
    with open_video(make_clip("clip.mp4", count=3)) as video:
        assert video.frame(2).shape[2] == 3
    assert "decoded without a sandbox" in caplog.text
    assert "no such mount" in caplog.text


def test_a_decoder_that_dies_beside_its_sandbox(make_clip, monkeypatch: pytest.MonkeyPatch) -> None:
    """A failure of decoding, not of a pipe."""
    monkeypatch.setattr(sandbox, "prefix", lambda path, names: ["/bin/sh", "-c", "exit 1"])

    def broken(self: DecodeProcess, message: bytes) -> None:
        raise BrokenPipeError

    monkeypatch.setattr(DecodeProcess, "_write", broken)
    with pytest.raises(VideoError, match="decoding process"), open_video(make_clip("clip.mp4", count=3)):
        pass


@pytest.mark.parametrize("script", ["echo 'No permissions to create new namespace' >&2; exit 1", "", None])
def test_where_namespaces_are_refused_there_is_none(
    forgetful: None,
    make_clip,
    tmp_path: Path,
    script: str | None,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Bubblewrap that may not, one that is no program, and none: decoding goes on, and the log has the reason."""
    folder = tmp_path / "bin"
    folder.mkdir()
    if script is not None:
        program = folder / "bwrap"
        program.write_text(f"#!/bin/sh\n{script}\n" if script else "\0")
        program.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder))
    assert not sandbox.is_available()
    assert sandbox.prefix(tmp_path, None) == []
    assert ("without a sandbox" in caplog.text) is (script is not None)
    with open_video(make_clip("clip.mp4", count=3)) as video:
        assert video.frame(2).shape[2] == 3
