"""Compose the server: nothing is built before ``create_app``, and connections only when the process starts."""

import contextlib
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import structlog
from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from fastapi_offline import FastAPIOffline
from pydantic.json_schema import models_json_schema
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.admission import DOCS_FILES, Admission, AdmissionMiddleware
from api.cross_origin import FeedbackAcrossOrigins, origins
from api.deciding import Deciding
from api.direct import add_direct_calls
from api.errors import ERROR_ANSWERS, Problem, add_error_handlers
from api.feedback_tokens import TokenSigner
from api.intake import FLUSHERS, Intake
from api.keyring import Keyring
from api.lanes import Lane, Pulse
from api.metrics import Metrics
from api.protocol import DOOR, REFUSAL
from api.recording import Recording
from api.refuser import Refuser
from api.routes import deciding, feedback, golden, health, inferences, nights, rollouts, versions
from api.schemas import BODIES
from api.settings import Settings
from api.shedding import Door
from api.state import ServerState
from router.encoder import load_encoder
from router.fleet import load_fleet
from router.watch import RouterWatch
from telemetry.database import create_engine

VERSION = "0.1.0"
STATEMENT_TIMEOUT_MS = 8_000  # a client is told after four seconds that it took too long
IDLE_TIMEOUT_MS = 3_000  # what a lost flush had written is locked so long, and its events come again at once
_READERS, _CHANGERS = 4, 2  # threads, each with a connection; more readers on two cores only hold up the event loop
_ABOUT = "Learns where to send a question. Decide, log what came of it, judge it; versions are published each night."


def create_app(
    settings: Settings,
    *,
    database_url: str,
    started: Callable[[ServerState], None] | None = None,
    counting: Path | None = None,
) -> FastAPI:
    """Return the application. It connects when it starts and lets go when it ends.

    Args:
        settings: as read from the environment.
        database_url: the migrated database.
        started: is called once all is loaded, before the first request.
        counting: the folder where several processes of one server count together; None: this one counts alone.
    """

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[dict[str, Any]]:
        state = await _start(settings, database_url, counting)
        app.state.server = state
        app.state.children = set()
        if started is not None:
            started(state)
        try:
            yield {DOOR: state.door}
        finally:
            await _stop(state)
            del app.state.server  # FastAPI's caches keep every application of a process: what it held must not stay too

    app = FastAPIOffline(  # the page of calls loads nothing from elsewhere: a machine may have no way out
        title="Trimtab",
        version=VERSION,
        description=_ABOUT,
        lifespan=lifespan,
        redoc_url=None,
        static_url=DOCS_FILES,
        responses=ERROR_ANSWERS,
        telemetry={"tracing": False, "metrics": False, "logs": False},  # it would be asked about with every request
    )
    app.router.redirect_slashes = False  # a path is right or wrong; a redirect would trust the Host header
    modules = (deciding, inferences, feedback, versions, rollouts, golden, nights, health)
    routers = [module.router for module in modules]
    for router in routers:
        app.include_router(router)
    add_error_handlers(app)
    add_direct_calls(app, routers)
    app.add_middleware(AdmissionMiddleware)
    if allowed := origins(settings.cors_origins):
        app.add_middleware(FeedbackAcrossOrigins, allowed=allowed)
    app.add_middleware(_CountRequests)  # outermost, so that it counts what is refused too
    _describe_bodies(app)
    return app


async def _start(settings: Settings, database_url: str, counting: Path | None) -> ServerState:
    home = settings.home_folder
    log = structlog.get_logger()
    encoder = load_encoder(settings.encoder, home=home)
    following = load_encoder(settings.next_encoder, home=home) if settings.next_encoder else None
    engine = create_engine(  # a connection for each thread that stores, reads or changes: none waits for another one
        database_url,
        pool_size=FLUSHERS + _READERS + _CHANGERS,
        statement_timeout_ms=STATEMENT_TIMEOUT_MS,
        idle_timeout_ms=IDLE_TIMEOUT_MS,
        seq_scans=False,
    )
    watch = RouterWatch(
        database_url,
        home=home,
        encoder=[e.fingerprint for e in (encoder, following) if e is not None],
        fleet=load_fleet(settings.fleet_path) if Path(settings.fleet_path).exists() else None,
        announce=lambda sentence: log.info("router_version", detail=sentence),
    )
    await watch.start()
    keyring = Keyring(database_url, home=home)
    await keyring.start()
    signer = TokenSigner(key=settings.hash_key(), hours=settings.feedback_token_hours)
    admission = Admission(
        keyring,
        signer,
        closed=not settings.loopback,
        rate=settings.key_rate,
        concurrency=settings.key_concurrency,
        pages=origins(settings.cors_origins),
    )
    intake = Intake(engine, most_items=settings.queue_items, most_bytes=settings.queue_bytes)
    intake.start()
    metrics = _metrics(intake, watch, counting)
    door = _door(intake, metrics)
    await metrics.start()
    return ServerState(
        settings=settings,
        database_url=database_url,
        engine=engine,
        watch=watch,
        deciding=Deciding(
            encoder,
            arms=lambda: watch.arms,
            remember=timedelta(minutes=settings.session_minutes),
            next_encoder=following,
            alone=lambda: door.alone,
        ),
        intake=intake,
        reads=Lane(engine, name="reads", threads=_READERS),
        changes=Lane(engine, name="changes", threads=_CHANGERS),
        pulse=Pulse(database_url),
        door=door,
        recording=Recording(store_text=settings.store_text, key=settings.hash_key()),
        metrics=metrics,
        keyring=keyring,
        admission=admission,
        signer=signer,
    )


def _metrics(intake: Intake, watch: RouterWatch, counting: Path | None) -> Metrics:
    metrics = Metrics(counting)
    version = "Number of the router version that decides"
    metrics.watch("trimtab_router_version", version, lambda: _number(watch), together="liveall")
    metrics.watch("trimtab_events_waiting", "Events in the intake queue", lambda: intake.waiting, together="livesum")
    for name in ("received", "stored", "duplicate", "conflict", "missing", "quarantined", "failed", "shed", "unlogged"):
        about = f"Events {name} since the start"
        metrics.watch(f"trimtab_events_{name}", about, _count(intake, name), together="sum")
    return metrics


def _number(watch: RouterWatch) -> int:
    return 0 if watch.current is None else watch.current.version.number


def _door(intake: Intake, metrics: Metrics) -> Door:
    """Return the door of this process, which counts whom it refuses as the application would."""

    def count(path: str, number: int) -> None:
        metrics.count(metrics.requests, path, "429", number=number)
        intake.shed(number, batch=path.endswith(":batch"))

    door = Door(intake, count=count, refuser=Refuser(answer=REFUSAL))
    metrics.count_first(door.count_refused_beside)
    held, late = "Writes that have come and are not yet queued", "1 while writes are refused for lack of time"
    metrics.watch("trimtab_writes_in_hand", held, lambda: door.writes, together="livesum")
    metrics.watch("trimtab_overloaded", late, lambda: door.overloaded, together="livemax")
    return door


def _count(intake: Intake, name: str) -> Any:
    return lambda: intake.counts[name]


async def _stop(state: ServerState) -> None:
    """Store what waits, then let go of everything."""
    state.draining = True
    state.door.shutdown()
    if state.door.refuser is not None:
        await state.door.refuser.stop()
    await state.watch.stop()
    await state.keyring.stop()
    state.intake.stop()
    await state.metrics.stop()
    state.deciding.close()
    for lane in (state.reads, state.changes, state.pulse):
        lane.stop()
    state.engine.dispose()


class _CountRequests:
    """Count answers by path template and status; plain ASGI, since it stands before every request."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        def count(status: int) -> None:
            metrics: Metrics = scope["app"].state.server.metrics
            path = getattr(scope.get("route"), "path", "unknown")
            metrics.count(metrics.requests, path, str(status))

        async def counted(message: Message) -> None:
            if message["type"] == "http.response.start":
                count(message["status"])
            await send(message)

        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        try:
            return await self._app(scope, receive, counted)
        except Exception:  # is answered 500 further out
            count(500)
            raise


def _describe_bodies(app: FastAPI) -> None:
    """Add the bodies that the calls parse by themselves, and the errors, to the OpenAPI document."""

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            document = get_openapi(title=app.title, version=app.version, description=_ABOUT, routes=app.routes)
            models = [(model, "validation") for model in (*BODIES, Problem)]
            _, bodies = models_json_schema(models, ref_template="#/components/schemas/{model}")  # type: ignore[arg-type]
            document.setdefault("components", {}).setdefault("schemas", {}).update(bodies["$defs"])
            app.openapi_schema = document
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]
