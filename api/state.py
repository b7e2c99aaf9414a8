"""What one server process holds while it runs."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from fastapi import Request
from sqlalchemy import Connection, Engine
from starlette.concurrency import run_in_threadpool

from api.deciding import Deciding
from api.intake import Intake
from api.metrics import Metrics
from api.recording import Recording
from api.settings import Settings
from router.watch import RouterWatch

Result = TypeVar("Result")


@dataclass(slots=True, kw_only=True)
class ServerState:
    """Composed in ``create_app`` when the process starts; ``draining`` is set when it is about to end."""

    settings: Settings
    database_url: str
    engine: Engine
    watch: RouterWatch
    deciding: Deciding
    intake: Intake
    recording: Recording
    metrics: Metrics
    draining: bool = False

    async def read(self, query: Callable[[Connection], Result]) -> Result:
        """Run ``query`` on a connection of its own in a thread, and commit."""

        def run() -> Result:
            with self.engine.begin() as connection:
                return query(connection)

        return await run_in_threadpool(run)


def state_of(request: Request) -> ServerState:
    """Return the state of the process that answers this request."""
    state: ServerState = request.app.state.server
    return state
