"""What was logged to cost at other prices than the fleet's present ones, left out."""

from dataclasses import replace

import numpy as np
from sqlalchemy import Connection

from learner.window import Window
from router.fleet import Fleet
from router.stored_versions import read_fleets


def at_present_prices(conn: Connection, window: Window, fleet: Fleet) -> Window:
    """Return the window without the costs (NaN) of units that a version with other prices for their route decided.

    What no version is known to have decided keeps its cost: nothing says that it is past.
    """
    versions = window.units["router_version"]
    fleets = read_fleets(conn, [int(number) for number in versions.dropna().unique()])
    now = {route.name: route.prices for route in fleet.routes}
    past = {
        (number, route.name)
        for number, before in fleets.items()
        for route in before.routes
        if route.prices != now.get(route.name, route.prices)
    }
    if not past:
        return window
    decided = zip(versions, window.units["route"], strict=True)
    gone = np.array([(number, route) in past for number, route in decided], dtype=bool)
    return replace(window, units=window.units.assign(cost=window.units["cost"].mask(gone)))
