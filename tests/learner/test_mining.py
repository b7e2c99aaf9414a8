"""Each kind of failure from what was really logged, with its evidence, and nothing where there is no failure."""

from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from learner.estimates import Estimates
from learner.follow_ups import find_follow_ups
from learner.mining import mine
from learner.settings import LearnerSettings
from learner.window import read_window
from telemetry.failure_kinds import FAILURE_KINDS
from telemetry.feedback import store_feedback
from telemetry.inferences import store_inferences
from tests.learner.world import inference, part, thumb

ROUTES = ("billing", "delivery", "repairs")
START = datetime.now(UTC) - timedelta(hours=2)
SETTINGS = LearnerSettings()


@pytest.fixture
def log(engine, encoder):
    """Store questions and votes; ``log.mined(kind)`` mines them, believing of each question the route in ``truth``."""
    return Log(engine, encoder)


class Log:
    def __init__(self, engine, encoder):
        self.engine, self.encoder, self.truth, self.believed, self.count = engine, encoder, {}, {}, 0

    def ask(self, text, route, *, truth=None, votes=(), **rest):
        self.count += 1
        x = self.encoder.embed([text])[0]
        item = inference(text, route, x, self.encoder, at=START + timedelta(seconds=self.count), **rest)
        self.truth[text] = truth or route
        for segment in rest.get("segments", ()):
            self.truth[segment.text] = truth or segment.route
        with self.engine.begin() as conn:
            store_inferences(conn, [item])
            store_feedback(conn, [thumb(item.inference_id, by=f"user {i}", **v) for i, v in enumerate(votes)])
        return str(item.inference_id)

    def mined(self, kind):
        with self.engine.connect() as conn:
            window = read_window(conn, encoder=self.encoder, days=90)
        follow_ups = find_follow_ups(window, similarity=0.92, minutes=30)
        right = np.array([ROUTES.index(self.truth[t]) for t in window.units["text"]])
        posteriors = np.where(np.arange(3) == right[:, None], 0.9, 0.05).astype(np.float32)
        for row, question in enumerate(window.units["text"]):
            posteriors[row] = self.believed.get(question, posteriors[row])
        estimates = Estimates(
            routes=ROUTES,
            success=(0.8,) * 3,
            wrong_route_success=0.15,
            reask_when_right=(0.06,) * 3,
            reask_when_wrong=0.3,
            own_down_share=(0.2,) * 3,
            votes=(0,) * 3,
            thumbs_down=(0,) * 3,
            posteriors=posteriors,
            wrong_route_given_down=dict.fromkeys(window.votes["feedback_id"], 0.9),
        )
        found = mine(window, follow_ups, estimates, SETTINGS)
        assert {failure.kind for failure in found} <= set(FAILURE_KINDS)
        return [failure for failure in found if failure.kind == kind]


def test_a_thumb_down_names_its_vote_and_the_likelier_route(log):
    one = log.ask("where is my parcel", "billing", truth="delivery", votes=[{"value": "down"}])
    (failure,) = log.mined("thumbs_down")
    assert (failure.inference_id, failure.suggested_route, failure.weight) == (one, "delivery", 0.9)
    assert failure.evidence["likeliest_other"] == "delivery"


def test_a_thumb_up_is_no_failure(log):
    log.ask("where is my parcel", "delivery", votes=[{"value": "up"}])
    assert log.mined("thumbs_down") == []


def test_a_correction_suggests_the_named_route(log):
    log.ask("where is my parcel", "billing", votes=[{"value": "down", "correction": "delivery"}])
    (failure,) = log.mined("correction")
    assert (failure.suggested_route, failure.weight) == ("delivery", 0.95)
    assert log.mined("thumbs_down") == []


def test_a_question_asked_again_elsewhere_and_liked_is_a_follow_up_switch(log):
    log.ask("where is my parcel", "billing", truth="delivery", session="s")
    then = log.ask("where is my parcel?", "delivery", session="s", votes=[{"value": "up"}])
    (failure,) = log.mined("follow_up_switch")
    assert (failure.suggested_route, failure.weight) == ("delivery", 0.8)
    assert failure.evidence["asked_again_as"] == then


def test_a_question_asked_again_without_a_vote_is_a_reask(log):
    log.ask("where is my parcel", "billing", truth="delivery", session="s")
    log.ask("where is my parcel?", "delivery", session="s")
    (failure,) = log.mined("reask")
    assert failure.suggested_route == "delivery"
    assert failure.weight == pytest.approx(0.95)


def test_another_question_in_the_same_session_is_no_reask(log):
    log.ask("where is my parcel", "delivery", session="s")
    log.ask("i want my money back", "billing", session="s")
    assert log.mined("reask") == []


@pytest.mark.parametrize(
    ("kind", "outcome"), [("token_spike", {"output_tokens": 4000}), ("latency_spike", {"duration_ms": 60_000.0})]
)
def test_a_spike_stands_out_within_its_route_and_carries_no_label(log, kind, outcome):
    for i in range(25):
        log.ask(f"where is parcel number {i}", "delivery", outcome={"output_tokens": 90 + i, "duration_ms": 400.0 + i})
    spike = log.ask("where is parcel number 99", "delivery", outcome=outcome)
    (failure,) = log.mined(kind)
    assert (failure.inference_id, failure.suggested_route, failure.weight) == (spike, None, 0.0)
    assert failure.evidence["robust_z"] > 6


def ask_in_parts(log, *parts, disliked=()):
    """A question that was split into parts (text, served route, what is believed of ROUTES), some of them disliked."""
    whole, segments = "", []
    for index, (words, route, believed) in enumerate(parts):
        whole += " and " * bool(whole)
        segments.append(part(index, words, route, start=len(whole), encoder=log.encoder))
        log.believed[words] = believed
        whole += words
    votes = [{"value": "down", "segment_index": index} for index in disliked]
    return log.ask(whole, parts[0][1], segments=segments, votes=votes)


def test_a_split_whose_parts_belong_together_is_unneeded(log):
    ask_in_parts(
        log,
        ("where is my parcel", "delivery", (0.05, 0.9, 0.05)),
        ("the blue one", "repairs", (0.05, 0.9, 0.05)),
    )
    (failure,) = log.mined("unneeded_split")
    assert failure.suggested_route == "delivery"
    assert failure.evidence["unneeded_starts"] == [1]
    assert failure.weight == pytest.approx(0.81 + 2 * 0.0025, abs=1e-3)


def test_parts_of_which_little_is_known_are_not_taken_for_one_questions(log):
    """The same route is likeliest for both, but probably not right for both."""
    ask_in_parts(
        log,
        ("which drill for concrete", "billing", (0.3, 0.3, 0.4)),
        ("how long is its guarantee", "repairs", (0.05, 0.05, 0.9)),
    )
    assert log.mined("unneeded_split") == []


@pytest.mark.parametrize("disliked", [(0,), (1,), (0, 1)])
def test_a_dislike_of_a_part_that_was_needed_is_no_unneeded_split(log, disliked):
    """Its route was wrong or its answer was bad; what joins two requests must not be learned as joining nothing."""
    ask_in_parts(
        log,
        ("delete my account", "repairs", (0.9, 0.05, 0.05)),
        ("send me the parcel", "delivery", (0.1, 0.85, 0.05)),
        disliked=disliked,
    )
    assert log.mined("unneeded_split") == []
    assert len(log.mined("thumbs_down")) == len(disliked)


def test_a_disliked_part_that_may_well_belong_to_its_neighbour_was_not_needed(log):
    parts = (
        ("refund my kettle", "billing", (0.9, 0.05, 0.05)),
        ("where is my parcel", "delivery", (0.05, 0.9, 0.05)),
        ("the blue one", "repairs", (0.1, 0.45, 0.45)),
    )
    ask_in_parts(log, *parts)
    assert log.mined("unneeded_split") == []
    one = ask_in_parts(log, *parts, disliked=(2,))
    (failure,) = log.mined("unneeded_split")
    assert (failure.inference_id, failure.suggested_route) == (one, None)
    assert (failure.evidence["disliked_segments"], failure.evidence["unneeded_starts"]) == ([2], [2])
    assert 0.5 < failure.weight < 0.7


def test_a_disliked_first_part_belongs_to_the_second(log):
    ask_in_parts(
        log,
        ("the blue one", "repairs", (0.1, 0.45, 0.45)),
        ("where is my parcel", "delivery", (0.05, 0.9, 0.05)),
        ("refund my kettle", "billing", (0.9, 0.05, 0.05)),
        disliked=(0,),
    )
    (failure,) = log.mined("unneeded_split")
    assert (failure.evidence["disliked_segments"], failure.evidence["unneeded_starts"]) == ([0], [1])


def test_a_part_that_was_asked_alone_and_liked_elsewhere_is_a_missed_split(log):
    whole = "refund my kettle and where is my parcel"
    log.ask(whole, "billing", session="s", votes=[{"value": "down"}])
    log.ask("where is my parcel", "delivery", session="s", votes=[{"value": "up"}])
    (failure,) = log.mined("missed_split")
    assert failure.suggested_route == "delivery"
    assert whole[failure.evidence["part_start"] : failure.evidence["part_end"]] == "where is my parcel"


def test_an_answer_that_was_cut_off_and_disliked_is_the_owners_matter(log):
    log.ask("explain my bill", "billing", outcome={"finish_reason": "length"}, votes=[{"value": "down"}])
    (failure,) = log.mined("trace_budget_cutoff")
    assert (failure.suggested_route, failure.weight) == (None, 0.0)


def test_an_abstention_says_where_it_probably_belonged(log):
    log.ask("my parcel", "billing", truth="delivery", cause="abstained")
    (failure,) = log.mined("abstained")
    assert failure.suggested_route == "delivery"
