"""A process that uses the embedded Postgres: ``python embedded_user.py HOME``.

It prints what it got as one line of JSON, the server's pid or what was wrong, and stops when its input ends.
"""

import json
import os
import sys
from pathlib import Path

from telemetry import embedded_postgres


def main(home: Path) -> None:
    try:
        server = embedded_postgres.start(home)
    except Exception as error:  # noqa: BLE001 - the edge of this process: the test reads what went wrong
        print(json.dumps({"error": type(error).__name__, "sentence": str(error)}), flush=True)
        return
    pid, _ = embedded_postgres.status(home)
    print(json.dumps({"server": pid, "url": server.url, "uid": os.geteuid()}), flush=True)
    sys.stdin.read()
    server.stop()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
