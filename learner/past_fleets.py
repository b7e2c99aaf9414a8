"""What the fleets of the versions that decided tell of a window: costs at past prices, since when examples count."""

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime

import numpy as np
from sqlalchemy import Connection

from learner.seeds import spoken
from learner.window import Window
from router.fleet import Fleet
from router.stored_versions import read_fleets


def heed_past_fleets(conn: Connection, window: Window, fleet: Fleet) -> Window:
    """Return the window as it is to be learned from for ``fleet``, given the fleets under which its units were decided.

    Costs (NaN) of units that a version with other prices for their route decided are left out; what no version is known
    to have decided keeps its cost, for nothing says that it is past. An example counts since the first unit that a
    version with it decided; one that no such version had is newer than all that was asked.
    """
    numbers = window.units["router_version"].dropna().unique()
    fleets = read_fleets(conn, [int(number) for number in numbers])
    return _with_examples_since(_at_present_prices(window, fleets, fleet), fleets, fleet)


def _at_present_prices(window: Window, fleets: Mapping[int, Fleet], fleet: Fleet) -> Window:
    now = {route.name: route.prices for route in fleet.routes}
    past = {
        (number, route.name)
        for number, before in fleets.items()
        for route in before.routes
        if route.prices != now.get(route.name, route.prices)
    }
    if not past:
        return window
    decided = zip(window.units["router_version"], window.units["route"], strict=True)
    gone = np.array([(number, route) in past for number, route in decided], dtype=bool)
    return replace(window, units=window.units.assign(cost=window.units["cost"].mask(gone)))


def _with_examples_since(window: Window, fleets: Mapping[int, Fleet], fleet: Fleet) -> Window:
    first = window.units["occurred_at"].groupby(window.units["router_version"]).min()
    since: dict[tuple[str, str], datetime] = {}
    for number in first.sort_values(ascending=False).index:
        if (before := fleets.get(int(number))) is not None:
            since |= dict.fromkeys(spoken(before), first[number].to_pydatetime())
    return replace(window, since={example: since[example] for example in spoken(fleet) if example in since})
