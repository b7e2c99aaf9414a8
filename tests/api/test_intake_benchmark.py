"""The ledger of benchmarks/intake tells what was lost and what is there twice."""

from types import SimpleNamespace
from uuid import uuid4

import pytest

from benchmarks.intake import Ledger
from benchmarks.load_client import Load, fresh_id
from telemetry.inferences import store_inferences
from telemetry.records import Inference


@pytest.fixture
def ledger(engine, database_url, tmp_path):
    return Ledger(SimpleNamespace(database_url=database_url), "single", tmp_path)


def store(engine, ids):
    with engine.begin() as conn:
        store_inferences(conn, [Inference(inference_id=one, payload_sha256=b"x") for one in ids])


def test_the_ledger_finds_what_was_acknowledged_and_is_not_there(engine, ledger):
    ids = [uuid4() for _ in range(10)]
    store(engine, ids[:7])
    ledger.path.write_text("\n".join(map(str, ids)))
    assert ledger.check(sent=10) == {"lost": 3, "duplicates": 0}


def test_the_ledger_finds_rows_that_nobody_sent(engine, ledger):
    ids = [uuid4() for _ in range(10)]
    store(engine, ids)
    ledger.path.write_text("\n".join(map(str, ids[:8])))
    assert ledger.check(sent=8) == {"lost": 0, "duplicates": 2}


def test_ids_of_the_load_client_are_distinct_and_of_version_seven():
    ids = [fresh_id(n) for n in range(3000)]
    assert len(set(ids)) == 3000
    assert {(len(one), one[14]) for one in ids} == {(36, "7")}


def test_a_batch_of_the_load_client_is_acknowledged_item_by_item():
    load = Load({"kind": "batch", "first": 0, "batch": 2, "rate": None})
    body = b'{"results": [{"status": 201}, {"status": 422}]}'
    load.seen.note(207, b"", body, due=0.0, sent=0.0, ids=["a", "b"])
    load.seen.note(429, b"HTTP/1.1 429\r\nRetry-After: 1", b"", due=0.0, sent=1.0, ids=["c"])
    assert (load.seen.acknowledged, load.seen.without_retry_after, len(load.seen.shed)) == (["a"], 0, 1)
    assert load.seen.shed[0] - load.seen.shed_since_sent[0] == pytest.approx(1000)
