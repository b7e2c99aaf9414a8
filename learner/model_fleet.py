"""A night's learning in a fleet of models: where each route pleases, instead of which one is right."""

from dataclasses import replace

import numpy as np

from learner.centroid_shift import move_centroids, nearest
from learner.estimates import Estimates
from learner.evidence import Evidence, capped_weights
from learner.settings import LearnerSettings
from learner.truth import spherical_clusters
from learner.values import Floats, Ints, Opinions, Surface, fit_surface
from learner.window import Window
from router.scoring import Router
from router.version import Array, Centroids, RouterParameters, RouterVersion

# Effects that are fitted at most: the time of a night grows with their cube.
_MOST_EFFECTS = 600
_QUESTIONS_PER_COARSE, _QUESTIONS_PER_FINE = 100, 12
_DRAWS = 300
# Every question lies near some place of a fleet of models: it abstains from none.
_NEVER = -1.0
# Thompson sampling: a route is tried as often as it may be the best one.
_THOMPSON = 1.0


def first_values(version: RouterVersion, *, dimension: int, seed: int = 0) -> RouterVersion:
    """Before any vote: one centroid for everything, where each route pleases anywhere between never and always."""
    R = len(version.parameters.routes)
    vectors = np.full((1, dimension), 1 / np.sqrt(dimension), np.float32)
    values = np.full((1, R), 0.5, np.float32)
    drawn = np.random.default_rng(seed).uniform(size=(_DRAWS, 1, R))
    blank = replace(
        version,
        centroids=Centroids(
            vectors=vectors,
            owners=np.full((1, R), 1 / R, np.float32),
            mass=np.ones(1, np.float32),
            values=values,
        ),
        parameters=_parameters(version.parameters),
    )
    return replace(blank, centroids=replace(blank.centroids, owners=_best(drawn, _mean_penalty(blank))))


def carried_values(centroids: Centroids, columns: list[int]) -> Centroids:
    """Values over other routes: ``columns`` names each one's old column; -1, a new model, is as good as the mean."""
    old = centroids.values if centroids.values is not None else np.full_like(centroids.owners, 0.5)
    values = np.stack([old[:, c] if c >= 0 else old.mean(axis=1) for c in columns], axis=1)
    owners = np.stack([centroids.owners[:, c] if c >= 0 else centroids.owners.mean(axis=1) for c in columns], axis=1)
    owners = owners + np.float32(1e-6)
    return replace(centroids, values=values, owners=(owners / owners.sum(axis=1, keepdims=True)).astype(np.float32))


def find_places(X: Array, old: Array, *, routes: int, settings: LearnerSettings, seed: int) -> tuple[Array, ...]:
    """Coarse and fine places, unit rows: as many as the questions allow and as can be fitted for so many routes.

    The fine ones are yesterday's centroids ``old`` (M, D), shifted; they become the centroids.
    """
    most = _MOST_EFFECTS // (routes + 1)
    coarse = int(np.clip(len(X) // _QUESTIONS_PER_COARSE, 1, max(2, min(settings.coarse_clusters, most // 6))))
    fine = int(np.clip(len(X) // _QUESTIONS_PER_FINE, 1, max(2, min(settings.most_centroids, most - coarse))))
    return (
        spherical_clusters(X, count=coarse, settings=settings, seed=seed),
        move_centroids(X, old, count=fine, settings=settings, seed=seed),
    )


def learn_values(
    window: Window,
    evidence: Evidence,
    incumbent: RouterVersion,
    *,
    places: tuple[Array, ...],
    settings: LearnerSettings,
) -> tuple[RouterVersion, Surface]:
    """Return the incumbent with the centroids and values that follow from the evidence, and the fitted surface."""
    X = window.embeddings[evidence.first_unit]
    R = len(incumbent.parameters.routes)
    surface = fit_surface(_opinions(evidence, X, places[-1], routes=R, settings=settings), places, settings=settings)
    parameters = replace(_parameters(incumbent.parameters), beta=settings.beta, neighbours=settings.neighbours)
    candidate = replace(incumbent, parameters=parameters)
    lengths = window.units["text"].fillna("").str.len().to_numpy()
    drawn = surface.draws_at_places(count=_DRAWS, seed=settings.seed)
    nearest_place = nearest(X, places[-1], count=1)[1][:, 0]
    centroids = Centroids(
        vectors=places[-1],
        owners=_best(drawn, _mean_penalty(candidate, lengths=lengths)),
        mass=np.bincount(nearest_place, minlength=len(places[-1])).astype(np.float32),
        values=surface.at_places().astype(np.float32),
    )
    return replace(candidate, centroids=centroids), surface


def value_estimates(
    window: Window, evidence: Evidence, question: Ints, surface: Surface, version: RouterVersion
) -> Estimates:
    """What the night believes, in the terms of a fleet of models.

    ``posteriors`` are the chances that a route is the best choice; a thumbs-down is a wrong route's in so far as
    another one pleases more there: (v_best - v_a) / (1 - v_a); ``success`` is each route's mean over all questions.
    """
    votes, R = evidence.votes, surface.routes
    X = window.embeddings[evidence.first_unit]
    V = surface.pleases(X)
    best = Router(version).index.posterior(X)[0]
    own, at = best[votes.question, votes.route], V[votes.question, votes.route]
    wrong = (V.max(axis=1)[votes.question] - at) / np.maximum(1 - at, 0.01)
    down = np.flatnonzero(~votes.up)
    own_votes = np.bincount(votes.route, weights=own, minlength=R)
    own_downs = np.bincount(votes.route, weights=own * ~votes.up, minlength=R)
    feedback = window.votes["feedback_id"].to_numpy()
    return Estimates(
        routes=version.parameters.routes,
        success=tuple(map(float, V.mean(axis=0))),
        wrong_route_success=float(V.min(axis=1).mean()),
        reask_when_right=(0.08,) * R,
        reask_when_wrong=0.25,
        own_down_share=tuple(map(float, own_downs / np.maximum(own_votes, 1e-9))),
        votes=tuple(map(int, np.bincount(votes.route, minlength=R))),
        thumbs_down=tuple(map(int, np.bincount(votes.route[down], minlength=R))),
        posteriors=best[question].astype(np.float32),
        wrong_route_given_down={str(feedback[votes.row[v]]): float(np.clip(wrong[v], 0, 1)) for v in down},
    )


def _opinions(evidence: Evidence, X: Array, fine: Array, *, routes: int, settings: LearnerSettings) -> Opinions:
    """Votes as opinions, capped by user; a correction speaks for the route that it names too."""
    votes = evidence.votes
    place = nearest(X, fine, count=1)[1][:, 0] if len(X) else np.zeros(0, np.int64)
    weight = capped_weights(votes, nearest=place[votes.question], night=votes.day, settings=settings)
    named = np.flatnonzero((votes.correction >= 0) & (votes.correction != votes.route))
    return Opinions(
        X=np.concatenate([X[votes.question], X[votes.question[named]]]),
        route=np.concatenate([votes.route, votes.correction[named]]),
        pleased=np.concatenate([votes.up.astype(np.float64), np.full(len(named), settings.correction_confidence)]),
        weight=np.concatenate([weight, weight[named]]),
        routes=routes,
    )


def _parameters(old: RouterParameters) -> RouterParameters:
    return replace(old, abstain_below=_NEVER, explore_kappa=_THOMPSON)


def _mean_penalty(version: RouterVersion, *, lengths: Ints | None = None) -> Floats:
    """What price and lateness cost each route in the mean of questions of these lengths, (R,)."""
    given = np.zeros(1, np.int64) if lengths is None or len(lengths) == 0 else lengths
    return np.asarray(Router(version).penalty(given).mean(axis=0))


def _best(drawn: Floats, penalty: Floats) -> Array:
    """How often each route is the best choice at each of M places in draws (B, M, R) of how well it pleases, (M, R)."""
    R = drawn.shape[2]
    best = (drawn - penalty).argmax(axis=2)
    share = np.stack([(best == r).mean(axis=0) for r in range(R)], axis=1)
    return np.asarray((share + 1e-4) / (1 + 1e-4 * R), dtype=np.float32)
