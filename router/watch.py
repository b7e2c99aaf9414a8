"""Which version this server process decides by: follows the registry, swaps whole, keeps the last good one."""

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Collection
from pathlib import Path
from typing import Any

import psycopg
from sqlalchemy import Connection
from sqlalchemy.exc import SQLAlchemyError

from router.activations import CHANNEL
from router.arms import Arms
from router.artifact import DamagedArtifact, unpack
from router.decision import Policy
from router.fleet import Fleet
from router.plan import Plan, read_plan
from router.scoring import Router
from router.stored_versions import UnknownVersion, VersionRecord, read_artifact, read_version
from router.trial import open_router
from router.version import RouterVersion, rules_only_version
from router.version_cache import read_cache, write_cache
from telemetry.database import CONNECT_TIMEOUT_S, create_engine, parse_url

POLL_SECONDS = 1.0
_POLLS_TO_REST = 5  # before what was refused is tried again: that may read a whole version
_PATIENCE_SECONDS = 5.0
_RECENT = 4  # routers at hand: what serves, what is beside it, and where a rollback leads
_FIRST_WAIT, _LONGEST_WAIT = 0.1, 5.0
_DATABASE_AWAY = "The database cannot be reached; the version at hand goes on deciding."
_Connection = psycopg.AsyncConnection[tuple[Any, ...]]
_NEWEST_SEQ = "select coalesce(max(seq), 0) from router_activation"
_AWAY = (SQLAlchemyError, psycopg.Error, OSError, TimeoutError)


class WrongEncoder(Exception):
    """The version was made with another encoder than this process runs; start it with that encoder."""

    def __init__(self, version: RouterVersion | VersionRecord) -> None:
        self.version = version.number
        super().__init__(f"{self.__doc__} Version {version.number} wants {version.encoder}.")


class RouterWatch:
    """Keeps ``arms`` at what is active in the registry: the version that serves, and a second one beside it.

    A notification wakes it; behind it, it asks for the newest seq every ``poll_seconds``. A version that is damaged,
    fails its trial queries or wants another encoder is not swapped in: the last good one goes on and ``problem`` says
    why; a second version that is so is not tried here. Every few seconds it is tried again, as is what could not be
    cached. With the database away the watch reconnects, and a process that starts then takes the version cached on
    disk, or else the rules of its fleet.

    Attributes:
        arms: the routers that decide; read it once per request. None only before ``start``, or where there is
            neither database, cache nor fleet.
        seq: of the newest activation that was seen; 0 for none.

    Args:
        url: of the database.
        home: the folder whose ``cache/`` keeps the last good version.
        encoder: fingerprint of the encoder of this process, or of the two that it has; None accepts any.
        fleet: whose rules decide when there is nothing else.
        policy: of every router that is built.
        poll_seconds: the longest time until a version is found whose notification was lost.
        announce: told in a sentence whenever the version or the problem changes.
    """

    def __init__(
        self,
        url: str,
        *,
        home: Path,
        encoder: str | Collection[str] | None = None,
        fleet: Fleet | None = None,
        policy: Policy = "cost_aware",
        poll_seconds: float = POLL_SECONDS,
        announce: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.arms: Arms | None = None
        self.seq = 0
        self._refusal: str | None = None
        self._tried = 0.0
        self._cached: Router | None = None
        self._away = False
        self._conninfo = parse_url(url).set(drivername="postgresql").render_as_string(hide_password=False)
        self._engine = create_engine(url, pool_size=1)
        self._cache = home / "cache" / "router-version"
        self._encoders = (encoder,) if isinstance(encoder, str) else encoder
        self._fleet = fleet
        self._policy: Policy = policy
        self._poll_seconds = poll_seconds
        self._announce = announce
        self._task: asyncio.Task[None] | None = None
        self._swapping: asyncio.Task[None] | None = None
        self._recent: deque[Router] = deque(maxlen=_RECENT)

    @property
    def current(self) -> Router | None:
        """The router of the version that serves."""
        return None if self.arms is None else self.arms.main

    def fleet_of(self, number: int) -> Fleet | None:
        """The fleet of a version that decides; of the one that serves where that number has left meanwhile."""
        at_hand = [] if self.arms is None else [r for r in (self.arms.side, self.arms.main) if r is not None]
        found = [router for router in at_hand if router.version.number == number] or at_hand[-1:]
        return found[0].version.fleet if found else None

    @property
    def problem(self) -> str | None:
        """What is wrong at present, in a sentence; None while all is well."""
        return self._refusal or (_DATABASE_AWAY if self._away else None)

    async def start(self) -> None:
        """Load what is active, from the database or else from disk, and follow it from then on."""
        try:
            async with asyncio.timeout(_PATIENCE_SECONDS), self._connection() as conn:
                await self._refresh(conn)
        except _AWAY:
            self._database_is_away(True)
        if self.current is None:
            self._start_without_database()
        self._task = asyncio.create_task(self._follow(), name="router-watch")
        self._task.add_done_callback(self._ended)

    async def stop(self) -> None:
        """Stop following; ``current`` stays as it is."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait((self._task,))
        if self._swapping is not None:
            await asyncio.wait((self._swapping,), timeout=_PATIENCE_SECONDS)
        self._engine.dispose()

    async def _follow(self) -> None:
        wait = _FIRST_WAIT
        while True:
            try:
                async with self._connection() as conn:
                    async with asyncio.timeout(_PATIENCE_SECONDS):
                        await conn.execute(f"listen {CHANNEL}")
                    while True:
                        async with asyncio.timeout(_PATIENCE_SECONDS):
                            await self._refresh(conn)
                        wait = _FIRST_WAIT
                        async for _ in conn.notifies(timeout=self._poll_seconds, stop_after=1):
                            pass
            except _AWAY:
                self._database_is_away(True)
            await asyncio.sleep(wait)
            wait = min(2 * wait, _LONGEST_WAIT)

    @contextlib.asynccontextmanager
    async def _connection(self) -> AsyncIterator[_Connection]:
        """A connection of the watch's own, so that a full pool of requests never delays a rollback."""
        conn = await psycopg.AsyncConnection.connect(self._conninfo, autocommit=True, connect_timeout=CONNECT_TIMEOUT_S)
        try:
            yield conn
        finally:
            await conn.close()

    async def _refresh(self, conn: _Connection) -> None:
        """Ask for the newest seq, and swap if it is another one than was seen, or if it was refused a while ago."""
        row = await (await conn.execute(_NEWEST_SEQ)).fetchone()
        self._database_is_away(False)
        rested = time.monotonic() - self._tried >= _POLLS_TO_REST * self._poll_seconds
        if row is None or (row[0] == self.seq and not (self._refusal and rested)):
            return
        # Shielded, so that a stop does not leave the thread behind with its connection open.
        self._swapping = asyncio.create_task(asyncio.to_thread(self._swap))
        await asyncio.shield(self._swapping)
        self.seq, self._tried = row[0], time.monotonic()

    def _swap(self) -> None:
        """Read, verify and try what is active, then let it decide. Runs beside the event loop."""
        with self._engine.connect() as conn:
            plan = read_plan(conn)
            if plan is None:
                return
            number = plan.main.version
            try:
                main = self._router(conn, number)
            except (DamagedArtifact, UnknownVersion, WrongEncoder) as error:
                self._refuse(f"Version {number} is not served: {error}")
                return
            swapped = self.current is not main
            self.arms, untried = self._with_side(conn, plan, main)
            if swapped:
                self._announce(f"Version {number} decides from now on.")
            uncached = None if self._cached is main else self._keep(conn, main)
            self._refuse(uncached or untried)

    def _router(self, conn: Connection, number: int) -> Router:
        """The router of a version: one of the last few, so that a rollback loads nothing, or one that is made ready."""
        record = read_version(conn, number)
        for router in self._recent:
            if router.version.fingerprint == record.fingerprint:
                return router
        self._check_encoder(record)  # before its parts are read: a shadow for another encoder stays for days
        artifact = read_artifact(conn, number)
        router = self._ready(unpack(artifact.manifest, artifact.parts, fingerprint=record.fingerprint, number=number))
        self._recent.append(router)
        return router

    def _with_side(self, conn: Connection, plan: Plan, main: Router) -> tuple[Arms, str | None]:
        """Both routers, and why the second one is missing, None where there is to be none."""
        if plan.side is None:
            return Arms(main=main), None
        number = plan.side.version
        try:
            side = self._router(conn, number)
        except (DamagedArtifact, UnknownVersion, WrongEncoder) as error:
            return Arms(main=main), f"Version {number} is not tried here: {error}"
        arms = Arms(main=main, side=side, mode=plan.mode, share=plan.side.share)
        if arms != self.arms:
            self._announce(f"Version {number} is beside it: {plan.mode}, {plan.side.share:.0%} of the sessions.")
        return arms, None

    def _keep(self, conn: Connection, main: Router) -> str | None:
        """Write what serves to disk, or say why not.

        What was damaged since this process loaded it does not replace a good copy.
        """
        number = main.version.number
        try:
            artifact = read_artifact(conn, number)
            unpack(artifact.manifest, artifact.parts, fingerprint=artifact.fingerprint, number=number)
            write_cache(self._cache, artifact, number=number)
        except DamagedArtifact as error:
            return f"Version {number} serves from memory, but what is stored of it is damaged: {error}"
        except OSError as error:
            return f"Version {number} serves but could not be cached on disk: {error.strerror}."
        self._cached = main
        return None

    def _ready(self, version: RouterVersion) -> Router:
        self._check_encoder(version)
        return open_router(version, policy=self._policy)

    def _check_encoder(self, version: RouterVersion | VersionRecord) -> None:
        if self._encoders is not None and version.encoder not in self._encoders:
            raise WrongEncoder(version)

    def _start_without_database(self) -> None:
        try:
            version = read_cache(self._cache)
            if version is not None:
                self.arms = Arms(main=self._ready(version))
                self._announce(f"Version {version.number} decides, from the cache on disk.")
        except (DamagedArtifact, WrongEncoder, OSError) as error:
            self._refuse(f"The cached version is not served: {error}")
        if self.current is None and self._fleet is not None:
            self.arms = Arms(main=Router(rules_only_version(self._fleet), policy="rules"))
            self._announce("No router version is at hand; the keyword rules of the fleet decide.")

    def _database_is_away(self, away: bool) -> None:
        if away != self._away:
            self._away = away
            self._announce(_DATABASE_AWAY if away else "The database can be reached again.")

    def _refuse(self, problem: str | None) -> None:
        told, self._refusal = self._refusal, problem
        if problem is not None and problem != told:
            self._announce(problem)

    def _ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled():
            self._refuse(f"The watch has stopped ({type(task.exception()).__name__}); restart this process.")
