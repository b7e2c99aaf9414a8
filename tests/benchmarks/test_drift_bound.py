"""What can be won back is all of it where users tell everything, and nothing where they tell nothing."""

import json

import pytest

from benchmarks import drift_bound

SMALL = ["--simulated", "3000", "--repeats", "1"]


def won_back(tmp_path, *arguments):
    drift_bound.main([*SMALL, "--json", str(tmp_path / "out.json"), *arguments])
    summary = json.loads((tmp_path / "out.json").read_text())["summary"]
    return {name: [metrics[f"won_back_{k}"]["mean"] for k in range(1, 6)] for name, metrics in summary.items()}


def test_who_knows_the_night_wins_more_each_night(tmp_path):
    found = won_back(tmp_path)
    assert all(after > before for before, after in zip(found["told"][1:], found["told"][2:], strict=False))
    assert found["told"][4] > found["untold"][4] > 0.2
    assert found["told"][4] < 0.6


def test_where_users_tell_everything_nearly_all_is_won_back(tmp_path):
    every = ["--rated", "1", "--flip", "0.001", "--bad-answer", "0.001", "--reask", "0.001,0.999"]
    assert won_back(tmp_path, *every)["told"][4] > 0.97


def test_where_users_tell_nothing_nothing_is_won_back(tmp_path):
    found = won_back(tmp_path, "--rated", "0", "--reask", "0.1,0.1")
    assert found["told"] == pytest.approx([0] * 5, abs=1e-9)
