"""A server process prepares for a long life once all is loaded."""

import gc
import os
import subprocess
import sys
import weakref

from api.app import create_app
from benchmarks.real_server import private_mib
from tests.api.conftest import serving

SETTLED = """
import gc, sys
from api.server_process import settle

before = gc.get_freeze_count()
settle()
held = gc.get_freeze_count() - before
garbage = []
garbage.append(garbage)
del garbage
print(held > 50_000, gc.get_threshold()[0] > 10_000, sys.getswitchinterval() < 0.005, gc.collect() > 0)
"""


def test_what_was_loaded_is_not_looked_through_again_and_later_garbage_is():
    done = subprocess.run([sys.executable, "-c", SETTLED], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True"] * 4


def test_it_happens_once_all_is_loaded(module_url, app_settings):
    found = []
    app = create_app(app_settings, database_url=module_url, started=lambda state: found.append(state.watch.current))
    with serving(app):
        assert [version.version.number for version in found] == [1]


def test_an_application_that_ended_keeps_nothing_and_many_one_after_another_need_no_more_memory(
    module_url, app_settings
):
    """An encoder needs 190 MiB, and FastAPI's caches hold every application that a process ever made."""
    held, memory = [], []
    for _ in range(8):
        app = create_app(app_settings, database_url=module_url)
        with serving(app):
            held.append(weakref.ref(app.state.server.deciding))
        gc.collect()
        memory.append(private_mib(os.getpid()))
    assert [reference() for reference in held] == [None] * 8
    assert memory[-1] - memory[1] < 190, memory  # less than one; each that stayed would be one more
