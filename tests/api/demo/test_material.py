"""What the demo asks of a labelled file: tests stay unseen, every route gets its examples, a seed decides."""

import json

import pytest
import yaml

from api.demo.material import SEEDS_A_ROUTE, labelled_material

ROUTES = ("bank", "travel", "garden")


def row(text, split, route, **more):
    return {"text": text, "split": split, "domain": route, **more}


ROWS = [
    *(row(f"train {i} of {r}", "train", r) for r in ROUTES for i in range(30)),
    *(row(f"test {i} of {r}", "test", r) for r in ROUTES for i in range(12)),
    *(row(f"aside {i}", "train", "none", oos=True) for i in range(5)),
    *(row(f"far {i}", "test", None, oos=True) for i in range(6)),
]


@pytest.fixture
def material(tmp_path):
    """Makes material of rows."""

    def make(rows=ROWS, *, seed=0):
        path = tmp_path / "data.jsonl"
        path.write_text("".join(json.dumps(one) + "\n" for one in rows))
        return labelled_material(path, label="domain", seed=seed)

    return make


def examples(made):
    return {route["name"]: route.get("utterances", []) for route in yaml.safe_load(made.fleet)["routes"]}


def parts(questions):
    """The texts of all parts of these questions."""
    return {question.text[start:end] for question in questions for start, end, _ in question.parts}


def test_no_test_question_and_no_part_of_one_stands_in_traffic_or_examples(material):
    made = material()
    told = {text for texts in examples(made).values() for text in texts} | parts(made.traffic)
    assert parts(made.tests) & told == set()
    assert parts(made.tests) <= {one["text"] for one in ROWS if one["split"] == "test"}


def test_a_test_question_that_stands_in_train_too_is_never_a_test(material):
    leaks = [
        row("test 0 of bank", "test", "bank", seen_in_train=True),
        row("train 1 of bank", "test", "bank"),
        row("Train  2 of BANK", "test", "bank"),
        row("aside 3", "test", "none", oos=True),
    ]
    kept = [one for one in ROWS if one["text"] != "test 0 of bank"]
    tests = parts(material([*kept, *leaks]).tests)
    assert tests & {one["text"] for one in leaks} == set()
    assert tests == {one["text"] for one in kept if one["split"] == "test"}


def test_every_route_gets_ten_examples_and_the_rest_of_its_questions_is_traffic(material):
    made = material()
    found = examples(made)
    assert {name: len(texts) for name, texts in found.items()} == dict.fromkeys(ROUTES, SEEDS_A_ROUTE) | {"general": 0}
    for route in ROUTES:
        sent = {q.text for q in made.traffic if q.routes == (route,)}
        assert sent | set(found[route]) == {f"train {i} of {route}" for i in range(30)}
        assert not sent & set(found[route])


def test_what_nobody_should_answer_belongs_to_the_fallback_whose_name_no_route_has(material):
    made = material([{**one, "domain": "general"} if one["domain"] == "bank" else one for one in ROWS])
    assert made.fallback == "general_"
    assert {q.text for q in made.traffic if q.routes == (made.fallback,)} == {f"aside {i}" for i in range(5)}
    assert {q.text for q in made.tests if q.routes == (made.fallback,)} == {f"far {i}" for i in range(6)}


def test_questions_that_span_routes_have_exact_parts_of_two_routes(material):
    spanning = [q for q in material().traffic if len(q.parts) > 1]
    assert len(spanning) >= 100
    for question in spanning:
        assert len(set(question.routes)) == 2
        assert "general" not in question.routes
        for start, end, route in question.parts:
            assert question.text[start:end].endswith(f"of {route}")


def test_a_seed_decides_and_the_order_of_the_rows_in_train_does_not(material):
    train = [one for one in ROWS if one["split"] == "train" and "oos" not in one]
    others = [one for one in ROWS if one not in train]
    assert material(seed=3) == material(seed=3) == material([*reversed(train), *others], seed=3)
    assert examples(material(seed=3)) != examples(material(seed=4))


def test_rows_that_cannot_be_asked_are_left_out(material):
    odd = [
        row("", "train", "bank"),
        row("half \ud800", "train", "bank"),
        row("zero \0", "train", "bank"),
        row("x" * 3000, "train", "bank"),
        row(5, "train", "bank"),
        row("asks nothing", "train", "bank", request=False),
        row("no label", "train", None),
        row("odd label", "train", "\ud800"),
        ["not an object"],
    ]
    assert material([*odd, *ROWS]) == material()
