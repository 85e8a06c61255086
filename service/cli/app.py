"""The commands of ``micromodels``; their docstrings are what ``--help`` shows."""

from __future__ import annotations

import json
from contextlib import ExitStack
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from tempfile import TemporaryDirectory, mkdtemp
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

import micromodels
from micromodels.encoding.encoders import encoders
from micromodels.errors import InvalidInput
from micromodels.output.progress import Display
from micromodels.recipes.base import AUTO, DEFAULT_RECIPE, MAX_EXPERIMENTS, TrainSettings, recipe_names, recipes
from micromodels.runtime.run import Event, Run, Warned
from micromodels.types import AnyLabel, Label, Ontology
from service.cli import access, backup, outputs
from service.cli.audit import audit
from service.cli.doctor import doctor
from service.cli.exit_codes import ExitCode, exit_codes
from service.cli.formats import ReadsLabels, WritesLabels
from service.cli.output_places import OverwriteOption, check_output_file, check_output_folder, refuse_inputs
from service.cli.report import report
from service.cli.signals import StopSignals

if TYPE_CHECKING:
    from micromodels.labels.video_info import VideoInfo
    from micromodels.output.run_report import RunReport
    from micromodels.recipes.base import MicroModel
    from micromodels.video import FrameTable, Video

__all__ = ["app"]

EXIT_CODES = (
    "Exit codes: 0 done · 1 unexpected or system error · 2 wrong usage or input · 3 the video cannot be used · "
    "4 training failed · 5 some files or checks failed · 130 stopped by Ctrl-C, finished work is kept"
)

app = typer.Typer(
    name="micromodels",
    epilog=EXIT_CODES,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_show_locals=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


app.add_typer(access.token, name="token", epilog=EXIT_CODES)
app.add_typer(access.role, name="role", epilog=EXIT_CODES)
app.add_typer(audit, name="audit", epilog=EXIT_CODES)
app.command(epilog=EXIT_CODES)(doctor)
app.command(epilog=EXIT_CODES)(report)
app.add_typer(access.certificate, name="certificate", epilog=EXIT_CODES)


class Device(StrEnum):
    """Where to compute."""

    AUTO = "auto"
    CPU = "cpu"
    CUDA = "cuda"


SourceArgument = Annotated[
    str,
    typer.Argument(metavar="SOURCE", help="A video, a TIFF stack, or a folder of pictures (png, jpg, bmp, webp, tif)."),
]
SeedsOption = Annotated[
    Path, typer.Option(metavar="FILE", help="Hand labels of a few frames; formats are listed above.")
]
SeedsFormatOption = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="Format of the seeds, if it is not clear from name and content."),
]
FirstFrameOption = Annotated[
    int | None,
    typer.Option(
        min=0,
        max=1,
        help="Number of the first frame, where COCO names a video's pictures by number; default: 0, warned.",
    ),
]
RotatedAsBoxesOption = Annotated[
    bool,
    typer.Option("--rotated-as-boxes", help="Read rotated boxes as the upright boxes around them, not as polygons."),
]
StrictOption = Annotated[
    bool,
    typer.Option("--strict", help="Refuse trifles in a file of labels that are otherwise repaired with a warning."),
]
RecipeOption = Annotated[
    str,
    typer.Option(
        metavar="|".join((AUTO, *recipe_names())),
        help=f"How the model is built. {AUTO}: {DEFAULT_RECIPE}. "
        + " ".join(f"{info.name}: {info.title}." for info in recipes()),
    ),
]
EncoderOption = Annotated[
    str,
    typer.Option(
        metavar="NAME",
        help=f"What turns frames into features: {AUTO}, or some of these joined by +: "
        + ", ".join(form for info in encoders() for form in info.forms)
        + ".",
    ),
]
ExperimentsOption = Annotated[
    int,
    typer.Option(
        min=1, max=MAX_EXPERIMENTS, help="Settings to train and compare by leaving one seed out; the best is kept."
    ),
]
DeviceOption = Annotated[Device, typer.Option(help="Where to compute; auto takes a GPU if there is one.")]


def _console() -> Console:
    """Progress and errors go to standard error; standard output is for results."""
    return Console(stderr=True)


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"micromodels {micromodels.__version__}")
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """A few hand-drawn labels in, a fully labeled video out.

    Progress is shown on standard error. Ctrl-C stops the work and keeps what is finished; a second Ctrl-C quits at
    once. Ctrl-\\ ends training early, with the weights it has, and continues with labeling.
    """


@app.command(cls=ReadsLabels, epilog=EXIT_CODES)
def label(
    source: SourceArgument,
    seeds: SeedsOption,
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder for the results; created if missing.")],
    seeds_format: SeedsFormatOption = None,
    seeds_first_frame: FirstFrameOption = None,
    rotated_as_boxes: RotatedAsBoxesOption = False,
    strict: StrictOption = False,
    recipe: RecipeOption = AUTO,
    encoder: EncoderOption = AUTO,
    experiments: ExperimentsOption = 1,
    device: DeviceOption = Device.AUTO,
    overwrite: OverwriteOption = False,
) -> None:
    """Train on a few hand labels of a video and label every frame.

    Writes labels.jsonl, coco.json, report.json, overlay.mp4 and flipbook.png into DIR, the frame table as video.json
    and the trained model as the folder model. Needs no server.
    """
    console = _console()
    with exit_codes(console):
        check_output_folder("--out", out, (source, seeds), outputs.RESULTS, overwrite=overwrite)
        with Display(console) as display:
            settings = TrainSettings(recipe, experiments, encoder=encoder)
            anchors = _Seeds(seeds, seeds_format, strict, seeds_first_frame, rotated_as_boxes)
            stopped = _label(source, anchors, out, settings, device, display)
        if stopped:
            raise typer.Exit(ExitCode.STOPPED)


def _label(source: str, seeds: _Seeds, out: Path, settings: TrainSettings, device: Device, display: Display) -> bool:
    """The steps of ``label``; returns whether the user stopped it early."""
    from micromodels.output.run_report import RunReport
    from micromodels.video import open_video

    report, stop = RunReport(), StopSignals(display.say)
    display.update("opening", 0, None)
    # Before training starts nothing is worth keeping, so the first Ctrl-C ends the process.
    with open_video(source) as video, TemporaryDirectory(prefix="micromodels-") as cache, ExitStack() as stack:
        # Labeling reuses the frames that training has encoded.
        run = replace(_run(device, report, display, stop), cache_dir=Path(cache))
        report.describe_video(source, video.table)
        anchors = seeds.read(video, report, display)
        display.forget("opening")
        stack.enter_context(stop)
        model = _train(video, anchors, settings, run, display)
        report.describe_model(model.manifest.to_dict())
        writer = outputs.Writer(out, video, report, display)
        _save(model, out / outputs.MODEL)
        ontology = Ontology.from_labels(anchors)
        writer.labels(model.propagate(video, anchors, run=run), keep_partial=True)
        writer.coco(ontology)
        writer.overlay(ontology)
        writer.flip_book(display.pictures)
        total = video.table.frame_count
    report.describe_device(device)
    writer.report()
    _summarize(display, report.to_dict(), out)
    if writer.frames_done < total:
        display.warn(f"stopped after {writer.frames_done} of {total} frames; these frames are kept")
        return True
    return False


def _summarize(display: Display, written: dict[str, Any], out: Path) -> None:
    """Show one line on the result."""
    share = 100 * written["seeds"]["share_of_frames_drawn_by_hand"]
    frames, seconds = written["frames"]["labeled"], written["seconds"]
    display.say(
        f"{frames} frames labeled in {seconds['total']:.0f} s (first after {seconds['first_label']:.0f} s), "
        f"{share:.1f} % of them drawn by hand → {out}"
    )


@app.command(cls=ReadsLabels, epilog=EXIT_CODES)
def train(
    source: SourceArgument,
    seeds: SeedsOption,
    out: Annotated[Path, typer.Option(metavar="MODEL_DIR", help="Folder for the model; created if missing.")],
    seeds_format: SeedsFormatOption = None,
    seeds_first_frame: FirstFrameOption = None,
    rotated_as_boxes: RotatedAsBoxesOption = False,
    strict: StrictOption = False,
    recipe: RecipeOption = AUTO,
    encoder: EncoderOption = AUTO,
    experiments: ExperimentsOption = 1,
    device: DeviceOption = Device.AUTO,
    overwrite: OverwriteOption = False,
) -> None:
    """Train a micro-model on a few hand labels of a video and save it, for `micromodels batch`.

    The model is safetensors, ONNX and a manifest; loading it executes no code from it.
    """
    from micromodels.output.run_report import RunReport
    from micromodels.video import open_video

    console = _console()
    with exit_codes(console), Display(console) as display, StopSignals(display.say) as stop:
        check_output_folder("--out", out, (source, seeds), ("manifest.json",), overwrite=overwrite)
        report = RunReport()
        settings = TrainSettings(recipe, experiments, encoder=encoder)
        with open_video(source) as video:
            chosen = _Seeds(seeds, seeds_format, strict, seeds_first_frame, rotated_as_boxes)
            anchors = chosen.read(video, report, display)
            model = _train(video, anchors, settings, _run(device, report, display, stop), display)
        _save(model, out)
        display.say(f"model saved → {out}")


@app.command(epilog=EXIT_CODES)
def batch(
    sources: Annotated[
        list[str],
        typer.Argument(metavar="SOURCE...", help="Videos, folders of videos or of frames, or quoted patterns."),
    ],
    model: Annotated[Path, typer.Option(metavar="MODEL_DIR", help="A model saved by label or train.")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder for the results, with a folder per video.")],
    overlay: Annotated[bool, typer.Option("--overlay", help="Also draw overlay.mp4 for each video.")] = False,
    device: DeviceOption = Device.AUTO,
) -> None:
    """Label many videos with a saved micro-model; no new seeds are needed.

    A video that fails is reported and the others continue (exit code 5). batch.json lists every file: done, failed, or
    left out and why. Run the same command again to skip finished videos: each video's done.json records which bytes
    were labeled by which model. Ctrl-C keeps the finished videos.
    """
    console = _console()
    with exit_codes(console):
        from service.cli.batch import INDEX, Batch, find_sources, kinds, model_digest

        found = find_sources(sources, out)
        with Display(console) as display, StopSignals(display.say) as stop:
            from micromodels.recipes.base import load_model

            work = Batch(load_model(model), model_digest(model), out, device, overlay, display, stop)
            try:
                work.run(found)
            finally:
                counts = {
                    state: sum(o.state == state for o in work.outcomes) for state in ("done", "skipped", "failed")
                }
                if found.left_out:
                    display.warn(f"files left out: {kinds(found.left_out)}; {out / INDEX} says why")
                display.say(", ".join(f"{count} {state}" for state, count in counts.items()) + f" → {out}")
        if counts["failed"]:
            raise typer.Exit(ExitCode.PARTIAL)


@app.command(cls=WritesLabels, epilog=EXIT_CODES)
def export(
    labels: Annotated[
        Path, typer.Argument(metavar="LABELS", help="Results folder of label or batch, or a file or folder of labels.")
    ],
    format: Annotated[str, typer.Option(metavar="NAME", help="Format to write; they are listed above.")],
    out: Annotated[Path, typer.Option(metavar="PATH", help="The file to write, or the folder if the format is one.")],
    source: Annotated[
        str | None,
        typer.Option(metavar="VIDEO", help="The video, if the format needs it and LABELS has no video.json beside it."),
    ] = None,
    source_format: Annotated[
        str | None, typer.Option("--from", metavar="NAME", help="Format of LABELS, if not clear from name and content.")
    ] = None,
    first_frame: FirstFrameOption = None,
    rotated_as_boxes: RotatedAsBoxesOption = False,
    strict: StrictOption = False,
    overwrite: OverwriteOption = False,
) -> None:
    """Convert labels to another format. The input is checked as strictly as seeds are."""
    console = _console()
    with exit_codes(console):
        from micromodels.labels.files import iter_labels, write_labels
        from micromodels.labels.formats import FormatOptions, find_format

        chosen = find_format(format)
        path = labels / outputs.LABELS if (labels / outputs.LABELS).is_file() else labels
        inputs: list[Path | str] = [path, *filter(None, [source])]
        if chosen.is_folder:
            refuse_inputs("--out", out, inputs)
        else:
            check_output_file("--out", out, inputs, overwrite=overwrite)

        def warn(message: str) -> None:
            console.print(f"[yellow]warning:[/] {escape(message)}", soft_wrap=True)

        video = _video_of(path, source)
        out.parent.mkdir(parents=True, exist_ok=True)
        try:
            options = FormatOptions(
                strict=strict, first_frame=first_frame, rotated_as_boxes=rotated_as_boxes, warn=warn
            )
            entries = iter_labels(path, video=video, format=source_format, options=options)
            count = write_labels(out, entries, video=video, format=format)
        except InvalidInput as error:
            if error.field != "video":
                raise
            allowed = "the video of these labels, because they have no video.json beside them"
            raise InvalidInput("--source", None, allowed) from None
        console.print(f"[dim]·[/] {count} labels → {escape(str(out))}", soft_wrap=True)
        if chosen.loses:
            console.print(f"[dim]·[/] {escape(chosen.loses)}", soft_wrap=True)


@app.command(epilog=EXIT_CODES)
def inspect(
    video: Annotated[str, typer.Argument(metavar="VIDEO", help="A video file or a folder of frames.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print the whole frame table as JSON.")] = False,
    frames: Annotated[bool, typer.Option("--frames", help="Also list every frame with its presentation time.")] = False,
) -> None:
    """Decode a video once and show its frame table: frame count, times, rotation, codec, warnings.

    The frames are those that decode, whatever the header says.
    """
    console = _console()
    with exit_codes(console):
        from micromodels.video import open_video

        with console.status("decoding"), open_video(video) as opened:
            table = opened.table
        if as_json:
            typer.echo(json.dumps({"source": video, **table.to_dict()}, ensure_ascii=False, indent=None))
            return
        output = Console(soft_wrap=True)
        output.print(_summary(video, table))
        for message in table.warnings:
            output.print(f"[yellow]warning:[/] {escape(message)}")
        if frames:
            typer.echo("frame\tpts\tseconds")
            for index in range(table.frame_count):
                typer.echo(f"{index}\t{int(table.pts[index])}\t{float(table.pts_seconds(index)):.6f}")


@app.command(epilog=EXIT_CODES)
def serve(
    data: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Data folder, created if missing; default: MICROMODELS_DATA_DIR or ./micromodels-data.",
        ),
    ] = None,
    host: Annotated[
        str, typer.Option(help="Address to listen on. Anything but loopback, such as 0.0.0.0, requires TLS and tokens.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0 for any free port.")] = 50051,
    page_port: Annotated[
        int | None,
        typer.Option(
            min=0,
            max=65535,
            help="Port of the web page; 0 for any free port. Default: 8080, or any free port if --port is 0.",
            show_default=False,
        ),
    ] = None,
    no_page: Annotated[bool, typer.Option("--no-page", help="Do not serve the web page.")] = False,
    allow_root: Annotated[
        list[Path] | None,
        typer.Option(metavar="DIR", help="Folder whose videos clients may register by path; repeatable."),
    ] = None,
) -> None:
    """Start the gRPC server (API micromodels.v1) and the web page; press Ctrl-C to stop.

    Prints host:port on standard output when it is ready, then the address of the web page. With TLS it also prints the
    certificate that clients need, on standard error. Jobs that are running when it stops continue at the next start.
    """
    console = _console()
    with exit_codes(console):
        from service.server import DEFAULT_PAGE_PORT
        from service.server import serve as run_server

        def show(address: str) -> None:
            print(address, flush=True)

        if page_port is None:
            page_port = DEFAULT_PAGE_PORT if port else 0
        console.print("[dim]·[/] press Ctrl-C to stop")
        run_server(
            data_dir=data,
            host=host,
            port=port,
            page_port=None if no_page else page_port,
            allowed_roots=tuple(allow_root or ()),
            on_ready=show,
            on_page=show,
            on_notice=lambda text: console.print(
                f"[dim]·[/] {escape(text)}", soft_wrap=True, highlight=False, emoji=False
            ),
        )


app.command(epilog=EXIT_CODES)(backup.backup)
app.command(epilog=EXIT_CODES)(backup.restore)


# --- shared by several commands --------------------------------------------------------------------------------------


def _run(device: Device, report: RunReport, display: Display, stop: StopSignals) -> Run:
    def on_event(event: Event) -> None:
        report.on_event(event)
        display.on_event(event)

    return Run(device=device.value, on_event=on_event, should_stop=stop)


@dataclass(frozen=True, slots=True)
class _Seeds:
    """A file or folder of hand labels; its format by name, or None to detect it."""

    path: Path
    format: str | None
    strict: bool
    first_frame: int | None
    rotated_as_boxes: bool

    def read(self, video: Video, report: RunReport, display: Display) -> list[AnyLabel]:
        """The hand labels."""
        from micromodels.labels.files import read_labels
        from micromodels.labels.formats import FormatOptions

        def warn(message: str) -> None:
            report.on_event(Warned(message))
            display.warn(message)

        table = video.table
        options = FormatOptions(
            strict=self.strict, first_frame=self.first_frame, rotated_as_boxes=self.rotated_as_boxes, warn=warn
        )
        labels = read_labels(self.path, video=video, format=self.format, options=options)
        anchors = [label for label in labels if label.is_anchor]
        if len(anchors) < len(labels):
            predicted = len(labels) - len(anchors)
            display.say(f"{predicted} predicted labels in {self.path.name} are ignored; only hand labels are seeds")
        report.describe_seeds(anchors, table.frame_count)
        for message in table.warnings:
            display.warn(message)
        tracks = len({label.track for label in anchors if isinstance(label, Label)})
        hand = len({label.frame for label in anchors})
        display.say(
            f"{table.frame_count} frames, {table.width_px}x{table.height_px}; {tracks} tracks drawn on {hand} frames"
        )
        return anchors


def _train(video: Video, anchors: list[AnyLabel], settings: TrainSettings, run: Run, display: Display) -> MicroModel:
    display.update("preparing", 0, None)
    from micromodels.recipes.base import train as train_model

    def on_event(event: Event) -> None:
        display.forget("preparing")
        run.on_event(event)

    return train_model(video, anchors, settings, run=replace(run, on_event=on_event))


def _save(model: MicroModel, folder: Path) -> None:
    """Save a trained model. If its folder is no longer writable, save it elsewhere; the error says where.

    Raises:
        OSError: the error names the folder with the model.
    """
    try:
        model.save(folder)
    except OSError as error:
        kept = Path(mkdtemp(prefix="micromodels-model-"))
        model.save(kept)
        raise OSError(error.errno, f"{error.strerror}; the trained model is kept in {kept}", str(folder)) from None


def _video_of(path: Path, source: str | None) -> VideoInfo | None:
    """The video of some labels: the named one, or that of a video.json beside them; None if neither exists."""
    from micromodels.labels.video_info import VideoInfo

    if source is not None:
        from micromodels.video import open_video

        with open_video(source) as video:
            return VideoInfo.of(video)
    beside = path.with_name(outputs.VIDEO_TABLE)
    return VideoInfo.of(outputs.read_table(beside)) if beside.exists() else None


def _summary(video: str, table: FrameTable) -> Table:
    grid = Table(title=escape(video), show_header=False, title_justify="left", box=None, padding=(0, 2, 0, 0))
    grid.add_column(style="dim")
    grid.add_column()
    for name, value in _facts(table).items():
        grid.add_row(name, escape(value))
    return grid


def _facts(table: FrameTable) -> dict[str, str]:
    last = table.frame_count - 1
    steps = [int(b - a) for a, b in zip(table.pts[:-1], table.pts[1:], strict=True)]
    timing = "one frame"
    if steps:
        rate = last / (table.pts_seconds(last) - table.pts_seconds(0))
        even = max(steps) - min(steps) <= 1  # containers round times to integers
        timing = f"{float(rate):.3f} frames a second, " + (
            "even" if even else f"uneven: steps of {min(steps)} to {max(steps)} units"
        )
    rotation = f"{table.rotation_degrees}°" + (" and mirrored" if table.mirrored else "")
    return {
        "frames": str(table.frame_count),
        "size": f"{table.width_px} x {table.height_px} (after rotation)",
        "rotation": rotation,
        "codec": f"{table.codec}, {table.bit_depth} bit, in {table.container}",
        "time base": f"{table.time_base} s",
        "first PTS": f"{int(table.pts[0])} ({float(table.pts_seconds(0)):.6f} s)",
        "last PTS": f"{int(table.pts[last])} ({float(table.pts_seconds(last)):.6f} s)",
        "timing": timing,
        "key frames": str(len(table.keyframes)),
        "SHA-256": table.content_hash,
        "decoder": table.decoder,
    }
