from dataclasses import replace

import pytest

from learner.comparison import Difference
from learner.evaluation import Evaluation, GoldenComparison
from learner.gate import decide_gate
from learner.settings import LearnerSettings

SETTINGS = LearnerSettings()
GOOD = Difference(estimate=3.0, low=0.8, high=5.0, n=1000, disagreement=0.08, evidence=60.0)
BETTER = Evaluation(
    overall=GOOD,
    per_route={"billing": GOOD, "travel": GOOD},
    examples_right=1.0,
    examples_right_before=1.0,
    largest_share=0.4,
    largest_share_before=0.4,
    cost=1.0,
    cost_before=1.0,
    latency_ms=500.0,
    latency_ms_before=500.0,
    splitter_f1=0.9,
    splitter_f1_before=0.9,
)


def failed(evaluation):
    return [c.name for c in decide_gate(evaluation, SETTINGS).conditions if not c.passed]


def overall(**changes):
    return replace(BETTER, overall=replace(GOOD, **changes))


def test_in_a_fleet_of_models_price_is_part_of_the_difference_and_one_may_get_nearly_everything_if_proven():
    models = replace(BETTER, of_models=True, cost=9.0, largest_share=0.97)
    assert failed(models) == []
    unproven = replace(models, overall=replace(GOOD, low=-0.5))
    assert failed(unproven) == ["no_collapse"]
    assert failed(replace(models, of_models=False)) == ["no_collapse", "cost"]


def test_a_version_that_is_better_in_everything_is_published():
    gate = decide_gate(BETTER, SETTINGS)
    assert (gate.verdict, gate.missing) == ("published", ())


@pytest.mark.parametrize(
    ("evaluation", "condition"),
    [
        (overall(low=-1.2), "not_worse"),
        (overall(estimate=-0.1, low=-0.9), "better"),
        (overall(evidence=3.0), "enough_evidence"),
        (replace(BETTER, per_route={"travel": replace(GOOD, estimate=-20.0, low=-30.0, high=-9.0)}), "route:travel"),
        (replace(BETTER, examples_right=0.9), "examples"),
        (replace(BETTER, largest_share=0.97), "no_collapse"),
        (replace(BETTER, cost=1.06), "cost"),
        (replace(BETTER, latency_ms=530.0), "latency"),
        (replace(BETTER, splitter_f1=0.85), "splitter"),
    ],
)
def test_one_thing_that_is_worse_holds_the_version_and_is_named(evaluation, condition):
    gate = decide_gate(evaluation, SETTINGS)
    assert gate.verdict == "held"
    assert failed(evaluation) == [condition]
    assert len(gate.missing) == 1


def test_every_sentence_names_its_figures_and_what_is_missing():
    gate = decide_gate(overall(evidence=3.0), SETTINGS)
    words = {condition.name: condition.sentence for condition in gate.conditions}
    assert "n = 1000" in words["not_worse"]
    assert "+0.8 points" in words["not_worse"]
    assert "more requests are needed" in words["enough_evidence"]
    assert all(sentence.endswith(".") for sentence in words.values())


def test_a_route_with_little_evidence_is_not_tested_by_itself():
    poor = replace(GOOD, estimate=-20.0, low=-60.0, high=-1.0, evidence=2.0)
    assert failed(replace(BETTER, per_route={"travel": poor})) == []


def test_the_same_evaluation_gives_the_same_decision():
    assert decide_gate(BETTER, SETTINGS) == decide_gate(BETTER, SETTINGS)


def test_a_golden_query_that_goes_elsewhere_holds_whatever_is_gained():
    golden = GoldenComparison(n=20, right=19, right_before=18, broken=("where is my parcel",))
    gate = decide_gate(replace(BETTER, golden=golden), SETTINGS)
    assert (gate.verdict, failed(replace(BETTER, golden=golden))) == ("held", ["golden"])
    assert "where is my parcel" in gate.missing[0]
    assert decide_gate(replace(BETTER, golden=replace(golden, broken=())), SETTINGS).verdict == "published"


def test_a_golden_gain_is_reason_enough_for_a_version_that_is_not_better_otherwise():
    even = replace(BETTER, overall=replace(GOOD, estimate=0.0, low=-0.5))
    assert decide_gate(even, SETTINGS).verdict == "held"
    gained = replace(even, golden=GoldenComparison(n=20, right=19, right_before=18, broken=()))
    assert decide_gate(gained, SETTINGS).verdict == "published"
