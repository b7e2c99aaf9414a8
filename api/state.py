"""What one server process holds while it runs."""

import asyncio
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from anyio import to_thread
from fastapi import Request
from sqlalchemy import Connection, Engine

from api.admission import Admission
from api.deciding import Deciding
from api.feedback_tokens import TokenSigner
from api.intake import Intake
from api.keyring import Keyring
from api.metrics import Metrics
from api.recording import Recording
from api.settings import Settings
from api.shedding import Door
from router.watch import RouterWatch
from telemetry.database import DatabaseUnavailable

Result = TypeVar("Result")
ANSWER_SECONDS = 4.0


@dataclass(slots=True, kw_only=True)
class ServerState:
    """Composed in ``create_app`` when the process starts; ``draining`` is set when it was told to end."""

    settings: Settings
    database_url: str
    engine: Engine
    watch: RouterWatch
    deciding: Deciding
    intake: Intake
    door: Door
    recording: Recording
    metrics: Metrics
    keyring: Keyring
    admission: Admission
    signer: TokenSigner
    draining: bool = False

    async def read(self, query: Callable[[Connection], Result]) -> Result:
        """Run ``query`` on a connection of its own in a thread, and commit.

        Raises:
            DatabaseUnavailable: it took too long: a hung server says nothing. It is not committed then.
        """
        given_up = threading.Event()

        def run() -> Result:
            with self.engine.begin() as connection:
                result = query(connection)
                if given_up.is_set():
                    raise DatabaseUnavailable(DatabaseUnavailable.__doc__)
                return result

        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                return await to_thread.run_sync(run, abandon_on_cancel=True)
        except TimeoutError:
            raise DatabaseUnavailable(DatabaseUnavailable.__doc__) from None
        finally:
            given_up.set()


def state_of(request: Request) -> ServerState:
    """Return the state of the process that answers this request."""
    state: ServerState = request.app.state.server
    return state
