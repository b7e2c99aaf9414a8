"""What is encoded, how often, and that nobody waits longer for what others ask."""

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import numpy as np
import pytest

from api import encodings
from api.deciding import Deciding, Question
from api.encodings import Encodings
from learner.first_version import build_first_version
from router.arms import Arms
from router.scoring import Router

PARTS = ("why was I charged twice", "where is my parcel")
BOTH = f"{PARTS[0]}, and {PARTS[1]}"


class Counting:
    """The real encoder, and what it was asked for; fails on request."""

    def __init__(self, encoder):
        self._encoder, self.batches, self.threads = encoder, [], []
        self.fingerprint, self.dimension = encoder.fingerprint, encoder.dimension

    def encode(self, texts, *, hidden=False):
        self.batches.append(list(texts))
        self.threads.append(threading.current_thread())
        if "broken" in texts:
            raise RuntimeError("this batch cannot be encoded")
        return self._encoder.encode(texts, hidden=hidden)


@pytest.fixture
def counting(encoder):
    return Counting(encoder)


@pytest.fixture
def executor():
    with ThreadPoolExecutor(1) as pool:
        yield pool


def test_what_comes_at_once_is_encoded_in_one_batch_and_each_text_once(counting, executor):
    async def ask():
        reader = Encodings(counting, executor)
        wanted = [("a", True), ("b", True), ("a", False), ("c", False)]
        return await asyncio.gather(*(reader.read(text, hidden=hidden) for text, hidden in wanted))

    found = asyncio.run(ask())
    assert counting.batches == [["a", "b", "c"]]
    assert [encoding.hidden is None for encoding in found] == [False, False, False, True]
    assert np.array_equal(found[0].embedding, found[2].embedding)


def test_who_asks_alone_waits_for_no_thread_and_after_company_the_thread_encodes_again(counting, executor, monkeypatch):
    monkeypatch.setattr(encodings, "_CALM_SECONDS", 0.2)
    alone = [True]

    async def ask():
        reader = Encodings(counting, executor, alone=lambda: alone[0])
        in_the_loop = []

        async def read(text):
            await reader.read(text, hidden=True)
            in_the_loop.append(counting.threads[-1] is threading.current_thread())

        await read("first")
        await read("long " * 60)
        alone[0] = False
        await read("in company")
        alone[0] = True
        await read("right after it")
        await asyncio.sleep(0.25)
        await read("calm again")
        await read("first")
        return in_the_loop

    assert asyncio.run(ask()) == [True, False, False, False, True, True]
    assert counting.batches[-1] == ["calm again"]


def test_a_repeat_is_not_encoded_again_but_for_hidden_states_that_are_missing(counting, executor):
    async def ask():
        reader = Encodings(counting, executor)
        for hidden in (False, False, True, True, False):
            assert ((await reader.read("a", hidden=hidden)).hidden is not None) >= hidden

    asyncio.run(ask())
    assert counting.batches == [["a"], ["a"]]


def test_the_oldest_are_forgotten_when_there_are_too_many_bytes(counting, executor, monkeypatch):
    monkeypatch.setattr(encodings, "CACHE_BYTES", 10_000)

    async def ask():
        reader = Encodings(counting, executor)
        for text in ("one", "two", "three", "one"):
            await reader.read(text, hidden=True)

    asyncio.run(ask())
    assert counting.batches == [["one"], ["two"], ["three"], ["one"]]


def test_an_error_reaches_all_of_its_batch_and_the_next_one_is_encoded(counting, executor):
    async def ask():
        reader = Encodings(counting, executor)
        first = await asyncio.gather(
            reader.read("broken", hidden=True), reader.read("well", hidden=True), return_exceptions=True
        )
        return first, await reader.read("well", hidden=True)

    first, second = asyncio.run(ask())
    assert [type(error) for error in first] == [RuntimeError, RuntimeError]
    assert second.hidden is not None


def test_a_batch_is_encoded_while_the_one_before_it_is_decided(counting, executor):
    """The next batch is handed to the thread before anybody is woken by the one that is done."""
    order = []

    async def ask():
        reader = Encodings(counting, executor)

        async def one(text):
            await reader.read(text, hidden=True)
            order.append((text, len(counting.batches)))

        first = [asyncio.create_task(one("a")), asyncio.create_task(one("b"))]
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        later = asyncio.create_task(one("c"))
        await asyncio.gather(*first, later)

    counting.encode(["warm"])
    asyncio.run(ask())
    assert counting.batches[1:] == [["a", "b"], ["c"]]
    assert [text for text, _ in order] == ["a", "b", "c"]


def test_a_query_and_its_parts_are_encoded_once_however_often_it_comes(counting, encoder, fleet):
    router = Router(build_first_version(fleet, encoder=encoder))
    deciding = Deciding(counting, arms=lambda: Arms(main=router), remember=timedelta(minutes=5))
    question = Question(query=BOTH, explore=False)

    async def ask():
        return [await deciding.decide(question) for _ in range(3)]

    found = asyncio.run(ask())
    deciding.close()
    assert [segment.route for segment in found[0].segments] == ["billing", "delivery"]
    assert len({decision.destinations for decision in found}) == 1
    assert sum(batch == [BOTH] for batch in counting.batches) == 1
    assert len(counting.batches) == 2, counting.batches
