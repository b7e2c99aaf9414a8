"""Windows that nobody would make up: one route, damaged embeddings, wrong clocks, no texts, a session without end."""

import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from uuid import UUID

import numpy as np
import pandas as pd
import pytest
from sqlalchemy import text

from api.pruning import erase
from learner.first_version import build_first_version
from learner.nightly import run_night
from learner.pictures import draw_pictures
from learner.production_splits import doubted_queries
from learner.report import write_markdown
from learner.window import Window
from router.fleet import Fleet, Route
from router.registry import active, load, publish
from telemetry.feedback import store_feedback
from telemetry.ids import keyed_hash
from telemetry.inferences import store_inferences
from telemetry.retention import prune_rows
from tests.learner.world import QUICK, first_published, inference, log_day, part, questions, thumb

NIGHT = replace(QUICK, splitter_examples=0)


def night(engine, encoder, settings=NIGHT, **rest):
    result = run_night(engine, encoder=encoder, settings=settings, actor="a test", force=True, **rest)
    with engine.connect() as conn:
        for number in (result.version, conn.execute(text("select max(number) from router_version")).scalar_one()):
            centroids = load(conn, number).centroids
            assert np.isfinite(centroids.vectors).all()
            assert np.isfinite(centroids.owners).all()
    return result


def published(engine, encoder, fleet):
    version = replace(build_first_version(fleet, encoder=encoder, settings=NIGHT), splitter={})
    with engine.begin() as conn:
        return replace(version, number=publish(conn, version, actor="a test", reason="the first", parent=None).number)


def test_a_window_without_anything_in_it_ends_a_night_as_any_other(engine, encoder):
    first_published(engine, encoder)
    assert night(engine, encoder).verdict in ("held", "nothing_to_learn")


@pytest.mark.parametrize("names", [("all",), ("small", "large")])
def test_a_fleet_without_examples_of_which_nothing_was_asked_has_nights_and_forgets(engine, encoder, names):
    version = published(engine, encoder, Fleet(fallback=names[0], routes=tuple(Route(name=name) for name in names)))
    assert night(engine, encoder).verdict in ("held", "nothing_to_learn")
    asked = inference("where is it", names[0], encoder.embed(["where is it"])[0], encoder, at=datetime.now(UTC))
    with engine.begin() as conn:
        knows = replace(version, training={"watermark": datetime.now(UTC).isoformat(), "parent": "1"})
        number = publish(conn, knows, actor="a test", reason="learned", parent=1).number
        store_inferences(conn, [replace(asked, end_user=keyed_hash("ann", key=b"key"))])
    erase(engine, "ann", key=b"key", actor="a test")
    assert night(engine, encoder).version > number  # nothing is left, and it may know nothing of her


@pytest.mark.parametrize("examples", [(), ("where is it", "when does it come")])
def test_a_fleet_of_one_route_has_nights_like_others(engine, encoder, examples):
    version = published(engine, encoder, Fleet(fallback="all", routes=(Route(name="all", utterances=examples),)))
    log_day(engine, encoder, version, asked=[(q, "all") for q, _ in questions()][::4])
    assert night(engine, encoder, QUICK).verdict in ("held", "published")


def test_names_that_mean_something_elsewhere_go_through_a_night_its_page_and_its_pictures(engine, encoder, tmp_path):
    names = {"billing": "_$x^$ {0} %s", "delivery": "a|b `c`", "repairs": "<b>é'\\"}
    routes = [
        Route(name=name, utterances=tuple(q for q, r in questions(0) if r == old)[::6]) for old, name in names.items()
    ]
    version = published(engine, encoder, Fleet(fallback=names["billing"], routes=tuple(routes)))
    log_day(engine, encoder, version, asked=[(q, names[r]) for q, r in questions()])
    result = night(engine, encoder, QUICK)
    page = tmp_path / "night.md"
    with engine.connect() as conn:
        after = load(conn, active(conn).version)
    write_markdown(result.report, page, pictures=draw_pictures(result.report, version, after, page))
    rows = [line for line in page.read_text().split("\n") if line.startswith("|")]
    gate = rows[: next(i for i, row in enumerate(rows) if row.startswith("| route"))]
    assert {row.replace("\\|", "").count("|") for row in gate} == {4}, gate


def test_votes_on_what_is_pruned_since_are_left_out(engine, encoder):
    logged = log_day(engine, encoder, first_published(engine, encoder))
    with engine.begin() as conn:
        conn.execute(
            text("update inference set received_at = received_at - interval '9 days' where inference_id = any(:ids)"),
            {"ids": list(logged.inferences[:20])},
        )
        prune_rows(conn, before=datetime.now(UTC) - timedelta(days=8), batch=100)
        store_feedback(conn, [thumb(key, "up", by="ann") for key in logged.inferences[:20]])
    report = night(engine, encoder).report
    assert report["counts"]["requests"] == len(logged.inferences) - 20


def test_clocks_that_are_wrong_end_no_night(engine, encoder):
    first = first_published(engine, encoder)
    logged = log_day(engine, encoder, first)
    with engine.begin() as conn:
        for sign, keys in (
            ("- interval '20 years'", logged.inferences[:9]),
            ("+ interval '1 day'", logged.inferences[9:20]),
        ):
            moved = f"update inference set occurred_at = occurred_at {sign} where inference_id = any(:ids)"
            conn.execute(text(moved), {"ids": list(keys)})
        conn.execute(text("update feedback set occurred_at = occurred_at - interval '3 days'"))
    assert night(engine, encoder).verdict in ("held", "published")


@pytest.mark.parametrize("blob", [np.full(384, np.nan), np.full(384, np.inf), np.ones(100), np.ones(0)])
def test_a_damaged_embedding_is_left_out(engine, encoder, blob):
    first = first_published(engine, encoder)
    logged = log_day(engine, encoder, first)
    with engine.begin() as conn:
        damaged = "update inference_payload set embedding = :blob, query = null where inference_id = :id"
        conn.execute(text(damaged), {"blob": blob.astype("<f2").tobytes(), "id": logged.inferences[3]})
    report = night(engine, encoder).report
    assert report["counts"]["requests"] == len(logged.inferences) - 1


def test_all_votes_of_one_user_end_no_night_and_take_over_nothing(engine, encoder):
    first = first_published(engine, encoder)
    logged = log_day(engine, encoder, first)
    with engine.begin() as conn:
        conn.execute(text("update feedback set submitter = 'one'"))
        conn.execute(text("update inference set session_id = null"))
    report = night(engine, encoder).report
    assert report["counts"]["votes"] == len(logged.votes)
    assert report["learned"]["owner_flips"] == 0


def split_question(encoder, at, i):
    parts = ("where is the kettle", "track the radio for me")
    segments = (
        part(0, parts[0], "delivery", start=0, encoder=encoder),
        part(1, parts[1], "billing", start=len(parts[0]) + 5, encoder=encoder),
    )
    whole = " and ".join(parts)
    x = encoder.embed([whole])[0]
    return inference(whole, "delivery", x, encoder, at=at + timedelta(seconds=i), segments=segments)


def test_without_any_text_a_night_mines_learns_and_reports(engine, encoder, tmp_path):
    first = first_published(engine, encoder)
    log_day(engine, encoder, first)
    at = datetime.now(UTC) - timedelta(hours=3)
    items = [split_question(encoder, at, i) for i in range(8)]
    votes = [thumb(item.inference_id, "down", by=f"user {i}", segment_index=1) for i, item in enumerate(items)]
    votes += [thumb(item.inference_id, "up", by=f"user {i}", segment_index=0) for i, item in enumerate(items)]
    with engine.begin() as conn:
        store_inferences(conn, items)
        store_feedback(conn, votes)
        conn.execute(text("update inference_payload set query = null, answer = null, redaction = 'none'"))
        conn.execute(text("update segment set text = null"))
        conn.execute(text("update inference set session_id = 'one session'"))
    result = night(engine, encoder, QUICK)
    write_markdown(result.report, tmp_path / "night.md")
    assert result.report["counts"]["failures"]["unneeded_split"] > 0


def test_some_texts_missing_end_no_night(engine, encoder, tmp_path):
    first = first_published(engine, encoder)
    logged = log_day(engine, encoder, first)
    with engine.begin() as conn:
        conn.execute(
            text("update inference_payload set query = null where inference_id = any(:ids)"),
            {"ids": list(logged.inferences[::2])},
        )
    result = night(engine, encoder, QUICK)
    write_markdown(result.report, tmp_path / "night.md")


def test_a_vote_for_a_segment_that_is_not_there_ends_no_night(engine, encoder):
    logged = log_day(engine, encoder, first_published(engine, encoder))
    with engine.begin() as conn:
        store_feedback(conn, [thumb(logged.inferences[0], "down", by="ann", segment_index=7)])
        store_feedback(conn, [thumb(UUID(int=5), "down", by="ann", correction="nowhere")])
        store_feedback(conn, [thumb(logged.inferences[1], "down", by="ann", correction="nowhere")])
    assert night(engine, encoder).verdict in ("held", "published")


@pytest.mark.slow
def test_a_session_that_all_users_share_is_looked_through_in_seconds(engine, encoder):
    """Twenty thousand questions within one minute, half of them disliked."""
    n = 20_000
    at = pd.Timestamp(datetime.now(UTC) - timedelta(hours=1))
    X = np.random.default_rng(0).normal(size=(n, 8)).astype(np.float32)
    units = pd.DataFrame(
        {
            "inference_id": [f"i{i}" for i in range(n)],
            "segment_index": 0,
            "segment_count": 1,
            "text": [f"where is parcel number {i} and what about the invoice" for i in range(n)],
            "session_id": "default",
            "end_user": None,
            "route": "billing",
            "cause": "centroid",
            "occurred_at": [at + timedelta(milliseconds=3 * i) for i in range(n)],
            "received_at": at,
            **dict.fromkeys(("output_tokens", "duration_ms", "cost"), np.nan),
            "finish_reason": None,
        }
    )
    units["query"] = units["text"]
    votes = pd.DataFrame(
        {
            "feedback_id": [f"f{i}" for i in range(n)],
            "inference_id": units["inference_id"],
            "segment_index": None,
            "value": np.where(np.arange(n) % 2, "up", "down"),
            "correction": None,
        }
    )
    window = Window(units=units, embeddings=X, votes=votes, start=None, watermark=datetime.now(UTC))
    began = time.monotonic()
    assert doubted_queries(window, minutes=30) == set(units["text"][::2])
    assert time.monotonic() - began < 20
