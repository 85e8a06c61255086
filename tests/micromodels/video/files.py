"""Clips of a moving square, and files that are meant to do harm; each function writes one and gives its path."""

from __future__ import annotations

import struct
import zipfile
import zlib
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import numpy.typing as npt

Rgb = npt.NDArray[np.uint8]


def moving_square(count: int, width: int = 96, height: int = 64) -> Iterator[Rgb]:
    """Every frame differs from every other: a square moves, the background brightens."""
    background = np.random.default_rng(1).integers(0, 120, (height // 8, width // 8, 3), dtype=np.uint8)
    background = background.repeat(8, axis=0).repeat(8, axis=1)
    for index in range(count):
        image = background + np.uint8(index % 100)
        left = 3 * index % (width - 24)
        image[16:40, left : left + 24] = (220, 40, 2 * index % 256)
        yield image


def encode(
    path: Path,
    codec: str = "libx264",
    pix_fmt: str = "yuv420p",
    count: int = 60,
    *,
    options: dict[str, str] | None = None,
    pts: list[int] | None = None,
    rotation: int = 0,
    mirrored: bool = False,
    size: tuple[int, int] = (96, 64),
) -> Path:
    """Encode ``moving_square``, with short groups of pictures and B-frames where the codec has them."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25)
        stream.width, stream.height, stream.pix_fmt = *size, pix_fmt
        stream.options = options or {}
        if codec == "libx264" and options is None:
            stream.options = {"g": "15", "bf": "3"}
        if rotation or mirrored:
            stream.set_display_rotation(rotation, hflip=mirrored)
        if pts is not None:
            stream.codec_context.time_base = Fraction(1, 1000)
        for index, image in enumerate(moving_square(count, *size)):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24").reformat(format=pix_fmt)
            if pts is not None:
                frame.pts, frame.time_base = pts[index], Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def with_index_first(path: Path) -> Path:
    """A copy of an MP4 file whose index stands before the pictures."""
    whole = path.with_name(f"fast-{path.name}")
    with av.open(str(path)) as source, av.open(str(whole), "w", options={"movflags": "faststart"}) as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                target.mux(packet)
    return whole


def huge_frames(path: Path, codec: str = "mjpeg", pix_fmt: str = "yuvj420p") -> Path:
    """A small AVI whose header, and whose pictures, say 16000 x 16000."""
    encode(path, codec, pix_fmt, 3)
    sizes = struct.pack(">HH", 64, 96), struct.pack(">HH", 16000, 16000)
    data = bytearray(path.read_bytes().replace(b"\xff\xc0\0\x11\x08" + sizes[0], b"\xff\xc0\0\x11\x08" + sizes[1]))
    assert codec != "mjpeg" or data.count(sizes[1]) == 3
    for marker, offset in ((b"avih", 40), (b"strf", 12)):
        at = data.index(marker) + offset
        assert struct.unpack_from("<II", data, at) == (96, 64)
        struct.pack_into("<II", data, at, 16000, 16000)
    path.write_bytes(data)
    return path


def concat_script(path: Path, clip: str = "real.mp4") -> Path:
    """A script for FFmpeg's concat demuxer, which would read a file beside it."""
    path.write_text(f"ffconcat version 1.0\nfile {clip}\n")
    return path


def hls_list(path: Path, url: str = "http://127.0.0.1:9/a.ts") -> Path:
    """A playlist, which would make whoever plays it fetch an address."""
    path.write_text(f"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n{url}\n#EXT-X-ENDLIST\n")
    return path


def unlisted_codec(path: Path) -> Path:
    """A good AVI of a codec that is not on the list."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("snow", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
        container.mux(stream.encode(av.VideoFrame.from_ndarray(np.zeros((64, 64, 3), np.uint8))))
        container.mux(stream.encode(None))
    return path


def sound_only(path: Path) -> Path:
    """An MP4 without a video stream."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=16000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 16000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def huge_picture(path: Path) -> Path:
    """A PNG of 60000 x 60000 pixels in a few bytes."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 1000)) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + body)
    return path


_DICOM_SIZES = b"\x28\x00\x10\x00US\x02\x00\xff\xff\x28\x00\x11\x00US\x02\x00\xff\xff"
_DICOM_PIXELS = b"\xe0\x7f\x10\x00OW\x00\x00\xff\xff\xff\xff"


def dicom_of_terabytes(path: Path) -> Path:
    """A DICOM file that claims 65535 x 65535 pixels and as many bytes as the field can say, then ends."""
    path.write_bytes(bytes(128) + b"DICM" + _DICOM_SIZES + _DICOM_PIXELS + bytes(1000))
    return path


def dicom_bomb(path: Path) -> Path:
    """A deflated DICOM file: 64 kB that unfold to 64 MB."""
    syntax = b"1.2.840.10008.1.2.1.99\0\0"
    meta = b"\x02\x00\x10\x00UI" + struct.pack("<H", len(syntax)) + syntax
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    body = packer.compress(_DICOM_SIZES + _DICOM_PIXELS + bytes(64 << 20)) + packer.flush()
    path.write_bytes(bytes(128) + b"DICM" + meta + body)
    return path


def dicom_cut(path: Path) -> Path:
    """A DICOM file that ends within an element."""
    path.write_bytes(bytes(128) + b"DICM" + _DICOM_SIZES[:-3])
    return path


def zip_that_leads_out(path: Path) -> Path:
    """An archive with a path that leads out of where it is unpacked."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("../../outside.txt", "out")
    return path
