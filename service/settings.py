"""Settings of the server: read once from the environment, then passed where they are used."""

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
        InvalidInput: a value is out of its bounds; the error names the field.
    """

    data_dir: Path = Path("micromodels-data")
    """Folder of the database, blobs, uploads, caches and scratch files. Made if it is not there."""

    database_url: str = ""
    """URL of the database, ``postgresql://USER:PASSWORD@HOST:PORT/NAME``; empty for ``database.sqlite`` in the data
    folder."""

    object_store_url: str = ""
    """Where videos, models, exports and pictures are kept: ``s3://BUCKET/FOLDER``, ``gs://BUCKET/FOLDER``, another URL
    that fsspec knows, or ``file:///FOLDER``; empty for ``blobs`` in the data folder. Credentials and endpoint come from
    the variables of the protocol's own tools, e.g. ``AWS_ACCESS_KEY_ID`` and ``AWS_ENDPOINT_URL``."""

    allowed_roots: tuple[Path, ...] = ()
    """Folders whose files may be registered by path, separated by ``:`` in the environment; none by default."""

    max_upload_bytes: int = 64 << 30
    """Largest upload that is taken."""

    min_free_bytes: int = 512 << 20
    """An upload is refused if it would leave less than this free on the disk of the data folder."""

    reserve_bytes: int = 16 << 20
    """Room on the disk of the data folder that is kept so that a full disk can still be tidied: with less than half of
    it free, writes are refused, and reading and deleting go on. 0 for none."""

    project_bytes: int = 1 << 50
    """How many bytes the videos of one project may have, uploads that have begun included."""

    upload_idle_hours: float = 48.0
    """An upload without a new chunk for this long is given up and its bytes are deleted."""

    request_id_hours: float = 72.0
    """How long the answer to a request id is remembered."""

    auth: str = "auto"
    """Who must show a token: ``auto``: nobody on loopback, everybody elsewhere; ``required``: everybody."""

    tls: str = "auto"
    """Where connections are encrypted: ``auto``: everywhere but on loopback; ``on``: there too."""

    tls_certificate: str = ""
    """PEM file of the server's certificate, with intermediate ones; empty: its own authority makes one."""

    tls_key: str = ""
    """PEM file of the key of ``tls_certificate``."""

    tls_client_ca: str = ""
    """PEM file of the authority whose client certificates are wanted (mutual TLS), or ``own``; empty: none."""

    tls_names: str = ""
    """Further names and addresses for the server's own certificate, separated by commas."""

    log_format: str = "text"
    """How the server logs: ``text`` for people, or ``json``: an object a line, without what anybody has typed."""

    log_level: str = "warning"
    """From where on it logs: ``debug``, ``info`` (a line for every call), ``warning`` or ``error``."""

    metrics_port: int = 0
    """Port on loopback that answers ``/metrics`` for Prometheus; 0 for none."""

    trace_file: str = ""
    """File that gets the spans of traces as JSON Lines; empty for none. ``OTEL_TRACES_EXPORTER`` names other places."""

    device: str = "auto"
    """Where jobs train and predict: ``auto``, ``cpu`` or ``cuda``."""

    heavy_jobs: int = 1
    """How many jobs train or propagate at once."""

    light_jobs: int = 2
    """How many jobs probe or export at once, beside the heavy ones."""

    interactive_sessions: int = 2
    """How many videos may be held ready for corrections at once; each is a process with a micro-model in memory."""

    interactive_idle_seconds: float = 600.0
    """A session that nobody asked anything for this long ends."""

    retrain_corrections: int = RETRAIN_CORRECTIONS
    """So many frames with new hand labels after the last training, a video's micro-model is retrained when its
    corrector pauses; the new one takes over if it does better on labels that neither has seen. 0 for never."""

    retrain_idle_seconds: float = 30.0
    """How long the corrector must have paused for that."""

    lease_seconds: float = 30.0
    """A job whose worker shows no sign of life for this long is given to another one."""

    outage_seconds: float = 300.0
    """How long a running job waits for a database or an object store that is away before it is given back."""

    silence_seconds: float = 900.0
    """A worker that reports nothing for this long is taken as hung and killed."""

    cancel_grace_seconds: float = 10.0
    """Time that a cancelled job has to finish its frame before it is terminated, and again before it is killed. Also
    how long a server that stops waits for its jobs to keep a checkpoint."""

    job_memory_bytes: int = 0
    """A job's process that takes more memory than this is ended, and tries once more with half the work; 0 for nine
    tenths of the machine's, or the container's."""

    job_niceness: int = 10
    """Niceness of the workers of jobs, 0 to 19: the server answers, and corrections are computed, while they work."""

    cache_bytes: int = 20 << 30
    """Bound of the feature caches in the data folder; the longest unused go first."""

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
            raise InvalidInput("tls_key", self.tls_key, "a file where tls_certificate is one, else nothing")

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ, **overrides: object) -> Settings:
        """Settings from ``MICROMODELS_*`` variables, with explicit values on top (None means not given).

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
    """Where jobs cache what they compute from a video: a folder of its own, which goes with it."""
    return settings.data_dir.resolve() / "cache" / (content_hash or "unread")
