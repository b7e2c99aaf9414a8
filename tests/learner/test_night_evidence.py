"""What a night learns from, what it leaves alone, and that it tells all of it."""

from dataclasses import replace
from datetime import UTC, datetime
from uuid import UUID

import numpy as np
import pytest
from sqlalchemy import func, select

from learner import lease
from learner.nightly import NothingServes, run_night
from learner.pictures import draw_pictures
from learner.report import write_markdown
from router.registry import active, load, rollback
from telemetry.feedback import list_feedback, store_feedback
from telemetry.golden import golden, put_golden
from telemetry.inferences import store_inferences
from telemetry.learner_runs import list_failures, read_run, who_learns
from telemetry.tables import feedback, learner_consumption, router_version
from tests.learner.world import QUICK, first_published, inference, log_day, thumb


def night(engine, encoder, settings=QUICK, **rest):
    return run_night(engine, encoder=encoder, settings=settings, actor="a test", **rest)


def now():
    return datetime.now(UTC)


@pytest.fixture
def published(engine, encoder):
    """A shop after its first day and first night."""
    logged = log_day(engine, encoder, first_published(engine, encoder))
    result = night(engine, encoder)
    assert result.verdict == "published", result.report["missing"]
    return logged, result


def test_without_a_version_there_is_nothing_to_improve(engine, encoder):
    with pytest.raises(NothingServes):
        night(engine, encoder)


def test_a_night_before_anything_was_logged_says_so(engine, encoder):
    first_published(engine, encoder)
    result = night(engine, encoder)
    assert (result.verdict, result.report["sentence"]) == (
        "nothing_to_learn",
        "No question with a route was logged lately, so there is nothing to learn from.",
    )


def test_a_night_after_which_nothing_came_has_nothing_to_learn(engine, encoder, published):
    result = night(engine, encoder)
    assert (result.verdict, result.version) == ("nothing_to_learn", 2)
    assert result.report["sentence"] == "Nothing came in since the last night."


def test_a_night_lists_what_has_waited_too_long_for_its_inference(engine, encoder):
    first_published(engine, encoder)
    early = inference("where is my parcel", "delivery", None, encoder, at=now())
    votes = [thumb(UUID(int=7), "up", by="ann"), thumb(early.inference_id, "up", by="ann")]
    with engine.begin() as conn:
        store_feedback(conn, votes)
    night(engine, encoder, replace(QUICK, orphan_days=0.0))
    with engine.begin() as conn:
        orphans = {row["feedback_id"] for row in list_feedback(conn, resolution="orphaned")}
        assert orphans == {vote.feedback_id for vote in votes}
        store_inferences(conn, [early])  # it is not too late for it
        assert [row["feedback_id"] for row in list_feedback(conn, resolution="resolved")] == [votes[1].feedback_id]


def test_a_withdrawn_vote_is_unlearned_the_next_night(engine, encoder, published):
    logged, result = published
    feedback_id, inference_id = logged.votes[0]
    trained = select(func.count()).where(learner_consumption.c.feedback_id == feedback_id)
    with engine.begin() as conn:
        assert conn.execute(trained.where(learner_consumption.c.version == result.version)).scalar_one() == 1
        withdrawal = thumb(inference_id, None, by="user", feedback_id=feedback_id, op="withdraw", revision=2)
        store_feedback(conn, [withdrawal])
    again = night(engine, encoder)
    assert again.verdict != "nothing_to_learn"
    assert again.report["counts"]["votes"] == result.report["counts"]["votes"] - 1
    with engine.connect() as conn:
        assert conn.execute(trained.where(learner_consumption.c.version > result.version)).scalar_one() == 0


def test_a_vote_that_commits_late_is_read_the_next_night(engine, encoder, published):
    logged, result = published
    with engine.connect() as late:
        store_feedback(late, [thumb(logged.inferences[0], "up", by="late")])
        assert night(engine, encoder).verdict == "nothing_to_learn"
        late.commit()
    again = night(engine, encoder)
    assert again.report["counts"]["votes"] == result.report["counts"]["votes"] + 1


def test_a_held_night_changes_nothing_that_serves(engine, encoder):
    log_day(engine, encoder, first_published(engine, encoder))
    result = night(engine, encoder, replace(QUICK, least_evidence=1e9))
    assert (result.verdict, result.version) == ("held", 1)
    assert "more rated requests" in " ".join(result.report["missing"])
    with engine.connect() as conn:
        assert active(conn).version == 1
        statuses = conn.execute(select(router_version.c.status).order_by(router_version.c.number)).scalars().all()
        assert conn.execute(select(func.count()).select_from(learner_consumption)).scalar_one() == 0
    assert statuses == ["active", "rejected"]


def test_the_same_window_seed_and_version_give_the_same_bytes(engine, encoder, published):
    _, result = published
    with engine.begin() as conn:
        before = load(conn, result.version)
        until = read_run(conn, result.run_id)["watermark"]
        rollback(conn, actor="a test", reason="to learn it again")
    again = night(engine, encoder, force=True, until=until)
    assert again.verdict == "published"
    with engine.connect() as conn:
        assert load(conn, again.version).fingerprint == before.fingerprint
    assert again.version == result.version


def test_the_run_tells_its_counts_reasons_and_failures(engine, encoder, published):
    logged, result = published
    with engine.connect() as conn:
        run = read_run(conn, result.run_id)
        failures = list_failures(conn, run_id=result.run_id, limit=1000)
    assert (run["status"], run["verdict"], run["candidate"]) == ("finished", "published", 2)
    assert run["counts"]["requests"] == len(logged.inferences)
    assert run["counts"]["votes"] == len(logged.votes)
    assert sum(run["counts"]["failures"].values()) == len(failures)
    assert all(reason["sentence"] for reason in run["reasons"])
    assert {f["inference_id"] for f in failures} <= set(logged.inferences)


def test_a_bad_model_is_told_to_its_owner_and_keeps_its_questions(engine, encoder):
    from api.demo.simulated_users import Habits

    habits = Habits(rated=0.9, flip=0.0, bad_answer=0.0, bad_route="repairs", bad_route_rate=0.7, reask_bad=0.0)
    first = first_published(engine, encoder)
    for seed in range(3):
        log_day(engine, encoder, first, habits=habits, seed=seed)
    report = night(engine, encoder).report
    assert any(s.startswith("repairs-slm (route repairs): ") for s in report["owners"])
    with engine.connect() as conn:
        downs = conn.execute(select(feedback.c.feedback_id).where(feedback.c.value == "down")).scalars()
        assert set(report["wrong_route_given_down"]) == {str(id_) for id_ in downs}
    assert all(0 <= wrong <= 1 for wrong in report["wrong_route_given_down"].values())


def test_odd_input_neither_breaks_a_night_nor_teaches_it(engine, encoder):
    """A zero embedding, an empty query, a route that is gone, a vote for nothing, a thousand times the same."""
    first = first_published(engine, encoder)
    x = encoder.embed(["hello"])[0]
    items = [
        inference("", "billing", x, encoder, at=now()),
        inference("nothing", "billing", np.zeros(384), encoder, at=now()),
        inference("gone", "a route that is no more", x, encoder, at=now()),
        *[inference("hello", "billing", x, encoder, at=now()) for _ in range(300)],
    ]
    with engine.begin() as conn:
        store_inferences(conn, items)
        store_feedback(conn, [thumb(item.inference_id, "down", by="one user") for item in items])
        store_feedback(conn, [thumb(UUID(int=1), "up", by="somebody")])
    assert night(engine, encoder).verdict in ("held", "published")
    with engine.connect() as conn:
        vectors = load(conn, active(conn).version).centroids.vectors
    assert np.isfinite(vectors).all()
    assert first.parameters.routes == ("billing", "delivery", "repairs")


def test_only_one_holds_the_lease_and_each_lease_has_a_greater_token(engine):
    with engine.begin() as conn:
        first = lease.acquire(conn, holder="a")
    with engine.begin() as conn, pytest.raises(lease.LeaseHeld):
        lease.acquire(conn, holder="b")
    with engine.begin() as conn:
        assert who_learns(conn) == "a"
        lease.release(conn, first)
    with engine.begin() as conn:
        second = lease.acquire(conn, holder="b")
        assert second > first
        assert not lease.renew(conn, first)
        assert lease.renew(conn, second)
        lease.release(conn, first)
        assert who_learns(conn) == "b"


def test_the_report_is_a_page_with_pictures_and_every_setting(engine, encoder, published, tmp_path):
    _, result = published
    page = tmp_path / "night.md"
    with engine.connect() as conn:
        before, after = load(conn, 1), load(conn, 2)
    pictures = draw_pictures(result.report, before, after, page)
    write_markdown(result.report, page, pictures=pictures)
    text = page.read_text(encoding="utf-8")
    assert text.startswith("# Night of ")
    for _, name in pictures:
        assert name in text
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")
    assert all(f"| {name} |" in text for name in result.report["settings"])


def test_what_users_wrote_cannot_become_markup_in_the_report(engine, encoder, tmp_path):
    first = first_published(engine, encoder)
    log_day(
        engine,
        encoder,
        first,
        asked=[(f"<script>alert({i})</script> | my parcel ![x](y)", "delivery") for i in range(40)],
    )
    with engine.begin() as conn:
        put_golden(conn, [golden("<script>gold</script> | ![x](y)", ["delivery"], by="an operator")])
    result = night(engine, encoder, replace(QUICK, least_evidence=0.0))
    quoted = next(c for c in result.report["conditions"] if c["name"] == "golden")
    quoted["sentence"] += " Broken: '<script>gold</script> | ![x](y)'."
    page = tmp_path / "night.md"
    write_markdown({**result.report, "sentence": quoted["sentence"]}, page)
    assert "<script>" not in page.read_text(encoding="utf-8")
    assert "![x](y)" not in page.read_text(encoding="utf-8")


def test_routes_of_which_too_little_is_known_keep_their_centroids_and_the_report_says_what_is_missing(engine, encoder):
    log_day(engine, encoder, first_published(engine, encoder))
    wary = replace(QUICK, least_route_evidence=1e6, most_loss_points=-1000.0)  # no loss is small enough
    report = night(engine, encoder, wary).report
    kept = [c for c in report["conditions"] if c["name"].startswith("kept:")]
    assert kept
    assert all("keeps the incumbent's centroids" in c["sentence"] for c in kept)
    assert any("more rated requests on" in c["sentence"] for c in kept)
    assert not any(c["name"].startswith("route:") and not c["passed"] for c in report["conditions"])
