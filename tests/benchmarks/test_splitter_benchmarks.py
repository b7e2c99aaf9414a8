"""The splitter's benchmarks on a little of what they are made for: every figure is there, and means what it says."""

import gzip
import json

import numpy as np
import pytest

from benchmarks import splitter, splitter_nights
from benchmarks.splitter import Contender, measure
from benchmarks.splitter_baselines import by_rules, by_sentences, never
from benchmarks.splitter_data import held_out_connectors, pools, read_queries, rejoined
from learner.concatenate import concatenations
from router.encoder import Encoding

ONE, OTHER = "where is my parcel", "how do i pay my bill"


def written(path, rows):
    path.write_bytes(gzip.compress("\n".join(json.dumps(row) for row in rows).encode()))
    return path


def joined(connector):
    text, start = f"{ONE}{connector}{OTHER}", len(ONE + connector)
    spans = [(0, len(ONE), "track", "delivery"), (start, len(text), "pay", "billing")]
    segments = [{"start": a, "end": b, "intent": intent, "domain": domain} for a, b, intent, domain in spans]
    return {"text": text, "split": "test", "segments": segments, "connectors": [connector]}


class Blind:
    """An encoder that sees nothing: what is measured does not look at encodings."""

    def encode(self, texts):
        return [Encoding(embedding=np.ones(1, np.float32)) for _ in texts]


def test_figures_count_boundaries_exact_queries_and_needless_splits(tmp_path):
    rows = [joined(" and "), joined("; "), {"text": "bread and how to bake it", "intent": "bake", "split": "test"}]
    queries = read_queries(written(tmp_path / "rows.jsonl.gz", rows), split="test")
    found = measure(Contender("regex", lambda query, _: by_rules(query), Blind()), queries)
    assert (found["boundary_precision"], found["boundary_recall"]) == (2 / 3, 1.0)
    assert (found["exact"], found["over_split"], found["calls_per_query"]) == (2 / 3, 1.0, 2.0)
    whole = measure(Contender("no_split", lambda query, _: never(query), Blind()), queries)
    assert (whole["boundary_f1"], whole["exact"], whole["over_split"]) == (0.0, 1 / 3, 0.0)


def test_segments_are_joined_anew_with_exact_offsets(tmp_path):
    queries = read_queries(written(tmp_path / "rows.jsonl.gz", [joined(" and ")] * 20), split="test")
    bare = rejoined(queries, connectors=None, seed=0)
    assert {query.text for query in bare} == {f"{ONE} {OTHER}"}
    strange = rejoined(queries, connectors=held_out_connectors(), seed=0)
    assert len({query.text for query in strange}) > 10
    assert all(query.parts == [ONE, OTHER] for query in (*bare, *strange))


def test_what_unseen_connectors_are_made_of_is_in_no_training_query(tmp_path):
    queries = read_queries(written(tmp_path / "rows.jsonl.gz", [joined(" and ")]), split="test")
    made = concatenations(pools(queries), count=2000, seed=0, without=splitter.HELD_OUT)
    seen = {connector for connector in held_out_connectors() for one in made if f" {connector} " in one.text}
    assert seen == set()


def test_sentences_end_where_the_library_says(tmp_path):
    assert by_sentences()("Where is it? I paid.") == ((0, 11), (13, 20))


@pytest.mark.data
@pytest.mark.slow
def test_the_splitters_benchmark_runs_from_files_to_figures(shared_data, tmp_path, monkeypatch):
    mixed, single = (
        shared_data / name for name in ("mixclinc_constructed/mixclinc.jsonl.gz", "clinc150/clinc150.jsonl.gz")
    )
    options = ["--split", "val", "--limit", "60", "--concatenations", "60", "--adapt", "20", "--time-training", "30"]
    files = ["--train", str(mixed), "--test", str(mixed), "--test", str(single)]
    out = tmp_path / "figures.json"
    monkeypatch.setattr("sys.argv", ["splitter", *files, *options, "--home", str(tmp_path), "--json", str(out)])
    splitter.main()
    rows = {(row["name"], row["repeat"]): row["metrics"] for row in json.loads(out.read_text())["rows"]}
    assert rows["trimtab", "mixclinc"]["boundary_f1"] > 0.5
    assert rows["no_split", "mixclinc"]["boundary_f1"] == 0
    assert {"routes_exact", "unneeded_splits", "missed_splits"} <= set(rows["trimtab", "mixclinc, no connector"])
    assert ("trimtab_adapted", "mixclinc, unseen connectors") not in rows
    assert 0 <= rows["trimtab", "clinc150"]["over_split"] < 0.5
    assert rows["trimtab", "training on 30 concatenations"]["train_seconds"] > 0


@pytest.mark.data
@pytest.mark.slow
def test_the_nights_benchmark_tells_how_each_night_splits(shared_data, tmp_path, monkeypatch):
    few = ["--nights", "1", "--per-night", "40", "--tested", "30", "--repeats", "1", "--seeds-per-route", "5"]
    options = ["--split", "val", *few]
    out = tmp_path / "figures.json"
    data = ["--data", str(shared_data / "clinc150/clinc150.jsonl.gz"), "--label", "domain"]
    monkeypatch.setattr("sys.argv", ["splitter_nights", *data, *options, "--home", str(tmp_path), "--json", str(out)])
    splitter_nights.main()
    found = {row["name"]: row["metrics"] for row in json.loads(out.read_text())["rows"]}
    kinds = ("unheard", "known", "bare", "single")
    assert set(found) == {f"{kind}, night {night}" for kind in kinds for night in (0, 1)}
    assert all(0 <= metrics["exact"] <= 1 for metrics in found.values())
    assert found["known, night 1"]["night_seconds"] > 0
    before, after = (found[f"bare, night {night}"] for night in (0, 1))
    assert after["step"] == pytest.approx(after["routes_exact"] - before["routes_exact"])
    assert after["worse"] in (0, 1)


@pytest.mark.parametrize(("lost", "gained", "worse"), [(9, 0, 1), (3, 0, 0), (40, 36, 0), (60, 30, 1), (0, 50, 0)])
def test_a_night_is_worse_where_more_became_wrong_than_chance_explains(lost, gained, worse):
    before = np.arange(200) < 100
    now = before.copy()
    now[:lost], now[100 : 100 + gained] = False, True
    found = splitter_nights.compared({"routes": before}, {"routes": now})
    assert found == {"step": pytest.approx((gained - lost) / 200), "worse": worse}
