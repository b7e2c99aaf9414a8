"""Since when the fleet has each of its examples: one that is old says what was so when it was written."""

from dataclasses import replace
from datetime import datetime

from sqlalchemy import Connection

from learner.seeds import spoken
from learner.window import Window
from router.fleet import Fleet
from router.stored_versions import read_fleets


def with_examples_since(conn: Connection, window: Window, fleet: Fleet) -> Window:
    """Return the window with the time of the first of its units that a version with each example decided.

    An example that no such version had is left out: it is newer than all that was asked.
    """
    numbers = window.units["router_version"].dropna()
    fleets = read_fleets(conn, [int(number) for number in numbers.unique()])
    first = window.units["occurred_at"].groupby(window.units["router_version"]).min()
    since: dict[tuple[str, str], datetime] = {}
    for number in first.sort_values(ascending=False).index:
        if (before := fleets.get(int(number))) is not None:
            since |= dict.fromkeys(spoken(before), first[number].to_pydatetime())
    return replace(window, since={example: since[example] for example in spoken(fleet) if example in since})
