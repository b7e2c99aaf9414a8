from dataclasses import replace

import numpy as np
import pytest

from router.difference import changed_decisions
from router.moved_by import followed_votes
from router.version import RouterVersion
from telemetry.feedback import store_feedback
from telemetry.ids import new_id
from telemetry.inferences import store_inferences
from telemetry.records import DecisionRecord, Feedback, Inference, Payload
from tests.router.samples import build_version

OLD = build_version(seed=4, sharpness=0.01)


def with_owner(version: RouterVersion, centroid: int, route: int) -> RouterVersion:
    owners = version.centroids.owners.copy()
    owners[centroid] = np.eye(owners.shape[1], dtype=np.float32)[route]
    return replace(version, number=8, centroids=replace(version.centroids, owners=owners))


def given_away(version: RouterVersion) -> tuple[RouterVersion, int, str, str]:
    """A version in which one centroid went to another route; the centroid, whose it was and whose it is."""
    was = int(version.centroids.owners[0].argmax())
    now = (was + 1) % len(version.parameters.routes)
    return with_owner(version, 0, now), 0, version.parameters.routes[was], version.parameters.routes[now]


def vote(connection, x, *, route: str, encoder: str = "test-encoder", **said) -> str:
    asked = Inference(
        inference_id=new_id(),
        source="route",
        decision=DecisionRecord(route=route, router_version=7),
        payload=Payload(query="q", embedding=x.astype("<f2").tobytes(), encoder=encoder),
    )
    store_inferences(connection, [asked])
    target = {"target_kind": "inference_id", "target_value": str(asked.inference_id)}
    store_feedback(connection, [Feedback(feedback_id=new_id(), **target, **said)])
    return str(asked.inference_id)


def test_the_votes_that_were_followed_are_listed_and_the_others_are_not(connection):
    new, centroid, was, now = given_away(OLD)
    x = OLD.centroids.vectors[centroid]
    named = vote(connection, x, route=was, value="down", correction=now)
    disliked = vote(connection, x, route=was, value="down")
    vote(connection, x, route=was, value="up")  # the version went against it
    vote(connection, OLD.centroids.vectors[5], route=now, value="up")  # nothing moved there
    vote(connection, x, route=was, value="down", encoder="another")
    found = followed_votes(connection, OLD, new, until=None)
    assert {(v.inference_id, v.says, v.change > 0) for votes in found.values() for v in votes} == {
        (named, "correction", True),
        (disliked, "down", False),
    }
    assert set(found) == {was, now}
    assert followed_votes(connection, OLD, replace(new, encoder="another"), until=None) == {}


@pytest.mark.parametrize("what", ["owner", "new", "moved", "forgotten", "scales"])
def test_each_changed_query_says_why(what):
    x = OLD.centroids.vectors[0]
    vectors, owners = OLD.centroids.vectors.copy(), OLD.centroids.owners
    new, _, was, now = given_away(OLD)
    expected = f"Its nearest centroid went from {was} to {now}."
    if what == "new":
        target = np.roll(vectors[0], 3)
        x = (target / np.linalg.norm(target)).astype(np.float32)
        vectors = np.vstack([vectors, x[None]])
        mine = np.eye(5, dtype=np.float32)[[1]]
        centroids = replace(
            OLD.centroids, vectors=vectors, owners=np.vstack([owners, mine]), mass=np.ones(41, np.float32)
        )
        new, expected = replace(OLD, centroids=centroids), "A new centroid of route-1 is nearest"
    elif what == "forgotten":
        new = replace(OLD, parameters=replace(OLD.parameters, abstain_below=1.1))
        expected = "It is no more like what is known"
    elif what == "scales":
        success = tuple(0.01 if name == was else 0.99 for name in OLD.parameters.routes)
        new = replace(OLD, parameters=replace(OLD.parameters, success=success, wrong_route_success=0.5))
        expected = "Its nearest centroid is the same"
    elif what == "moved":
        other = int(np.flatnonzero(owners.argmax(axis=1) != owners[0].argmax())[0])
        x = (vectors[0] * 0.52 + vectors[other] * 0.48).astype(np.float32)
        x /= np.linalg.norm(x)
        turned = vectors[other] + 0.15 * x
        vectors[other] = turned / np.linalg.norm(turned)
        new = replace(OLD, centroids=replace(OLD.centroids, vectors=vectors))
        expected = f"A centroid of {OLD.parameters.routes[int(owners[other].argmax())]} came nearer"
    (changed,) = changed_decisions(OLD, new, ["q"], x[None])
    assert changed.why.startswith(expected)
