"""The replay of logged outcomes: what is read, and how a point stands to a curve."""

import json

import numpy as np
import pandas as pd
import pytest

from benchmarks.outcomes import over_curve, upper_curve
from benchmarks.outcomes_data import read_outcomes
from benchmarks.report import Row

MODELS = {"small": {"input_price": 0.1, "output_price": 0.2}, "large": {"input_price": 1.0, "output_price": 2.0}}


class Lengths:
    """An encoder whose embedding is the length of the text."""

    fingerprint = "lengths"

    def embed(self, texts):
        return np.array([[len(text), 1.0] for text in texts], np.float32)


@pytest.fixture
def folder(tmp_path):
    queries = pd.DataFrame(
        {
            "query_id": list("abcd"),
            "text": ["one", "two words", "three", "only small answered"],
            "split": ["train", "train", "test", "train"],
        }
    )
    rows = [(q, model, score) for q in "abc" for model, score in (("small", 0.2), ("large", 0.9))]
    outcomes = pd.DataFrame([*rows, ("d", "small", 1.0)], columns=["query_id", "model", "score"])
    queries.to_parquet(tmp_path / "queries.parquet")
    outcomes.to_parquet(tmp_path / "outcomes.parquet")
    (tmp_path / "models.json").write_text(json.dumps(MODELS))
    return tmp_path


def test_questions_that_a_model_did_not_answer_are_left_out_and_costs_follow_from_token_prices(folder):
    data = read_outcomes(folder, without=(), score="test", encoder=Lengths())
    assert data.texts == ("one", "two words", "three")
    assert data.models == ("large", "small")
    assert (data.stream.tolist(), data.score.tolist()) == ([0, 1], [2])
    assert data.cost[0] == pytest.approx([(3 / 4 * 1 + 150 * 2) / 1e6, (3 / 4 * 0.1 + 150 * 0.2) / 1e6])


def test_a_model_that_is_left_out_leaves_its_questions_in(folder):
    data = read_outcomes(folder, without=["large"], score="test", encoder=Lengths())
    assert data.models == ("small",)
    assert len(data.texts) == 4


def test_tuning_never_sees_the_test_split(folder):
    data = read_outcomes(folder, without=["large"], score="val", encoder=Lengths())
    assert "three" not in [data.texts[row] for row in (*data.stream, *data.score)]
    assert not set(data.stream) & set(data.score)


def test_the_curve_is_what_mixing_reaches_and_points_are_measured_against_it():
    curve = upper_curve([(1.0, 0.5), (2.0, 0.55), (3.0, 0.9), (4.0, 0.8)])
    assert curve.tolist() == [[1.0, 0.5], [3.0, 0.9]]

    def over(cost, reward):
        row = Row(name="a peer", repeat=0, metrics={"cost_per_1000": cost, "reward": reward})
        return over_curve(curve, row)

    assert over(2.0, 0.75) == pytest.approx(0.05)
    assert over(9.0, 0.85) == pytest.approx(-0.05)
    assert over(0.5, 0.6) == pytest.approx(0.1)
    assert over(0.5, 0.4) < 0
