"""When the next night is due, in local time, across clock changes and sleep."""

from datetime import UTC, datetime, time, timedelta, tzinfo


class WrongTime(ValueError):
    """The time of the nightly run must look like 03:00."""


def parse_time(text: str) -> time:
    """Return the time of day that ``text`` (HH:MM) says.

    Raises:
        WrongTime: it does not.
    """
    try:
        return datetime.strptime(text, "%H:%M").time()  # noqa: DTZ007  # a time of day has no zone
    except ValueError:
        raise WrongTime(WrongTime.__doc__) from None


def next_run(now: datetime, at: time, *, zone: tzinfo | None = None) -> datetime:
    """Return the first moment after ``now`` at which local clocks show ``at``.

    In the hour that a clock change repeats, the first of the two counts; in the hour that it skips, the moment that
    many minutes after the change. So every local date has exactly one run. ``zone`` None is the machine's own.
    """
    local = now.astimezone(zone)
    for days in range(3):
        wanted = datetime.combine(local.date() + timedelta(days=days), at, tzinfo=zone)
        moment = datetime.fromtimestamp(wanted.timestamp(), tz=UTC)
        if moment > now:
            return moment
    raise AssertionError("some day has the wanted time")
