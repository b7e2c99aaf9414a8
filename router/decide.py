"""The decision for one query: rules, utility, abstention, exploration, session, split. Pure, given rng."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING
from uuid import UUID

import numpy as np
import numpy.typing as npt

from router.centroids import Matrix, unit_rows
from router.choice import Choices, choose, rank
from router.decision import Candidate, Decision, RoutedSegment, SplitEvidence
from router.exploration import draw
from router.scoring import Router
from router.splitting import Encode, consider_split, unsplit
from router.units import Units, route_units, settle, utility

if TYPE_CHECKING:
    from router.encoder import Encoding

__all__ = [
    "Choices",
    "Encode",
    "Router",
    "SessionState",
    "UnknownRoute",
    "Weighed",
    "advance_session",
    "decide",
    "decide_by_itself",
    "decide_many",
    "is_reask",
    "route_posteriors",
    "weigh",
]

_CANDIDATES = 5
_NO_ID = UUID(int=0)


class UnknownRoute(ValueError):
    """The pinned route is not in the fleet that serves; pin one of its routes or none."""

    def __init__(self, route: str, *, place: str = "") -> None:
        self.route = route
        super().__init__(f"{self.__doc__} {place}".strip())


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionState:
    """What the last decision of a session leaves behind.

    ``embedding`` (D,) is that of the last query (or its last segment) by ``encoder``, ``tried`` the routes that were
    tried for the same question before ``route``.
    """

    route: str
    embedding: npt.NDArray[np.float32]
    at: datetime
    tried: tuple[str, ...] = ()
    encoder: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Weighed:
    """What a query is worth whole and in parts, before a session or chance have their say; see ``weigh``.

    ``embedding`` (D,) is the whole query's, of length one.
    """

    units: Units
    split: SplitEvidence
    embedding: npt.NDArray[np.float32]


def route_posteriors(router: Router, X: npt.ArrayLike) -> Matrix:
    """p(d|x) of queries with embeddings (n, D), as (n, R) in the order of ``RouterParameters.routes``."""
    return router.index.posterior(X)[0]


def decide_many(
    router: Router,
    X: npt.ArrayLike,
    *,
    texts: Sequence[str] | None = None,
    lengths: npt.ArrayLike | None = None,
    explore: bool = True,
) -> Choices:
    """What the policy does with many unsplit queries, sessions and pins left aside: choices, scores, propensities.

    Args:
        router: the version that decides.
        X: (n, D) embeddings.
        texts: the queries; where given, keyword rules hold and lengths are theirs.
        lengths: (n,) lengths in characters where there are no texts; 0 when left out.
        explore: False gives the greedy choice propensity one.
    """
    named = None if texts is None else [router.rules.matches(text) for text in texts]
    if lengths is None:
        lengths = np.zeros(len(np.atleast_2d(X))) if texts is None else np.array([len(text) for text in texts])
    scores = router.score(X, lengths=lengths, similarities=False)
    return choose(router, scores, named=named, explore=explore)


def weigh(router: Router, query: str, encoding: "Encoding", *, encode: Encode, explore: bool = True) -> Weighed:
    """Score a query and consider to split it: most of deciding, and always the same. Arguments as of ``decide``."""
    x = unit_rows(encoding.embedding)[0]
    whole = route_units(router, query, ((0, len(query)),), x, explore=explore)
    units, split = consider_split(router, query, encoding, whole, encode=encode, explore=explore)
    return Weighed(units=units, split=split, embedding=x[0])


def _weigh_pinned(router: Router, query: str, encoding: "Encoding", *, route: int, explore: bool) -> Weighed:
    x = unit_rows(encoding.embedding)[0]
    units = settle(route_units(router, query, ((0, len(query)),), x, explore=explore), route, cause="pinned")
    return Weighed(units=units, split=unsplit("The caller pinned the route.", whole=utility(units)), embedding=x[0])


def decide(
    router: Router,
    query: str,
    encoding: "Encoding",
    *,
    encode: Encode,
    inference_id: UUID,
    rng: np.random.Generator,
    session: SessionState | None = None,
    explore: bool = True,
    pinned: str | None = None,
    weighed: Weighed | None = None,
) -> Decision:
    """Decide where a query goes, whole or in segments.

    Args:
        router: the version that decides.
        query: its text.
        encoding: the encoder's single pass over the query; with hidden states, or the query is not split.
        encode: embeds the segments of a proposed split, one batch.
        inference_id: the id under which the decision is logged.
        rng: source of exploration.
        session: what the last decision of this session left behind.
        explore: False never explores.
        pinned: the route that the caller asks for by name.
        weighed: what ``weigh`` returned for the same query; it is weighed here when left out.

    Raises:
        UnknownRoute: ``pinned`` names no route of the fleet.
    """
    if pinned is not None and pinned not in router.position:
        raise UnknownRoute(pinned)
    if pinned is not None:
        weighed = _weigh_pinned(router, query, encoding, route=router.position[pinned], explore=explore)
    elif weighed is None:
        weighed = weigh(router, query, encoding, encode=encode, explore=explore)
    units = _heed_session(router, weighed.units, session)
    return Decision(
        inference_id=inference_id,
        query=query,
        segments=tuple(_segment(router, query, units, row, rng=rng) for row in range(len(units.spans))),
        split=weighed.split,
        policy=router.policy,
        embedding=weighed.embedding,
        encoder=router.version.encoder,
        router_version=router.version.number,
        fingerprint=router.version.fingerprint,
    )


def decide_by_itself(router: Router, query: str, encoding: "Encoding", *, encode: Encode) -> Decision:
    """Decide a query as nobody asked it: without a session, a pin or exploration, under no id."""
    rng = np.random.default_rng(0)
    return decide(router, query, encoding, encode=encode, inference_id=_NO_ID, rng=rng, explore=False)


def advance_session(router: Router, session: SessionState | None, decision: Decision, *, at: datetime) -> SessionState:
    """The state of a session after a decision; routes tried for one and the same question add up."""
    last = decision.segments[-1]
    tried: tuple[str, ...] = ()
    if session is not None and is_reask(router, session, last.embedding) and last.route != session.route:
        tried = (*session.tried, session.route)
    return SessionState(route=last.route, embedding=last.embedding, at=at, tried=tried, encoder=router.version.encoder)


def is_reask(router: Router, session: SessionState, x: npt.NDArray[np.float32]) -> bool:
    """Whether the query (unit embedding x) asks again what the session asked last."""
    return float(session.embedding @ x) >= router.parameters.reask_similarity


def _heed_session(router: Router, units: Units, session: SessionState | None) -> Units:
    """Leave out what was just tried when the question comes again; else keep the session's route if it is plausible.

    Switching costs caches, so a session stays where it is while the best route's lead in probability is within
    ``session_margin``. A route that is less than half as probable as the best is not plausible whatever the margin:
    the topic has changed.
    """
    if session is None or units.causes != ("centroid",) or session.route not in router.position:
        return units
    parameters, old, best = router.parameters, router.position[session.route], int(units.choices.route[0])
    P, allowed = units.choices.probabilities[0], units.choices.scores.allowed[0]
    if is_reask(router, session, units.X[0]):
        left_out = [router.position[name] for name in (*session.tried, session.route) if name in router.position]
        others = allowed & (parameters.reask_floor <= P)
        others[left_out] = False
        if others.any():
            ranked = rank(router, np.where(others, units.choices.utilities[0], -np.inf)[None])
            return settle(units, int(ranked[0, 0]), cause="reasked")
    if old != best and allowed[old] and P[old] >= max(P[best] - parameters.session_margin, P[best] / 2):
        return settle(units, old, cause="session")
    return units


def _segment(router: Router, query: str, units: Units, row: int, *, rng: np.random.Generator) -> RoutedSegment:
    """The routed segment, after drawing whether to explore."""
    choices, (start, end) = units.choices, units.spans[row]
    greedy, propensities = int(choices.route[row]), choices.propensities[row]
    route = draw(propensities, greedy=greedy, chance=rng.random()) if propensities[greedy] < 1 else greedy
    P: list[float] = choices.probabilities[row].tolist()
    return RoutedSegment(
        start=start,
        end=end,
        text=query[start:end],
        route=router.routes[route],
        score=P[route],
        margin=P[route] - max((*P[:route], *P[route + 1 :]), default=0.0),
        propensity=float(propensities[route]),
        explored=route != greedy,
        cause="explored" if route != greedy else units.causes[row],
        candidates=_candidates(router, choices, row, chosen=route),
        embedding=units.X[row],
    )


def _candidates(router: Router, choices: Choices, row: int, *, chosen: int) -> tuple[Candidate, ...]:
    """The chosen route first, then the best of the others by utility."""
    scores = choices.scores
    order = router.name_order[np.argsort(-scores.utilities[row, router.name_order], kind="stable")]
    listed = [chosen, *(route for route in order.tolist() if route != chosen)][:_CANDIDATES]
    return tuple(
        Candidate(
            route=router.routes[route],
            probability=float(scores.probabilities[row, route]),
            utility=float(scores.utilities[row, route]),
            similarity=float(scores.similarities[row, route]),
        )
        for route in listed
    )
