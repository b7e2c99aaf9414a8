"""A new splitter is judged by what it does to every kind of query, down to the routes that are called."""

from dataclasses import replace

import pytest

from learner.concatenate import SplitExample, concatenations, join, joined
from learner.connectors import CONNECTORS, FOR_JUDGING
from learner.first_version import build_first_version
from learner.settings import LearnerSettings
from learner.splitter_gate import decide_splitter_gate, splitter_conditions, splitter_kept
from learner.splitter_judge import HEARD, MINED, SINGLE, Judged, JudgedQuery, judge_splitter, judged_queries
from learner.splitter_night import part_questions
from tests.learner.world import fleet, questions

SETTINGS = LearnerSettings()
ASKED = {name: [q for q, route in questions() if route == name] for name in ("billing", "repairs")}


def one(kind=SINGLE, *, cut=(0.8, 0.8), routes=(0.7, 0.7)):
    """Shares before and now."""
    return Judged(kind=kind, n=300, cut_before=cut[0], cut=cut[1], routes_before=routes[0], routes=routes[1])


GAINED = one("joined by nothing", cut=(0.5, 0.6), routes=(0.4, 0.5))


def failed(*judged):
    return [c.name for c in splitter_conditions(judged, SETTINGS) if not c.passed]


@pytest.fixture(scope="module")
def version(encoder):
    return build_first_version(fleet(), encoder=encoder, seed=0)


def test_a_splitter_that_gains_and_loses_nowhere_more_than_chance_explains_is_taken():
    assert failed(one(), GAINED) == []
    assert failed(one(cut=(0.8, 0.77), routes=(0.7, 0.69)), GAINED) == []


@pytest.mark.parametrize(
    "worse",
    [one(cut=(0.8, 0.75)), one(routes=(0.7, 0.67)), one(HEARD, cut=(0.8, 0.75)), one(MINED, routes=(0.7, 0.67))],
)
def test_one_kind_of_query_that_is_worse_keeps_the_splitter_whatever_the_others_gain(worse):
    conditions = splitter_conditions([worse, replace(GAINED, routes=0.9)], SETTINGS)
    assert [c.name for c in conditions if not c.passed] == [f"splitter:{worse.kind}"]
    kept = splitter_kept(conditions)
    assert kept.passed
    assert worse.kind in kept.sentence


def test_of_few_queries_one_may_be_lost_by_chance():
    few = replace(one(MINED, cut=(1.0, 2 / 3), routes=(1.0, 2 / 3)), n=3, cut_changed=1, routes_changed=1)
    assert failed(few, replace(GAINED, routes=0.9), one()) == []
    assert failed(replace(few, n=30), replace(GAINED, routes=0.9), one()) == [f"splitter:{MINED}"]


def test_what_only_loses_a_little_everywhere_is_not_taken():
    assert failed(one(routes=(0.7, 0.69)), one("joined by nothing", routes=(0.4, 0.39))) == ["splitter"]
    assert failed(one()) == ["splitter"]


def test_single_questions_weigh_as_much_as_all_kinds_of_several():
    single = one(routes=(0.9, 0.885))
    assert failed(single, *(one(kind, routes=(0.5, 0.51)) for kind in ("a", "b", "c"))) == ["splitter"]
    assert failed(single, *(one(kind, routes=(0.5, 0.52)) for kind in ("a", "b", "c"))) == []


def test_it_comes_by_itself_only_where_it_splits_better_as_users_put_it_and_enough_people_say_so():
    heard = one(HEARD, cut=(0.5, 0.6), routes=(0.4, 0.5))

    def verdict(*judged, people=3):
        return decide_splitter_gate(judged, mined=9, people=people, settings=SETTINGS).verdict

    assert verdict(one(), heard) == "published"
    assert verdict(one(), heard, people=2) == "held"
    assert verdict(one(), GAINED, replace(heard, cut=0.505)) == "held"
    assert verdict(one(cut=(0.8, 0.7)), heard) == "held"
    assert verdict(one(), GAINED) == "held"


def test_a_splitter_is_judged_by_its_cuts_and_by_the_routes_that_are_called(version, encoder):
    two = join([ASKED["billing"][0], ASKED["repairs"][0]], [" and "])
    right = ("billing", "repairs")
    wanted = [
        JudgedQuery(kind="right", example=two, routes=right),
        JudgedQuery(kind="other order", example=two, routes=right[::-1]),
        JudgedQuery(kind="one thing", example=SplitExample(text=two.text, starts=())),
        JudgedQuery(kind="another end", example=replace(two, ends=(two.ends[0] - 3,)), routes=right),
        JudgedQuery(kind="end not known", example=replace(two, ends=None)),
    ]
    found = {one.kind: one for one in judge_splitter({}, version, wanted, encoder=encoder)}
    assert {kind: (one.cut_before, one.routes_before) for kind, one in found.items()} == {
        "right": (1, 1),
        "other order": (1, 0),
        "one thing": (0, 0),
        "another end": (0, 1),
        "end not known": (1, 1),
    }
    assert {kind: one.cut for kind, one in found.items()} == dict.fromkeys(found, 0) | {"one thing": 1}


def test_every_kind_of_query_is_made_of_held_out_questions_with_their_routes(version, encoder):
    mined = [SplitExample(text="x", starts=())]
    made = judged_queries(ASKED, mined=mined, heard=["et puis"], count=30, seed=0)
    kinds = {kind: [q for q in made if q.kind == kind] for kind in dict.fromkeys(q.kind for q in made)}
    assert len(kinds) == 6
    assert [q.example for q in kinds[MINED]] == mined
    assert all("et puis" in q.example.text for q in kinds[HEARD])
    for query in made:
        if query.kind != MINED:
            starts, ends = (0, *query.example.starts), (*query.example.ends, len(query.example.text))
            parts = [query.example.text[a:b] for a, b in zip(starts, ends, strict=True)]
            assert all(part in ASKED[route] for part, route in zip(parts, query.routes, strict=True))


def test_what_strange_connectors_are_made_of_never_trains():
    assert not set(FOR_JUDGING) & {words for family in CONNECTORS.values() for words in family}
    made = concatenations(ASKED, count=3000, seed=0)
    assert not [words for words in FOR_JUDGING for example in made if f" {words} " in f" {example.text} "]


def test_questions_of_fewer_than_two_routes_are_not_joined():
    assert joined({"one": ["a b"], "other": [" "][:0]}, count=5, connectors=[" "], seed=0) == []


def test_a_question_that_is_held_out_stays_so_when_others_come_and_go():
    _, held = part_questions(ASKED)
    fewer = {route: texts[3:] for route, texts in ASKED.items()}
    more = {route: [*texts, "a new question", "another"] for route, texts in fewer.items()}
    for route, texts in held.items():
        stay = set(texts) & set(fewer[route])
        assert stay <= set(part_questions(more)[1][route])
        assert not stay & set(part_questions(more)[0][route])
