import json

import numpy as np
import pytest

from benchmarks.feedback_scores import Course, full_information
from benchmarks.feedback_world import UnusableData, draw_examples, draw_stream, drifted, read_world
from benchmarks.semantic_router_peer import SemanticRouterMissing, semantic_router


class Letters:
    """An encoder of texts by the letters in them."""

    fingerprint = "letters"

    def embed(self, texts):
        X = np.array([[1.0 + text.count(letter) for letter in "abcdefgh"] for text in texts], np.float32)
        return X / np.linalg.norm(X, axis=1, keepdims=True)


def world(tmp_path, rows, *, label="where", split="test"):
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in rows) + "\n")
    return read_world(path, label=label, split=split, encoder=Letters())


def plain(**more):
    return [{"text": letter * n, "where": letter, **more} for letter in "abc" for n in range(1, 21)]


def test_a_file_without_splits_intents_or_strangers_is_scored_on_a_part_of_its_own(tmp_path, capsys):
    found = world(tmp_path, plain())
    assert found.routes == ("a", "b", "c")
    assert "every fifth question" in capsys.readouterr().out
    assert (len(found.score), len(found.alien)) == (12, 0)
    assert not set(found.score) & set(found.stream)


def test_what_is_unlabelled_is_left_out_but_strangers_count(tmp_path):
    rows = [*plain(split="train"), *plain(split="test"), {"text": "h", "where": None, "split": "test"}]
    found = world(tmp_path, [*rows, {"text": "hh", "oos": True, "split": "test"}])
    assert len(found.texts) == 121
    assert (len(found.stream), len(found.score), len(found.alien)) == (60, 60, 1)


def test_one_route_is_no_choice(tmp_path):
    with pytest.raises(UnusableData, match="two values"):
        world(tmp_path, [row for row in plain() if row["where"] == "a"])


def test_examples_are_never_asked_and_a_short_file_is_asked_again(tmp_path):
    found, rng = world(tmp_path, plain(split="train") + plain(split="test")), np.random.default_rng(0)
    examples = np.concatenate(list(draw_examples(found, count=5, rng=rng).values()))
    for zipf in (0.0, 1.1):
        stream = draw_stream(found, nights=3, per_night=40, zipf=zipf, without=examples, rng=rng)
        assert stream.shape == (3, 40)
        assert not np.isin(stream, examples).any()


def test_drift_moves_questions_to_other_routes(tmp_path):
    found = world(tmp_path, plain(split="train") + plain(split="test"))
    assert (drifted(found, intents=2, rng=np.random.default_rng(0)).label != found.label).mean() == pytest.approx(2 / 3)


def test_with_every_label_known_what_is_easy_is_right(tmp_path):
    found = world(tmp_path, plain(split="train") + plain(split="test"))
    assert full_information(found, found.stream) == 1.0


def test_a_route_that_nobody_asks_for_has_no_recall():
    course = Course()
    course.add(np.array([0, 1, 1]), np.array([0, 0, 1]), routes=3)
    assert course.accuracy == [pytest.approx(2 / 3)]
    np.testing.assert_array_equal(course.recall[0], [0.5, 1.0, np.nan])


def test_a_python_without_semantic_router_is_said_to_be_without():
    with pytest.raises(SemanticRouterMissing, match="cannot be started"), semantic_router("/nowhere/python"):
        pass
