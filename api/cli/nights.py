"""Commands about nights: run one, list them, see the failures they mined."""

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from uuid import UUID

import typer

from api.cli.session import Actor, AsJson, actor_name, database, print_json, read_settings, say, short_time, show_table

if TYPE_CHECKING:
    from api.database import OpenDatabase

EXIT_CODES = {"published": 0, "held": 3, "nothing_to_learn": 4, "canary": 6, "shadow": 6}
Limit = Annotated[int, typer.Option(min=1, max=10_000, help="At most so many rows.")]


def learn(
    report: Annotated[
        Path | None, typer.Option(dir_okay=False, help="Write the report as a page of Markdown with pictures.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Learn even when nothing new came in.")] = False,
    run_id: Annotated[str | None, typer.Option(hidden=True)] = None,
    actor: Actor = None,
    json: AsJson = False,
) -> None:
    """Run one night: mine, learn, evaluate, publish or hold.

    Exit code 0: published, 3: held, 4: nothing to learn, 6: on trial (trimtab rollout status tells how it ends).

    Example: trimtab learn --report report/night.md
    """
    from learner.nightly import STEPS, run_night
    from learner.settings import LearnerSettings
    from router.encoder import load_encoder

    settings = read_settings()
    learner_settings = LearnerSettings.with_overrides(settings.learner)
    if report is not None:
        _try_to_write(report)  # a report that cannot be written is told before the night
    with database(settings) as opened:
        encoder = load_encoder(settings.encoder, home=settings.home_folder)
        with _Bars(STEPS, shown=not json) as bars, _refusal_noted(opened, run_id):
            result = run_night(
                opened.engine,
                encoder=encoder,
                settings=learner_settings,
                actor=actor_name(actor),
                rollout=settings.rollout,
                progress=bars.step,
                force=force,
                run_id=UUID(run_id) if run_id else None,
            )
        written = report is not None and "parent" in result.report and _write(opened, result, report)
    if json:
        print_json(
            {
                "run_id": result.run_id,
                "verdict": result.verdict,
                "version": result.version,
                "sentence": result.report["sentence"],
                "counts": result.report.get("counts"),
            }
        )
    else:
        say(result.report["sentence"])
        say(f"Version {result.version} serves. Night {result.run_id}.")
        if written:
            say(f"Report: {report}")
        elif report is not None and "parent" not in result.report:
            say("There is no report: nothing was learned.")
    raise typer.Exit(EXIT_CODES[result.verdict])


def reembed(
    encoder: Annotated[str, typer.Option(help="The new encoder: a sentence-transformers name or folder.")],
    actor: Actor = None,
    json: AsJson = False,
) -> None:
    """Build a version for another encoder from all that is retained, and let it decide in shadow.

    Servers that have TRIMTAB_NEXT_ENCODER decide by both; trimtab rollout promote lets the new one serve. Then the
    servers are started with TRIMTAB_ENCODER set to it.

    Example: trimtab reembed --encoder /models/my-encoder
    """
    from learner.new_encoder import build_for_encoder
    from learner.settings import LearnerSettings
    from router.encoder import load_encoder

    settings = read_settings()
    with database(settings) as opened:
        old, new = (load_encoder(name, home=settings.home_folder) for name in (settings.encoder, encoder))
        made = build_for_encoder(
            opened.engine,
            old=old,
            new=new,
            settings=LearnerSettings.with_overrides(settings.learner),
            actor=actor_name(actor),
        )
    print_json(made) if json else say(f"Version {made.number} is in shadow, for the new encoder.")


@contextlib.contextmanager
def _refusal_noted(opened: "OpenDatabase", run_id: str | None) -> Iterator[None]:
    """Who was told an id shall find under it that the night could not begin."""
    from learner.lease import LeaseHeld
    from learner.runs import note_refused

    try:
        yield
    except LeaseHeld as error:
        if run_id is not None:
            with opened.engine.begin() as conn:
                note_refused(conn, UUID(run_id), error=error)
        raise


def _try_to_write(path: Path) -> None:
    """Make the folder of the report, and a file there that is gone again.

    Raises:
        OSError: it cannot be written, with the name of what is in the way.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with tempfile.TemporaryFile(dir=path.parent):
            pass
        if path.exists():
            path.open("ab").close()
    except OSError as error:
        error.filename = error.filename or str(path.parent)
        raise


def _write(opened: Any, result: Any, path: Path) -> bool:
    """Write the page and tell whether that went well: the night is over, so a full disk must not make it a failure."""
    from learner.pictures import draw_pictures
    from learner.report import write_markdown
    from router.registry import load
    from telemetry.learner_runs import read_run

    try:
        with opened.engine.connect() as conn:
            run = read_run(conn, result.run_id)
            before = load(conn, result.report["parent"])
            after = load(conn, run["candidate"]) if run and run["candidate"] else before
        write_markdown(result.report, path, pictures=draw_pictures(result.report, before, after, path))
    except Exception as error:  # noqa: BLE001 - here a night ends
        why = str(error).partition("\n")[0] or type(error).__name__
        say(f"trimtab: the night is done, but its report could not be written: {why}", err=True)
        return False
    return True


class _Bars:
    """Progress bars: one for the night's steps."""

    def __init__(self, steps: tuple[str, ...], *, shown: bool) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

        columns = (SpinnerColumn(), TextColumn("{task.description:<10}"), BarColumn(), TimeElapsedColumn())
        console = Console(stderr=True)
        self._progress = Progress(
            *columns, console=console, disable=not (shown and console.is_terminal), transient=True
        )
        self._steps = steps
        self._task = self._progress.add_task("read", total=len(steps))

    def __enter__(self) -> "_Bars":
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def step(self, name: str) -> None:
        self._progress.update(self._task, description=name, completed=self._steps.index(name))


def runs(limit: Limit = 20, json: AsJson = False) -> None:
    """List nights, newest first.

    Example: trimtab runs
    """
    from api.lists import json_row
    from telemetry.learner_runs import list_runs

    with database() as opened, opened.engine.connect() as conn:
        found = list_runs(conn, limit=limit)
    if json:
        print_json([json_row(row) for row in found])
        return
    rows: list[list[object]] = [
        [row["run_id"], short_time(row["started_at"]), row["status"], row["verdict"], row["candidate"], row["error"]]
        for row in found
    ]
    columns = ["night", "began, UTC", "status", "verdict", "candidate", "error"]
    show_table("", columns, rows, empty="No night has run yet; trimtab learn runs one.")


def failures(
    run: Annotated[str | None, typer.Option(help="Of this night; the newest, when left out.")] = None,
    kind: Annotated[str | None, typer.Option(help="Only this kind, such as thumbs_down.")] = None,
    limit: Limit = 20,
    json: AsJson = False,
) -> None:
    """Show the failures that a night mined, with their evidence.

    Example: trimtab failures --kind follow_up_switch
    """
    from api.lists import json_row
    from telemetry.failure_kinds import FAILURE_KINDS
    from telemetry.learner_runs import list_failures

    if kind is not None and kind not in FAILURE_KINDS:
        raise typer.BadParameter(f"unknown kind; it is one of {', '.join(FAILURE_KINDS)}", param_hint="--kind")
    with database() as opened, opened.engine.connect() as conn:
        found = list_failures(conn, run_id=_uuid(run), kind=kind, limit=limit)
    if json:
        print_json([json_row(row) for row in found])
        return
    rows: list[list[object]] = [
        [f["kind"], f["inference_id"], f["suggested_route"], f"{f['weight']:.2f}", _evidence(f["evidence"])]
        for f in found
    ]
    columns = ["kind", "inference", "suggested", "weight", "evidence"]
    show_table("", columns, rows, empty="No such failure was mined; trimtab runs lists the nights.")


def _uuid(value: str | None) -> UUID | None:
    try:
        return None if value is None else UUID(value)
    except ValueError:
        raise typer.BadParameter("it is not the id of a night; trimtab runs lists them", param_hint="--run") from None


def _evidence(evidence: dict[str, Any]) -> str:
    return ", ".join(f"{key} {value}" for key, value in evidence.items() if value is not None)
