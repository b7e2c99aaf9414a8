"""The kinds of failures that a night mines, in the order in which they are looked for."""

from typing import Literal, get_args

FailureKind = Literal[
    "thumbs_down",
    "correction",
    "follow_up_switch",
    "reask",
    "token_spike",
    "latency_spike",
    "unneeded_split",
    "missed_split",
    "trace_budget_cutoff",
    "abstained",
]
FAILURE_KINDS: tuple[FailureKind, ...] = get_args(FailureKind)
