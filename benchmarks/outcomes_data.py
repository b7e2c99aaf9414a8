"""What ``benchmarks.outcomes`` replays: for every question what each model's answer was worth and cost."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from benchmarks.feedback_world import TextEncoder, embedded

Array = npt.NDArray[np.float32]
Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

# Where an outcome has no cost, a token is four characters and an answer has so many.
_ANSWER_TOKENS = 150


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcomes:
    """n questions and R models.

    ``X`` (n, D) embeddings, ``reward`` (n, R) 0..1, ``cost`` (n, R) US dollars a query; ``prices`` (R, 2) US dollars a
    token in and out; ``stream`` are the rows that come as requests, ``score`` those that the result is measured on.
    """

    texts: tuple[str, ...]
    X: Array
    models: tuple[str, ...]
    reward: Floats
    cost: Floats
    prices: Floats
    stream: Ints
    score: Ints


def read_outcomes(
    folder: Path, *, without: Sequence[str], score: str, encoder: TextEncoder, kept: Path | None = None
) -> Outcomes:
    """Read the three files of a folder of logged outcomes.

    They are ``queries.parquet`` (query_id, text, split), ``outcomes.parquet`` (query_id, model, score, maybe cost_usd)
    and ``models.json`` (prices for a million tokens). Questions that some model did not answer are left out, since a
    router that chooses it could not be scored.

    Args:
        folder: of the three files.
        without: models that are left out.
        score: the split that is scored: ``test``, or ``val`` to tune on a part of the stream that is held out.
        encoder: embeds the questions.
        kept: a file of embeddings to reuse.
    """
    queries = pd.read_parquet(folder / "queries.parquet")
    outcomes = pd.read_parquet(folder / "outcomes.parquet")
    reward = outcomes.pivot(index="query_id", columns="model", values="score").reindex(queries["query_id"])
    reward = reward.drop(columns=[model for model in without if model in reward.columns])
    models = tuple(map(str, reward.columns))
    prices = _prices(json.loads((folder / "models.json").read_text(encoding="utf-8")), models)
    answered = reward.notna().all(axis=1).to_numpy()
    texts = queries["text"].astype(str).tolist()
    return Outcomes(
        texts=tuple(t for t, ok in zip(texts, answered, strict=True) if ok),
        X=embedded(texts, encoder=encoder, kept=kept)[answered],
        models=models,
        reward=reward.to_numpy(dtype=np.float64)[answered],
        cost=_costs(outcomes, queries, models, prices)[answered],
        prices=prices,
        stream=_parts(queries["split"][answered].to_numpy(), score)[0],
        score=_parts(queries["split"][answered].to_numpy(), score)[1],
    )


def _parts(split: npt.NDArray[Any], score: str) -> tuple[Ints, Ints]:
    """The rows that are asked and those that are scored; scoring ``val``, every third row of the stream is held out."""
    stream = np.flatnonzero(split != "test")
    if score == "test":
        return stream, np.flatnonzero(split == "test")
    held = np.arange(len(stream)) % 3 == 2
    return stream[~held], stream[held]


def _prices(described: Any, models: Sequence[str]) -> Floats:
    """US dollars a token in and out, (R, 2), from either form of ``models.json``."""
    listed: Mapping[str, Any] = (
        {entry["model_id"]: entry for entry in described["models"]} if "models" in described else described
    )
    found = []
    for model in models:
        entry = listed.get(model, {})
        both = [entry.get(f"{way}_cost_per_m", entry.get(f"{way}_price", 0.0)) for way in ("input", "output")]
        found.append([float(price) / 1e6 for price in both])
    return np.array(found)


def _costs(outcomes: pd.DataFrame, queries: pd.DataFrame, models: Sequence[str], prices: Floats) -> Floats:
    """US dollars of every answer, (n, R): as logged, or by the token prices for a typical answer."""
    if "cost_usd" in outcomes:
        logged = outcomes.pivot(index="query_id", columns="model", values="cost_usd").reindex(queries["query_id"])
        return np.asarray(logged[list(models)], dtype=np.float64)
    tokens = queries["text"].astype(str).str.len().to_numpy(dtype=np.float64)[:, None] / 4
    return np.asarray(tokens * prices[:, 0] + _ANSWER_TOKENS * prices[:, 1])
