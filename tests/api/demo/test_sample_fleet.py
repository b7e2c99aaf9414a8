import json
from collections import Counter
from pathlib import Path

import api.demo
from router.fleet import load_fleet

FOLDER = Path(api.demo.__path__[0])
FLEET = load_fleet(FOLDER / "sample_fleet.yaml")
ROWS = [json.loads(line) for line in (FOLDER / "sample_traffic.jsonl").read_text().splitlines()]
SINGLE = [row for row in ROWS if "route" in row]
MULTI = [row for row in ROWS if "segments" in row]
DEPARTMENTS = [route.name for route in FLEET.routes if route.name != FLEET.fallback]


def test_the_sample_fleet_has_eight_departments_with_ten_examples_each() -> None:
    assert len(DEPARTMENTS) >= 8
    assert {len(route.utterances) for route in FLEET.routes if route.name != FLEET.fallback} == {10}


def test_there_is_enough_traffic_for_every_department() -> None:
    count = Counter((row["route"], row["split"]) for row in SINGLE)
    for name in DEPARTMENTS:
        assert count[name, "traffic"] >= 60, name
        assert count[name, "test"] >= 20, name
    assert count[None, "traffic"] + count[None, "test"] >= 40
    assert len(MULTI) >= 100
    assert {row["route"] for row in SINGLE} <= {*DEPARTMENTS, None}


def test_no_question_stands_twice_and_no_test_question_is_ever_sent() -> None:
    texts = [row["text"].lower() for row in ROWS] + [u.lower() for route in FLEET.routes for u in route.utterances]
    assert [text for text, n in Counter(texts).items() if n > 1] == []


def test_segments_of_multiple_questions_carry_exact_offsets() -> None:
    for row in MULTI:
        assert 2 <= len(row["segments"]) <= 3
        for segment in row["segments"]:
            assert row["text"][segment["start"] : segment["end"]] == segment["text"]
            assert segment["route"] in DEPARTMENTS
        assert len({segment["route"] for segment in row["segments"]}) > 1
