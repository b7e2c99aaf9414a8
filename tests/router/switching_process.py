"""One switch in a process of its own: ``python -m tests.router.switching_process URL WHAT [SEED]``.

It prints ``waits`` before it acts, ``acted`` when it has acted but not committed, then waits for a line on standard
input, commits and prints what serves, or the name of what went wrong.
"""

import sys

from router.registry import StaleActivation, activate, active, newest_seq, publish, rollback
from router.rollout import RolloutSettings, promote, start_trial, take_back
from telemetry.database import create_engine
from tests.router.samples import build_version

WHO = {"actor": "a process", "reason": "because"}


def act(conn, what, argument):
    if what == "publish":
        publish(conn, build_version(seed=argument), parent=None, **WHO)
    elif what == "publish_if_nobody_came_before":
        if newest_seq(conn) != argument:
            raise StaleActivation(expected=argument, found=newest_seq(conn))
        publish(conn, build_version(seed=99), parent=None, **WHO)
    elif what == "rollback":
        rollback(conn, **WHO)
    elif what == "activate":
        activate(conn, argument, kind="publish", **WHO)
    elif what == "canary":
        start_trial(conn, argument, mode="canary", share=0.05, **WHO)
    elif what == "promote":
        promote(conn, settings=RolloutSettings(), **WHO)
    elif what == "take_back":
        take_back(conn, **WHO)


def main(url, what, argument="0"):
    engine = create_engine(url)
    print("waits", flush=True)
    try:
        with engine.begin() as conn:
            act(conn, what, int(argument))
            print("acted", flush=True)
            sys.stdin.readline()
    except Exception as error:  # noqa: BLE001 - the edge of this process: the test reads what went wrong
        print(type(error).__name__, flush=True)
        sys.exit(1)
    with engine.connect() as conn:
        print(active(conn).version, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
