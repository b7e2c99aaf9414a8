"""Commands about the golden set: queries that must always go where they belong."""

import sys
from pathlib import Path
from typing import Annotated
from uuid import UUID

import typer

from api.cli.session import Actor, AsJson, actor_name, database, print_json, read_settings, say, show_table

Routes = Annotated[
    list[str] | None, typer.Option("--route", help="Where it must go; several for a query of several parts, in order.")
]
File = Annotated[
    Path, typer.Argument(help='A file with {"query": "...", "routes": ["..."]} on each line; - is standard.')
]


def add(query: Annotated[str, typer.Argument(help="The query.")], route: Routes = None, actor: Actor = None) -> None:
    """Add a query; one that is there already gets the new routes.

    Example: trimtab golden add "why was I charged twice?" --route billing
    """
    from router.golden import keep_golden
    from telemetry.golden import golden

    with database() as opened, opened.engine.begin() as conn:
        item = golden(query, route or [], by=actor_name(actor))
        keep_golden(conn, [item])
    say(f"Golden query {item.golden_id}: {', '.join(item.routes)}.")


def promote(
    inference: Annotated[UUID, typer.Argument(help="The inference that was judged.")],
    route: Routes = None,
    actor: Actor = None,
) -> None:
    """Make a golden query of an inference that got a thumbs-down; its correction says where it belongs, or you do.

    Example: trimtab golden promote 0193... --route billing
    """
    from router.golden import keep_golden
    from telemetry.golden import promoted

    with database() as opened, opened.engine.begin() as conn:
        item = promoted(conn, inference, route or [], by=actor_name(actor))
        keep_golden(conn, [item])
    say(f"Golden query {item.golden_id}: {', '.join(item.routes)}.")


def show(json: AsJson = False) -> None:
    """List the golden queries.

    Example: trimtab golden list
    """
    from telemetry.golden import list_golden

    with database() as opened, opened.engine.connect() as conn:
        found = list_golden(conn)
    if json:
        print_json(found)
        return
    show_table(
        "", ["id", "routes", "query", "by"], [[g.golden_id, ", ".join(g.routes), g.query, g.added_by] for g in found]
    )


def remove(golden_id: Annotated[str, typer.Argument(help="As trimtab golden list shows it.")]) -> None:
    """Take a query out.

    Example: trimtab golden remove 1f0c2a9be3d45678
    """
    from telemetry.golden import remove_golden

    with database() as opened, opened.engine.begin() as conn:
        remove_golden(conn, golden_id)
    say("Removed.")


def read(file: File, actor: Actor = None) -> None:
    """Add all queries of a file; a wrong line is told, and then nothing is added.

    Example: trimtab golden import golden.jsonl
    """
    from router.golden import keep_golden
    from telemetry.golden import parse_golden

    raw = sys.stdin.buffer.read() if str(file) == "-" else file.read_bytes()
    found = parse_golden(raw, source=str(file), by=actor_name(actor))
    with database() as opened, opened.engine.begin() as conn:
        keep_golden(conn, found)
    say(f"{len(found)} golden queries.")


def write(file: File) -> None:
    """Write all queries to a file.

    Example: trimtab golden export golden.jsonl
    """
    from telemetry.golden import golden_lines, list_golden

    with database() as opened, opened.engine.connect() as conn:
        text = golden_lines(list_golden(conn))
    if str(file) == "-":
        sys.stdout.write(text)
    else:
        file.write_text(text, encoding="utf-8")


def check(
    version: Annotated[int | None, typer.Option(help="By this version; the one that serves, when left out.")] = None,
    json: AsJson = False,
) -> None:
    """Decide every golden query. Exit code 0: all go where they belong, 1: some do not.

    Example: trimtab golden check --version 7
    """
    from router.activations import active
    from router.encoder import load_encoder
    from router.golden import check_golden
    from router.stored_versions import load
    from telemetry.golden import list_golden

    settings = read_settings()
    with database(settings) as opened, opened.engine.connect() as conn:
        now = active(conn)
        if version is None and now is None:
            raise typer.BadParameter("no version serves yet; start trimtab serve once", param_hint="--version")
        by, queries = load(conn, version or (now.version if now else 0)), list_golden(conn)
    checks = check_golden(by, queries, encoder=load_encoder(settings.encoder, home=settings.home_folder))
    wrong = [c for c in checks if c.right is False]
    if json:
        print_json(checks)
    else:
        rows: list[list[object]] = [[c.golden_id, ", ".join(c.expected), ", ".join(c.found), c.query] for c in wrong]
        if rows:
            show_table("", ["id", "belongs to", "goes to", "query"], rows)
        unknown = sum(c.right is None for c in checks)
        say(
            f"{sum(c.right is True for c in checks)} of {len(checks)} golden queries go where they belong"
            + (f"; {unknown} name routes that are not in the fleet." if unknown else ".")
        )
    raise typer.Exit(1 if wrong else 0)
