"""Commands about what is kept: prune what is old, erase a person."""

from datetime import timedelta
from typing import TYPE_CHECKING, Annotated

import typer

from api.cli.keys import days
from api.cli.session import Actor, AsJson, actor_name, database, print_json, read_settings, say

if TYPE_CHECKING:
    from collections.abc import Mapping

DryRun = Annotated[bool, typer.Option("--dry-run", help="Only say what would go.")]


def prune(
    older_than: Annotated[
        str | None, typer.Option(help="Delete what was received before that, such as 90d; as set, when left out.")
    ] = None,
    text_older_than: Annotated[
        str | None, typer.Option(help="Blank texts and embeddings before that, and keep the counts.")
    ] = None,
    dry_run: DryRun = False,
    json: AsJson = False,
) -> None:
    """Delete what is old, in small batches beside the running server; safe to repeat and to interrupt.

    Example: trimtab prune --older-than 90d --text-older-than 30d
    """
    from api.pruning import prune as prune_all
    from telemetry.database import database_time
    from telemetry.retention import count_prunable

    settings = read_settings()
    rows, texts = _age(older_than, settings.keep_days), _age(text_older_than, settings.keep_text_days)
    if rows is None and texts is None:
        raise typer.BadParameter("say how old with --older-than 90d, or set TRIMTAB_KEEP_DAYS")
    with database(settings) as opened:
        with opened.engine.connect() as conn:
            now = database_time(conn)
        before, text_before = (None if age is None else now - age for age in (rows, texts))
        if dry_run:
            with opened.engine.connect() as conn:
                counts = count_prunable(conn, before=before, text_before=text_before)
        else:
            counts = prune_all(opened.engine, before=before, text_before=text_before)
    _tell(counts, "Would go" if dry_run else "Gone", json=json)


def erase(
    user: Annotated[str, typer.Option(help="The person's id, as your clients send it in end_user and submitter.")],
    pruned: Annotated[
        bool, typer.Option("--pruned", help="Learn anew though nothing is stored: their rows were pruned before.")
    ] = False,
    dry_run: DryRun = False,
    actor: Actor = None,
    json: AsJson = False,
) -> None:
    """Erase a person everywhere; the next version that a night brings is learned anew, without them.

    Example: trimtab erase --user ann@example.com
    """
    from api.pruning import erase as erase_person
    from telemetry.erasure import find_person
    from telemetry.ids import keyed_hash

    settings = read_settings()
    if settings.secret is None and not (settings.home_folder / "hash.key").exists():
        raise SystemExit(
            "trimtab: set the servers' TRIMTAB_SECRET, or use their hash.key; without it nobody can be found."
        )
    key = settings.hash_key()
    with database(settings) as opened:
        if dry_run:
            with opened.engine.connect() as conn:
                found = find_person(conn, user, hashed=lambda value: keyed_hash(value, key=key))
            counts: Mapping[str, int] = {"inferences": len(found.ids)}
        else:
            counts = erase_person(opened.engine, user, key=key, actor=actor_name(actor), pruned=pruned)
    if not json and not any(counts.values()) and not pruned:
        say("Nothing is stored under this id, so nothing changes; is it as your clients send it, and the key theirs?")
        say("Where all their rows were pruned before, --pruned lets the next version be learned anew.")
        return
    _tell(counts, "Would go" if dry_run else "Gone", json=json)
    if not (dry_run or json):
        say("The next night learns anew from what is retained.")


def _age(given: str | None, set_days: float | None) -> timedelta | None:
    if given is not None:
        return days(given)
    return None if set_days is None else timedelta(days=set_days)


def _tell(counts: "Mapping[str, int]", verb: str, *, json: bool) -> None:
    if json:
        print_json(dict(counts))
        return
    told = ", ".join(f"{n:,} {name.replace('_', ' ')}" for name, n in counts.items() if n)
    say(f"{verb}: {told or 'nothing'}.")
