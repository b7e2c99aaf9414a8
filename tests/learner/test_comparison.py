"""By what a candidate is judged: questions that neither it nor the incumbent has learned from."""

from datetime import UTC, datetime, timedelta

import numpy as np
import pandas as pd

from learner.comparison import session_folds
from learner.evidence import gather_evidence
from learner.follow_ups import find_follow_ups
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
