"""Every command: its help, its JSON, what it shows, and one clear sentence for wrong input."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from uuid import UUID, uuid4

import numpy as np
import pytest
import typer
from sqlalchemy import text

from api import server_process
from api.cli import main as command_line
from api.settings import read_settings
from router.registry import history, load, publish
from telemetry.database import create_engine
from telemetry.ids import keyed_hash, new_id
from telemetry.inferences import store_inferences
from telemetry.records import Inference, Payload

NAMES = ["serve", "migrate", "route", "inference", "learn", "failures", "runs", "versions", "show", "diff"]
NAMES += [
    "activate",
    "rollback",
    "history",
    "demo",
    "fleet check",
    "keys create",
    "keys list",
    "keys revoke",
    "feedback-token",
    "prune",
    "erase",
    "active",
    "pin",
    "unpin",
    "notifications",
    "reembed",
]
NAMES += [f"rollout {name}" for name in ("status", "shadow", "canary", "promote")]
NAMES += [f"golden {name}" for name in ("add", "promote", "list", "remove", "import", "export", "check")]


@pytest.fixture
def run(monkeypatch, capsys, module_url, home, fleet_file):
    """Run a command in this process, on this worker's database: exit code, standard output, standard error."""
    for name in [name for name in os.environ if name.startswith("TRIMTAB_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("TRIMTAB_DATABASE_URL", module_url)
    monkeypatch.setenv("TRIMTAB_HOME", str(home))
    monkeypatch.setenv("TRIMTAB_FLEET", str(fleet_file))

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["trimtab", *arguments])
        capsys.readouterr()
        try:
            command_line.main()
            code = 0
        except SystemExit as end:
            code = end.code
        out, err = capsys.readouterr()
        return (code, out, err) if isinstance(code, int) else (1, out, f"{err}{code}\n")

    return run


@pytest.fixture
def read(run):
    """The JSON that a command prints; nothing else may be on standard output."""

    def read(*arguments):
        code, out, err = run(*arguments, "--json")
        assert code in (0, 3, 4), err
        return json.loads(out)

    return read


@pytest.fixture
def second(module_url):
    """The number of a version whose first centroid was moved to another place."""
    engine = create_engine(module_url)
    with engine.begin() as conn:
        first = load(conn, 1)
        vectors = first.centroids.vectors.copy()
        vectors[0] += 0.1 * np.roll(vectors[0], 1)  # by some six degrees
        vectors[0] /= np.linalg.norm(vectors[0])
        moved = replace(first, centroids=replace(first.centroids, vectors=vectors), number=0, fingerprint="")
        number = publish(conn, moved, actor="a test", reason="a centroid moved", parent=1).number
    engine.dispose()
    return number


def switches(url):
    engine = create_engine(url)
    with engine.connect() as conn:
        found = history(conn, limit=None)
    engine.dispose()
    return [(a.version, a.kind, a.actor, a.reason) for a in found]


@pytest.mark.parametrize("name", NAMES)
def test_every_command_has_help_with_an_example(run, name):
    code, out, _ = run(*name.split(), "--help")
    assert code == 0
    assert "Example: " in out
    assert f"trimtab {name}" in out.partition("Example: ")[2]


def test_no_command_is_missing_from_these_tests():
    group = typer.main.get_command(command_line.app)
    assert {name for name, one in group.commands.items() if not one.hidden} == {n.split()[0] for n in NAMES}


LEARNING = ["torch", "pandas", "sklearn", "transformers", "sentence_transformers", "matplotlib", "learner"]
HEAVY = ["numpy", "sqlalchemy", "pydantic", "fastapi", "faiss", "onnxruntime", "rich.table", *LEARNING]


@pytest.mark.parametrize(("module", "unwanted"), [("api.cli.main", HEAVY), ("api.server_process", LEARNING)])
def test_help_imports_nothing_heavy_and_serving_nothing_that_only_learning_needs(module, unwanted):
    code = f"import sys, {module}; print([m for m in {unwanted} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_route_shows_the_decision_and_why_and_logs_nothing(run, read):
    code, out, _ = run("route", "why was I charged twice")
    assert code == 0
    assert out.startswith("Goes to billing")
    shown = read("route", "why was I charged twice")
    assert (shown["route"], shown["segments"][0]["route"], "inference_id" in shown) == ("billing", "billing", False)
    assert read("route", "why was I charged twice", "--version", "1")["router_version"] == 1


def test_versions_are_listed_shown_compared_activated_and_rolled_back(run, read, second, module_url):
    assert [v["number"] for v in read("versions")][:2] == [second, 1]
    shown = read("show", str(second))
    assert (shown["parent"], shown["difference"]["before"]) == (1, 1)
    assert max(m["degrees"] for m in shown["difference"]["movements"]) > 0.5
    assert read("diff", "1", str(second))["movements"] == shown["difference"]["movements"]
    assert shown["difference"]["changed_queries"]["total"] == 0
    code, out, _ = run("diff", "1", str(second))
    assert (code, f"Centroids, version 1 → {second}" in out) == (0, True)

    assert read("rollback", "--reason", "went wrong", "--actor", "ann")["version"] == 1
    assert read("activate", str(second), "--reason", "it was right")["version"] == second
    assert run("rollback", "--to", "1", "--reason", "no, it was not")[0] == 0
    newest = switches(module_url)[:3]
    assert [n[0] for n in newest] == [1, second, 1]
    assert newest[2] == (1, "rollback", "ann", "went wrong")
    assert "@" in newest[0][2]

    kept = read("history", "--verify")
    assert kept["broken_at"] is None
    assert [a["version"] for a in kept["activations"]][:3] == [1, second, 1]
    assert "The chain of hashes is whole." in run("history", "--verify")[1]


def test_a_decision_can_be_followed_to_its_vote_and_the_failure_mined_from_it(run, read, client):
    decided = client.post("/v1/route", json={"query": "where is my parcel", "session_id": "s-1"}).json()
    key, response = decided["inference_id"], f"r-{uuid4()}"
    outcome = {"inference_id": key, "response_id": response, "output_tokens": 12, "finish_reason": "stop"}
    assert client.post("/v1/inferences", json=outcome).is_success
    vote = {"inference_id": key, "value": "down", "correction": "account", "submitter": "bob"}
    assert client.post("/v1/feedback", json=vote).is_success

    night = read("learn", "--force")
    assert night["verdict"] in ("published", "held")
    assert read("runs")[0]["run_id"] == night["run_id"]
    assert {f["inference_id"] for f in read("failures", "--kind", "correction")} == {key}
    assert run("failures", "--run", night["run_id"])[0] == 0

    shown = read("inference", key)
    assert (shown["route"], shown["output_tokens"]) == (decided["route"], 12)
    assert [f["correction"] for f in shown["feedback"]] == ["account"]
    assert "correction" in {f["kind"] for f in shown["failures"]}
    code, out, _ = run("inference", response)  # by another of its ids
    assert code == 0
    assert ["where is my parcel" in out, "failure   correction → account" in out] == [True, True]
    read("learn", "--force")
    _, out, _ = run("inference", key)  # one line for a failure, however many nights have seen it
    assert (out.count("failure   correction"), ", and 1 before" in out) == (1, True)


def test_a_night_without_anything_new_ends_with_code_4(run, read):
    read("learn", "--force")
    code, out, err = run("learn")
    assert code == 4, err
    assert "Nothing came in since the last night." in out


def test_a_night_whose_report_cannot_be_written_ends_as_it_ended(run, read, tmp_path):
    (tmp_path / "night-centroids.png").mkdir()  # the page's folder is there, so nothing is wrong before the night
    night = run("learn", "--force", "--report", str(tmp_path / "night.md"))
    newest = read("runs")[0]
    assert (newest["status"], night[0]) == ("finished", {"published": 0, "held": 3}[newest["verdict"]])
    assert "Report:" not in night[1]
    assert night[2].startswith("trimtab: the night is done, but its report could not be written: ")
    assert night[2].count("\n") == 1
    assert read("learn", "--force", "--report", str(tmp_path / "night.md"))["run_id"] == read("runs")[0]["run_id"]


def test_a_fleet_is_checked_and_its_first_mistake_told_with_line_and_key(run, read, tmp_path, fleet_file):
    assert read("fleet", "check", str(fleet_file))["routes"] == ["billing", "delivery", "account", "general"]
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text(fleet_file.read_text().replace("model: delivery-slm", "modle: delivery-slm"))
    code, _, err = run("fleet", "check", str(wrong))
    assert (code, err.count("\n")) == (1, 1)
    assert err.startswith(f"trimtab: {wrong}, line 12: 'modle': ")


WRONG = [
    (2, ["nonsense"], "No such command"),
    (2, ["route"], "Missing argument"),
    (2, ["route", "  "], "the question is empty"),
    (1, ["route", "hello", "--version", "999"], "no router version of that number"),
    (2, ["serve", "--port", "99999"], "less than or equal to 65535"),
    (2, ["serve", "--host", "192.0.2.1"], "only loopback is served"),
    (2, ["serve", "--learn-at", "25:00"], "must look like 03:00"),
    (2, ["serve", "--workers", "0"], "greater than or equal to 1"),
    (1, ["serve", "--fleet", "nowhere.yaml"], "nowhere.yaml"),
    (1, ["fleet", "check", "nowhere.yaml"], "nowhere.yaml"),
    (1, ["fleet", "check", "/"], "/: it is a folder"),
    (2, ["learn", "--report", "/"], "is a directory"),
    (1, ["learn", "--report", "/dev/null/x/report.md"], "/dev/null"),
    (2, ["versions", "--limit", "0"], "greater than or equal to 1"),
    (2, ["show", "one"], "valid integer"),
    (1, ["show", "999"], "no router version of that number"),
    (1, ["show", "99999999999999999999"], "no router version of that number"),
    (1, ["diff", "1", "999"], "no router version of that number"),
    (1, ["activate", "999", "--reason", "why not"], "no router version of that number"),
    (2, ["activate", "1"], "Missing option '--reason'"),
    (2, ["activate", "1", "--reason", " "], "the reason is empty"),
    (1, ["activate", "1", "--reason", "late", "--if-seq", "987654"], "Another activation came first"),
    (2, ["rollback"], "Missing option '--reason'"),
    (1, ["rollback", "--to", "999", "--reason", "x"], "no router version of that number"),
    (1, ["inference", "no-such-id"], "There is no inference 'no-such-id'"),
    (1, ["inference", "01936f5e-7a3c-7d2e-8f10-3b8f0c9d1e2f"], "There is no inference"),
    (2, ["failures", "--kind", "grumbling"], "it is one of thumbs_down"),
    (2, ["failures", "--run", "7"], "it is not the id of a night"),
    (2, ["demo", "--data", "nowhere.jsonl"], "nowhere.jsonl"),
]


@pytest.mark.parametrize(("code", "arguments", "sentence"), WRONG, ids=[" ".join(w[1]) for w in WRONG])
def test_wrong_input_is_told_in_one_sentence_and_changes_nothing(run, module_url, code, arguments, sentence):
    before = switches(module_url)
    got, out, err = run(*arguments)
    assert (got, out) == (code, "")
    assert sentence in err
    assert "Traceback" not in err
    assert sum(bool(line) and not line.startswith(("Usage:", "Try ")) for line in err.splitlines()) == 1
    assert switches(module_url) == before


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("TRIMTAB_DATABASE_URL", "postgresql://me@127.0.0.1:1/none", "The database cannot be reached; start it, or"),
        ("TRIMTAB_DATABASE_URL", "mysql://me@here/db", "must look like postgresql://"),
        ("TRIMTAB_PORT", "many", "TRIMTAB_PORT cannot be used"),
        ("TRIMTAB_STORE_TEXT", "some", "TRIMTAB_STORE_TEXT cannot be used"),
    ],
)
def test_a_wrong_setting_or_a_missing_database_is_told_in_one_line(run, monkeypatch, name, value, sentence):
    monkeypatch.setenv(name, value)
    code, out, err = run("versions")
    assert (code in (1, 2), out, err.count("\n")) == (True, "", 1)
    assert sentence in err


def test_a_database_without_tables_is_told_how_to_get_them_and_migrate_makes_them(run, read, monkeypatch, empty_url):
    monkeypatch.setenv("TRIMTAB_DATABASE_URL", empty_url)
    code, _, err = run("versions")
    assert (code, err) == (1, "trimtab: The database has not this version's tables; run trimtab migrate.\n")
    assert read("migrate") == read("migrate")
    assert read("versions") == []
    told = {name: run(name)[1] for name in ("versions", "history", "runs", "failures")}
    assert ["trimtab " in sentence and sentence.count("\n") == 1 for sentence in told.values()] == [True] * 4, told
    code, _, err = run("rollback", "--reason", "too early")
    assert (code, err.count("\n")) == (1, 1)


def test_keys_are_made_listed_and_revoked_and_shown_only_once(run, read):
    made = read("keys", "create", "shop", "--scope", "decide", "--scope", "read", "--expires", "90d", "--rate", "5")
    assert made["key"].startswith(f"tt_{made['key_id']}_")
    assert (made["scopes"], made["limits"], made["usable"]) == (["decide", "read"], {"rate": 5.0}, True)
    assert made["expires_at"] > made["created_at"]
    listed = read("keys", "list")
    assert [key["name"] for key in listed] == ["shop"]
    for output in (json.dumps(listed), run("keys", "list")[1]):
        assert made["key"].split("_", 2)[2] not in output
        assert "shop" in output
    code, out, err = run("keys", "create", "shop", "--scope", "read")
    assert (code, out) == (2, "")
    assert "There is a key of this name" in err
    assert read("keys", "revoke", "shop")["usable"] is False
    assert "revoked" in run("keys", "list")[1]
    code, key, note = run("keys", "create", "shop", "--scope", "read")
    assert (code, key.count("\n"), key[:3], "not shown again" in note) == (0, 1, "tt_", True)


def test_a_feedback_token_is_made_for_a_logged_inference_alone(run, read, module_url):
    logged = str(uuid4())
    engine = create_engine(module_url)
    with engine.begin() as conn:
        store_inferences(conn, [Inference(inference_id=UUID(logged), payload_sha256=b"x")])
    engine.dispose()
    token = read("feedback-token", logged)["feedback_token"]
    assert token.startswith("ft_")
    assert run("feedback-token", logged)[1].strip()[:3] == "ft_"
    code, out, err = run("feedback-token", str(uuid4()))
    assert (code, out, "there is no inference" in err) == (1, "", True)


def test_what_would_go_is_told_and_goes_only_when_asked(run, read, module_url, home):
    engine = create_engine(module_url)
    person = keyed_hash("ann", key=read_settings(home=home).hash_key())
    with engine.begin() as conn:
        items = [Inference(inference_id=new_id(), payload=Payload(query="x"), end_user=person) for _ in range(3)]
        store_inferences(conn, items)
        aged = "update inference set received_at = now() - interval '40 days' where end_user = :p"
        conn.execute(text(aged), {"p": person})
    assert read("prune", "--older-than", "90d", "--text-older-than", "30d", "--dry-run")["texts"] == 3
    assert read("prune", "--older-than", "90d", "--text-older-than", "30d") == {"texts": 3}
    assert run("prune", "--text-older-than", "720h")[1] == "Gone: nothing.\n"
    assert read("erase", "--user", "ann", "--dry-run") == {"inferences": 3}
    assert read("erase", "--user", "ann")["inferences"] == 3
    with engine.connect() as conn:
        assert conn.execute(text("select count(*) from inference where end_user = :p"), {"p": person}).scalar_one() == 0
    engine.dispose()
    for wrong in (["prune"], ["prune", "--older-than", "90"], ["prune", "--older-than", "0d"], ["erase"]):
        assert run(*wrong)[0] == 2


def test_a_person_is_not_looked_for_with_a_key_that_was_just_made(run, monkeypatch, tmp_path):
    monkeypatch.setenv("TRIMTAB_HOME", str(tmp_path))
    code, out, err = run("erase", "--user", "ann")
    assert (code, out, "TRIMTAB_SECRET" in err) == (1, "", True)


@pytest.mark.parametrize(
    "arguments",
    [
        ("golden", "add", "gr\udcfc\udcdfe", "--route", "billing"),
        ("rollback", "--reason", "caf\udce9"),
        ("inference", "\udcff"),
        ("erase", "--user", "jos\udce9"),
    ],
)
def test_an_argument_that_is_not_utf8_is_told_in_one_line(run, arguments):
    code, out, err = run(*arguments)
    place = next(i for i, argument in enumerate(arguments, start=1) if not argument.isascii())
    assert (code, out, err) == (2, "", f"trimtab: argument {place} is not UTF-8; give it as UTF-8 text.\n")


def test_a_file_of_golden_queries_that_is_not_utf8_is_told_in_one_line(run, tmp_path):
    file = tmp_path / "golden.jsonl"
    file.write_bytes(b'{"query": "gr\xfc\xdfe", "routes": ["billing"]}')
    code, out, err = run("golden", "import", str(file))
    assert (code, out, err) == (1, "", f"trimtab: {file}, line 1: It is not UTF-8; save the file as UTF-8.\n")


def test_an_inference_is_found_by_an_id_of_the_client_that_looks_like_one_of_ours(run, module_url):
    theirs = uuid4()
    engine = create_engine(module_url)
    with engine.begin() as conn:
        item = Inference(inference_id=new_id(), client_request_id=str(theirs), payload=Payload(query="by your id"))
        store_inferences(conn, [item])
    engine.dispose()
    for name in (str(theirs), str(item.inference_id)):
        code, out, err = run("inference", name)
        assert (code, "by your id" in out) == (0, True), err


def test_a_report_that_cannot_be_written_is_told_before_the_night(run, read):
    nights = len(read("runs"))
    for report, place in (("/proc/night.md", "/proc"), ("/dev/null/night.md", "/dev/null")):
        code, out, err = run("learn", "--force", "--report", report)
        assert (code, out, err.count("\n"), place in err) == (1, "", 1, True), err
    assert len(read("runs")) == nights


def test_a_version_that_serves_is_not_tried(run):
    code, _, err = run("rollout", "canary", "1", "--reason", "x")
    assert (code, "serves already" in err) == (1, True)


@pytest.mark.parametrize("host", ["no-such-host.invalid", "192.0.2.1"])
def test_an_address_that_is_none_of_this_machine_is_told_as_that(run, host, monkeypatch):
    settings = read_settings(host=host)
    with pytest.raises(SystemExit) as end, server_process._listen(settings):
        pass
    assert str(end.value) == (f"trimtab: {host} cannot be listened on: it is no address of this machine; see --host.")


def test_a_setting_of_the_night_that_is_out_of_range_is_told_when_the_server_starts(run, monkeypatch):
    monkeypatch.setenv("TRIMTAB_LEARNER__MOST_CHURN", "7")
    code, out, err = run("serve")
    assert (code, out) == (2, "")
    assert err == "trimtab: TRIMTAB_LEARNER__MOST_CHURN must be between 0 and 1.\n"
