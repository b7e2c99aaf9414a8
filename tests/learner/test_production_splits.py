"""What a night reads from missed and unneeded splits: how they should have been, and what users say in between."""

from datetime import UTC, datetime, timedelta

import numpy as np
import pandas as pd
import pytest

from learner.mining import MinedFailure
from learner.production_splits import bare_words, production_splits
from learner.window import Window
from router.fleet import Fleet, Route

FIRST = (
    "refund my kettle",
    "why was i charged twice",
    "send me the invoice",
    "pay in two parts",
    "my card was refused",
)
SECOND = ("where is my parcel", "when does it arrive", "track my order", "nobody was home", "deliver it on saturday")
FLEET = Fleet(
    fallback="billing",
    routes=(Route(name="billing", utterances=FIRST), Route(name="delivery", utterances=SECOND)),
)


class Log:
    """Queries of users and what was mined from them."""

    def __init__(self):
        self.rows, self.failures = [], []

    def missed(self, query, part, *, by):
        start = query.index(part)
        self._add(query, by, (0, len(query)))
        self._fail("missed_split", {"part_start": start, "part_end": start + len(part)}, weight=0.8)

    def unneeded(self, query, *spans, by, starts):
        self._add(query, by, *spans)
        self._fail("unneeded_split", {"unneeded_starts": list(starts)}, weight=0.8)

    def asked_in_part(self, query, part, *, by):
        for text in (query, part):
            self._add(text, by, (0, len(text)), session=f"session of {by}, {query}")

    def _add(self, query, by, *spans, session=None):
        for index, (start, end) in enumerate(spans):
            row = {
                "inference_id": str(len({r["inference_id"] for r in self.rows}) + (index == 0)),
                "segment_index": index,
                "segment_count": len(spans),
                "query": query,
                "text": query[start:end],
                "start_offset": start,
                "end_offset": end,
                "end_user": by,
                "session_id": session,
                "occurred_at": datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=len(self.rows)),
            }
            self.rows.append(row)

    def _fail(self, kind, evidence, *, weight):
        self.failures.append(
            MinedFailure(
                inference_id=self.rows[-1]["inference_id"],
                segment_index=0,
                kind=kind,
                evidence=evidence,
                suggested_route=None,
                weight=weight,
            )
        )

    def learned(self, **rest):
        window = Window(
            units=pd.DataFrame(self.rows),
            embeddings=np.zeros((len(self.rows), 4), np.float32),
            votes=pd.DataFrame(),
            start=None,
            watermark=datetime.now(UTC),
        )
        return production_splits(
            window, self.failures, FLEET, **{"minutes": 30.0, "fewest_people": 3, "most_each": 3} | rest
        )


@pytest.fixture
def log():
    return Log()


def parts(example):
    edges = zip((0, *example.starts), (*example.ends, len(example.text)), strict=True)
    return [example.text[start:end] for start, end in edges]


def said(log, connector, *, users=5):
    for i in range(users):
        log.missed(f"{FIRST[i]}, {connector} {SECOND[i]}", SECOND[i], by=f"user {i}")


def test_what_three_people_say_between_two_requests_is_a_connector(log):
    said(log, "In the same breath", users=3)
    learned = log.learned()
    assert learned.connectors == ("in the same breath",)
    assert learned.people == 3
    assert len(learned.train) + len(learned.held) == 3
    for example in (*learned.train, *learned.held):
        assert parts(example)[0] in FIRST
        assert parts(example)[1] in SECOND


def test_what_two_people_say_is_not(log):
    said(log, "in the same breath", users=2)
    learned = log.learned()
    assert learned.connectors == ()
    assert all(example.ends is None for example in (*learned.train, *learned.held))


def test_parts_that_were_asked_again_without_a_vote_tell_connectors_but_train_nothing(log):
    for i in range(3):
        log.asked_in_part(f"{FIRST[i]} next ticket {SECOND[i]}", f"{SECOND[i]}?", by=f"user {i}")
    learned = log.learned()
    assert learned.connectors == ("next ticket",)
    assert (learned.people, learned.train, learned.held) == (3, (), ())
    assert log.learned(minutes=0.0).connectors == ()


def test_one_person_alone_teaches_no_connector_however_often_they_say_it(log):
    for first, second in zip(FIRST, SECOND, strict=True):
        log.missed(f"{first} hail caesar {second}", second, by="one user")
    learned = log.learned()
    assert learned.connectors == ()
    assert len(learned.train) + len(learned.held) == 3


def test_words_of_ordinary_questions_are_no_connector(log):
    for i, second in enumerate(SECOND[:4]):
        log.missed(f"send me the invoice {second}", second, by=f"user {i}")
    assert log.learned().connectors == ()


def test_a_first_part_that_was_asked_again_shows_where_it_ends(log):
    for i in range(4):
        log.missed(f"{FIRST[i]} und dann noch {SECOND[i]}", FIRST[i], by=f"user {i}")
    learned = log.learned()
    assert learned.connectors == ("und dann noch",)
    assert sorted(map(parts, (*learned.train, *learned.held))) == sorted([FIRST[i], SECOND[i]] for i in range(4))


def test_two_connectors_are_kept_apart(log):
    said(log, "next ticket")
    said(log, "et puis")
    assert log.learned(most_each=9).connectors == ("et puis", "next ticket")


def test_letters_that_grow_in_lower_case_move_no_offset(log):
    query = "İİİ refund my kettle next ticket where is my parcel"
    for i in range(3):
        log.missed(query + " " * i, "where is my parcel", by=f"user {i}")
    for example in (*log.learned().train, *log.learned().held):
        assert example.text[example.starts[0] :].startswith("where")


def test_a_split_whose_parts_belong_together_is_learned_as_one_question(log):
    log.unneeded("pay my bill and the blue one", (0, 11), (16, 28), by="user 1", starts=[1])
    (example,) = (*log.learned().train, *log.learned().held)
    assert (example.starts, example.weight) == ((), 1.6)


def test_only_the_unneeded_start_of_three_segments_goes(log):
    log.unneeded("one two three", (0, 3), (4, 7), (8, 13), by="user 1", starts=[2])
    (example,) = (*log.learned().train, *log.learned().held)
    assert (example.starts, example.weight) == ((4,), 1.6)
    log.unneeded("uno dos tres", (0, 3), (4, 7), (8, 12), by="user 2", starts=[1])
    assert (8,) in {e.starts for e in (*log.learned().train, *log.learned().held)}


def test_a_segment_of_which_nobody_said_where_it_starts_teaches_no_boundary(log):
    log.unneeded("one two three", (0, 3), (4, 7), (8, 13), by="user 1", starts=[2])
    log.rows[1]["start_offset"] = None
    learned = log.learned()
    assert (learned.train, learned.held) == ((), ())


@pytest.mark.parametrize("blanks", ["  ", "\n", " \t "])
def test_a_connector_is_found_whatever_blanks_are_typed_between_its_words(log, blanks):
    said(log, "next ticket", users=3)
    log.missed(f"{FIRST[3]} next{blanks}ticket {SECOND[3]}", SECOND[3], by="user 3")
    log.missed(f"{FIRST[4]} next{blanks}ticket {SECOND[4]}", FIRST[4], by="user 4")
    learned = log.learned()
    assert learned.connectors == ("next ticket",)
    pairs = sorted([FIRST[i], SECOND[i]] for i in range(5))
    assert sorted(map(parts, (*learned.train, *learned.held))) == pairs


def test_queries_without_kept_text_teach_nothing(log):
    log.missed("refund my kettle next ticket where is my parcel", "where is my parcel", by="user 1")
    log.rows[0]["query"] = None
    assert log.learned().people == 0


@pytest.mark.parametrize("query", ["Pay it, next ticket, where is it", "pay it. NEXT TICKET: where is it"])
def test_a_heard_connector_is_found_whatever_marks_stand_around_it(query):
    assert bare_words("next ticket") in bare_words(query)
    assert bare_words("next ticket") not in bare_words("the next ticketing desk")
