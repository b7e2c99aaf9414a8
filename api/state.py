"""What one server process holds while it runs."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from fastapi import Request
from fastapi.responses import Response
from sqlalchemy import Connection, Engine

from api.admission import Admission
from api.deciding import Deciding
from api.feedback_tokens import TokenSigner
from api.intake import Intake
from api.keyring import Keyring
from api.lanes import Lane, Pulse
from api.lists import json_bytes, json_list
from api.metrics import Metrics
from api.recording import Recording
from api.settings import Settings
from api.shedding import Door
from router.watch import RouterWatch


@dataclass(slots=True, kw_only=True)
class ServerState:
    """Composed in ``create_app`` when the process starts; ``draining`` is set when it was told to end.

    What is only read goes by ``reads``; what changes something, or is asked to take a vote, by ``changes``.
    """

    settings: Settings
    database_url: str
    engine: Engine
    watch: RouterWatch
    deciding: Deciding
    intake: Intake
    reads: Lane
    changes: Lane
    pulse: Pulse
    door: Door
    recording: Recording
    metrics: Metrics
    keyring: Keyring
    admission: Admission
    signer: TokenSigner
    draining: bool = False

    async def show(self, query: Callable[[Connection], object]) -> Response:
        """Answer with what ``query`` finds. A long list becomes JSON in the reading thread too, not in the event loop.

        Raises:
            DatabaseBusy, DatabaseUnavailable: as ``Lane.ask``.
        """
        body = await self.reads.ask(lambda connection: json_bytes(query(connection)))
        return Response(body, media_type="application/json")

    async def show_list(
        self,
        query: Callable[[Connection], Sequence[Any]],
        *,
        limit: int,
        id_of: Callable[[Any], object],
        form: Callable[[Any], Any],
    ) -> Response:
        """Answer with the list of what ``query`` finds; the rest as ``json_list``."""
        return await self.show(lambda connection: json_list(query(connection), limit=limit, id_of=id_of, form=form))


def state_of(request: Request) -> ServerState:
    """Return the state of the process that answers this request."""
    state: ServerState = request.app.state.server
    return state
