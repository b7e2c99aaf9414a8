from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from learner.comparison import Difference
from learner.conditions import Condition
from learner.evaluation import Evaluation, GoldenComparison
from learner.gate import decide_gate, doubtful_routes
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
)
WORSE_SPLITTER = Condition(
    name="splitter", passed=False, figure=0.7, threshold=0.8, n=9, bound=None, sentence="It splits worse."
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
        (replace(BETTER, splitter=(WORSE_SPLITTER,)), "splitter"),
    ],
)
def test_one_thing_that_is_worse_holds_the_version_and_is_named(evaluation, condition):
    gate = decide_gate(evaluation, SETTINGS)
    assert gate.verdict == "held"
    assert failed(evaluation) == [condition]
    assert len(gate.missing) == 1


@pytest.mark.parametrize(
    ("changes", "needed", "told"),
    [
        (0.01, 3.0, "2.9 votes, 3.0"),
        (0.03, 9.0, "8.9 votes, 9.0"),
        (0.05, 15.0, "15 votes, 15"),
        (0.4, 15.0, "15 votes, 15"),
    ],
)
def test_what_changes_few_queries_needs_less_evidence_for_it_can_lose_little(changes, needed, told):
    assert failed(overall(disagreement=changes, evidence=needed + 0.1)) == []
    held = overall(disagreement=changes, evidence=needed - 0.1)
    assert failed(held) == ["enough_evidence"]
    assert f"is worth {told} are needed; it needs about" in decide_gate(held, SETTINGS).missing[0]
    always = replace(SETTINGS, large_change=0.0)
    assert decide_gate(overall(disagreement=changes, evidence=14.9), always).verdict == "held"


def test_every_sentence_names_its_figures_and_what_is_missing():
    gate = decide_gate(overall(evidence=3.0), SETTINGS)
    words = {condition.name: condition.sentence for condition in gate.conditions}
    assert "n = 1000" in words["not_worse"]
    assert "+0.8 points" in words["not_worse"]
    assert "it needs about 150 more rated requests" in words["enough_evidence"]
    assert words["route:travel"].startswith("Questions of `travel` change by +3.0 points (n = 1000, evidence worth 60")
    assert all(sentence.endswith(".") for sentence in words.values())


def test_a_large_route_of_which_little_is_known_is_in_doubt_and_says_how_many_rated_requests_are_missing():
    poor = replace(GOOD, n=100, estimate=1.0, low=-20.0, high=12.0, disagreement=0.05, evidence=3.0)
    evaluation = replace(BETTER, per_route={"billing": GOOD, "travel": poor})
    assert doubtful_routes(evaluation, SETTINGS) == ("travel",)
    assert failed(evaluation) == ["route:travel"]
    assert "it needs about 240 more rated requests on `travel`." in decide_gate(evaluation, SETTINGS).missing[0]


def test_a_small_route_that_can_lose_little_of_all_traffic_may_change_on_little_evidence():
    small = replace(GOOD, n=5, estimate=1.0, low=-60.0, high=60.0, evidence=0.5)
    evaluation = replace(BETTER, per_route={"travel": small})
    assert (doubtful_routes(evaluation, SETTINGS), failed(evaluation)) == ((), [])


def test_a_route_of_which_nothing_is_known_keeps_its_centroids():
    unheard = replace(GOOD, n=5, low=-1.0, evidence=0.0)
    assert doubtful_routes(replace(BETTER, per_route={"travel": unheard}), SETTINGS) == ("travel",)
    unchanged = replace(unheard, disagreement=0.0)
    assert doubtful_routes(replace(BETTER, per_route={"travel": unchanged}), SETTINGS) == ()


def test_a_ruined_route_is_in_doubt_however_little_was_said_of_it():
    ruined = replace(GOOD, n=50, estimate=-30.0, low=-45.0, high=-12.0, evidence=4.0)
    evaluation = replace(BETTER, per_route={"billing": GOOD, "travel": ruined})
    assert doubtful_routes(evaluation, SETTINGS) == ("travel",)
    assert "+1" not in decide_gate(evaluation, SETTINGS).missing[0]


def test_what_was_kept_back_is_told_and_does_not_hold_the_rest():
    poor = replace(GOOD, n=100, estimate=1.0, low=-20.0, high=12.0, disagreement=0.05, evidence=3.0)
    gate = decide_gate(replace(BETTER, kept={"travel": poor}), SETTINGS)
    assert gate.verdict == "published"
    assert gate.conditions[0].sentence.startswith("`travel` keeps the incumbent's centroids, too little is known")
    assert "about 240 more rated requests on `travel`" in gate.conditions[0].sentence


def test_a_hold_for_want_of_evidence_says_how_much_more_it_takes():
    # The bound is 4 points under the estimate and may be 4: twice as sure takes four times the evidence.
    gate = decide_gate(overall(estimate=1.0, low=-3.0, evidence=60.0, disagreement=0.5), SETTINGS)
    assert gate.missing[0].endswith("it needs about 360 more rated requests.")
    hopeless = decide_gate(overall(estimate=-4.0, low=-6.0), SETTINGS)
    assert "more of the same evidence would not change that" in hopeless.missing[0]


points = st.floats(-40, 40)
differences = st.builds(
    lambda estimate, below, above, n, disagreement, evidence: Difference(
        estimate=estimate,
        low=estimate - below,
        high=estimate + above,
        n=n,
        disagreement=disagreement,
        evidence=evidence,
    ),
    points,
    st.floats(0, 20),
    st.floats(0, 20),
    st.integers(1, 2000),
    st.floats(0.001, 1),
    st.floats(0, 200),
)


@given(differences, differences, st.floats(0, 10), st.floats(0, 10), st.floats(0, 100))
def test_more_evidence_in_favour_never_turns_publish_into_hold(whole, route, gain, surer, votes):
    def favoured(d):
        return replace(
            d, estimate=d.estimate + gain, low=d.low + gain + surer, high=d.high + gain, evidence=d.evidence + votes
        )

    before = replace(BETTER, overall=whole, per_route={"travel": route})
    after = replace(BETTER, overall=favoured(whole), per_route={"travel": favoured(route)})
    if decide_gate(before, SETTINGS).verdict == "published":
        assert decide_gate(after, SETTINGS).verdict == "published"


@given(differences, differences)
def test_nothing_is_published_that_is_probably_worse_or_could_be_much_worse(whole, route):
    evaluation = replace(BETTER, overall=whole, per_route={"travel": route})
    if decide_gate(evaluation, SETTINGS).verdict == "published":
        assert whole.estimate > 0
        assert whole.low >= -SETTINGS.most_loss_points


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
