"""By what a candidate is judged: questions that neither it nor the incumbent has learned from."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np
import pandas as pd
import pytest

from learner.comparison import Comparison, difference
from learner.evidence import gather_evidence
from learner.folds import session_folds
from learner.follow_ups import find_follow_ups
from learner.settings import LearnerSettings
from learner.window import Window

START = datetime(2026, 1, 1, tzinfo=UTC)
ROUTES = ("billing", "delivery")


def window(*, questions=40, sessions=20):
    """Questions an hour apart, two a session, each with one vote."""
    ids = [f"question {i}" for i in range(questions)]
    times = pd.Series([START + timedelta(hours=i) for i in range(questions)])
    units = pd.DataFrame(
        {
            "inference_id": ids,
            "segment_index": 0,
            "segment_count": 1,
            "text": ids,
            "session_id": [f"session {i % sessions}" for i in range(questions)],
            "end_user": None,
            "occurred_at": times,
            "received_at": times,
            "route": [ROUTES[i % 2] for i in range(questions)],
        }
    )
    votes = pd.DataFrame(
        {
            "feedback_id": [f"vote {i}" for i in range(questions)],
            "inference_id": ids,
            "segment_index": None,
            "value": "up",
            "correction": None,
            "submitter": [f"user {i}" for i in range(questions)],
            "occurred_at": times,
            "received_at": times,
        }
    )
    X = np.random.default_rng(0).normal(size=(questions, 8)).astype(np.float32)
    X /= np.linalg.norm(X, axis=1, keepdims=True)
    return Window(units=units, embeddings=X, votes=votes, start=None, watermark=START + timedelta(days=9))


def test_what_the_incumbent_has_learned_from_judges_nobody():
    since = START + timedelta(hours=25)
    fold = session_folds(window(), folds=3, since=since)
    assert (fold[:26] == -1).all()
    assert set(fold[26:]) <= {0, 1, 2}


def test_the_first_version_is_judged_by_everything():
    assert (session_folds(window(), folds=3, since=None) >= 0).all()


def test_a_session_is_never_parted():
    fold = session_folds(window(), folds=5, since=None)
    assert (fold[:20] == fold[20:]).all()
    assert len(set(fold)) > 1


def test_what_was_said_of_judged_questions_is_not_heard_but_their_number_stays():
    w = window()
    follow_ups = find_follow_ups(w, similarity=0.92, minutes=30)
    whole = gather_evidence(w, follow_ups, routes=ROUTES)
    judged = session_folds(w, folds=3, since=None) == 0
    heard = whole.without(judged)
    assert 0 < judged.sum() < len(judged)
    assert set(heard.votes.unit) == set(np.flatnonzero(~judged))
    assert not judged[heard.reask_unit].any()
    assert len(heard.votes.up) == len(heard.votes.route) == (~judged).sum()
    assert len(heard.first_unit) == len(whole.first_unit)


def comparison(*, belief, hope, said=0.0, n=40):
    """Questions whose choice changes from route 0 to route 1 of three, one a session."""
    likely = np.zeros((n, 3))
    likely[:, 0] = said
    return Comparison(
        before=np.zeros(n, np.int64),
        after=np.ones(n, np.int64),
        belief=np.tile(belief, (n, 1)),
        hope=np.full(n, hope),
        said=likely,
        weight=np.ones(n),
        worth=np.ones(n),
        session=np.arange(n),
    )


def estimated(c):
    return difference(c, rows=np.ones(len(c.before), bool), settings=LearnerSettings()).estimate


def test_whether_the_old_choice_is_right_is_believed_of_the_learner_and_the_rest_of_the_candidate():
    assert estimated(comparison(belief=[0.9, 0.05, 0.05], hope=0.8)) == pytest.approx(100 * (0.1 * 0.8 - 0.9))
    assert estimated(comparison(belief=[0.2, 0.05, 0.75], hope=0.8)) == pytest.approx(100 * (0.8 * 0.8 - 0.2))


def test_a_candidate_that_is_sure_of_itself_gains_nothing_where_the_old_choice_pleases():
    pleased = comparison(belief=[0.5, 0.25, 0.25], hope=0.98, said=1.6)
    assert estimated(pleased) < -40
    assert estimated(comparison(belief=[0.5, 0.25, 0.25], hope=0.98, said=-1.6)) > 40


def test_no_disagreement_is_no_difference():
    same = comparison(belief=[0.5, 0.25, 0.25], hope=0.5)
    same = replace(same, after=same.before)
    found = difference(same, rows=np.ones(40, bool), settings=LearnerSettings())
    assert (found.estimate, found.low, found.high, found.evidence) == (0.0, 0.0, 0.0, 0.0)
