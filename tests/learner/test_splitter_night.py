"""What users show about splits changes the splitter the next night, whatever becomes of the centroids."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from learner.concatenate import SplitExample, join
from learner.first_version import build_first_version
from learner.nightly import run_night
from learner.splitter_judge import HEARD
from learner.splitter_training import train_splitter
from router.registry import load, publish
from telemetry.feedback import store_feedback
from telemetry.inferences import store_inferences
from tests.learner.world import QUICK, fleet, inference, questions, thumb

# No centroid is moved on so little evidence; the six questions that are held out put together say little of a splitter.
SETTINGS = replace(QUICK, splitter_examples=150, most_split_loss_points=20, least_evidence=1e9)


def published(engine, version):
    with engine.begin() as conn:
        number = publish(conn, version, actor="a test", reason="the first", parent=None).number
        return load(conn, number)


@pytest.fixture
def serving(engine, encoder):
    return published(engine, build_first_version(fleet(), encoder=encoder, seed=0))


@pytest.fixture
def unaware(engine, encoder):
    """A version whose splitter has only seen questions side by side."""
    asked = [[q for q, route in questions(0) if route == name] for name in ("billing", "repairs")]
    bare = [join([one, other], [" "]) for one, other in zip(*asked, strict=False)]
    bare += [SplitExample(text=question, starts=()) for some in asked for question in some]
    version = build_first_version(fleet(), encoder=encoder, seed=0, settings=replace(SETTINGS, splitter_examples=0))
    return published(engine, replace(version, splitter=train_splitter(bare, encoder=encoder, seed=0)))


def ask_in_one(engine, encoder, *, connector, users, liked="up"):
    """Each user joins two requests, dislikes the one answer, and asks the second request again."""
    billing = [q for q, route in questions(0) if route == "billing"]
    repairs = [q for q, route in questions(0) if route == "repairs"]
    items, votes = [], []
    for i in range(users):
        one, other = billing[5 * i % len(billing)], repairs[7 * i % len(repairs)]
        at = datetime.now(UTC) - timedelta(hours=2, minutes=-i)
        for step, (text, route, vote) in enumerate(
            ((f"{one} {connector} {other}", "billing", "down"), (other, "repairs", liked))
        ):
            x = encoder.embed([text])[0]
            when = at + timedelta(seconds=20 * step)
            items.append(inference(text, route, x, encoder, at=when, session=f"session {i}"))
            votes.append(thumb(items[-1].inference_id, vote, by=f"user {i}"))
    with engine.begin() as conn:
        store_inferences(conn, items)
        store_feedback(conn, votes)


def night(engine, encoder):
    return run_night(engine, encoder=encoder, settings=SETTINGS, actor="a test")


def test_a_connector_that_users_were_heard_to_say_is_learned_the_next_night(engine, encoder, unaware):
    ask_in_one(engine, encoder, connector="while the kettle boils", users=16)
    result = night(engine, encoder)
    told = result.report["splitter"]
    assert result.verdict == "published", result.report["conditions"]
    assert result.report["sentence"].startswith("Published the new splitter alone")
    assert told["connectors"] == ["while the kettle boils"]
    assert (told["mined"], told["people"]) == (16, 16)
    assert told["taken"]
    heard = next(one for one in told["judged"] if one["kind"] == HEARD)
    assert heard["cut"] > heard["cut_before"]
    assert len(told["judged"]) >= 5
    with engine.connect() as conn:
        learned = load(conn, result.version)
    np.testing.assert_array_equal(learned.centroids.vectors, unaware.centroids.vectors)
    assert learned.splitter["head.bias"].tobytes() != unaware.splitter["head.bias"].tobytes()
    assert all(1 <= result.report["calls"][when] <= 3 for when in ("before", "after"))


def test_a_part_whose_answer_nobody_liked_is_no_missed_split(engine, encoder, serving):
    ask_in_one(engine, encoder, connector="while the kettle boils", users=6, liked="down")
    result = night(engine, encoder)
    assert result.report["splitter"]["mined"] == 0
    assert (result.verdict, result.version) == ("held", serving.number)
