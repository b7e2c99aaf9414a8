"""A night in a process of its own: ``python -m tests.learner.night_process URL WHAT STEP``.

WHAT is what the process does to itself when STEP begins: ``kill`` (SIGKILL), ``stop`` (SIGSTOP), ``starve`` (no more
memory than it has) or ``go`` (nothing).
It prints each step as it begins and at last the verdict, or the name of what went wrong.
"""

import getpass
import os
import resource
import signal
import sys
import tempfile
from pathlib import Path

from learner.nightly import run_night
from router.encoder import load_encoder
from telemetry.database import create_engine
from tests.learner.world import QUICK

_SIGNALS = {"kill": signal.SIGKILL, "stop": signal.SIGSTOP}


def main(url: str, what: str, step: str) -> None:
    def begin(name: str) -> None:
        print(name, flush=True)
        if name == step and what in _SIGNALS:
            os.kill(os.getpid(), _SIGNALS[what])
        if name == step and what == "starve":
            pages = int(Path("/proc/self/statm").read_text().split()[0])
            limit = pages * resource.getpagesize()
            resource.setrlimit(resource.RLIMIT_AS, (limit, limit))

    encoder = load_encoder(home=Path(tempfile.gettempdir()) / f"trimtab-tests-{getpass.getuser()}")
    try:
        result = run_night(create_engine(url), encoder=encoder, settings=QUICK, actor="a process", progress=begin)
    except Exception as error:  # noqa: BLE001 - the edge of this process: the test reads what went wrong
        print(type(error).__name__, flush=True)
        sys.exit(1)
    print(result.verdict, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
