"""Pictures of a night, for a small fleet and for a large one."""

import struct

import pytest

from learner.pictures import draw_pictures
from tests.router.samples import build_version


def report(routes):
    return {
        "counts": {"failures": {"thumbs_down": 3}},
        "routes": {route: {"accuracy": 0.9, "utility": 0.8} for route in routes},
    }


def drawn(folder, before, after):
    """The size in pixels of every picture, by its name."""
    pictures = draw_pictures(report(after.parameters.routes), before, after, folder / "night.md")
    return {name: struct.unpack(">II", (folder / name).read_bytes()[16:24]) for _, name in pictures}


@pytest.mark.parametrize("routes", [3, 150])
def test_every_route_has_room_for_its_name_and_the_other_pictures_stay_as_they_are(tmp_path, routes):
    version = build_version(M=2 * routes, R=routes)
    sizes = drawn(tmp_path, version, version)
    assert sizes["night-routes.png"][1] >= 24 * routes
    assert sizes["night-centroids.png"] == sizes["night-failures.png"] == (990, 605)


def test_a_fleet_that_lost_a_route_and_won_one_is_drawn_with_the_centroids_of_both(tmp_path):
    before = build_version(names=["general", "billing", "travel"], R=3)
    after = build_version(names=["travel", "general", "delivery"], R=3, seed=1)
    assert len(drawn(tmp_path, before, after)) == 3
