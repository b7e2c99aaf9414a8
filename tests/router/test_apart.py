"""A boundary that the splitter doubts is believed where both sides lie near what routes know, and far apart."""

from dataclasses import replace

import numpy as np
import pytest

from router.apart import known_apart
from router.decide import Router
from router.decision import Boundary
from router.version import Centroids
from tests.router.samples import build_version, unit

QUERY = "what is the time pay my bill"
AT = QUERY.index("pay")
DOUBTED = (Boundary(start=8, probability=0.01, end=7), Boundary(start=AT, probability=0.1, end=AT - 1))
WHOLE = ((0, len(QUERY)),)
TIME, BILL, ELSEWHERE = unit([1.0, 0.05, 0.0]), unit([0.05, 1.0, 0.0]), unit([0.3, 0.3, 1.0])


def router(owners=(0, 0, 0, 1, 1, 1)):
    """Three centroids about the time, three about bills."""
    near = [[1, 0, 0], [1, 0.1, 0], [1, 0, 0.1], [0, 1, 0], [0.1, 1, 0], [0, 1, 0.1]]
    centroids = Centroids(
        vectors=unit(near), owners=np.eye(2, dtype=np.float32)[list(owners)], mass=np.ones(6, np.float32)
    )
    return Router(replace(build_version(R=2, D=3), centroids=centroids))


def probabilities(asked, where, *, found=DOUBTED, spans=WHOLE, glances=(TIME, BILL)):
    """What becomes of the boundaries where the embedder puts the first side, the second, and both together."""
    seen = []

    def embed(texts):
        seen.extend(texts)
        return np.stack(where)

    glance = {0: glances[0], AT: glances[1]}
    raised = known_apart(
        asked, QUERY, found, spans, threshold=0.3, glance=lambda start, _end: glance[start], embed=embed
    )
    assert [(b.start, b.end) for b in raised] == [(b.start, b.end) for b in found]
    return [b.probability for b in raised], seen


def test_two_known_requests_of_two_routes_are_believed_to_be_two():
    (other, found), seen = probabilities(router(), (TIME, BILL, unit(TIME + BILL)))
    assert (other, found > 0.5) == (0.01, True)
    assert seen == ["what is the time", "pay my bill", QUERY]


@pytest.mark.parametrize(
    "where",
    [(TIME, TIME, unit(TIME + BILL)), (TIME, ELSEWHERE, unit(TIME + BILL)), (TIME, BILL, TIME)],
    ids=["one route", "one side is unlike everything", "the whole is as near"],
)
def test_otherwise_the_splitter_is_believed(where):
    assert probabilities(router(), where)[0] == [0.01, 0.1]


def test_a_side_whose_neighbours_belong_to_several_routes_is_not_known():
    assert probabilities(router(owners=(0, 1, 0, 1, 1, 1)), (TIME, BILL, unit(TIME + BILL)))[0] == [0.01, 0.1]


def test_what_belongs_together_at_a_glance_is_not_embedded():
    assert probabilities(router(), (TIME, BILL, unit(TIME + BILL)), glances=(TIME, TIME)) == ([0.01, 0.1], [])


def test_what_the_splitter_is_sure_of_either_way_embeds_nothing():
    sure = (replace(DOUBTED[0], probability=0.001), replace(DOUBTED[1], probability=0.9))
    for spans in (WHOLE, ((0, AT - 1), (AT, len(QUERY)))):
        assert probabilities(router(), (), found=sure, spans=spans) == ([0.001, 0.9], [])
