"""A backup by pg_dump, restored into an empty database: the same rows, and a server that goes on with them."""

import subprocess
import uuid

import httpx
import psycopg
import pytest
from sqlalchemy import text

from api.settings import read_settings
from router.registry import verify_history
from telemetry import migrate
from telemetry.api_keys import create_key
from telemetry.database import create_engine
from telemetry.postgres_binaries import find_binaries
from telemetry.tables import metadata
from tests.api.conftest import running

SECRET = "a secret of the test, the same on every server"


@pytest.fixture
def empty_url(server):
    name = f"restored_{uuid.uuid4().hex}"
    with psycopg.connect(server.url.replace("/trimtab?", "/postgres?"), autocommit=True) as admin:
        admin.execute(f'create database "{name}"')
        yield server.url.replace("/trimtab?", f"/{name}?")
        admin.execute(f'drop database "{name}" with (force)')


def tool(name, *arguments):
    done = subprocess.run([find_binaries(None) / name, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def rows(url):
    engine = create_engine(url)
    with engine.connect() as conn:
        dumped = {
            t.name: conn.execute(text(f"select t::text from {t.name} t")).scalars() for t in metadata.sorted_tables
        }
        found = {name: sorted(rows) for name, rows in dumped.items()}
    engine.dispose()
    return found


def test_what_is_dumped_and_restored_is_all_there_and_a_server_goes_on_with_it(
    module_url, empty_url, tmp_path, fleet_file, home
):
    engine = create_engine(module_url)
    with engine.begin() as conn:
        _, key = create_key(conn, name="gateway", scopes=("decide", "feedback", "ingest", "read"), created_by="t")
    engine.dispose()
    settings = read_settings(home=home, fleet=fleet_file, secret=SECRET)
    headers = {"Authorization": f"Bearer {key}"}
    vote = {"value": "up", "submitter": "ann"}
    with running(settings, module_url) as address, httpx.Client(base_url=address, headers=headers, timeout=20) as http:
        decided = http.post("/v1/route", json={"query": "where is my parcel"}).json()
        assert http.post("/v1/feedback", json={**vote, "inference_id": decided["inference_id"]}).is_success
    tool("pg_dump", "--format=custom", f"--dbname={module_url}", f"--file={tmp_path / 'dump'}")
    tool("pg_restore", "--exit-on-error", f"--dbname={empty_url}", str(tmp_path / "dump"))
    before, after = rows(module_url), rows(empty_url)
    assert after == before
    assert all(before[name] for name in ("inference", "feedback", "router_artifact", "router_activation", "api_key"))
    other_home = read_settings(home=tmp_path / "another machine", fleet=fleet_file, secret=SECRET)
    with running(other_home, empty_url) as address, httpx.Client(base_url=address, headers=headers, timeout=20) as http:
        again = http.post("/v1/route", json={"query": "where is my parcel"}).json()
        assert again["fingerprint"] == decided["fingerprint"]
        assert http.post("/v1/feedback", json={**vote, "inference_id": again["inference_id"]}).is_success
        shown = http.get(f"/v1/inferences/{decided['inference_id']}").json()
        assert shown["payload"]["query"] == "where is my parcel"
    engine = create_engine(empty_url)
    with engine.connect() as conn:
        assert conn.execute(text("select count(distinct submitter) from feedback")).scalar_one() == 1
        assert verify_history(conn) is None
    engine.dispose()


def test_a_dump_of_the_oldest_schema_is_restored_and_brought_up_to_date(empty_url, server, tmp_path):
    old = empty_url.replace("/restored_", "/old_restored_")
    with psycopg.connect(server.url.replace("/trimtab?", "/postgres?"), autocommit=True) as admin:
        admin.execute(f'create database "{old.split("/")[-1].split("?")[0]}"')
        try:
            migrate.upgrade(old, "0001")
            with psycopg.connect(old) as conn:
                conn.execute("insert into inference (inference_id, sources) values (gen_random_uuid(), array['route'])")
            tool("pg_dump", "--format=custom", f"--dbname={old}", f"--file={tmp_path / 'dump'}")
        finally:
            admin.execute(f'drop database "{old.split("/")[-1].split("?")[0]}" with (force)')
    tool("pg_restore", "--exit-on-error", f"--dbname={empty_url}", str(tmp_path / "dump"))
    migrate.upgrade(empty_url)
    assert len(rows(empty_url)["inference"]) == 1
