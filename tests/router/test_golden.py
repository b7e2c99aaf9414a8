import pytest

from router.golden import UnknownGoldenRoute, keep_golden
from router.registry import publish
from telemetry.golden import golden, list_golden
from tests.router.samples import build_version


def test_golden_queries_that_no_version_could_get_right_are_refused_together(connection):
    publish(connection, build_version(), actor="a test", reason="because", parent=None)
    wanted = [golden("here", ["route-1"], by="ann"), golden("there", ["route-1", "nowhere"], by="ann")]
    with pytest.raises(UnknownGoldenRoute, match=r"not in the fleet that serves.*number 2 of 2"):
        keep_golden(connection, wanted)
    assert list_golden(connection) == []
    keep_golden(connection, wanted[:1])
    assert [item.query for item in list_golden(connection)] == ["here"]


def test_golden_queries_may_be_kept_before_anything_serves(connection):
    keep_golden(connection, [golden("here", ["route-1"], by="ann")])
    assert len(list_golden(connection)) == 1
