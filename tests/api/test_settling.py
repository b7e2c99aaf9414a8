"""A server process prepares for a long life once all is loaded."""

import subprocess
import sys

from api.app import create_app
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
    app = create_app(
        app_settings, database_url=module_url, started=lambda: found.append(app.state.server.watch.current)
    )
    with serving(app):
        assert [version.version.number for version in found] == [1]
