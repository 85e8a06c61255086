"""Settings of the server: read once from the environment, then passed to where they are used."""

from __future__ import annotations

import dataclasses
import os
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from micromodels.correction.retrain_policy import RETRAIN_CORRECTIONS
from micromodels.errors import InvalidInput

__all__ = ["Settings", "cache_folder"]

_PREFIX = "MICROMODELS_"


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything an operator can choose. Each field is also the variable ``MICROMODELS_<FIELD>``.

    Raises:
        InvalidInput: a value is out of range; the error names the field.
    """

    data_dir: Path = Path("micromodels-data")
    """Folder of the database, blobs, uploads, caches and scratch files. Created if missing."""

    database_url: str = ""
    """URL of the database, ``postgresql://USER:PASSWORD@HOST:PORT/NAME``; empty for ``database.sqlite`` in the data
    folder."""

    object_store_url: str = ""
    """Where videos, models, exports and pictures are stored: ``s3://BUCKET/FOLDER``, ``gs://BUCKET/FOLDER``, another
    fsspec URL, or ``file:///FOLDER``; empty for ``blobs`` in the data folder. Credentials and endpoint come from the
    variables of the protocol's own tools, such as ``AWS_ACCESS_KEY_ID`` and ``AWS_ENDPOINT_URL``."""

    allowed_roots: tuple[Path, ...] = ()
    """Folders whose files may be registered by path, separated by ``:`` in the environment; none by default."""

    max_upload_bytes: int = 64 << 30
    """Largest upload that is accepted."""

    min_free_bytes: int = 512 << 20
    """An upload is refused if it would leave less free space than this on the disk of the data folder."""

    reserve_bytes: int = 16 << 20
    """Space reserved on the disk of the data folder, so that users can still delete when the disk is full. With less
    than half of it free, writes are refused; reading and deleting still work. 0 for none."""

    project_bytes: int = 1 << 50
    """Total bytes allowed for the videos of one project, including unfinished uploads."""

    upload_idle_hours: float = 48.0
    """An upload without a new chunk for this long expires and its bytes are deleted."""

    request_id_hours: float = 72.0
    """How long a request id and its answer are remembered."""

    auth: str = "auto"
    """Who must send a token. ``auto``: everybody, except on loopback. ``required``: everybody."""

    tls: str = "auto"
    """Which connections use TLS. ``auto``: all, except on loopback. ``on``: all."""

    tls_certificate: str = ""
    """PEM file of the server's certificate, with intermediates; empty: the server's own authority issues one."""

    tls_key: str = ""
    """PEM file of the private key of ``tls_certificate``."""

    tls_client_ca: str = ""
    """PEM file of the authority that issues client certificates (mutual TLS), or ``own``; empty: none required."""

    tls_names: str = ""
    """Additional names and addresses for the server's own certificate, separated by commas."""

    log_format: str = "text"
    """Log format: ``text`` for people, or ``json``: one object per line, without text that users typed."""

    log_level: str = "warning"
    """Lowest level that is logged: ``debug``, ``info`` (a line for every call), ``warning`` or ``error``."""

    metrics_port: int = 0
    """Loopback port that serves ``/metrics`` for Prometheus; 0 for none."""

    trace_file: str = ""
    """File for trace spans, as JSON Lines; empty for none. ``OTEL_TRACES_EXPORTER`` names other destinations."""

    device: str = "auto"
    """Where jobs train and predict: ``auto``, ``cpu`` or ``cuda``."""

    heavy_jobs: int = 1
    """How many jobs may train or propagate at the same time."""

    light_jobs: int = 2
    """How many jobs may probe or export at the same time, besides the heavy ones."""

    interactive_sessions: int = 2
    """How many videos may have an open session at the same time; each is a process with a micro-model in memory."""

    interactive_idle_seconds: float = 600.0
    """A session without a request for this long ends."""

    retrain_corrections: int = RETRAIN_CORRECTIONS
    """Number of frames with new hand labels, since the last training, after which a video's micro-model is retrained
    when the annotator pauses. The new one replaces it if it scores better on held-out labels. 0 for never."""

    retrain_idle_seconds: float = 30.0
    """How long the annotator must have paused before retraining starts."""

    lease_seconds: float = 30.0
    """A job whose worker sends no heartbeat for this long is given to another worker."""

    outage_seconds: float = 300.0
    """How long a running job waits for an unreachable database or object store before it returns to the queue."""

    silence_seconds: float = 900.0
    """A job process that reports nothing for this long counts as hung and is killed."""

    cancel_grace_seconds: float = 10.0
    """How long a cancelled job has to finish its frame before it is terminated, and again before it is killed. Also
    how long a stopping server waits for its jobs to save a checkpoint."""

    job_memory_bytes: int = 0
    """A job process that uses more memory than this is ended, and the job retries once with half the work. 0 for 90 %
    of the memory of the machine or container."""

    job_niceness: int = 10
    """Niceness of job processes, 0 to 19, so that calls and corrections stay fast while jobs run."""

    cache_bytes: int = 20 << 30
    """Size limit of the feature caches in the data folder; the least recently used are deleted first."""

    def __post_init__(self) -> None:
        bounds: dict[str, tuple[float, float]] = {
            "max_upload_bytes": (1, 1 << 50),
            "min_free_bytes": (0, 1 << 50),
            "reserve_bytes": (0, 1 << 40),
            "project_bytes": (0, 1 << 60),
            "upload_idle_hours": (0.01, 24 * 365),
            "request_id_hours": (0.01, 24 * 365),
            "heavy_jobs": (0, 64),
            "light_jobs": (0, 64),
            "metrics_port": (0, 65535),
            "interactive_sessions": (1, 64),
            "interactive_idle_seconds": (0.1, 86400),
            "retrain_corrections": (0, 1_000_000),
            "retrain_idle_seconds": (0.1, 86400),
            "lease_seconds": (0.2, 3600),
            "outage_seconds": (0, 86400),
            "silence_seconds": (0.2, 86400),
            "cancel_grace_seconds": (0, 3600),
            "job_memory_bytes": (0, 1 << 50),
            "job_niceness": (0, 19),
            "cache_bytes": (0, 1 << 50),
        }
        for name, (low, high) in bounds.items():
            value = getattr(self, name)
            if not low <= value <= high:
                raise InvalidInput(name, value, f"{low} to {high}")
        words = {"device": ("auto", "cpu", "cuda"), "auth": ("auto", "required"), "tls": ("auto", "on")}
        words |= {"log_format": ("text", "json"), "log_level": ("debug", "info", "warning", "error")}
        for name, allowed in words.items():
            if getattr(self, name) not in allowed:
                raise InvalidInput(name, getattr(self, name), " or ".join(allowed))
        if bool(self.tls_certificate) != bool(self.tls_key):
            raise InvalidInput("tls_key", self.tls_key, "a file together with tls_certificate, or set neither")

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ, **overrides: object) -> Settings:
        """Settings from ``MICROMODELS_*`` variables; overrides other than None take precedence.

        Raises:
            InvalidInput: a variable does not parse or is out of bounds, or an override is not a setting.
        """
        hints = typing.get_type_hints(cls)
        values: dict[str, object] = {}
        for field in dataclasses.fields(cls):
            text = environment.get(_PREFIX + field.name.upper())
            if text is not None:
                values[field.name] = _parse(_PREFIX + field.name.upper(), text, hints[field.name])
        for name, value in overrides.items():
            if name not in hints:
                raise InvalidInput(name, value, "one of " + ", ".join(hints))
            if value is not None:
                values[name] = value
        return cls(**values)  # type: ignore[arg-type]  # each was parsed by its own type


def _parse(name: str, text: str, hint: object) -> object:
    try:
        if isinstance(hint, types.GenericAlias):
            return tuple(Path(part) for part in text.split(os.pathsep) if part)
        return hint(text)  # type: ignore[operator]  # Path, str, int or float
    except ValueError:
        raise InvalidInput(name, text, f"a value of type {getattr(hint, '__name__', hint)}") from None


def cache_folder(settings: Settings, content_hash: str) -> Path:
    """Cache folder of one video, which is deleted with it."""
    return settings.data_dir.resolve() / "cache" / (content_hash or "unread")
