"""An operator's example says what was so when it was written; what users said since may contradict it."""

from dataclasses import replace
from datetime import timedelta

import numpy as np
import pandas as pd

from learner.learn import learn_centroids, prepare
from learner.past_fleets import heed_past_fleets
from router.registry import publish
from tests.learner.test_what_is_learned import (
    END,
    NAMES,
    SETTINGS,
    TOPIC_OF,
    Places,
    asked,
    version,
    votes_on,
    window,
)
from tests.learner.world import first_published, fleet

MOVED = 0  # this topic belongs to the second route, against its examples
EXAMPLES = [(name, text) for name, r in zip(NAMES, version().fleet.routes, strict=True) for text in r.utterances]
ADDED = "my bill is wrong"
FIRST = END - timedelta(days=3)


def moved_topic_at_its_new_route(since):
    """How much of the moved topic's questions the second route gets, as believed of their places."""
    units = asked()
    rows = np.flatnonzero((TOPIC_OF == MOVED) & (np.arange(len(TOPIC_OF)) > 3 * 9))
    ups = [route == NAMES[1] for route in units["route"].iloc[rows]]
    logged = replace(
        window(units=units, votes=votes_on(units, rows, ups, by=[f"user {row}" for row in rows])), since=since
    )
    first = version()
    learned = learn_centroids(prepare(logged, first, encoder=Places(), settings=SETTINGS), first, settings=SETTINGS)
    return float(learned.estimates.posteriors[rows, 1].mean())


def test_votes_that_contradict_an_old_example_weigh_more_than_those_that_contradict_a_new_one():
    old = moved_topic_at_its_new_route(dict.fromkeys(EXAMPLES, FIRST))
    new = moved_topic_at_its_new_route({})
    assert old > 3 * new


def test_an_example_is_as_old_as_the_first_question_that_a_version_with_it_decided(engine, encoder):
    first = first_published(engine, encoder)
    billing, *others = fleet().routes
    grown = replace(fleet(), routes=(replace(billing, utterances=(*billing.utterances, ADDED)), *others))
    second = replace(first, fleet=grown, number=0, fingerprint="")
    with engine.begin() as conn:
        number = publish(conn, second, actor="a test", reason="fleet changed", parent=1).number
        units = pd.DataFrame(
            {"router_version": [1, number, 1, None], "occurred_at": [FIRST + timedelta(days=d) for d in range(4)]}
        )
        since = heed_past_fleets(conn, replace(window(), units=units), grown).since
        unheard = heed_past_fleets(conn, replace(window(), units=units[:1]), grown).since
    assert since["billing", billing.utterances[0]] == FIRST
    assert since["billing", ADDED] == FIRST + timedelta(days=1)
    assert ("billing", ADDED) not in unheard
