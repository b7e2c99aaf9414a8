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
_Three = tuple[float, float, float]

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
    at = starts.tolist()
    words = [query[start:stop].rstrip() for start, stop in zip(at, [*at[1:], len(query)], strict=True)]
    chances = chances_of_start(scores, arrays["transitions"]).tolist()
    # Between two segments a sign that stands alone is of neither; whether there are two is not for it to say.
    signs = [i for i, word in enumerate(words) if _SEPARATING_WORD.fullmatch(word)]
    scores[signs, OUTSIDE] = scores[signs, GOES_ON] + _SURE
    ends = _ends([start + len(word) for start, word in zip(at, words, strict=True)], scores, arrays["transitions"])
    return tuple(Boundary(start=at[i], probability=chances[i], end=ends[i]) for i in range(1, len(at)))


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
        end = _trimmed_end(query, start, boundary.stop)
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
    x = _gelu(hidden @ arrays["reduce.weight"] + arrays["reduce.bias"])
    for layer in count():
        if f"conv{layer}.weight" not in arrays:
            break
        y = _gelu(_around(x, d=dilation(layer)) @ arrays[f"conv{layer}.weight"] + arrays[f"conv{layer}.bias"])
        x = x + y if layer else y
    logits: Array = x @ arrays["head.weight"] + arrays["head.bias"]
    return logits


def _around(x: Array, *, d: int) -> Array:
    """Each row (T, C) between those ``d`` before and after it, (T, 3 C); zeros outside."""
    C = x.shape[1]
    wide = np.zeros((len(x), 3 * C), np.float32)
    wide[d:, :C], wide[:, C:-C], wide[:-d, -C:] = x[:-d], x, x[d:]
    return wide


def dilation(layer: int) -> int:
    """How far apart the three tokens are that a layer looks at: 1, 1, 2, 4, 8 ..."""
    return int(2 ** max(0, layer - 1))


def _gelu(x: Array) -> Array:
    """GELU in its tanh form, as the training computes it; 0.5 x (1 + tanh(0.798 (x + 0.0447 x^3)))."""
    y: Array = x * x
    y *= np.float32(0.7978845608 * 0.044715)
    y += np.float32(0.7978845608)
    y *= x
    np.tanh(y, out=y)
    y += 1
    y *= x
    y *= np.float32(0.5)
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
    # So few numbers a word are faster as Python's own than as arrays.
    weights = np.exp(np.clip(scores - scores.max(axis=1, keepdims=True), -60, 0))
    words, columns, rows = weights.tolist(), step.T.tolist(), step.tolist()
    forward, backward = [(1.0, 0.0, 0.0)], [(1.0, 1.0, 0.0)]
    for word in words[:-1]:
        forward.append(_passed(forward[-1], word, columns))
    for word in words[:0:-1]:
        backward.append(_passed(backward[-1], word, rows))
    all_ways = np.array(forward) * weights * np.array(backward[::-1])
    found: npt.NDArray[np.float64] = all_ways[:, STARTS] / all_ways.sum(axis=1)
    return found


def _passed(before: _Three, word: Sequence[float], steps: Sequence[Sequence[float]]) -> _Three:
    """What a word passes on to the next one: how likely each of its parts is, summed over all that lies behind."""
    a, b, c = before[0] * word[0], before[1] * word[1], before[2] * word[2]
    x, y, z = (a * start + b * goes_on + c * outside for start, goes_on, outside in steps)
    total = x + y + z
    return x / total, y / total, z / total


def _ends(stops: Sequence[int], scores: npt.NDArray[np.float64], transitions: Array) -> list[int]:
    """For each word, where a segment before it would end: in front of the likeliest run of words of a connector.

    Of all runs of words that end before a word, and of none, the one is taken that the chain scores highest, given that
    a segment starts behind it.

    Args:
        stops: the characters at which the W words end.
        scores: (W, 3) of each word's parts.
        transitions: (3, 3), from part (row) to part.
    """
    t = transitions.astype(np.float64)
    gains = scores[:, OUTSIDE] - scores[:, GOES_ON] + t[OUTSIDE, OUTSIDE] - t[GOES_ON, GOES_ON]
    least = t[GOES_ON, STARTS] + t[OUTSIDE, OUTSIDE] - t[GOES_ON, OUTSIDE] - t[OUTSIDE, STARTS]
    ends, best, end = [stops[0]], 0.0, stops[0]
    for i, gain in enumerate(gains.tolist()[1:], start=1):
        ends.append(end if best > least else stops[i - 1])
        if best <= 0:
            best, end = 0.0, stops[i - 1]
        best += gain
    return ends


def _trimmed_end(query: str, start: int, end: int) -> int:
    return start + len(query[start:end].rstrip(_SEPARATORS + " \t\r\n"))
