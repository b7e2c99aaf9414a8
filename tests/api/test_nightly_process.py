"""The night that a server starts at its time, as a real process."""

import threading
import time
from datetime import datetime, timedelta

import pytest
from sqlalchemy import select, text

from api.server_process import learn_nightly
from api.settings import Settings, read_settings
from telemetry.database import create_engine
from telemetry.ids import new_id
from telemetry.inferences import store_inferences
from telemetry.records import Inference, Payload
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


@pytest.mark.slow
def test_after_the_night_what_is_older_than_set_is_pruned(module_url: str, app_settings: Settings) -> None:
    engine = create_engine(module_url)
    with engine.begin() as conn:
        store_inferences(conn, [Inference(inference_id=new_id(), payload=Payload(query=t)) for t in ("old", "new")])
        aged = "update inference set received_at = now() - interval '8 days' where inference_id in (select inference_id"
        conn.execute(text(f"{aged} from inference_payload where query = 'old')"))
    stop = threading.Event()
    at = (datetime.now().astimezone() + timedelta(seconds=2)).time()
    settings = read_settings(home=app_settings.home, fleet=app_settings.fleet, keep_days=7)
    environment = settings.child_environment(database_url=module_url)
    nightly = threading.Thread(target=learn_nightly, args=(at, environment, stop))
    nightly.start()
    try:
        end = time.monotonic() + 60
        left = []
        while left != ["new"] and time.monotonic() < end:
            time.sleep(0.2)
            with engine.connect() as conn:
                left = list(conn.execute(text("select query from inference_payload")).scalars())
    finally:
        stop.set()
        nightly.join()
        engine.dispose()
    assert left == ["new"]
