"""The splitter: a small tagger over the encoder's hidden states says where a new segment starts, in numpy.

Its arrays, all float32: ``reduce.weight`` (H, 64) and ``reduce.bias`` bring three layers of a token down to 64 numbers;
``conv0``, ``conv1`` ... (``.weight`` (3 C_in, C), ``.bias`` (C,)) look at three tokens that are 1, 1, 2, 4 ... apart,
and all but the first add to what they read; ``head`` (C, 3) scores each word's three parts: it starts a segment, it
goes on with one, it belongs to none (a connector); ``transitions`` (3, 3) scores each part behind each other one. The
words are a chain: a connector ends where a segment starts, never within one, and none ends the query (a linear-chain
conditional random field, Lafferty et al. 2001). Without arrays it never splits.
"""

import re
from collections.abc import Mapping, Sequence
from itertools import count
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from router.decision import Boundary

if TYPE_CHECKING:
    from router.encoder import Encoding

Array = npt.NDArray[np.float32]

_BLOCK = 128
_WORD = re.compile(r"\S+")
# What may part two questions without belonging to either. Quotes, brackets and signs of code stay where they are.
_SURE = 5.0
STARTS, GOES_ON, OUTSIDE = 0, 1, 2
_SEPARATORS = ".,;:?\u3002\uff0c\uff1b\uff1f\u3001"
_SEPARATING_WORD = re.compile(rf"[{re.escape(_SEPARATORS)}\-\u2013\u2014/|&+*\u2022]+")


def boundaries(arrays: Mapping[str, Array], encoding: "Encoding", query: str) -> tuple[Boundary, ...]:
    """Say for each word but the first how probable it is that a new segment starts there.

    Args:
        arrays: the splitter; empty for one that never splits.
        encoding: of the query, with hidden states.
        query: the very text that was encoded.

    Returns:
        One boundary a word start, in order; none where the encoder could not read the query to its end.
    """
    if not can_split(arrays) or encoding.hidden is None or encoding.offsets is None or len(encoding.offsets) < 2:
        return ()
    if not is_read_whole(encoding, query):
        return ()
    starts, tokens = word_starts(query, encoding.offsets)
    if len(starts) < 2:
        return ()
    scores = word_logits(arrays, encoding.hidden)[tokens].astype(np.float64)
    words = [query[start:stop].rstrip() for start, stop in zip(starts, [*starts[1:], len(query)], strict=True)]
    chances = chances_of_start(scores, arrays["transitions"])
    # Between two segments a sign that stands alone is of neither; whether there are two is not for it to say.
    signs = [bool(_SEPARATING_WORD.fullmatch(word)) for word in words]
    scores[signs, OUTSIDE] = scores[signs, GOES_ON] + _SURE
    ends = _ends(starts + np.array([len(word) for word in words], np.int64), scores, arrays["transitions"])
    return tuple(
        Boundary(start=int(starts[i]), probability=float(chances[i]), end=ends[i]) for i in range(1, len(starts))
    )


def can_split(arrays: Mapping[str, Array]) -> bool:
    """Whether these are a splitter's arrays; an empty one's are not, nor those of earlier kinds."""
    return "transitions" in arrays


def is_read_whole(encoding: "Encoding", query: str) -> bool:
    """Whether the encoder read the query to its end."""
    offsets = encoding.offsets
    return offsets is not None and (len(offsets) == 0 or int(offsets[-1, 1]) >= len(query.rstrip()))


def cut(query: str, boundaries: Sequence[Boundary], *, threshold: float) -> tuple[tuple[int, int], ...]:
    """Cut a query at the boundaries that reach the threshold.

    Returns:
        Character spans (start, end) of the segments, in order, without overlap and none of them empty; blanks,
        punctuation and connectors between two segments belong to neither. One span, the query without blanks around
        it, if nothing reaches the threshold; none if the query is blank.
    """
    start, last = len(query) - len(query.lstrip()), len(query.rstrip())
    spans: list[tuple[int, int]] = []
    for boundary in boundaries:
        if boundary.probability < threshold:
            continue
        end = _trimmed_end(query, start, boundary.start if boundary.end is None else boundary.end)
        if end > start:
            spans.append((start, end))
        if spans:  # behind a first segment, what is nothing but a connector is dropped
            start = boundary.start
    return (*spans, (start, last)) if start < last else tuple(spans)


def word_starts(query: str, offsets: npt.NDArray[np.int32]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Find where words start (a word: what stands between blanks) and each one's first token.

    Returns:
        Characters (W,) and indices of tokens (W,), for the words that the encoder has a token for.
    """
    starts = np.array([match.start() for match in _WORD.finditer(query)], np.int64)
    ends = np.append(starts[1:], len(query))
    tokens = np.searchsorted(offsets[:, 0], starts)
    seen = tokens < len(offsets)
    seen[seen] = offsets[tokens[seen], 0] < ends[seen]
    return starts[seen], tokens[seen]


def word_logits(arrays: Mapping[str, Array], hidden: Array) -> Array:
    """The tagger itself: hidden states (T, H) to scores (T, 3) of a token's three parts."""
    x = _gelu(_reduced(hidden, arrays["reduce.weight"]) + arrays["reduce.bias"])
    for layer in count():
        if f"conv{layer}.weight" not in arrays:
            break
        y = _gelu(_convolved(x, arrays[f"conv{layer}.weight"], d=dilation(layer)) + arrays[f"conv{layer}.bias"])
        x = x + y if layer else y
    logits: Array = x @ arrays["head.weight"] + arrays["head.bias"]
    return logits


def _reduced(hidden: Array, weight: Array) -> Array:
    """``hidden @ weight`` in blocks: a product this small is slower when BLAS wakes its threads for it."""
    total = np.zeros((len(hidden), weight.shape[1]), np.float32)
    for at in range(0, len(weight), _BLOCK):
        total += hidden[:, at : at + _BLOCK] @ weight[at : at + _BLOCK]
    return total


def _convolved(x: Array, weight: Array, *, d: int) -> Array:
    """Each row and those ``d`` before and after it through weights (3 C_in, C); zeros outside."""
    before, here, after = np.split(weight, 3)
    total: Array = x @ here
    total[d:] += x[:-d] @ before
    total[:-d] += x[d:] @ after
    return total


def dilation(layer: int) -> int:
    """How far apart the three tokens are that a layer looks at: 1, 1, 2, 4, 8 ..."""
    return int(2 ** max(0, layer - 1))


def _gelu(x: Array) -> Array:
    """GELU in its tanh form, as the training computes it."""
    y: Array = 0.5 * x * (1 + np.tanh(np.float32(0.7978845608) * (x + np.float32(0.044715) * x * x * x)))
    return y


def chances_of_start(scores: npt.NDArray[np.float64], transitions: Array) -> npt.NDArray[np.float64]:
    """The probability of each word that a segment starts there, over all ways to tag the words (forward-backward).

    Args:
        scores: (W, 3) of each word's parts.
        transitions: (3, 3), from part (row) to part.

    Returns:
        (W,) probabilities; the first word's is 1.
    """
    step = np.exp(np.clip(transitions.astype(np.float64), -30, 30))
    step[OUTSIDE, GOES_ON] = 0
    weights = np.exp(np.clip(scores - scores.max(axis=1, keepdims=True), -60, 0))
    forward, backward = np.zeros_like(weights), np.ones_like(weights)
    forward[0, STARTS], backward[-1, OUTSIDE] = 1, 0
    for i in range(1, len(weights)):
        reached = forward[i - 1] @ step * weights[i]
        forward[i] = reached / reached.sum()
        reached = step @ (backward[-i] * weights[-i])
        backward[-i - 1] = reached / reached.sum()
    both = forward * backward
    found: npt.NDArray[np.float64] = both[:, STARTS] / both.sum(axis=1)
    return found


def _ends(stops: npt.NDArray[np.int64], scores: npt.NDArray[np.float64], transitions: Array) -> list[int]:
    """For each word, where a segment before it would end: in front of the likeliest run of words of a connector.

    Of all runs of words that end before a word, and of none, the one is taken that the chain scores highest, given that
    a segment starts behind it.

    Args:
        stops: (W,) characters at which the words end.
        scores: (W, 3) of each word's parts.
        transitions: (3, 3), from part (row) to part.
    """
    t = transitions.astype(np.float64)
    gains = scores[:, OUTSIDE] - scores[:, GOES_ON] + t[OUTSIDE, OUTSIDE] - t[GOES_ON, GOES_ON]
    least = t[GOES_ON, STARTS] + t[OUTSIDE, OUTSIDE] - t[GOES_ON, OUTSIDE] - t[OUTSIDE, STARTS]
    ends, best, end = [int(stops[0])], 0.0, int(stops[0])
    for i in range(1, len(stops)):
        ends.append(end if best > least else int(stops[i - 1]))
        if best <= 0:
            best, end = 0.0, int(stops[i - 1])
        best += float(gains[i])
    return ends


def _trimmed_end(query: str, start: int, end: int) -> int:
    return start + len(query[start:end].rstrip(_SEPARATORS + " \t\r\n"))
