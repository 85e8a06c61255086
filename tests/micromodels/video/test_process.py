"""The decoding process: crashes, hangs, orphans, memory, what it imports."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import av
import numpy as np
import pytest

import micromodels.video
from micromodels.errors import VideoError
from micromodels.video import DecodeLimits, FrameTable, open_video


def is_gone(pid: int) -> bool:
    """Ended and reaped."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


def wait_until(condition, seconds: float = 60.0) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.02)
    return False


def test_a_crash_is_an_error_and_the_next_call_works(make_clip) -> None:
    """kill -9 of the child between two frames."""
    with open_video(make_clip("clip.mp4")) as video:
        frames = video.frames()
        _, first = next(frames)
        pid = video.decoder_pid
        os.kill(pid, signal.SIGKILL)
        with pytest.raises(VideoError, match="SIGKILL"):
            list(frames)
        assert wait_until(lambda: is_gone(pid))
        np.testing.assert_array_equal(video.frame(0), first)
        assert video.decoder_pid != pid


def test_a_segmentation_fault_is_named(make_clip) -> None:
    """As a broken file might cause in a decoder."""
    with open_video(make_clip("clip.mp4")) as video:
        os.kill(video.decoder_pid, signal.SIGSEGV)
        with pytest.raises(VideoError, match="SIGSEGV"):
            video.frame(3)


def test_a_hang_ends_with_the_time_limit(make_clip) -> None:
    """A stopped child stands for a decoder in an endless loop."""
    with open_video(make_clip("clip.mp4"), DecodeLimits(frame_timeout_seconds=0.5)) as video:
        pid = video.decoder_pid
        os.kill(pid, signal.SIGSTOP)
        with pytest.raises(VideoError, match=r"no frame within 0\.5 s"):
            video.frame(3)
        assert wait_until(lambda: is_gone(pid))


def test_closing_and_forgetting_end_the_child(make_clip) -> None:
    """Also without `with`, and in the middle of an iteration; closing twice is harmless."""
    path = make_clip("clip.mp4")
    video = open_video(path)
    next(video.frames())
    pid = video.decoder_pid
    video.close()
    video.close()
    assert wait_until(lambda: is_gone(pid))
    video = open_video(path)
    pid = video.decoder_pid
    del video
    assert wait_until(lambda: is_gone(pid))


def test_a_failed_opening_leaves_nothing(tmp_path: Path) -> None:
    """No child and no descriptor."""
    (tmp_path / "clip.mp4").write_bytes(b"x" * 1000)
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(VideoError):
        open_video(tmp_path / "clip.mp4")
    assert len(os.listdir("/proc/self/fd")) == before
    children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    assert not [pid for pid in children if b"micromodels.video.child" in Path(f"/proc/{pid}/cmdline").read_bytes()]


def test_the_child_ends_when_its_parent_is_killed(make_clip) -> None:
    """Though nobody tells it to."""
    program = (
        "import sys, time\nfrom micromodels.video import open_video\n"
        f"video = open_video({str(make_clip('clip.mp4'))!r})\n"
        "print(video.decoder_pid, flush=True)\ntime.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        assert not is_gone(pid)
        parent.kill()
        assert wait_until(lambda: is_gone(pid) or _is_zombie(pid))


def _is_zombie(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
    except OSError:
        return True


def test_the_child_works_from_any_folder_and_imports_little(make_clip, tmp_path: Path, monkeypatch) -> None:
    """A file named like a library in the working directory is not imported; torch is not either; no secrets arrive."""
    (tmp_path / "av.py").write_text("raise SystemExit('wrong av')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SECRET_TOKEN", "x")
    with open_video(make_clip("clip.mp4", count=3)) as video:
        maps = Path(f"/proc/{video.decoder_pid}/maps").read_text()
        environment = Path(f"/proc/{video.decoder_pid}/environ").read_bytes()
        assert b"SECRET_TOKEN" not in environment
    assert "libavcodec" in maps
    assert not [name for name in ("/torch/", "/cv2/", "/onnxruntime/", "/scipy/") if name in maps]


def test_limits_hold_in_the_child(make_clip) -> None:
    """Address space, core files, files written."""
    with open_video(make_clip("clip.mp4", count=3), DecodeLimits(memory_bytes=3 << 30)) as video:
        limits = Path(f"/proc/{video.decoder_pid}/limits").read_text()
    values = {line[:26].strip(): line[26:].split()[0] for line in limits.splitlines()}
    assert values["Max address space"] == str(3 << 30)
    assert values["Max core file size"] == "0"
    assert int(values["Max file size"]) <= 1 << 20


def looped(source: Path, target: Path, times: int) -> None:
    """Repeat the packets of a clip."""
    with av.open(str(source)) as container, av.open(str(target), "w") as out:
        stream = container.streams.video[0]
        packets = [p for p in container.demux(stream) if p.dts is not None]
        copy = out.add_stream_from_template(stream)
        copy.time_base = stream.time_base
        length = sum(p.duration for p in packets)
        data = [(bytes(p), p.pts, p.dts, p.duration, p.is_keyframe) for p in packets]
        for turn in range(times):
            for body, pts, dts, duration, is_keyframe in data:
                packet = av.Packet(body)
                packet.pts, packet.dts, packet.duration = pts + turn * length, dts + turn * length, duration
                packet.time_base, packet.stream, packet.is_keyframe = stream.time_base, copy, is_keyframe
                out.mux(packet)


def test_memory_does_not_grow_with_the_length(make_clip, tmp_path: Path) -> None:
    """A clip looped to 20,000 frames takes what one of 2,000 takes, but for the table; both processes."""
    clip = make_clip("clip.mp4", count=100)
    peaks = []
    for times in (20, 200):
        path = tmp_path / f"looped{times}.mp4"
        looped(clip, path, times)
        program = (
            "import sys\nfrom pathlib import Path\nfrom micromodels.video import open_video\n"
            f"with open_video({str(path)!r}) as video:\n"
            f"    assert video.table.frame_count == {100 * times}\n"
            f"    assert sum(1 for _ in video.frames()) == {100 * times}\n"
            f"    assert video.frame({100 * times - 1}).shape == (64, 96, 3)\n"
            "    for pid in ('self', video.decoder_pid):\n"
            "        status = Path(f'/proc/{pid}/status').read_text()\n"
            "        print(next(l for l in status.splitlines() if l.startswith('VmHWM')).split()[1])\n"
        )
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
        peaks.append([int(value) for value in done.stdout.split()])
    (parent_short, child_short), (parent_long, child_long) = peaks
    # 18,000 frames more would be 330 MB of pixels.
    assert parent_long - parent_short < 24_000
    assert child_long - child_short < 24_000


def test_a_table_of_a_long_video_is_small(make_clip) -> None:
    """Tens of bytes a frame."""
    import json

    with open_video(make_clip("clip.mp4", count=200)) as video:
        text = json.dumps(video.table.to_dict())
    assert len(text) < 200 * 40 + 6000
    assert FrameTable.from_dict(json.loads(text)).frame_count == 200


def test_without_a_sandbox_the_decoder_has_no_network(make_clip, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is in a namespace of its own, with no way out, and cannot gain rights; where the system allows namespaces."""
    monkeypatch.setattr("micromodels.video.sandbox._limits", lambda: None)
    isolated = Path(micromodels.video.__file__).with_name("isolated.py")
    code = "import runpy, sys; sys.exit(not runpy.run_path(sys.argv[1])['isolate']())"
    allowed = subprocess.run([sys.executable, "-c", code, isolated], check=False)
    if allowed.returncode:
        pytest.skip("this system does not allow new namespaces")
    with open_video(make_clip("clip.mp4", count=3)) as video:
        pid = video.decoder_pid
        assert os.readlink(f"/proc/{pid}/ns/net") != os.readlink("/proc/self/ns/net")
        routes = Path(f"/proc/{pid}/net/route").read_text().splitlines()[1:]
        assert routes == []
        assert "NoNewPrivs:\t1" in Path(f"/proc/{pid}/status").read_text()
        assert video.frame(0).shape[2] == 3
