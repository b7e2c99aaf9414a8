"""The training window: what was logged, read from Postgres into frames and arrays."""

from dataclasses import dataclass
from datetime import datetime

import numpy as np
import numpy.typing as npt
import pandas as pd


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """One night's material: everything retained up to the watermark.

    ``units`` has one row per routed unit, that is per segment of an inference (an unsplit inference is one unit),
    ordered by ``occurred_at``: inference_id (str), segment_index, segment_count, text (of the segment), query (whole),
    start_offset, end_offset, session_id, end_user, occurred_at, received_at, router_version, route, cause, policy,
    score, margin, propensity, explored, candidates, model, input_tokens, output_tokens, cost (US dollars),
    duration_ms, finish_reason, error_type. ``embeddings`` is (len(units), D), unit rows, in the same order.
    ``votes`` has the latest revision of each feedback that is not withdrawn: feedback_id (str), revision,
    inference_id (str), segment_index (or missing: the whole), value ("up", "down"), correction (a route or missing),
    submitter, annotator_kind, occurred_at, received_at.
    """

    units: pd.DataFrame
    embeddings: npt.NDArray[np.float32]
    votes: pd.DataFrame
    start: datetime | None
    watermark: datetime
