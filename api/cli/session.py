"""What all commands share: settings, the database, output for people or scripts, and errors in one line."""

import contextlib
import getpass
import json
import os
import socket
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from api.database import OpenDatabase
    from api.settings import Settings

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")]
Actor = Annotated[str | None, typer.Option(help="Who is written into the history; you, when left out.")]
Reason = Annotated[str, typer.Option(help="Why; it is kept in the history.")]


def read_settings(**overrides: object) -> "Settings":
    """Return the settings of the environment."""
    from api.settings import read_settings

    return read_settings(**overrides)


@contextlib.contextmanager
def database(settings: "Settings | None" = None, *, upgrade: bool = False) -> Iterator["OpenDatabase"]:
    """Open the database of the settings."""
    from api.database import open_database

    with open_database(settings or read_settings(), upgrade=upgrade) as opened:
        yield opened


def actor_name(given: str | None) -> str:
    """Return who acts: as given, else user@host."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container may run us as a number without a name
        user = str(os.getuid())
    return given or f"{user}@{socket.gethostname()}"


def print_json(value: object) -> None:
    """Print ``value`` as JSON on standard output."""
    from api.lists import json_value

    sys.stdout.write(json.dumps(json_value(value), indent=2, ensure_ascii=False) + "\n")


def say(text: str, *, err: bool = False, **more: Any) -> None:
    """Print a line for people; text from users is printed as it is, never as markup."""
    from rich.console import Console

    Console(soft_wrap=True, highlight=False, stderr=err).print(text, markup=False, **more)


def show_table(title: str, columns: list[str], rows: list[list[object]], *, empty: str = "") -> None:
    """Print a table for people, or the sentence ``empty`` where there are no rows."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    if empty and not rows:
        say(empty)
        return
    console = Console()
    if not console.is_terminal:
        console = Console(width=160)  # a file or a pipe has no width of its own
    table = Table(title=title or None, title_justify="left", header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*[Text("" if cell is None else str(cell)) for cell in row])
    console.print(table)


def short_time(value: object) -> str:
    """Return a time as people read it, in UTC and to the second."""
    return str(value)[:19].replace("T", " ")
