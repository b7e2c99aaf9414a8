"""What a night reads, on a real database."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from sqlalchemy import text, update

from learner.window import embed_missing, read_window, watermark
from telemetry.feedback import store_feedback
from telemetry.inferences import store_inferences
from telemetry.tables import inference_payload
from tests.learner.world import inference, part, thumb

NOW = datetime.now(UTC) - timedelta(hours=1)


def ask(conn, encoder, *texts, route="billing", **rest):
    items = [
        inference(t, route, encoder.embed([t])[0], encoder, at=NOW + timedelta(seconds=i), **rest)
        for i, t in enumerate(texts)
    ]
    store_inferences(conn, items)
    return [item.inference_id for item in items]


def read(engine, encoder, **rest):
    with engine.connect() as conn:
        return read_window(conn, encoder=encoder, days=90, **rest)


def test_a_window_has_units_embeddings_and_the_newest_revision_of_each_vote(engine, encoder):
    with engine.begin() as conn:
        one, two = ask(conn, encoder, "where is my invoice", "when does it arrive")
        first, second = thumb(one, "up", by="a"), thumb(two, "down", by="b")
        store_feedback(conn, [first, second])
        revised = thumb(one, "down", by="a", feedback_id=first.feedback_id, op="revise", revision=2)
        store_feedback(conn, [revised])
    window = read(engine, encoder)
    assert window.units["text"].tolist() == ["where is my invoice", "when does it arrive"]
    np.testing.assert_allclose(np.linalg.norm(window.embeddings, axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(window.embeddings, encoder.embed(window.units["text"].tolist()), atol=2e-3)
    votes = window.votes.set_index("inference_id")
    assert votes.loc[str(one), ["value", "revision"]].tolist() == ["down", 2]
    assert votes.loc[str(two), ["value", "revision"]].tolist() == ["down", 1]


def test_a_withdrawn_vote_is_not_read(engine, encoder):
    with engine.begin() as conn:
        (one,) = ask(conn, encoder, "where is my invoice")
        vote = thumb(one, "up", by="a")
        store_feedback(conn, [vote])
        store_feedback(conn, [thumb(one, None, by="a", feedback_id=vote.feedback_id, op="withdraw", revision=2)])
    assert read(engine, encoder).votes.empty


def test_a_split_question_gives_a_unit_for_each_segment(engine, encoder):
    whole, pieces = "refund me and track my parcel", ("refund me", "track my parcel")
    segments = (
        part(0, pieces[0], "billing", start=0, encoder=encoder),
        part(1, pieces[1], "delivery", start=14, encoder=encoder),
    )
    with engine.begin() as conn:
        ask(conn, encoder, whole, segments=segments)
    units = read(engine, encoder).units
    assert units["text"].tolist() == list(pieces)
    assert units["route"].tolist() == ["billing", "delivery"]
    assert units["segment_count"].tolist() == [2, 2]


def test_rows_without_an_embedding_or_with_anothers_are_embedded_once_and_stored(engine, encoder):
    with engine.begin() as conn:
        store_inferences(conn, [inference("no embedding yet", "billing", None, encoder, at=NOW)])
        (other,) = ask(conn, encoder, "of another encoder")
        where = inference_payload.c.inference_id == other
        conn.execute(update(inference_payload).where(where).values(encoder="another"))
    assert read(engine, encoder).units.empty
    assert embed_missing(engine, encoder=encoder) == 2
    window = read(engine, encoder)
    np.testing.assert_allclose(window.embeddings, encoder.embed(window.units["text"].tolist()), atol=2e-3)
    assert embed_missing(engine, encoder=encoder) == 0


def test_the_watermark_stays_behind_whoever_is_still_writing(engine, encoder):
    """A row of a transaction that commits late has an early time; it must not fall behind the watermark."""
    with engine.connect() as writer, engine.connect() as reader:
        (late,) = ask(writer, encoder, "a late one")
        time.sleep(0.05)
        before = watermark(reader)
        reader.rollback()
        writer.commit()
    assert read(engine, encoder, until=before).units.empty
    window = read(engine, encoder)
    assert window.units["inference_id"].tolist() == [str(late)]
    assert window.units["received_at"].iloc[0] > before


_SLOWLY = """
create schema slowly;
create function slowly.look() returns setof pg_catalog.pg_stat_activity language plpgsql as $$
begin
    return query select * from pg_catalog.pg_stat_activity;
    perform pg_sleep(0.5);
end $$;
create view slowly.pg_stat_activity as select * from slowly.look()
"""


def test_whoever_begins_to_write_while_the_watermark_is_taken_is_after_it(engine, encoder):
    with ThreadPoolExecutor(1) as other, engine.connect() as writer, engine.connect() as reader:
        reader.execute(text(_SLOWLY))  # in a transaction that is never committed
        reader.execute(text("set search_path = slowly, pg_catalog, public"))
        taken = other.submit(watermark, reader)
        time.sleep(0.25)
        (late,) = ask(writer, encoder, "begun after the look at who writes")
        before = taken.result()
        writer.commit()
    assert read(engine, encoder, until=before).units.empty
    assert read(engine, encoder).units["inference_id"].tolist() == [str(late)]


def test_a_second_watermark_of_a_transaction_knows_who_writes_by_then(engine, encoder):
    with engine.connect() as writer, engine.connect() as reader:
        watermark(reader)
        ask(writer, encoder, "begun after the first")
        before = watermark(reader)
        writer.commit()
    assert read(engine, encoder, until=before).units.empty


def test_no_row_ever_slips_in_behind_a_watermark(engine, encoder):
    """Writers commit all the time; what was under a watermark when it was taken is all that ever is."""
    stop = threading.Event()

    def write(seed):
        while not stop.is_set():
            with engine.begin() as conn:
                conn.execute(text("insert into inference (inference_id, sources) values (gen_random_uuid(), '{t}')"))

    threads = [threading.Thread(target=write, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    count = text("select count(*) from inference where received_at <= :mark")
    seen = []
    for _ in range(60):
        with engine.connect() as conn:
            mark = watermark(conn)
            seen.append((mark, conn.execute(count, {"mark": mark}).scalar_one()))
    stop.set()
    for thread in threads:
        thread.join()
    with engine.connect() as conn:
        assert [conn.execute(count, {"mark": mark}).scalar_one() for mark, _ in seen] == [n for _, n in seen]


@pytest.mark.slow
def test_a_hundred_thousand_rows_are_read_in_seconds_and_little_memory(engine, encoder):
    blob = np.asarray(encoder.embed(["hello"])[0], dtype="<f2").tobytes()
    with engine.begin() as conn:
        conn.execute(
            text(
                "insert into inference (inference_id, route, sources, propensity, session_id, occurred_at) "
                "select gen_random_uuid(), 'billing', '{route}', 1, 's' || i, now() from generate_series(1, 100000) i"
            )
        )
        conn.execute(
            text(
                "insert into inference_payload (inference_id, query, embedding, encoder) "
                "select inference_id, 'where is my invoice', :blob, :encoder from inference"
            ),
            {"blob": blob, "encoder": encoder.fingerprint},
        )
    started, before = time.monotonic(), _peak_mib(reset=True)
    assert len(read(engine, encoder).units) == 100_000
    assert time.monotonic() - started < 60
    assert _peak_mib() - before < 1024


def _peak_mib(*, reset=False):
    from pathlib import Path

    if reset:
        Path("/proc/self/clear_refs").write_text("5")
    line = next(x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith("VmHWM"))
    return int(line.split()[1]) / 1024
