"""When the next night is due: each local date once, whatever the clocks do."""

import itertools
import os
import time as clock
from datetime import UTC, date, datetime, time, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from api.schedule import WrongTime, next_run, parse_time

BERLIN = ZoneInfo("Europe/Berlin")  # 2026: clocks go forward on 29 March at 02:00, back on 25 October at 03:00
ZONES = ["UTC", "Europe/Berlin", "America/New_York", "America/Havana", "Australia/Lord_Howe", "Asia/Kolkata"]


def utc(text):
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def nights(start, at, zone, *, days):
    """Every due moment in ``days`` days, each asked for right after the one before."""
    found = [next_run(start, at, zone=zone)]
    while found[-1] < start + timedelta(days=days):
        found.append(next_run(found[-1], at, zone=zone))
    return found[:-1]


def test_a_time_of_day_is_read_from_hours_and_minutes():
    assert parse_time("03:05") == time(3, 5)


@pytest.mark.parametrize("text", ["", "3 am", "24:00", "03:60", "03:00:00", "-1:00", "03:00\n", "noon"])
def test_a_wrong_time_is_one_clear_sentence(text):
    with pytest.raises(WrongTime, match="must look like 03:00"):
        parse_time(text)


def test_the_next_night_is_today_when_its_time_is_still_to_come_and_else_tomorrow():
    assert next_run(utc("2026-06-01T00:30"), time(3), zone=BERLIN) == utc("2026-06-01T01:00")
    assert next_run(utc("2026-06-01T01:00"), time(3), zone=BERLIN) == utc("2026-06-02T01:00")


@pytest.mark.fault("night missed or doubled by a clock change")
def test_an_hour_that_the_clocks_skip_is_made_up_for_right_after_the_change():
    assert next_run(utc("2026-03-28T12:00"), time(2, 30), zone=BERLIN) == utc("2026-03-29T01:30")  # clocks show 03:30


@pytest.mark.fault("night missed or doubled by a clock change")
def test_an_hour_that_the_clocks_repeat_has_one_night():
    first = next_run(utc("2026-10-24T12:00"), time(2, 30), zone=BERLIN)
    assert first == utc("2026-10-25T00:30")
    assert next_run(first, time(2, 30), zone=BERLIN) == utc("2026-10-26T01:30")


@pytest.mark.fault("night missed or doubled by a clock change")
def test_a_machine_that_slept_for_days_owes_one_night_and_not_one_for_each_day():
    due = next_run(utc("2026-06-01T12:00"), time(3), zone=BERLIN)
    woke = utc("2026-06-09T08:00")
    assert due < woke  # so it is made up for at once, and then
    assert next_run(woke, time(3), zone=BERLIN) == utc("2026-06-10T01:00")


def test_without_a_zone_the_clock_of_the_machine_counts(monkeypatch):
    monkeypatch.setitem(os.environ, "TZ", "America/New_York")
    clock.tzset()
    try:
        assert next_run(utc("2026-06-01T00:30"), time(3)) == utc("2026-06-01T07:00")
        assert next_run(utc("2026-03-08T05:00"), time(2, 30)) == utc("2026-03-08T07:30")  # skipped there and then
    finally:
        monkeypatch.undo()
        clock.tzset()


@pytest.mark.fault("night missed or doubled by a clock change")
@settings(deadline=None)  # the machine may be busy
@given(
    zone=st.sampled_from(ZONES).map(ZoneInfo),
    at=st.times().map(lambda t: t.replace(second=0, microsecond=0, fold=0)),
    start=st.dates(date(2024, 1, 1), date(2029, 1, 1)),
)
def test_every_local_date_has_exactly_one_night(zone, at, start):
    begin = datetime.combine(start, time(12), tzinfo=zone).astimezone(UTC)
    due = nights(begin, at, zone, days=380)
    dates = [moment.astimezone(zone).date() for moment in due]
    assert dates == [dates[0] + timedelta(days=n) for n in range(len(dates))]
    assert 379 <= len(dates) <= 381
    assert all(timedelta(hours=22) < b - a < timedelta(hours=26) for a, b in itertools.pairwise(due))
