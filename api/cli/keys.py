"""Commands about API keys: make one, list them, revoke one."""

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any

import typer

from api.cli.session import Actor, AsJson, actor_name, database, print_json, say, short_time, show_table

if TYPE_CHECKING:
    from telemetry.api_keys import ApiKey


def days(text: str) -> timedelta:
    """Return the time that a text such as 90d or 12h says."""
    unit = {"d": "days", "h": "hours"}.get(text[-1:])
    if unit is None or not text[:-1].isascii() or not text[:-1].isdigit() or not 0 < int(text[:-1]) <= 36_500:
        raise typer.BadParameter("it must look like 90d or 12h")
    return timedelta(**{unit: int(text[:-1])})


def create(
    name: Annotated[str, typer.Argument(help="What the key is for; it is written down with the feedback it brings.")],
    scope: Annotated[
        list[str], typer.Option(help="What it may do: ingest, feedback, decide, read, publish; may be repeated.")
    ],
    expires: Annotated[str | None, typer.Option(help="When it ends, such as 90d or 12h; never, when left out.")] = None,
    rate: Annotated[float | None, typer.Option(min=0.01, help="Requests a second, for each server process.")] = None,
    concurrency: Annotated[int | None, typer.Option(min=1, help="Requests at once, for each server process.")] = None,
    body_bytes: Annotated[int | None, typer.Option(min=100, help="Largest body of a request.")] = None,
    actor: Actor = None,
    json: AsJson = False,
) -> None:
    """Make an API key and print it: it is shown this once, only its SHA-256 is kept.

    Example: trimtab keys create gateway --scope decide --scope ingest --expires 90d
    """
    from telemetry.api_keys import create_key
    from telemetry.database import database_time

    limits = {"rate": rate, "concurrency": concurrency, "body_bytes": body_bytes}
    with database() as opened, opened.engine.begin() as conn:
        made, key = create_key(
            conn,
            name=name,
            scopes=scope,
            created_by=actor_name(actor),
            expires_at=database_time(conn) + days(expires) if expires else None,
            limits={limit: value for limit, value in limits.items() if value is not None},
        )
    if json:
        print_json({**_shown(made), "key": key})
        return
    say(key)
    say(f"Keep it now, it is not shown again. It may {', '.join(made.scopes)}.", err=True)


def show(json: AsJson = False) -> None:
    """List the API keys, those that are expired or revoked too.

    Example: trimtab keys list
    """
    from telemetry.api_keys import read_keys

    with database() as opened, opened.engine.connect() as conn:
        found = read_keys(conn)
    if json:
        print_json([_shown(key) for key in found])
        return
    rows: list[list[object]] = [
        [key.key_id, key.name, " ".join(key.scopes), _state(key), short_time(key.created_at), key.created_by]
        for key in found
    ]
    show_table("", ["id", "name", "scopes", "state", "made, UTC", "by"], rows)


def revoke(
    key: Annotated[str, typer.Argument(help="Its name or its id; trimtab keys list shows both.")],
    json: AsJson = False,
) -> None:
    """Revoke an API key; every server process refuses it within five seconds.

    Example: trimtab keys revoke gateway
    """
    from telemetry.api_keys import revoke_key

    with database() as opened, opened.engine.begin() as conn:
        revoked = revoke_key(conn, key)
    print_json(_shown(revoked)) if json else say(f"The key {revoked.name} ({revoked.key_id}) is revoked.")


def _state(key: "ApiKey") -> str:
    if key.revoked_at is not None:
        return f"revoked {short_time(key.revoked_at)}"
    if not key.usable(datetime.now(UTC)):
        return f"expired {short_time(key.expires_at)}"
    return f"until {short_time(key.expires_at)}" if key.expires_at else "usable"


def _shown(key: "ApiKey") -> dict[str, Any]:
    names = ("key_id", "name", "scopes", "limits", "created_by", "created_at", "expires_at", "revoked_at")
    return {**{name: getattr(key, name) for name in names}, "usable": key.usable(datetime.now(UTC))}
