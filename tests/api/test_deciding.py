"""An exact repeat is not weighed again; sessions, exploration and other versions have their say each time."""

import asyncio
import gc
from dataclasses import replace
from datetime import timedelta

import pytest

from api import deciding as module
from api.deciding import Deciding, Question
from learner.first_version import build_first_version
from router.arms import Arms
from router.decide import weigh
from router.encoder import Encoding
from router.scoring import Router

PARCEL = "where is my parcel"
BOTH = f"why was I charged twice, and {PARCEL}"
UNSURE = "I have a question about my last order"


@pytest.fixture
def weighed(monkeypatch):
    """The queries that were weighed, in order."""
    queries = []

    def noting(router, query, encoding, **rest):
        found = weigh(router, query, encoding, **rest)
        queries.append(query)
        return found

    monkeypatch.setattr(module, "weigh", noting)
    return queries


@pytest.fixture(scope="module")
def version(encoder, fleet):
    return build_first_version(fleet, encoder=encoder)


@pytest.fixture
def serving(encoder, version):
    """Decides with the versions in turn that it is given, the first one first."""
    routers = [Router(version)]
    made = Deciding(encoder, arms=lambda: Arms(main=routers[-1]), remember=timedelta(minutes=5))
    yield made, routers
    made.close()


def ask(deciding, *questions):
    async def all_of_them():
        return [await deciding.decide(question) for question in questions]

    return asyncio.run(all_of_them())


def plain(query, **rest):
    return Question(query=query, explore=False, **rest)


@pytest.mark.parametrize("query", [PARCEL, BOTH, UNSURE])
def test_a_repeat_is_decided_as_before_and_not_weighed_again(serving, weighed, query):
    first, again = ask(serving[0], plain(query), plain(query))
    assert weighed == [query]
    assert first.inference_id != again.inference_id
    told = [
        [(s.start, s.end, s.route, s.score, s.margin, s.candidates) for s in decision.segments] + [decision.split]
        for decision in (first, again)
    ]
    assert told[0] == told[1]


def test_a_pin_and_a_session_count_for_repeats_too(serving, weighed):
    pinned, plainly, other, again = ask(
        serving[0],
        plain(UNSURE, pinned="delivery"),
        plain(UNSURE, session_id="s"),
        plain(UNSURE, session_id="t"),
        plain(UNSURE, session_id="s"),
    )
    assert (pinned.route, pinned.segments[0].cause) == ("delivery", "pinned")
    assert plainly.route == other.route != again.route
    assert again.segments[0].cause == "reasked"
    assert weighed == [UNSURE]


def test_chance_is_drawn_for_each_repeat(encoder, version, weighed):
    curious = replace(version, parameters=replace(version.parameters, explore_kappa=5.0))
    deciding = Deciding(encoder, arms=lambda: Arms(main=router), remember=timedelta(minutes=5))
    router = Router(curious)
    found = ask(deciding, *[Question(query=UNSURE)] * 200)
    deciding.close()
    explored = sum(decision.segments[0].explored for decision in found)
    assert 0 < explored < 200
    assert len(weighed) == 1


def test_whether_to_explore_is_weighed_apart(serving, weighed):
    ask(serving[0], plain(UNSURE), Question(query=UNSURE), plain(UNSURE))
    assert weighed == [UNSURE, UNSURE]


def test_another_version_weighs_anew_and_one_that_is_gone_is_forgotten(serving, version, weighed):
    deciding, routers = serving
    ask(deciding, plain(PARCEL))
    routers.append(Router(version))
    ask(deciding, plain(PARCEL))
    assert weighed == [PARCEL, PARCEL]
    assert len(deciding._weighed) == 2
    del routers[0]
    gc.collect()
    assert len(deciding._weighed) == 1


def test_the_oldest_is_forgotten_and_long_queries_are_not_kept(serving, weighed, monkeypatch):
    monkeypatch.setattr(module, "MOST_WEIGHED", 2)
    ask(serving[0], *(plain(query) for query in ("one", "two", "one", "three", "one", "two")))
    assert weighed == ["one", "two", "three", "two"]
    long = "where is my parcel " * 60
    ask(serving[0], plain(long), plain(long))
    assert weighed[4:] == [long, long]


def test_a_query_that_is_one_of_its_own_parts_keeps_what_the_splitter_reads(serving, monkeypatch):
    read_whole = []

    def asking_for_itself(router, query, encoding, *, encode, explore):
        read_whole.append(encoding.hidden is not None)
        encode([query, "another part"])
        return weigh(router, query, encoding, encode=encode, explore=explore)

    monkeypatch.setattr(module, "weigh", asking_for_itself)
    (reader,) = serving[0]._encodings.values()
    read = reader.read

    async def bare(text, *, hidden):
        found = await read(text, hidden=hidden)
        return found if hidden else Encoding(embedding=found.embedding)

    monkeypatch.setattr(reader, "read", bare)
    ask(serving[0], plain(PARCEL))
    assert read_whole == [True, True]
