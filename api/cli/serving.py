"""Commands that run the server and prepare what it needs."""

import subprocess
import sys
from pathlib import Path
from typing import Annotated

import typer

from api.cli.session import AsJson, actor_name, database, print_json, read_settings, say


def serve(
    host: Annotated[
        str | None, typer.Option(help="Address to listen on; one that others can reach needs an API key.")
    ] = None,
    port: Annotated[int | None, typer.Option(min=0, max=65535, help="Port to listen on; 0 takes any free one.")] = None,
    workers: Annotated[int, typer.Option(min=1, max=64, help="Server processes.")] = 1,
    learn_at: Annotated[str | None, typer.Option(help="Learn every night at this local time, such as 03:00.")] = None,
    fleet: Annotated[Path | None, typer.Option(help="The fleet file.")] = None,
) -> None:
    """Serve the API: starts the embedded database when none is set, builds version 1, loads new versions by itself.

    Example: trimtab serve --fleet fleet.yaml --learn-at 03:00
    """
    from api.schedule import parse_time
    from api.server_process import run_server
    from learner.settings import LearnerSettings
    from router.fleet import load_fleet

    settings = read_settings(host=host, port=port, fleet=fleet)
    at = parse_time(learn_at) if learn_at else None
    load_fleet(settings.fleet_path)  # a wrong fleet is told before anything is started
    LearnerSettings.with_overrides(settings.learner)  # and so is what the night would be refused for
    sys.exit(run_server(settings, workers=workers, learn_at=at))


def migrate(json: AsJson = False) -> None:
    """Bring the database to this version's tables; safe to repeat, and for many at once.

    Example: TRIMTAB_DATABASE_URL=postgresql://me@db/trimtab trimtab migrate
    """
    from telemetry.migrate import current

    with database(upgrade=True) as opened, opened.engine.connect() as conn:
        revision = current(conn)
    print_json({"revision": revision}) if json else say(f"The database is at revision {revision}.")


def prepare(fleet: Annotated[Path | None, typer.Option()] = None) -> None:
    """Build version 1 or apply a changed fleet; serve runs this in a process of its own, since it needs torch."""
    from api.preparing import prepare_versions
    from api.settings import SAMPLE_FLEET
    from learner.settings import LearnerSettings
    from router.encoder import load_encoder
    from router.fleet import load_fleet

    settings = read_settings(fleet=fleet)
    with database(settings, upgrade=True) as opened:
        prepare_versions(
            opened.engine,
            load_fleet(settings.fleet_path),
            only_first=settings.fleet_path == SAMPLE_FLEET,
            encoder=load_encoder(settings.encoder, home=settings.home_folder),
            actor=actor_name(None),
            announce=say,
            settings=LearnerSettings.with_overrides(settings.learner),
        )


def run_prepare(environment: dict[str, str], *, fleet: Path) -> int:
    """Run ``prepare`` in a process of its own and return its exit code."""
    command = [sys.executable, "-m", "api.cli.main", "prepare", "--fleet", str(fleet)]
    return subprocess.run(command, env=environment, check=False).returncode
