"""A client that keeps a book: it sends each event until it is acknowledged, and checks at the end that all is there."""

import contextlib
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from uuid import uuid4

import httpx
from sqlalchemy import Engine, func, select

from telemetry.tables import dead_letter, feedback, inference, inference_payload
from tests.api.cli.processes import wait_for

TRY_AGAIN = {0, 429, 503}  # 0: the connection ended without an answer


def event_of(key: str) -> dict[str, object]:
    """The inference of this id: sent again, it has the same body."""
    return {"inference_id": key, "query": f"where is parcel {key}", "decision": {"route": "delivery"}}


@dataclass
class Ledger:
    """Logs inferences and votes, and decides, from a few threads, until told to stop.

    Attributes:
        finish_seconds: how long it goes on trying to bring to an end what it has begun.
        acknowledged: ids of inferences (and of the votes on them) that were answered 201 or 200.
        undelivered: those whose client gave up although the fault was over.
        statuses: how often which status was answered, per call.
        slowest: seconds of the slowest answer, per call.
    """

    address: str
    threads: int = 3
    finish_seconds: float = 40.0
    acknowledged: list[str] = field(default_factory=list)
    undelivered: list[str] = field(default_factory=list)
    statuses: dict[str, Counter[int]] = field(default_factory=lambda: {"log": Counter(), "decide": Counter()})
    slowest: Counter[str] = field(default_factory=Counter)
    _stop: threading.Event = field(default_factory=threading.Event)

    @contextlib.contextmanager
    def working(self) -> Iterator["Ledger"]:
        """Work beside the test; at the end everything that was begun is brought to its acknowledgement."""
        works = [self._log_forever] * self.threads + [self._decide_forever]
        threads = [threading.Thread(target=work) for work in works]
        for thread in threads:
            thread.start()
        try:
            yield self
        finally:
            self._stop.set()
            for thread in threads:
                thread.join()

    def wait_for_more(self, events: int, *, seconds: float = 60.0) -> None:
        """Wait until so many more events are acknowledged."""
        wanted = len(self.acknowledged) + events
        wait_for(lambda: len(self.acknowledged) >= wanted, seconds=seconds)

    def _log_forever(self) -> None:
        with httpx.Client(base_url=self.address, timeout=15) as http:
            while not self._stop.is_set():
                self._deliver(http, str(uuid4()))

    def _deliver(self, http: httpx.Client, key: str) -> None:
        vote = {"feedback_id": key, "inference_id": key, "value": "down"}
        give_up = None
        for path, body in (("inferences", event_of(key)), ("feedback", vote)):
            while self._post(http, "log", f"/v1/{path}", body) not in (200, 201):
                if self._stop.is_set():
                    give_up = give_up or time.monotonic() + self.finish_seconds
                    if time.monotonic() > give_up:
                        self.undelivered.append(key)
                        return
                time.sleep(0.05)
        self.acknowledged.append(key)

    def _decide_forever(self) -> None:
        with httpx.Client(base_url=self.address, timeout=15) as http:
            while not self._stop.is_set():
                self._post(http, "decide", "/v1/route", {"query": "where is my parcel", "log": False})
                time.sleep(0.02)

    def _post(self, http: httpx.Client, name: str, path: str, body: dict[str, object]) -> int:
        began = time.monotonic()
        try:
            status = http.post(path, json=body).status_code
        except httpx.TransportError:
            status = 0
        self.statuses[name][status] += 1
        self.slowest[name] = max(self.slowest[name], time.monotonic() - began)
        return status


def check_promises(ledger: Ledger, engine: Engine, *, counted: bool = True, answered: bool = True) -> None:
    """Nothing lost, nothing twice, nothing unaccounted for, no 500, and ready again without a hand.

    Args:
        ledger: what was acknowledged.
        engine: of the database, emptied before the ledger began.
        counted: the server's counters cover all of it (the process lived through the fault).
        answered: every request had an answer, every decision a good one.
    """
    with httpx.Client(base_url=ledger.address, timeout=15) as http:
        wait_for(lambda: http.get("/readyz").json()["status"] == "ready", seconds=30)
        check_rows(engine, ledger.acknowledged)
        assert ledger.undelivered == []
        assert set(ledger.statuses["log"]) <= {200, 201, *TRY_AGAIN} - ({0} if answered else set()), ledger.statuses
        assert set(ledger.statuses["decide"]) <= ({200} if answered else {200, 0}), ledger.statuses
        check_repetition(http, ledger.acknowledged[-1], ledger.acknowledged[0])
        check_rows(engine, ledger.acknowledged)
        if counted:
            check_conservation(http, engine)


def check_rows(engine: Engine, acknowledged: list[str]) -> None:
    """Exactly what was acknowledged is stored, whole, once."""
    with engine.connect() as conn:
        inferences = [str(key) for key in conn.execute(select(inference.c.inference_id)).scalars()]
        votes = [str(key) for key in conn.execute(select(feedback.c.feedback_id)).scalars()]
        judged = select(func.count()).select_from(feedback).where(feedback.c.inference_id == feedback.c.feedback_id)
        whole = conn.execute(select(func.count()).select_from(inference_payload)).scalar_one()
        assert sorted(set(acknowledged) - set(inferences)) == [], "acknowledged, and lost"
        assert sorted(set(acknowledged) - set(votes)) == [], "acknowledged votes, and lost"
        assert sorted(inferences) == sorted(votes) == sorted(acknowledged), "stored twice, or never acknowledged"
        assert (whole, conn.execute(judged).scalar_one()) == (len(acknowledged), len(acknowledged))
        assert conn.execute(select(func.count()).select_from(dead_letter)).scalar_one() == 0


def check_repetition(http: httpx.Client, *keys: str) -> None:
    """The same event again is a duplicate, another body under its id is refused."""
    for key in keys:
        assert http.post("/v1/inferences", json=event_of(key)).status_code == 200
        assert http.post("/v1/feedback", json={"feedback_id": key, "inference_id": key, "value": "down"}).is_success
        other = http.post("/v1/inferences", json=event_of(key) | {"query": "another one"})
        assert (other.status_code, other.json()["code"]) == (422, "conflict")


def counters(http: httpx.Client) -> dict[str, int]:
    """The events of this server process by what became of them."""
    lines = [
        line.rsplit(" ", 1) for line in http.get("/metrics").text.splitlines() if line.startswith("trimtab_events")
    ]
    return {name.removeprefix("trimtab_events_"): int(float(value)) for name, value in lines}


def check_conservation(http: httpx.Client, engine: Engine) -> None:
    """received = stored + duplicate + rejected + quarantined, by the counters and by the tables."""
    count = wait_for(lambda: (now := counters(http))["waiting"] == 0 and now)
    refused = count["conflict"] + count["missing"] + count["failed"]  # each was told to its client, or to its log
    assert count["received"] == count["stored"] + count["duplicate"] + refused + count["quarantined"], count
    with engine.connect() as conn:
        tables = (inference, feedback)
        rows = sum(conn.execute(select(func.count()).select_from(table)).scalar_one() for table in tables)
    unknown = count["duplicate"] + count["failed"]  # committed, although the server never heard of it
    assert count["stored"] <= rows <= count["stored"] + unknown, (count, rows)
