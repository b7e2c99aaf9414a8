"""A night: read, mine, estimate, shift the centroids, retrain the splitter, evaluate, gate, publish or hold."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timedelta
from typing import Any, Protocol
from uuid import UUID

from sqlalchemy import Engine

from learner import lease, runs
from learner.coming_in import AT_ONCE, come_in, decide_entry
from learner.comparison import Difference, compare_on_log
from learner.conditions import GateDecision
from learner.evaluation import Evaluation, compare_golden, evaluate
from learner.folds import Folds, learn_by_folds
from learner.follow_ups import find_follow_ups
from learner.forgetting import forgiving, starting_point
from learner.gate import decide_gate, doubtful_routes
from learner.kept_routes import keep_owners, keep_routes
from learner.learn import HeldCentroids, LearnedCentroids, learn_centroids, prepare, within_limits
from learner.mining import MinedFailure, mine
from learner.past_fleets import heed_past_fleets
from learner.report import build_report
from learner.runs import Heartbeat
from learner.seeds import Embedder, embed_seeds
from learner.settings import LearnerSettings
from learner.spikes import observe_costs
from learner.splitter_alone import splitter_alone
from learner.splitter_night import NightSplitter, retrain_splitter
from learner.splitter_training import HiddenEncoder
from learner.value_comparison import judge_values, judged_by_value, passes_freely
from learner.window import Window, embed_missing, read_window, watermark
from router.registry import active, load
from router.rollout import RolloutSettings, pinned_positions
from router.version import RouterVersion
from telemetry.feedback import mark_orphans, resolve_waiting
from telemetry.golden import list_golden
from telemetry.ids import new_id

STEPS = ("read", "estimate", "mine", "split", "shift", "evaluate", "gate", "publish")
Progress = Callable[[str], None]


class NightEncoder(Embedder, HiddenEncoder, Protocol):
    """What a night needs of an encoder: embeddings, and hidden states for the splitter."""


class NothingServes(Exception):
    """No router version is active, so there is nothing to improve; start trimtab serve once, it builds the first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NightResult:
    """How a night ended: published, canary, shadow, held or nothing_to_learn; the version now serving; the report."""

    run_id: UUID
    verdict: str
    version: int
    report: dict[str, Any]


@dataclass(frozen=True, slots=True)
class _Work:
    """What every step needs."""

    engine: Engine
    encoder: NightEncoder
    settings: LearnerSettings
    run_id: UUID
    token: int
    heartbeat: Heartbeat
    progress: Progress
    rollout: RolloutSettings

    def step(self, name: str) -> None:
        """Announce a step; a night whose lease was taken by another, or whose time is over, stops here."""
        self.heartbeat.refuse_when_over()
        with self.engine.begin() as conn:
            runs.set_step(conn, self.run_id, name)
        self.progress(name)


def run_night(
    engine: Engine,
    *,
    encoder: NightEncoder,
    settings: LearnerSettings,
    actor: str,
    rollout: RolloutSettings = AT_ONCE,
    progress: Progress = lambda _: None,
    force: bool = False,
    run_id: UUID | None = None,
    until: datetime | None = None,
) -> NightResult:
    """Run one night and return how it ended. What was interrupted before is started anew; nothing is half published.

    Args:
        engine: of the migrated database.
        encoder: the one that serves.
        settings: what the night goes by.
        actor: who is written into the history.
        rollout: how a version that passes the gate comes in; at once for all, when left out.
        progress: told the name of each step of ``STEPS`` as it begins.
        force: learn even when nothing new came in.
        run_id: of the run's row, made when missing.
        until: the watermark, for a night over the past; None: now.

    Raises:
        LeaseHeld: another learner is at work.
        LeaseLost: another learner took over meanwhile; nothing was published.
        NightTooLong: it took longer than ``most_hours``; nothing was published.
        NothingServes: there is no version to improve.
    """
    run_id = run_id or new_id()
    with engine.begin() as conn:
        if active(conn) is None:
            raise NothingServes(NothingServes.__doc__)
        token = lease.acquire(conn, holder=f"{actor} {run_id}")
        runs.start_run(conn, run_id, token=token)
    try:
        with Heartbeat(engine, token, hours=settings.most_hours) as heartbeat:
            work = _Work(engine, encoder, settings, run_id, token, heartbeat, progress, rollout)
            return _night(work, actor=actor, force=force, until=until)
    except Exception as error:
        with engine.begin() as conn:
            runs.finish_run(conn, run_id, status="failed", error=f"{type(error).__name__}: {error}"[:2000])
        raise
    finally:
        with engine.begin() as conn:
            lease.release(conn, token)


def _night(work: _Work, *, actor: str, force: bool, until: datetime | None) -> NightResult:
    settings, encoder = work.settings, work.encoder

    work.step("read")
    window, incumbent, fresh = _read(work, until=until)
    start = starting_point(work.engine, incumbent, encoder=encoder, settings=settings)
    if not fresh and not force and start is incumbent:
        return _nothing(work, window, incumbent)

    work.step("estimate")
    material = prepare(window, incumbent, encoder=encoder, settings=settings, seed=settings.seed)
    learned = learn_centroids(material, start, settings=settings)

    work.step("mine")
    follow_ups = find_follow_ups(window, similarity=settings.reask_similarity, minutes=settings.follow_up_minutes)
    failures = mine(window, follow_ups, learned.estimates, settings)

    work.step("split")
    splitter = retrain_splitter(
        window,
        learned.estimates,
        failures,
        fleet=incumbent.fleet,
        incumbent=start,
        encoder=encoder,
        settings=settings,
        seed=settings.seed + incumbent.number,
    )
    training = {"watermark": window.watermark.isoformat(), "parent": str(incumbent.number), **_kept(settings)}
    base = replace(start, splitter=splitter.arrays, training=training, number=0, fingerprint="")

    work.step("shift")
    folds = learn_by_folds(material, start, settings=settings)
    found = _Found(window, incumbent, base, learned, folds, splitter)
    trial = _try(work, found, limits=beyond_trust_region(settings))

    work.step("gate")
    if start is not incumbent:
        trial = replace(trial, gate=forgiving(trial.gate))
    elif not (trial.proven or passes_freely(trial.gate, trial.evaluation)):  # what is not proven must be small
        trial = _try(work, found, limits=settings)
    waits = start is incumbent and trial.gate.verdict == "held"  # what was learned of splits need not wait with it
    if waits and (alone := splitter_alone(incumbent, splitter, trial.learned, settings=settings)):
        trial = replace(trial, candidate=alone.candidate, learned=alone.learned, gate=alone.gate)

    work.step("publish")
    return _conclude(work, window, incumbent, trial, failures, splitter, actor=actor)


def beyond_trust_region(settings: LearnerSettings) -> LearnerSettings:
    """Return the settings without the limits on how many queries change route in a night."""
    return replace(settings, most_churn=1.0, most_route_churn=1.0)


@dataclass(frozen=True, slots=True)
class _Found:
    """What the night has learned, before any limit: ``base`` is the candidate but for its centroids."""

    window: Window
    incumbent: RouterVersion
    base: RouterVersion
    learned: LearnedCentroids
    folds: Folds
    splitter: NightSplitter


@dataclass(frozen=True, slots=True)
class _Trial:
    """A candidate and what the gate says of it."""

    candidate: RouterVersion
    learned: HeldCentroids
    evaluation: Evaluation
    gate: GateDecision

    @property
    def proven(self) -> bool:
        """Whether it passes and is better even at the lower bound."""
        return self.gate.verdict == "published" and self.evaluation.overall.low > 0


def _try(work: _Work, found: _Found, *, limits: LearnerSettings) -> _Trial:
    """Judge what was learned; where routes are in doubt, judge what it is without them."""
    trial = _judge(work, found, limits=limits, kept={})
    kept = {route: trial.evaluation.per_route[route] for route in doubtful_routes(trial.evaluation, work.settings)}
    return _judge(work, found, limits=limits, kept=kept) if kept else trial


def _judge(work: _Work, found: _Found, *, limits: LearnerSettings, kept: Mapping[str, Difference]) -> _Trial:
    """Shift the centroids within ``limits``, compare on what the candidate never saw, and ask the gate."""
    incumbent, base, window, settings = found.incumbent, found.base, found.window, work.settings
    with work.engine.connect() as conn:
        golden, pinned = list_golden(conn), pinned_positions(conn, incumbent)
    stay = [incumbent.parameters.routes.index(route) for route in kept]

    def limited(learned: LearnedCentroids) -> tuple[RouterVersion, HeldCentroids]:
        held = within_limits(learned, base, window, settings=limits)
        parameters = observe_costs(window.units, held.parameters)
        centroids = keep_owners(held.centroids, base, stay)
        centroids = keep_routes(centroids, base.centroids, pinned)
        return replace(base, centroids=centroids, parameters=parameters), held

    candidate, held = limited(found.learned)
    work.step("evaluate")
    unseen = {k: limited(learned)[0] for k, learned in found.folds.learned.items()}
    heard, estimates = found.learned.evidence, found.learned.estimates
    comparison = compare_on_log(
        window, heard, incumbent, estimates, folds=found.folds, candidate=unseen, settings=settings
    )
    seeds = embed_seeds(incumbent.fleet, encoder=work.encoder)
    evaluation = replace(
        evaluate(window, incumbent, candidate, comparison, examples=(seeds.X, seeds.route), settings=settings),
        splitter=found.splitter.conditions,
        golden=compare_golden(incumbent, candidate, golden, encoder=work.encoder),
        kept=kept,
    )
    if incumbent.fleet.of_models:
        judged = judge_values(window, heard, incumbent, fold=found.folds.of_unit, learned=unseen, settings=settings)
        evaluation = judged_by_value(evaluation, judged, routes=incumbent.parameters.routes, settings=settings)
    return _Trial(candidate, held, evaluation, decide_gate(evaluation, settings))


def _kept(settings: LearnerSettings) -> dict[str, str]:
    return {"seed": str(settings.seed), "window_days": str(settings.window_days)}


def _read(work: _Work, *, until: datetime | None) -> tuple[Window, RouterVersion, bool]:
    """The window, the version that serves, and whether anything came in since the last night."""
    with work.engine.begin() as conn:
        resolve_waiting(conn)
        mark_orphans(conn, older_than=timedelta(days=work.settings.orphan_days))
    embed_missing(work.engine, encoder=work.encoder)
    with work.engine.connect() as conn:
        window = read_window(conn, encoder=work.encoder, days=work.settings.window_days, until=until or watermark(conn))
        since = runs.last_watermark(conn)
        fresh = len(window.units) > 0 and runs.anything_new(conn, since=since, until=window.watermark)
        activation = active(conn)
        if activation is None:
            raise NothingServes(NothingServes.__doc__)
        incumbent = load(conn, activation.version)
        return heed_past_fleets(conn, window, incumbent.fleet), incumbent, fresh


def _nothing(work: _Work, window: Window, incumbent: RouterVersion) -> NightResult:
    none = "No question with a route was logged lately, so there is nothing to learn from."
    sentence = "Nothing came in since the last night." if len(window.units) else none
    report = {"verdict": "nothing_to_learn", "sentence": sentence}
    with work.engine.begin() as conn:
        runs.finish_run(
            conn,
            work.run_id,
            status="finished",
            verdict="nothing_to_learn",
            watermark=window.watermark,
            window_start=window.start,
            report=report,
        )
    return NightResult(run_id=work.run_id, verdict="nothing_to_learn", version=incumbent.number, report=report)


def _conclude(
    work: _Work,
    window: Window,
    incumbent: RouterVersion,
    trial: _Trial,
    failures: list[MinedFailure],
    splitter: NightSplitter,
    *,
    actor: str,
) -> NightResult:
    """Publish or hold, and write everything down, in one transaction."""
    gate = trial.gate
    made = (window, incumbent, trial.candidate, trial.learned, failures, splitter, trial.evaluation, gate)
    report = build_report(*made, encoder=work.encoder, settings=work.settings)
    with work.engine.begin() as conn:
        entry = decide_entry(
            conn,
            gate,
            parent=incumbent.number,
            evidence=trial.evaluation.overall.evidence,
            proven=trial.proven,
            rollout=work.rollout,
        )
        report |= {"verdict": entry.verdict, "sentence": entry.told(report["sentence"])}
        registered = come_in(
            conn,
            trial.candidate,
            entry,
            rollout=work.rollout,
            actor=actor,
            parent=incumbent.number,
            report=report,
            watermark=window.watermark,
            window_start=window.start,
            fencing_token=work.token,
        )
        report["version"] = registered.number if entry.verdict == "published" else incumbent.number
        runs.store_failures(conn, work.run_id, failures)
        if entry.comes_in:
            runs.store_consumption(conn, window.vote_revisions(), version=registered.number)
        runs.finish_run(
            conn,
            work.run_id,
            status="finished",
            verdict=entry.verdict,
            watermark=window.watermark,
            window_start=window.start,
            candidate=registered.number,
            counts=report["counts"],
            reasons=[asdict(condition) for condition in gate.conditions],
            report=report,
        )
    return NightResult(run_id=work.run_id, verdict=entry.verdict, version=report["version"], report=report)
