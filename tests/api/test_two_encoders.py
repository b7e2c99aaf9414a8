"""Two encoders in one process: each version decides by its own."""

import asyncio
from dataclasses import replace
from datetime import timedelta

import numpy as np
import pytest

from api.deciding import Deciding, Question
from learner.first_version import build_first_version
from router.arms import Arms
from router.scoring import Router
from tests.learner.turned import Turned

QUERY = "where is my parcel"


@pytest.mark.parametrize("mode", ["shadow", "serves"])
def test_a_version_decides_by_its_own_encoder_and_a_session_is_not_compared_across_them(encoder, fleet, mode):
    turned = Turned(encoder)
    old = build_first_version(fleet, encoder=encoder)
    new = replace(build_first_version(fleet, encoder=turned), number=2, fingerprint="new")
    before = Arms(main=Router(old), side=Router(new), mode="shadow")
    after = before if mode == "shadow" else Arms(main=Router(new))
    current = [before]
    deciding = Deciding(encoder, arms=lambda: current[0], remember=timedelta(minutes=5), next_encoder=turned)
    question = Question(query=QUERY, session_id="s", explore=False)

    async def ask():
        return await deciding.decide(question)

    first = asyncio.run(ask())
    assert (first.encoder, first.route, first.shadow.agrees) == (encoder.fingerprint, "delivery", True)
    current[0] = after
    second = asyncio.run(ask())
    deciding.close()
    by = encoder if mode == "shadow" else turned
    assert second.encoder == by.fingerprint
    assert np.allclose(second.embedding, by.embed([QUERY])[0], atol=1e-5)
    # The old encoder knows that the question came again; the new one cannot, for it never saw the first.
    assert second.segments[0].cause == ("reasked" if mode == "shadow" else "centroid")
