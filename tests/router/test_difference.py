from dataclasses import replace

import numpy as np
import pytest

from router.difference import changed_decisions, compare
from router.version import RouterVersion
from tests.router.samples import build_version, unit


def owned(**rest) -> RouterVersion:
    """Two routes with two centroids each, along the axes."""
    version = build_version(R=2, M=4, names=["alpha", "beta"], **rest)
    owners = np.array([[1, 0], [1, 0], [0, 1], [0, 1]], dtype=np.float32)
    mass = np.array([3, 1, 1, 1], dtype=np.float32)
    centroids = replace(version.centroids, vectors=np.eye(16, dtype=np.float32)[:4], owners=owners, mass=mass)
    return replace(version, centroids=centroids)


def turned(version: RouterVersion, k: int, degrees: float) -> RouterVersion:
    vectors = version.centroids.vectors.copy()
    angle = np.radians(degrees)
    vectors[k] = np.cos(angle) * vectors[k] + np.sin(angle) * np.eye(16)[15]
    return replace(version, centroids=replace(version.centroids, vectors=unit(vectors)))


def test_a_version_does_not_differ_from_itself():
    difference = compare(owned(), owned())
    assert all(m.degrees == 0 and m.added == m.removed == m.won == m.lost == 0 for m in difference.movements)
    assert not difference.parameters
    assert not difference.splitter_changed


def test_movement_is_in_degrees_weighted_by_mass():
    alpha, beta = compare(owned(), turned(owned(), 0, 8.0)).movements
    assert alpha.degrees == pytest.approx(6.0, abs=1e-3)
    assert beta.degrees == 0


def test_centroids_far_from_all_others_are_new_or_gone():
    alpha = compare(owned(), turned(owned(), 0, 40.0)).movements[0]
    assert (alpha.added, alpha.removed, alpha.degrees) == (1, 1, 0.0)


def test_a_centroid_that_changes_its_owner_is_won_and_lost():
    version = owned()
    owners = version.centroids.owners[[2, 1, 2, 3]]
    alpha, beta = compare(version, replace(version, centroids=replace(version.centroids, owners=owners))).movements
    assert (alpha.lost, alpha.won, beta.lost, beta.won) == (1, 0, 0, 1)


def test_changed_numbers_and_routes_are_named():
    a = owned(success=(0.8, 0.7), abstain_below=0.1)
    b = replace(a, parameters=replace(a.parameters, success=(0.8, 0.9), abstain_below=0.2))
    assert [(c.name, c.before, c.after) for c in compare(a, b).parameters] == [
        ("success[beta]", 0.7, 0.9),
        ("abstain_below", 0.1, 0.2),
    ]
    other = build_version(R=3, names=["alpha", "gamma", "delta"])
    difference = compare(a, other)
    assert (difference.routes_added, difference.routes_removed) == (("delta", "gamma"), ("beta",))
    assert difference.fleet_changed


def test_versions_of_different_encoders_are_not_measured_against_each_other():
    difference = compare(owned(), replace(owned(), encoder="another"))
    assert difference.encoder_changed
    assert difference.movements == ()


def test_a_version_without_centroids_can_be_compared():
    empty = replace(
        owned(),
        centroids=replace(
            owned().centroids,
            vectors=np.zeros((0, 16), np.float32),
            owners=np.zeros((0, 2), np.float32),
            mass=np.zeros(0, np.float32),
        ),
    )
    assert [m.added for m in compare(empty, owned()).movements] == [2, 2]
    assert [m.removed for m in compare(owned(), empty).movements] == [2, 2]


def test_queries_that_go_elsewhere_are_listed():
    a = owned()
    b = replace(a, centroids=replace(a.centroids, owners=a.centroids.owners[[2, 1, 2, 3]]))
    X = np.eye(16, dtype=np.float32)[:4]
    (changed,) = changed_decisions(a, b, ["one", "two", "three", "four"], X)
    assert (changed.text, changed.before, changed.after) == ("one", "alpha", "beta")
    assert changed_decisions(a, b, [], np.zeros((0, 16))) == []
