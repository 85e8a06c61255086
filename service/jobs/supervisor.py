"""One job from lease to end: starts its child, stores what it says, passes orders on, and judges how it ended."""

from __future__ import annotations

import base64
import contextlib
import json
import logging
import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, TypeVar

from micromodels.errors import FailedPrecondition, InvalidInput, MicromodelsError
from micromodels.types import AnyLabel, Provenance
from service.domain.errors import NotFound, ResourceExhausted, StaleLease, Unavailable, disk_errors
from service.domain.job_specs import JobSpec, PropagateSpec, RetrainSpec, TrainSpec, spec_from_dict
from service.domain.jobs import (
    Effects,
    Job,
    JobError,
    JobKind,
    JobState,
    Lease,
    Orders,
)
from service.domain.models import (
    BlobFile,
    NewModel,
    provenance_version,
)
from service.jobs.progress import ProgressLog
from service.jobs.task_files import lay_out_labels, learned_before
from service.reports.archive import lay_out
from service.reports.audit_report import FILE_NAME, write_report
from service.settings import Settings, cache_folder
from service.store import (
    Store,
)
from service.store.codec import encode_ontology
from service.worker.process import (
    Lines,
    await_exit,
    end_process,
    how_it_ended,
    machine_memory_bytes,
    memory_bytes,
    oom_kills,
    start_child,
    tell,
)
from service.worker.protocol import Order, Say, Task, label_from_json, write_labels

__all__ = ["Supervisor"]

T = TypeVar("T")

_LOG = logging.getLogger(__name__)
_PAUSE_SECONDS = 1.0
_COMMIT_SECONDS = 0.25
_COMMIT_LABELS = 500
_BEAT_SECONDS = 1.0  # also how soon a cancel is noticed
_MEMORY_SHARE = 0.9  # of the machine's, which a job's process may take where nothing else is said
# What the next try does otherwise after an end of this kind.
_SECOND_TRIES: dict[str, dict[str, Any]] = {
    "OOM": {"smaller": True},
    "DEVICE_LOST": {"device": "cpu"},
    "RESOURCE_EXHAUSTED": {},  # nothing: it is leased again when the disk has room
}


class Supervisor:
    """Does one leased job, in the thread that calls ``run``.

    Args:
        store: where the job is.
        settings: the server's.
        lease: the right to it.
        job: as it was leased.
        stopping: set when the server stops: the job is given back.
        preload: module for the child to import first; empty for none.
    """

    def __init__(
        self, store: Store, settings: Settings, lease: Lease, job: Job, stopping: threading.Event, preload: str = ""
    ) -> None:
        self._store = store
        self._settings = settings
        self._lease = lease
        self._job = job
        self._stopping = stopping
        self._preload = preload
        self._scratch = settings.data_dir.resolve() / "scratch" / f"{job.job_id}-{lease.fence}"
        self._checkpoints: Path | None = None
        self._label_revisions: dict[str, int] = {}
        self._model_name = ""
        self._progress_log = ProgressLog(job.progress)
        self._frames = int(job.checkpoint.get("frames", 0))
        self._next_frame = 0
        self._labels: list[AnyLabel] = []
        self._news = False
        self._frame_table: Mapping[str, Any] | None = None
        self._files: list[BlobFile] = []
        self._result: dict[str, Any] = {}
        """What the child has said of the end, beside files."""
        self._base_revision = 0
        """What is newer stays as it is; 0 not to look."""
        self._end: Mapping[str, Any] | None = None
        self._orders = Orders()
        self._committed = self._heard = time.monotonic()
        self._cancelled_at = self._stopped_at = 0.0
        self._killed = ""
        self._memory_bytes = settings.job_memory_bytes or int(_MEMORY_SHARE * machine_memory_bytes())
        self._took_too_much = False

    def run(self) -> None:
        """Do the job to its end, whatever that is; raises nothing."""
        try:
            try:
                self._do()
            except StaleLease as error:
                _LOG.warning("job %s was given to another worker: %s", self._job.job_id, error)
            except (NotFound, FailedPrecondition, InvalidInput) as error:  # would be the same the next time
                reason = JobError("FAILED_PRECONDITION", str(error), type(error).__name__)
                self._apply(Effects(state=JobState.FAILED, error=reason))
            except (Unavailable, ResourceExhausted) as error:  # not the job's fault, and so no try
                _LOG.warning("job %s is given back: %s", self._job.job_id, error)
                self._give_back(None)
            except MicromodelsError as error:
                self._give_back(JobError("STORAGE_FAILURE", str(error), type(error).__name__))
            except Exception as error:
                _LOG.exception("job %s", self._job.job_id)
                self._give_back(JobError("INTERNAL", f"{type(error).__name__}: {error}"))
        except MicromodelsError as error:  # not even the failure can be stored: the lease runs out
            _LOG.error("job %s cannot be ended: %s", self._job.job_id, error)
        finally:
            shutil.rmtree(self._scratch, ignore_errors=True)
            self._forget_checkpoints()

    def _forget_checkpoints(self) -> None:
        """They are of use to a next try only."""
        with contextlib.suppress(MicromodelsError):
            if self._checkpoints and self._store.jobs.get(self._job.project_id, self._job.job_id).state.is_final:
                shutil.rmtree(self._checkpoints, ignore_errors=True)

    def _do(self) -> None:
        self._orders = self._patiently(lambda: self._store.jobs.beat(self._lease))
        with self._alive():
            task = self._patiently(self._prepare)
        self._apply(Effects(state=JobState.RUNNING))
        killed_before = oom_kills()
        process = self._patiently(lambda: start_child(task, self._scratch, self._preload, self._settings.trace_file))
        try:
            self._listen(process)
            await_exit(process)
        finally:
            end_process(process)
        self._conclude(process.returncode, oom_kills() > killed_before)

    # 1. What the child needs.

    def _prepare(self) -> Task:
        shutil.rmtree(self._scratch, ignore_errors=True)
        self._scratch.mkdir(parents=True)
        store, job = self._store, self._job
        spec = spec_from_dict(job.kind, job.spec)
        table = labels = settled = ""
        if job.kind is not JobKind.PROBE:
            table = str(self._scratch / "frame_table.json")
            Path(table).write_text(json.dumps(store.videos.frame_table(job.project_id, job.video_id)))
            labels = str(self._scratch / "labels.in")
            settled = str(self._scratch / "settled.json")
            self._write_labels(Path(labels), Path(settled))
        cache = cache_folder(self._settings, store.videos.get(job.project_id, job.video_id).content_hash)
        cache.mkdir(parents=True, exist_ok=True)
        self._checkpoints = cache / f"checkpoints-{job.job_id}"
        self._video_path = str(store.videos.path(job.project_id, job.video_id))
        return Task(
            kind=job.kind.value,
            spec=job.spec,
            video_path=self._video_path,
            scratch=str(self._scratch),
            cache=str(cache),
            device=str(job.checkpoint.get("device") or self._device(spec)),
            niceness=self._settings.job_niceness,
            checkpoint=job.checkpoint,
            checkpoints=str(self._checkpoints) if isinstance(spec, TrainSpec) else "",
            ontology=encode_ontology(store.projects.get(job.project_id).ontology),
            frame_table=table,
            labels=labels,
            model=self._materialize(),
            learned=learned_before(store, job, self._scratch),
            settled=settled,
        )

    def _device(self, spec: JobSpec) -> str:
        """What was asked for."""
        asked = spec.device if isinstance(spec, (TrainSpec, PropagateSpec)) else ""
        return asked or self._settings.device

    def _write_labels(self, path: Path, settled: Path) -> None:
        project_id, video_id = self._job.project_id, self._job.video_id
        if self._job.kind is JobKind.EXPORT:
            write_labels(path, self._current_labels())
            if self._job.spec.get("format") == "archive":
                lay_out(self._store, self._job, self._scratch, self._show_life)
            elif self._job.spec.get("format") == "review_report":
                write_report(self._store, project_id, video_id, self._scratch / FILE_NAME, self._show_life)
        elif self._job.kind is JobKind.RETRAIN:
            self._base_revision = lay_out_labels(self._store, (project_id, video_id), path, settled)
            self._label_revisions[video_id] = self._base_revision
        else:
            anchors, revision = self._store.labels.anchors(project_id, video_id)
            self._label_revisions[video_id] = revision
            write_labels(path, anchors)

    def _current_labels(self) -> Iterator[AnyLabel]:
        """All labels of the video; shows signs of life, for there may be many."""
        for record in self._store.labels.stream(self._job.project_id, self._job.video_id):
            if record.label is not None:
                yield record.label
            self._show_life()

    def _show_life(self) -> None:
        if time.monotonic() - self._committed > _BEAT_SECONDS:
            self._commit()

    def _materialize(self) -> str:
        """Write out the model to use, if there is one: the spec's, or the one that an earlier try has trained."""
        uses = self._job.kind in (JobKind.PROPAGATE, JobKind.RETRAIN)
        source = self._job.spec if uses and "model_id" not in self._job.checkpoint else self._job.checkpoint
        if not (uses or self._job.kind is JobKind.AUTO_LABEL) or "model_id" not in source:
            return ""
        model = self._store.models.get(self._job.project_id, source["model_id"], source["version"])
        folder = self._scratch / "model"
        self._store.models.materialize(model, folder)
        self._model_name = model.provenance_version
        return str(folder)

    # 2. What it says, and what it is told.

    def _listen(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdout is not None
        lines = Lines(process.stdout.fileno())
        told: set[Order] = set()
        self._heard = time.monotonic()
        while not lines.ended:
            for line in lines.read(_COMMIT_SECONDS):
                self._heard = time.monotonic()
                self._take(json.loads(line))
            waited = time.monotonic() - self._committed
            beat_seconds = min(_BEAT_SECONDS, self._settings.lease_seconds / 3)
            full = len(self._labels) >= _COMMIT_LABELS
            if full or waited >= (_COMMIT_SECONDS if self._news else beat_seconds):
                self._commit()
            self._steer(process, told)

    def _steer(self, process: subprocess.Popen[bytes], told: set[Order]) -> None:
        """Pass orders on, and end a child that does not follow or does nothing."""
        now, grace = time.monotonic(), self._settings.cancel_grace_seconds
        if self._orders.finish_early:
            tell(process, Order.FINISH_EARLY, told)
        if self._orders.cancel:
            self._cancelled_at = self._cancelled_at or now
            tell(process, Order.CANCEL, told)
            if now - self._cancelled_at > 2 * grace:
                os.kill(process.pid, signal.SIGKILL)
            elif now - self._cancelled_at > grace:
                os.kill(process.pid, signal.SIGTERM)
        if self._stopping.is_set():
            self._put_away(process, told, now)
        elif 0 < self._memory_bytes < memory_bytes(process.pid):
            self._took_too_much = True
            os.kill(process.pid, signal.SIGKILL)
        # The decoder of a probe has a watchdog of its own and nothing to report before the end.
        elif now - self._heard > self._settings.silence_seconds and self._job.kind is not JobKind.PROBE:
            self._killed = self._killed or f"no sign of progress for {self._settings.silence_seconds:g} s"
            os.kill(process.pid, signal.SIGKILL)

    def _put_away(self, process: subprocess.Popen[bytes], told: set[Order], now: float) -> None:
        """The server stops: the child finishes its step, keeps a checkpoint and ends, or is ended."""
        tell(process, Order.CANCEL, told)
        self._stopped_at = self._stopped_at or now
        if now - self._stopped_at > self._settings.cancel_grace_seconds:
            self._killed = self._killed or "the server stops"
            os.kill(process.pid, signal.SIGKILL)

    def _take(self, message: Mapping[str, Any]) -> None:
        say = Say(message["say"])
        self._news = True
        if say is Say.EVENT:
            self._take_event(message)
        elif say is Say.FRAME:
            self._labels += [self._signed(label_from_json(values)) for values in message["labels"]]
            self._frames += 1
            self._next_frame = int(message["frame"]) + 1
            self._progress_log.progress["frames_done"] = self._frames
        elif say is Say.FRAME_TABLE:
            self._frame_table = message["table"]
        elif say is Say.MODEL:
            with self._alive():
                model = self._patiently(lambda: self._model(Path(message["folder"]), message["manifest"]))
            self._commit(model, result=self._result)
            self._model_name = provenance_version(**self._orders.model)
        elif say is Say.RESULT:
            self._result |= message["values"]
        elif say is Say.FILE:
            with self._alive():
                self._files.append(self._patiently(lambda: self._store.blobs.add_file(Path(message["path"]))))
        else:
            self._end = message

    def _signed(self, label: AnyLabel) -> AnyLabel:
        """A predicted label with the version of its model, which the library does not know."""
        if label.is_anchor:
            return label
        return replace(label, provenance=Provenance(label.provenance.kind, self._model_name))

    def _take_event(self, message: Mapping[str, Any]) -> None:
        picture = ""
        if message["picture"]:
            data = base64.b64decode(message["picture"])
            picture = self._patiently(lambda: self._store.blobs.add_bytes(data))
        self._progress_log.take(message["kind"], message["payload"], picture)

    def _model(self, folder: Path, manifest: Mapping[str, Any]) -> NewModel:
        spec = spec_from_dict(self._job.kind, self._job.spec)
        assert isinstance(spec, TrainSpec)
        files = []
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                blob = self._store.blobs.add_file(path)
                files.append(BlobFile(path.relative_to(folder).as_posix(), blob.sha256, blob.size_bytes))
        parent = spec.version if isinstance(spec, RetrainSpec) else 0
        if spec.model_id and not parent:
            parent = self._store.models.get(self._job.project_id, spec.model_id).version
        return NewModel(
            model_id=spec.model_id,
            display_name=spec.display_name,
            parent_version=parent,
            recipe=str(manifest.get("recipe", spec.recipe)),
            metrics=manifest.get("metrics", {}),
            manifest=manifest,
            label_revisions=self._label_revisions,
            files=tuple(files),
        )

    # 3. What is stored of it.

    def _commit(self, model: NewModel | None = None, state: JobState | None = None, **end: Any) -> None:
        """Store everything that has come since the last commit, in one transaction."""
        checkpoint = {"next_frame": self._next_frame, "frames": self._frames} if self._next_frame else None
        effects = Effects()
        self._progress_log.add_stage_times()
        if self._news or self._progress_log.events or model or state:
            effects = Effects(
                labels=self._labels,
                events=self._progress_log.events,
                progress=self._progress_log.progress,
                checkpoint=checkpoint,
                base_revision=self._base_revision,
                model=model,
                state=state,
                **end,
            )
        self._apply(effects)
        self._labels, self._progress_log.events, self._news = [], [], False
        self._committed = time.monotonic()

    def _apply(self, effects: Effects) -> None:
        beat = self._orders.beat
        self._orders = self._patiently(lambda: self._store.jobs.commit(self._lease, effects, after_beat=beat))

    def _patiently(self, act: Callable[[], T]) -> T:
        """Repeat what database, object store or disk cannot do at the moment, for as long as it may last."""
        limit = time.monotonic() + self._settings.outage_seconds
        while True:
            try:
                with disk_errors():
                    return act()
            except (Unavailable, ResourceExhausted) as error:
                if self._stopping.is_set() or time.monotonic() > limit:
                    raise
                _LOG.warning("job %s waits: %s", self._job.job_id, error)
                self._stopping.wait(min(error.retry_after_seconds or _PAUSE_SECONDS, _PAUSE_SECONDS))
                self._look_for_orders()
                if self._orders.cancel:
                    raise

    def _look_for_orders(self) -> None:
        """A job that waits for room on the disk can be cancelled. A beat would need room, too."""
        with contextlib.suppress(Unavailable):
            job = self._store.jobs.get(self._job.project_id, self._job.job_id)
            self._orders = replace(self._orders, cancel=job.state is JobState.CANCELLING)

    @contextlib.contextmanager
    def _alive(self) -> Iterator[None]:
        """Show signs of life while the block is busy with bytes, which may be many."""
        done = threading.Event()

        def beat() -> None:
            while not done.wait(min(_BEAT_SECONDS, self._settings.lease_seconds / 3)):
                with contextlib.suppress(MicromodelsError):  # the next commit meets it too, and deals with it
                    self._orders = self._store.jobs.commit(self._lease, Effects(), after_beat=self._orders.beat)

        thread = threading.Thread(target=beat, daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()

    # 4. How it ended.

    def _conclude(self, code: int, out_of_memory: bool) -> None:
        self._progress_log.add_stage_times(last=True)
        result: dict[str, Any] = {"video_id": self._job.video_id, **self._result}
        if self._frames:
            result["frames"] = self._frames
        if self._files:
            result["files"] = [asdict(file) for file in self._files]
        say = Say(self._end["say"]) if self._end else None
        if say is Say.DONE:
            self._warn_of_crowds()
            self._commit(state=JobState.SUCCEEDED, result=result, frame_table=self._frame_table)
        elif self._cancelled_at and (say is Say.CANCELLED or say is None):
            self._commit(state=JobState.CANCELLED, result=result)
        elif self._stopping.is_set() and (say is Say.CANCELLED or say is None):
            self._commit()
            self._give_back(None)
        elif self._end is not None:
            error = JobError(self._end["reason"], self._end["message"], self._end["error_class"])
            if error.reason in _SECOND_TRIES and self._may_change(error.reason):
                self._commit()
                self._give_back(error)
            else:
                self._commit(state=JobState.FAILED, result=result, error=error)
        else:
            self._commit()
            self._give_back(self._crash(code, out_of_memory))

    def _warn_of_crowds(self) -> None:
        """Say where labels that were made are more than a class allows: a micro-model is warned of, not refused."""
        if not self._frames:
            return
        self._commit()
        over_limit = self._patiently(
            lambda: self._store.labels.frames_over_limit(self._job.project_id, self._job.video_id)
        )
        for name, count in over_limit.items():
            message = f"{count} frames have more of {name!r} than max_instances allows; GetDiagnostics shows where"
            self._progress_log.take("warned", {"message": message})

    def _may_change(self, reason: str) -> bool:
        """Whether the next try may do what this one could not: leave a device only if none was asked for."""
        return reason != "DEVICE_LOST" or self._device(spec_from_dict(self._job.kind, self._job.spec)) == "auto"

    def _give_back(self, reason: JobError | None) -> None:
        if reason is not None and reason.reason in _SECOND_TRIES:
            self._apply(Effects(checkpoint=_SECOND_TRIES[reason.reason]))
        self._patiently(lambda: self._store.jobs.requeue(self._lease, reason))

    def _crash(self, code: int, out_of_memory: bool) -> JobError:
        how = how_it_ended(code)
        tail = (self._scratch / "stderr").read_bytes()[-2000:].decode(errors="replace")
        tail = tail.replace(self._video_path, "VIDEO")  # it may hold a name, which logs do not
        _LOG.warning("the process of job %s died: %s; its last words:\n%s", self._job.job_id, self._killed or how, tail)
        if self._took_too_much:
            return JobError("OOM", f"the job took more than {self._memory_bytes} bytes of memory", "OutOfMemory")
        if out_of_memory and code == -signal.SIGKILL:
            return JobError("OOM", "the machine ran out of memory", "OutOfMemory")
        return JobError("WORKER_CRASHED", f"the job's process died: {self._killed or how}")
