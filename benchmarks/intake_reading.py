"""How fast what was logged is read when there is much of it: one inference, the newest failures, the versions."""

import os
import time
from collections.abc import Iterator
from typing import Any

import psycopg

from benchmarks.real_server import RealServer, play

_READS = 300
_CHUNK = 100_000
_FEEDBACK_SHARE, _FAILURE_SHARE = 5, 10
_NIGHTS, _VERSIONS = 60, 60


def measure_reading(server: RealServer, *, rows: int) -> Iterator[tuple[str, dict[str, float]]]:
    """Fill the database in SQL, then read over HTTP, one client."""
    with psycopg.connect(server.database_url, autocommit=True) as connection:
        began = time.perf_counter()
        _fill(connection, rows=rows)
        print(f"{rows:,} inferences in {time.perf_counter() - began:.0f} s", flush=True)
        some = connection.execute(
            "select inference_id from inference tablesample system (1) order by random() limit 1000"
        ).fetchall()
    ids = [str(row[0]) for row in some]
    yield "read one inference", _read(server, [f"/v1/inferences/{one}" for one in ids])
    yield "read newest inferences", _read(server, ["/v1/inferences?limit=50"])
    yield "read newest failures", _read(server, ["/v1/failures?limit=50", "/v1/failures?kind=thumbs_down&limit=50"])
    yield "read versions", _read(server, ["/v1/router/versions"])
    yield "read newest feedback", _read(server, ["/v1/feedback?limit=50"])


def _read(server: RealServer, paths: list[str]) -> dict[str, float]:
    requests = [["GET", path, ""] for path in paths]
    plan: dict[str, Any] = {"kind": "given", "port": server.port, "requests": requests, "connections": 1}
    play({**plan, "seconds": 30, "most": 20})
    before = server.cpu_seconds()
    seen = play({**plan, "seconds": 60, "most": _READS})
    if seen["good"]["count"] < _READS:
        raise RuntimeError(f"{paths[0]} answered {seen['statuses']}")
    return {
        **{f"{name}_ms": seen["good"][name] for name in ("p50", "p95", "p99")},
        "rate": seen["good_in_time"] / seen["seconds"],
        "cpu_us": (server.cpu_seconds() - before) / _READS * 1e6,
        "load": os.getloadavg()[0],
    }


def _fill(connection: psycopg.Connection[Any], *, rows: int) -> None:
    """Inferences over 60 days with texts, votes and failures, and the versions of as many nights."""
    for start in range(0, rows, _CHUNK):
        connection.execute(_INFERENCES, {"first": start + 1, "last": min(rows, start + _CHUNK), "rows": rows})
    connection.execute(_PAYLOADS)
    connection.execute(_FEEDBACK, {"share": _FEEDBACK_SHARE})
    connection.execute(_RUNS, {"nights": _NIGHTS})
    connection.execute(_FAILURES, {"share": _FAILURE_SHARE})
    connection.execute(_OLD_VERSIONS, {"versions": _VERSIONS})
    connection.execute("vacuum (analyze)")


# Ids of version 7, so that they lie in the order of their times.
_ID = (
    "(lpad(to_hex((extract(epoch from at) * 1000)::bigint), 12, '0') || '7' || lpad(to_hex(n %% 4096), 3, '0')"
    " || '8' || substr(md5(n::text), 1, 15))::uuid"
)
_INFERENCES = f"""
insert into inference (inference_id, session_id, end_user, router_version, policy, cause, route, score, margin,
  candidates, propensity, explored, segment_count, request_model, input_tokens, output_tokens, cost, duration_ms,
  finish_reason, occurred_at, received_at, sources, payload_sha256)
select {_ID}, 's-' || n / 4, md5((n %% 5000)::text), 1, 'cost_aware', 'centroid', 'billing', 0.9, 0.5,
  '[{{"route": "billing", "probability": 0.9, "utility": 0.8, "similarity": 0.7}}]', 1, false, 1, 'billing-slm',
  20, 140, 0.0001, 800, 'stop', at, at, array['route', 'inferences'], sha256(n::text::bytea)
from (select n, now() - interval '60 days' * (1 - n / %(rows)s::float) as at
      from generate_series(%(first)s::bigint, %(last)s::bigint) n) made
"""  # noqa: S608
_PAYLOADS = """
insert into inference_payload (inference_id, query, answer, embedding, encoder)
select inference_id, 'why was I charged twice ' || session_id, repeat('it was so ', 20),
  decode(repeat(md5(session_id), 48), 'hex'), 'benchmark' from inference
"""
_FEEDBACK = """
insert into feedback (feedback_id, revision, op, target_kind, target_value, inference_id, resolution, value, submitter,
  payload_sha256, received_at)
select inference_id, 1, 'create', 'inference_id', inference_id::text, inference_id, 'resolved',
  case when hashtext(session_id) %% 3 = 0 then 'down' else 'up' end, end_user, payload_sha256, received_at
from inference where hashtext(inference_id::text) %% %(share)s = 0
"""
_RUNS = """
insert into learner_run (run_id, fencing_token, status, started_at, finished_at, verdict, report)
select gen_random_uuid(), n, 'finished', now() - interval '1 day' * (%(nights)s - n), now(), 'held',
  json_build_object('sections', repeat('x', 50000)) from generate_series(1, %(nights)s::int) n
"""
_FAILURES = """
insert into mined_failure (run_id, inference_id, kind, evidence, suggested_route, weight)
select (select run_id from learner_run where fencing_token = run), inference_id,
  (array['thumbs_down', 'correction', 'reask'])[1 + abs(hashtext(session_id)) %% 3], '{"votes": 1}', 'delivery', 1
from (select inference_id, session_id, received_at,
        (select max(fencing_token) from learner_run r where r.started_at <= i.received_at + interval '1 day') as run
      from inference i where hashtext(inference_id::text) %% %(share)s = 0) mined
where run is not null order by run, received_at
"""
_OLD_VERSIONS = """
insert into router_version (fingerprint, manifest, parent, encoder, fleet, report, status, created_by)
select md5(n::text), manifest, 1, encoder, fleet, json_build_object('sections', repeat('x', 50000)), 'retired', 'night'
from router_version, generate_series(1, %(versions)s::int) n where number = 1
"""
