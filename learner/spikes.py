"""What is unusual, and what is usual: robust scores and medians by route and length."""

from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pandas as pd

from router.version import RouterParameters

_LEAST = 20


def robust_z(units: pd.DataFrame, column: str) -> npt.NDArray[np.float64]:
    """(x - median) / (1.4826 MAD) within route and length bin, (n,); 0 where fewer than 20 are alike or none is known.

    Iglewicz and Hoaglin 1993. The MAD is at least 5 % of the median, so that a constant does not make spikes of noise.
    """
    values = units[column].astype("float64")
    groups = [units["route"], length_bin(units, (60, 240))]
    known = values.groupby(groups)
    middle = known.transform("median")
    spread = 1.4826 * (values - middle).abs().groupby(groups).transform("median")
    z = (values - middle) / np.maximum(spread, 0.05 * middle.abs() + 1e-9)
    return np.asarray(z.where(known.transform("count") >= _LEAST, 0.0).fillna(0.0), dtype=np.float64)


def length_bin(units: pd.DataFrame, bins: tuple[int, ...]) -> npt.NDArray[np.int64]:
    """Number of the length bin of each unit's text."""
    return np.asarray(np.digitize(units["text"].fillna("").str.len().to_numpy(), bins), dtype=np.int64)


def observe_costs(units: pd.DataFrame, parameters: RouterParameters) -> RouterParameters:
    """Return the parameters with cost and latency medians by route and length bin, where at least 20 were logged.

    A bin with fewer gets the route's median over all lengths.
    """
    bins = length_bin(units, parameters.length_bins)
    tables = {"cost": np.array(parameters.cost), "latency_ms": np.array(parameters.latency_ms)}
    for name, column in (("cost", "cost"), ("latency_ms", "duration_ms")):
        values = units[column].astype("float64")
        for i, route in enumerate(parameters.routes):
            own = values[(units["route"] == route).to_numpy()].dropna()
            for b in range(tables[name].shape[1]):
                alike = own[bins[own.index] == b]
                known = alike if len(alike) >= _LEAST else own
                if len(known) >= _LEAST:
                    tables[name][i, b] = float(known.median())
    cost, latency = (tuple(map(tuple, tables[name].tolist())) for name in ("cost", "latency_ms"))
    return replace(parameters, cost=cost, latency_ms=latency)
