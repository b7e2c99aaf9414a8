"""Version 1 from the fleet alone."""

from collections.abc import Mapping
from typing import Protocol

import numpy as np

from learner.abstention import abstention_threshold
from learner.concatenate import concatenations
from learner.model_fleet import first_values
from learner.seeds import Embedder, Seeds, embed_seeds, seed_posterior
from learner.settings import LearnerSettings
from learner.splitter_training import HiddenEncoder, train_splitter
from router.fleet import Fleet, Route
from router.version import Array, Centroids, RouterParameters, RouterVersion

# A centroid made of one example is surer of its route than the mean of all examples would be, but not certain.
_OWN_SHARE = 0.6
_FIRST_BETA = 20.0
_FIRST_KAPPA = 0.07
# More would only repeat the few examples of a young fleet: the splitter would learn them by heart.
_FIRST_CONCATENATIONS = 500
# Until telemetry tells, an answer is taken for so long, and four characters for one token.
_TYPICAL_ANSWER_TOKENS = 150
_TYPICAL_LENGTHS = (30, 120, 500)


class FleetEncoder(Embedder, HiddenEncoder, Protocol):
    """An encoder that gives hidden states too: the splitter is trained on them."""


def build_first_version(
    fleet: Fleet, *, encoder: FleetEncoder, seed: int = 0, settings: LearnerSettings | None = None
) -> RouterVersion:
    """Build a version that can route at once: every example is a centroid.

    Args:
        fleet: routes with their utterances and descriptions.
        encoder: embeds them; the version remembers its fingerprint.
        seed: of the splitter's training.
        settings: of the learner, for its priors.

    Returns:
        A version with number 0; ``registry.publish`` gives it its number.
    """
    settings = settings or LearnerSettings()
    seeds = embed_seeds(fleet, encoder=encoder)
    version = RouterVersion(
        fleet=fleet,
        parameters=first_parameters(fleet, seeds, settings=settings),
        centroids=first_centroids(seeds, settings=settings),
        splitter=first_splitter(fleet, encoder=encoder, seed=seed, settings=settings),
        encoder=encoder.fingerprint,
        training={"made_from": "fleet"},
    )
    return first_values(version, dimension=encoder.dimension) if fleet.of_models else version


def first_centroids(seeds: Seeds, *, settings: LearnerSettings) -> Centroids:
    """The examples as centroids, before any telemetry."""
    return seed_centroids(seeds, seed_posteriors=seed_posterior(seeds, seeds.X, sharpness=settings.seed_sharpness))


def seed_centroids(seeds: Seeds, *, seed_posteriors: Array, own_share: float = _OWN_SHARE) -> Centroids:
    """Every example as a centroid of mass one, owned mostly by its route and for the rest as ``seed_posteriors`` say.

    Args:
        seeds: S examples.
        seed_posteriors: (S, R) what is believed at their places.
        own_share: how much of it is its route's whatever is believed.
    """
    owners = (1 - own_share) * seed_posteriors
    owners[np.arange(len(owners)), seeds.route] += own_share
    return Centroids(
        vectors=seeds.X,
        owners=(owners / owners.sum(axis=1, keepdims=True)).astype(np.float32),
        mass=np.ones(len(seeds.X), np.float32),
    )


def first_parameters(fleet: Fleet, seeds: Seeds, *, settings: LearnerSettings) -> RouterParameters:
    """The numbers beside the centroids, before any telemetry."""
    return RouterParameters(
        routes=fleet.names,
        success=(settings.prior_success,) * len(fleet.routes),
        cost=tuple(_price(route) for route in fleet.routes),
        latency_ms=((0.0,) * len(_TYPICAL_LENGTHS),) * len(fleet.routes),
        wrong_route_success=settings.prior_wrong_route_success,
        beta=_FIRST_BETA,
        explore_kappa=_FIRST_KAPPA,
        neighbours=settings.neighbours,
        reask_similarity=settings.reask_similarity,
        reask_floor=settings.reask_floor,
        cost_weight=fleet.cost_weight,
        abstain_below=abstention_threshold(seeds.X, np.ones(len(seeds.X), np.float32), count=len(seeds.X)),
    )


def _price(route: Route) -> tuple[float, ...]:
    """US dollars for a typical query of each length bin, from the operator's token prices."""
    answer = min(_TYPICAL_ANSWER_TOKENS, route.max_completion_tokens or _TYPICAL_ANSWER_TOKENS)
    return tuple(
        length / 4 * route.input_cost_per_token + answer * route.output_cost_per_token for length in _TYPICAL_LENGTHS
    )


def first_splitter(fleet: Fleet, *, encoder: FleetEncoder, seed: int, settings: LearnerSettings) -> Mapping[str, Array]:
    """Train a splitter on the fleet's examples; none where fewer than two routes have any, or none is wanted."""
    if not settings.splitter_examples:
        return {}
    examples = concatenations(
        {route.name: route.utterances for route in fleet.routes}, count=_FIRST_CONCATENATIONS, seed=seed
    )
    return train_splitter(examples, encoder=encoder, seed=seed)
