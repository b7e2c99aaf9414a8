"""A version for another encoder: everything retained is embedded anew and learned from, then tried in shadow."""

from dataclasses import replace

import numpy as np
from sqlalchemy import Engine

from learner.first_version import build_first_version
from learner.learn import learn_centroids, prepare, within_limits
from learner.nightly import NothingServes, beyond_trust_region
from learner.past_fleets import heed_past_fleets
from learner.seeds import Embedder
from learner.settings import LearnerSettings
from learner.spikes import observe_costs
from learner.window import Window, embed_missing, read_window
from router.encoder import Encoder
from router.registry import PublishedVersion, active, load, publish
from router.rollout import start_trial


class SameEncoder(ValueError):
    """The version that serves is for this encoder already; there is nothing to change."""


def build_for_encoder(
    engine: Engine, *, old: Embedder, new: Encoder, settings: LearnerSettings, actor: str
) -> PublishedVersion:
    """Build a version for the encoder ``new`` and let it decide in shadow beside the one that serves.

    What is stored keeps the old encoder's embeddings until the new version serves, for until then nights learn by
    those; both are told apart by the encoder's fingerprint. Only what has a text can be embedded anew.

    Raises:
        NothingServes: there is no version to take the fleet from.
        SameEncoder: the version that serves is for it already.
        Pinned: a person pinned what serves.
    """
    embed_missing(engine, encoder=old)
    with engine.connect() as conn:
        activation = active(conn)
        if activation is None:
            raise NothingServes(NothingServes.__doc__)
        incumbent = load(conn, activation.version)
        if incumbent.encoder == new.fingerprint:
            raise SameEncoder(SameEncoder.__doc__)
        window = read_window(conn, encoder=old, days=settings.window_days)
        window = embedded_anew(heed_past_fleets(conn, window, incumbent.fleet), encoder=new)
    base = build_first_version(incumbent.fleet, encoder=new)
    material = prepare(window, base, encoder=new, settings=settings, seed=settings.seed)
    learned = learn_centroids(material, base, settings=settings)
    held = within_limits(learned, base, window, settings=beyond_trust_region(settings))
    version = replace(
        base,
        centroids=held.centroids,
        parameters=observe_costs(window.units, held.parameters),
        training={"parent": str(incumbent.number), "watermark": window.watermark.isoformat()},
    )
    reason = f"built for another encoder from {len(window.units)} questions"
    with engine.begin() as conn:
        made = publish(conn, version, actor=actor, reason=reason, parent=incumbent.number, status="candidate")
        started = start_trial(conn, made.number, mode="shadow", share=0, actor=actor, reason=reason)
    return replace(made, activation=started)


def embedded_anew(window: Window, *, encoder: Embedder) -> Window:
    """The window by another encoder; units without a text are left out, and the votes on them."""
    units = window.units[window.units["text"].notna()].reset_index(drop=True)
    embeddings = np.asarray(encoder.embed(units["text"].tolist()), dtype=np.float32)
    votes = window.votes[window.votes["inference_id"].isin(units["inference_id"])].reset_index(drop=True)
    return replace(window, units=units, embeddings=embeddings, votes=votes)
