"""Checkpoints of a training: a try that was interrupted goes on from the newest whole one.

A checkpoint appears whole or not at all (temporary file, fsync, rename, fsync of the folder) and begins with the
SHA-256 of the rest, so that a damaged one is passed over for the one before it.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

__all__ = ["Checkpoint", "Checkpoints"]

_LOG = logging.getLogger(__name__)
_DIGEST_BYTES = 64
_KEPT = 2
_SUFFIX = ".checkpoint"


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What was saved.

    Attributes:
        tensors: on the CPU.
        state: JSON.
    """

    tensors: Mapping[str, torch.Tensor] = field(repr=False)
    state: Mapping[str, Any]


class Checkpoints:
    """The checkpoints of one training, in a folder of their own.

    Args:
        folder: made if it is not there.
        identity: of everything that the training depends on; checkpoints of another identity are not used.
        every_seconds: how far apart they are.
    """

    def __init__(self, folder: Path, identity: str, every_seconds: float = 10.0) -> None:
        self._folder = folder
        self._identity = identity
        self._every_seconds = every_seconds
        self._last = time.monotonic()
        folder.mkdir(parents=True, exist_ok=True)

    @property
    def is_due(self) -> bool:
        """Whether it is time for the next one."""
        return time.monotonic() - self._last >= self._every_seconds

    def save(self, tensors: Mapping[str, torch.Tensor], state: Mapping[str, Any]) -> None:
        """Keep a checkpoint and drop all but the newest. A disk that refuses costs the checkpoint, not the training.

        Args:
            tensors: copied to the CPU.
            state: JSON.
        """
        metadata = {"identity": self._identity, "state": json.dumps(state)}
        plain = {name: tensor.detach().to("cpu").contiguous() for name, tensor in tensors.items()}
        data = safetensors.torch.save(plain, metadata)
        found = self._found()
        number = int(found[-1].stem) + 1 if found else 0
        try:
            self._write(self._folder / f"{number:08d}{_SUFFIX}", data)
        except OSError as error:
            _LOG.warning("no checkpoint was written: %s", error)
        for old in self._found()[:-_KEPT]:
            old.unlink(missing_ok=True)
        self._last = time.monotonic()

    def load(self) -> Checkpoint | None:
        """The newest whole checkpoint of this training; None if there is none."""
        for path in reversed(self._found()):
            data = path.read_bytes()
            body = data[_DIGEST_BYTES:]
            if hashlib.sha256(body).hexdigest().encode() != data[:_DIGEST_BYTES]:
                _LOG.warning("checkpoint %s is damaged; the one before it is used", path.name)
                continue
            length = int.from_bytes(body[:8], "little")
            metadata = json.loads(body[8 : 8 + length])["__metadata__"]
            if metadata["identity"] == self._identity:
                return Checkpoint(safetensors.torch.load(body), json.loads(metadata["state"]))
        return None

    def _found(self) -> list[Path]:
        return sorted(self._folder.glob(f"*{_SUFFIX}"))

    def _write(self, path: Path, body: bytes) -> None:
        temporary = path.with_suffix(".tmp")
        with temporary.open("wb") as file:
            file.write(hashlib.sha256(body).hexdigest().encode())
            file.write(body)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        folder = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
