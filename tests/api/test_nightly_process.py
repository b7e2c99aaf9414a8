"""The night that a server starts at its time, as a real process."""

import threading
import time
from datetime import datetime, timedelta

import pytest
from sqlalchemy import select

from api.server_process import learn_nightly
from api.settings import Settings
from telemetry.database import create_engine
from telemetry.tables import learner_run


def nights(url: str) -> list[str | None]:
    engine = create_engine(url)
    with engine.connect() as conn:
        found = list(conn.execute(select(learner_run.c.verdict)).scalars())
    engine.dispose()
    return found


@pytest.mark.slow
def test_at_its_time_one_night_runs_in_a_process_of_its_own(module_url: str, app_settings: Settings) -> None:
    before = len(nights(module_url))
    stop = threading.Event()
    at = (datetime.now().astimezone() + timedelta(seconds=2)).time()
    environment = app_settings.child_environment(database_url=module_url)
    nightly = threading.Thread(target=learn_nightly, args=(at, environment, stop))
    nightly.start()
    try:
        end = time.monotonic() + 60
        while nights(module_url)[before:] != ["nothing_to_learn"] and time.monotonic() < end:
            time.sleep(0.2)
        time.sleep(3)
    finally:
        stop.set()
        nightly.join()
    assert nights(module_url)[before:] == ["nothing_to_learn"]
