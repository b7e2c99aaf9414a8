import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from router.decision import Boundary
from router.splitting import certainty, content_words, join_weak, split_utilities


def utilities(*rows: tuple[float, float]) -> np.ndarray:
    return np.array(rows)


def weigh(whole, parts, *, a: int, d: list[int], b: float, split_cost: float = 0.02) -> tuple[float, float]:
    return split_utilities(np.array(whole), utilities(*parts), a=a, d=np.array(d), b=b, split_cost=split_cost)


def test_two_needs_of_two_routes_are_worth_a_split():
    unsplit, split = weigh((0.9, 0.2), [(0.9, 0.15), (0.15, 0.9)], a=0, d=[0, 1], b=0.95)
    assert split > unsplit + 0.3


def test_one_need_cut_in_two_is_not_worth_a_split():
    unsplit, split = weigh((0.9, 0.15), [(0.6, 0.3), (0.35, 0.4)], a=0, d=[0, 1], b=0.6)
    assert split < unsplit


def test_unsure_boundaries_make_a_split_worth_less():
    gains = []
    for b in (0.5, 0.7, 0.9, 1.0):
        unsplit, split = weigh((0.9, 0.2), [(0.9, 0.15), (0.15, 0.9)], a=0, d=[0, 1], b=b)
        gains.append(split - unsplit)
    assert gains == sorted(gains)


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_a_split_over_one_route_only_costs(data):
    number = st.floats(0, 1)
    whole = data.draw(st.tuples(number, number))
    parts = data.draw(st.lists(st.tuples(number, number), min_size=2, max_size=4))
    b = data.draw(number)
    unsplit, split = weigh(whole, parts, a=1, d=[1] * len(parts), b=b)
    assert split == pytest.approx(unsplit - 0.02 * (len(parts) - 1))


@pytest.mark.parametrize(
    ("text", "n"),
    [
        ("and for tomorrow?", 1),
        ("I'd like to", 1),
        ("cancel my subscription", 2),
        ("", 0),
        ("🙂🙂", 0),
        ("中文没有空格", 1),
    ],
)
def test_words_with_a_meaning_of_their_own_are_counted(text, n):
    assert content_words(text) == n


def test_a_part_that_cannot_stand_alone_joins_its_neighbour():
    query = "book a flight to Oslo and for tomorrow then cancel my old booking"
    at = [0, query.index("and"), query.index("cancel"), len(query)]
    spans = ((at[0], at[1] - 1), (at[1], at[2] - 6), (at[2], at[3]))
    joined = join_weak(query, spans)
    assert [query[start:end] for start, end in joined] == [
        "book a flight to Oslo and for tomorrow",
        "cancel my old booking",
    ]
    assert join_weak("please cancel my booking", ((0, 6), (7, 24))) == ((0, 24),)


def test_a_split_is_as_certain_as_its_least_certain_boundary():
    boundaries = (
        Boundary(start=5, probability=0.2),
        Boundary(start=10, probability=0.9),
        Boundary(start=20, probability=0.7),
    )
    assert certainty(boundaries, ((0, 9), (12, 18), (22, 30))) == 0.7
    assert certainty(boundaries, ((0, 18), (22, 30))) == 0.7
    assert certainty(boundaries[:2], ((0, 9), (12, 30))) == 0.9
