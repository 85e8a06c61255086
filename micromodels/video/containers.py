"""Where decoded frames come from: a container or a folder of pictures. Runs in the decoding process only."""

from __future__ import annotations

import contextlib
import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from fractions import Fraction
from pathlib import Path
from typing import BinaryIO, NoReturn, Protocol

import av
import numpy as np
from av.container import InputContainer
from av.stream import Discard, Disposition
from av.video.stream import VideoStream

from micromodels.errors import VideoError
from micromodels.video.exif import exif_orientation
from micromodels.video.limits import DecodeLimits
from micromodels.video.pixels import Orientation
from micromodels.video.tiff import TIFF_SIGNATURES, TiffStack, tiff_picture
from micromodels.video.trouble import Trouble, describe

__all__ = ["ContainerSource", "FolderSource", "FrameSource", "open_source"]

# Demuxers that open only the file they are given; playlists, concat scripts and network formats are excluded.
FORMATS = "mov,matroska,avi,mpeg,mpegvideo,mpegts,asf,flv,mxf,ogg,dv,gif"
FORMATS_FOR_PEOPLE = "mp4, mov, 3gp, mkv, webm, avi, mpg, vob, ts, mts, wmv, flv, mxf, ogv, dv, gif, tif"

# fmt: off
CODECS = frozenset({
    "av1", "cinepak", "dnxhd", "dvvideo", "ffv1", "ffvhuff", "flv", "gif", "h263", "h264", "hevc", "huffyuv",
    "libdav1d", "libvpx-vp9", "mjpeg", "mpeg1video", "mpeg2video", "mpeg4", "mpegvideo", "msmpeg4", "msmpeg4v1",
    "msmpeg4v2", "msrle", "msvideo1", "png", "prores", "qtrle", "rawvideo", "theora", "utvideo", "vc1", "vp6", "vp6f",
    "vp8", "vp9", "wmv1", "wmv2", "wmv3",
})
# fmt: on

_PICTURE_CODECS: tuple[tuple[bytes, str], ...] = (
    (b"\x89PNG\r\n\x1a\n", "png"),
    (b"\xff\xd8\xff", "mjpeg"),
    (b"BM", "bmp"),
    (b"RIFF....WEBP", "webp"),
    *((signature, "tiff") for signature in TIFF_SIGNATURES),
)
"""First bytes of picture files (a dot matches any byte), and their decoders."""
_OTHER_FILES: tuple[tuple[int, bytes, str, str], ...] = (
    (128, b"DICM", "a DICOM file", "export the cine as MP4 or as a folder of PNG frames"),
    (0, b"#EXTM3U", "a playlist (HLS)", "download the stream as one MP4 file"),
    (0, b"ffconcat", "a list of files", "join the files into one video"),
    (0, b"<?xml", "an XML file", "give the video itself"),
    (0, b"%PDF", "a PDF document", "give the video itself"),
    (0, b"PK\x03\x04", "a zip archive", "unpack it first"),
    (0, b"\x1f\x8b", "a gzip archive", "unpack it first"),
    (0, b"7z\xbc\xaf", "a 7z archive", "unpack it first"),
    (0, b".RMF", "a RealMedia file", "convert it to MP4"),
    (0, b"\x89HDF", "an HDF5 file", "export its frames as PNG or TIFF"),
    (0, b"SIMPLE  =", "a FITS file", "export its frames as PNG or TIFF"),
)
"""Offset and bytes, kind of file, and what to do."""
FOLDER_TIME_BASE = Fraction(1, 25)
MAX_PICTURE_BYTES = 1 << 30
MAX_GIF_FRAMES = 100_000
"""A GIF of a few megabytes may hold millions of frames; real ones have far fewer."""
_IO_BUFFER_BYTES = 256 << 10
_LAST_ENTRIES = 16
_HEAD_BYTES = 4096
_EBML, _SEGMENT = b"\x1a\x45\xdf\xa3", b"\x18\x53\x80\x67"  # ids of the first two elements of Matroska and WebM

# These decode damaged data without errors, and with several threads the result varies.
_SERIAL_CODECS = frozenset({"vp8"})


class FrameSource(Protocol):
    """Decoded frames in display order, from the start or from somewhere near a frame."""

    codec: str
    container: str
    time_base: Fraction
    warnings: list[str]
    trouble: Trouble
    listed_frames: int
    """Number of frames according to the file; 0 if unknown."""
    max_frames: int
    """Most frames to read."""
    orientation: Orientation | None
    """Orientation of the first decoded frame."""

    def from_start(self, *, threads: int) -> Iterator[av.VideoFrame]:
        """All frames from the first; a running decode is dropped."""
        ...

    def from_near(self, index: int, pts: int, *, threads: int) -> Iterator[av.VideoFrame]:
        """Frames from somewhere near ``index``, shown at ``pts``; check the time of each frame."""
        ...


class ContainerSource:
    """The first video stream of a container."""

    def __init__(self, path: Path, limits: DecodeLimits, beat: Callable[[], None]) -> None:
        self.trouble = Trouble()
        self.orientation: Orientation | None = None
        self._path = path
        self._limits = limits
        self._beat = beat
        self._container: InputContainer | None = None
        self._file: BinaryIO | None = None
        self._stream = self._open()
        self.codec = self._stream.codec_context.name
        self.container = self._opened().format.name
        self.time_base = self._stream.time_base or Fraction(1, 1_000_000)
        self.listed_frames = self._stream.frames
        self.max_frames = min(limits.max_frames, MAX_GIF_FRAMES) if self.codec == "gif" else limits.max_frames
        self.warnings = self._describe_streams()

    def _opened(self) -> InputContainer:
        assert self._container is not None
        return self._container

    def _open(self) -> VideoStream:
        self._close()
        try:
            self._file = open(self._path, "rb")  # noqa: SIM115  closed by _close()
        except OSError as error:
            raise VideoError(f"cannot read the file: {error.strerror}") from None
        try:
            # A file object instead of a protocol: whatever the file refers to, nothing else can be opened.
            container = av.open(
                self._file,
                mode="r",
                container_options={"format_whitelist": FORMATS},
                options={"max_pixels": str(self._limits.max_pixels)},
                metadata_errors="replace",
                buffer_size=_IO_BUFFER_BYTES,
                io_open=_refuse_to_open,
            )
        except Exception as error:
            raise VideoError(_not_a_video(self._path, error)) from None
        self._container = container
        return self._choose_stream(container)

    def _choose_stream(self, container: InputContainer) -> VideoStream:
        streams = [s for s in container.streams.video if not s.disposition & Disposition.attached_pic]
        if not streams:
            raise VideoError("the file has no video stream")
        stream = streams[0]
        context = stream.codec_context
        if context is None:
            raise VideoError("no decoder is installed for the file's video stream")
        if context.name not in CODECS:
            raise VideoError(f"codec {context.name!r} is not supported; convert the video to H.264 in MP4")
        if context.width * context.height > self._limits.max_pixels:
            raise VideoError(
                f"the frames have {context.width} x {context.height} pixels; "
                f"the limit is {self._limits.max_pixels} pixels per frame"
            )
        for other in container.streams:
            if other.index != stream.index:
                with contextlib.suppress(AttributeError):
                    other.discard = Discard.all
        return stream

    def _describe_streams(self) -> list[str]:
        count = len([s for s in self._opened().streams.video if not s.disposition & Disposition.attached_pic])
        warnings = [f"the file has {count} video streams; the first one is used"] if count > 1 else []
        if self._is_cut_off():
            warnings.append("the file is cut off: it is shorter than its header says; frames at the end are missing")
        return warnings

    def _is_cut_off(self) -> bool:
        """Whether the end is missing. A file that is cut between two frames otherwise reads without errors."""
        with self._path.open("rb") as file:
            head, length = file.read(_HEAD_BYTES), file.seek(0, os.SEEK_END)
            file.seek(max(length - _HEAD_BYTES, 0))
            tail = file.read()
        if head.startswith(b"RIFF"):  # AVI
            return 8 + int.from_bytes(head[4:8], "little") > length
        if head.startswith(b"GIF"):
            return not tail.rstrip(b"\0").endswith(b";")
        if head.startswith(_EBML) and (at := head.find(_SEGMENT) + len(_SEGMENT)) >= len(_SEGMENT):
            width = 9 - head[at : at + 1].ljust(1, b"\0")[0].bit_length()
            unknown = (1 << 7 * width) - 1
            size = int.from_bytes(head[at : at + width], "big") & unknown
            return size != unknown and at + width + size > length
        index = self._stream.index_entries  # of MP4, in decoding order
        last = [index[number] for number in range(max(len(index) - _LAST_ENTRIES, 0), len(index))]
        return any(entry.pos + entry.size > length for entry in last)

    def from_start(self, *, threads: int) -> Iterator[av.VideoFrame]:
        """See ``FrameSource``."""
        # Reopen instead of seeking: not every container can seek to its first frame, and this way the decoder starts
        # in the same state as when the table was made.
        self._stream = self._open()
        return self._decode(threads)

    def from_near(self, index: int, pts: int, *, threads: int) -> Iterator[av.VideoFrame]:
        """See ``FrameSource``; raises the container's error if it cannot seek."""
        self._opened().seek(pts, stream=self._stream)
        return self._decode(threads)

    def _decode(self, threads: int) -> Iterator[av.VideoFrame]:
        if self.codec in _SERIAL_CODECS:
            threads = 1
        context = self._stream.codec_context
        if not context.is_open:
            context.thread_count = threads
            context.thread_type = "AUTO" if threads > 1 else "NONE"
            context.options = {"max_pixels": str(self._limits.max_pixels)}
        for number, packet in enumerate(self._packets()):
            try:
                frames = context.decode(packet)
            except EOFError:
                return
            except Exception as error:
                self.trouble.note(f"packet {number}", error)
                continue
            for frame in frames:
                self.trouble.corrupt_count += bool(frame.is_corrupt)
                if self.orientation is None:
                    self.orientation = Orientation.of_frame(frame)
                # Where data is missing, a frame shows the previous content of its buffer. Yielding copies makes the
                # buffers rotate in the same order every time, so that damage always looks the same.
                yield _copy(frame) if threads == 1 else frame

    def _packets(self) -> Iterator[av.Packet[VideoStream] | None]:
        """Packets to the end of the readable data, then None to flush the decoder."""
        try:
            for packet in self._opened().demux(self._stream):
                self._beat()
                # An empty packet means a dropped frame or the end; the decoder would take it for the end.
                if packet.size:
                    yield packet
        except Exception as error:
            self.trouble.note("reading", error)
        yield None

    def _close(self) -> None:
        if self._container is not None:
            self._container.close()
            self._container = None
        if self._file is not None:
            self._file.close()
            self._file = None


def _copy(frame: av.VideoFrame) -> av.VideoFrame:
    """A copy of a frame, without side data."""
    copy = av.VideoFrame(frame.width, frame.height, frame.format.name)
    for source, target in zip(frame.planes, copy.planes, strict=True):
        if source.line_size < 0:
            return frame
        old = np.frombuffer(memoryview(source), np.uint8).reshape(source.height, -1)
        new = np.frombuffer(memoryview(target), np.uint8).reshape(target.height, -1)
        length = min(old.shape[1], new.shape[1])
        new[:, :length] = old[:, :length]
    copy.pts, copy.dts = frame.pts, frame.dts
    copy.key_frame = frame.key_frame  # type: ignore[misc]  # the stub lacks the setter
    copy.colorspace, copy.color_range = frame.colorspace, frame.color_range
    return copy


def _refuse_to_open(url: str, flags: int, options: dict[str, str]) -> NoReturn:
    raise PermissionError("a video may not refer to other files")


def _not_a_video(path: Path, error: BaseException) -> str:
    """What the file is instead, judged by its first bytes, and what to do."""
    head = _head(path)
    kind = picture_codec(head)
    if kind:
        cure = "give the folder that holds the frames, or a video"
        return f"not a readable video: this is a single picture ({kind}); {cure}"
    for offset, signature, what, cure in _OTHER_FILES:
        if head[offset:].lstrip(b"\xef\xbb\xbf").startswith(signature):
            return f"not a readable video: this is {what}; {cure}"
    if not head:
        return "not a readable video: the file is empty"
    reason = describe(error)
    return f"not a readable video ({reason}); supported containers: {FORMATS_FOR_PEOPLE}"


def _head(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(_HEAD_BYTES)
    except OSError as error:
        raise VideoError(f"cannot read the file: {error.strerror}") from None


def picture_codec(head: bytes) -> str | None:
    """The decoder of a picture file with these first bytes; None if it is not a supported picture."""
    for signature, codec in _PICTURE_CODECS:
        start = head[: len(signature)]
        if len(start) == len(signature) and all(s in (b, ord(".")) for s, b in zip(signature, start, strict=True)):
            return codec
    return None


class FolderSource:
    """A folder of pictures, one per frame, all of one format and size.

    Frame ``i`` has the presentation time ``i`` in units of ``FOLDER_TIME_BASE``.
    """

    container = "folder"
    time_base = FOLDER_TIME_BASE

    def __init__(self, folder: Path, names: Sequence[str], limits: DecodeLimits, beat: Callable[[], None]) -> None:
        self.trouble = Trouble()
        self.orientation: Orientation | None = None
        self._folder = folder
        self._names = names
        self._limits = limits
        self._beat = beat
        self.warnings: list[str] = []
        self.listed_frames, self.max_frames = len(names), limits.max_frames
        if len(names) > limits.max_frames:
            raise VideoError(f"the folder has {len(names)} pictures; the limit is {limits.max_frames} frames")
        self.codec = self._codec_of(names[0], self._read(names[0]))

    def _read(self, name: str) -> bytes:
        path = self._folder / name
        try:
            if os.path.getsize(path) > MAX_PICTURE_BYTES:
                raise VideoError(f"{name}: the file is larger than the limit of {MAX_PICTURE_BYTES} bytes")
            return path.read_bytes()
        except OSError as error:
            raise VideoError(f"{name}: cannot read the file ({error.strerror})") from None

    @staticmethod
    def _codec_of(name: str, data: bytes) -> str:
        codec = picture_codec(data)
        if codec is None:
            raise VideoError(f"{name}: not a PNG, JPEG, BMP, WebP or TIFF picture")
        return codec

    def from_start(self, *, threads: int) -> Iterator[av.VideoFrame]:
        """See ``FrameSource``."""
        return self._decode(0, threads)

    def from_near(self, index: int, pts: int, *, threads: int) -> Iterator[av.VideoFrame]:
        """See ``FrameSource``."""
        return self._decode(index, threads)

    def _decode(self, start: int, threads: int) -> Iterator[av.VideoFrame]:
        """Decode pictures in ``threads`` threads, as many ahead, and yield them in order."""
        pending: deque[Future[tuple[av.VideoFrame, Orientation]]] = deque()
        size: tuple[int, int] | None = None
        # Do not use the decoders' own threads: they need the interpreter lock to free the packets that PyAV creates,
        # and deadlock when a decoder is dropped at that moment.
        with ThreadPoolExecutor(threads) as pool:
            try:
                for index in range(start, len(self._names)):
                    while len(pending) <= threads and index + len(pending) < len(self._names):
                        pending.append(pool.submit(self._picture, index + len(pending)))
                    self._beat()
                    frame, orientation = pending.popleft().result()
                    size = size or (frame.width, frame.height)
                    if (frame.width, frame.height) != size:
                        raise VideoError(
                            f"{self._names[index]}: {frame.width} x {frame.height} pixels, but "
                            f"{self._names[start]} has {size[0]} x {size[1]}; all pictures must have one size"
                        )
                    self.orientation = self.orientation or orientation
                    if orientation != self.orientation:
                        raise VideoError(
                            f"{self._names[index]}: its Exif orientation differs from that of the previous pictures"
                        )
                    yield frame
            finally:
                pool.shutdown(cancel_futures=True)

    def _picture(self, index: int) -> tuple[av.VideoFrame, Orientation]:
        name = self._names[index]
        data = self._read(name)
        if self._codec_of(name, data) != self.codec:
            raise VideoError(f"{name}: its format differs from that of {self._names[0]}, which is {self.codec}")
        if self.codec == "tiff":
            return tiff_picture(name, data, index, self._limits)
        context = av.CodecContext.create(self.codec, "r")
        assert isinstance(context, av.VideoCodecContext)
        context.thread_count = 1
        context.options = {"max_pixels": str(self._limits.max_pixels)}
        try:
            packet = av.Packet(data)
            frames = [*context.decode(packet), *context.decode(None)]
        except MemoryError:
            raise VideoError(f"{name}: needs more memory than the limit allows") from None
        except Exception as error:
            raise VideoError(f"{name}: the picture cannot be decoded ({describe(error)})") from None
        if len(frames) != 1:
            raise VideoError(f"{name}: the picture cannot be decoded")
        frames[0].pts = index
        return frames[0], exif_orientation(data)


def open_source(path: Path, names: Sequence[str] | None, limits: DecodeLimits, beat: Callable[[], None]) -> FrameSource:
    """Open a container, or a folder when ``names`` are given.

    Raises:
        VideoError: not a video, or it is refused.
    """
    if names is None:
        if _head(path).startswith(TIFF_SIGNATURES):
            return TiffStack(path, limits, beat)
        return ContainerSource(path, limits, beat)
    return FolderSource(path, names, limits, beat)
