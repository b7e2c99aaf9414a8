"""Where abstaining begins, and what a fallback without examples is for."""

import numpy as np
import pytest

from learner.abstention import abstention_threshold
from learner.seeds import Seeds, embed_seeds, seed_posterior
from router.centroids import unit_rows
from router.fleet import Fleet, Route

DIMENSION = 64


def around(center, *, count, spread, rng):
    return unit_rows(center + spread * rng.normal(size=(count, DIMENSION)) / np.sqrt(DIMENSION))[0].astype(np.float32)


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture
def questions(rng):
    """300 questions about three topics, then 60 that have nothing to do with them nor with one another."""
    topics = np.eye(DIMENSION)[:3]
    own = np.concatenate([around(topic, count=100, spread=1.7, rng=rng) for topic in topics])
    return own, unit_rows(rng.normal(size=(60, DIMENSION)))[0].astype(np.float32)


def test_what_belongs_to_nobody_does_not_pull_the_threshold_down(questions):
    own, alien = questions
    alone = abstention_threshold(own, np.ones(300, np.float32), count=360)
    X, belongs = np.concatenate([own, alien]), np.repeat(np.float32([1, 0]), [300, 60])
    assert abstention_threshold(X, belongs, count=360) == pytest.approx(alone, abs=0.04)
    assert abstention_threshold(X, np.ones(360, np.float32), count=360) < alone - 0.05


def test_a_silent_fallback_gets_more_than_one_with_questions_of_its_own(questions):
    own, _ = questions
    known = np.ones(300, np.float32)
    spoken = abstention_threshold(own, known, count=300)
    assert abstention_threshold(own, known, count=300, silent_fallback=True) == pytest.approx(spoken + 0.05)


@pytest.mark.parametrize("count", [0, 1])
def test_too_few_questions_give_the_usual_threshold(count):
    assert abstention_threshold(np.eye(DIMENSION, dtype=np.float32)[:count], np.ones(count), count=9) == 0.25


def test_a_question_asked_again_and_again_counts_once(questions):
    own, _ = questions
    once = abstention_threshold(own, np.ones(300, np.float32), count=300)
    often = np.concatenate([own, np.repeat(own[:1], 500, axis=0)])
    assert abstention_threshold(often, np.ones(800, np.float32), count=300) == pytest.approx(once)


class Embedder:
    fingerprint, dimension = "test", DIMENSION

    def embed(self, texts):
        return np.stack([np.eye(DIMENSION, dtype=np.float32)[int(text)] for text in texts])


def test_what_is_unlike_every_route_is_guessed_to_be_the_silent_fallbacks():
    fleet = Fleet(
        fallback="rest",
        routes=(
            Route(name="a", utterances=("0", "1")),
            Route(name="b", utterances=("2", "3")),
            Route(name="rest", description="Anything else"),
        ),
    )
    seeds = embed_seeds(fleet, encoder=Embedder())
    assert (seeds.otherwise, len(seeds.X)) == (2, 4)
    P = seed_posterior(seeds, np.eye(DIMENSION, dtype=np.float32)[[0, 2, 9]], sharpness=10.0)
    assert P.argmax(axis=1).tolist() == [0, 1, 2]
    plain = Seeds(X=seeds.X, route=seeds.route, means=seeds.means)
    assert seed_posterior(plain, np.eye(DIMENSION, dtype=np.float32)[[9]], sharpness=10.0)[0, 2] < 0.01
