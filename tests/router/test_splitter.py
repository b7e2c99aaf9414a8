import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from router.decision import Boundary
from router.encoder import Encoding
from router.splitter import GOES_ON, OUTSIDE, STARTS, boundaries, chances_of_start, cut, word_logits, word_starts


def arrays(*, start: float = 0.0, outside: float = 0.0, width: int = 12, seed: int = 0) -> dict[str, np.ndarray]:
    """A splitter of random weights; two of the three scores are moved up or down."""
    rng = np.random.default_rng(seed)
    shapes = {"reduce": (width, 8), "conv0": (24, 6), "conv1": (18, 6), "conv2": (18, 6), "head": (6, 3)}
    made = {f"{name}.weight": rng.normal(0, 0.3, shape).astype(np.float32) for name, shape in shapes.items()}
    made |= {f"{name}.bias": np.zeros(shape[1], np.float32) for name, shape in shapes.items()}
    made["head.bias"] += np.array([start, 0, outside], np.float32)
    return made | {"transitions": rng.normal(0, 0.3, (3, 3)).astype(np.float32)}


def encoded(text: str, *, width: int = 12, cut_off: int | None = None) -> Encoding:
    """Random hidden states, one token a character that is not blank."""
    at = [i for i, character in enumerate(text) if not character.isspace()][:cut_off]
    hidden = np.random.default_rng(len(text)).normal(0, 1, (len(at), width)).astype(np.float32)
    offsets = np.array([(i, i + 1) for i in at], np.int32).reshape(-1, 2)
    return Encoding(embedding=np.ones(1, np.float32), hidden=hidden, offsets=offsets)


def parts(query: str, *found: Boundary, threshold: float = 0.5) -> list[str]:
    return [query[start:end] for start, end in cut(query, found, threshold=threshold)]


def test_every_word_but_the_first_gets_one_boundary():
    found = boundaries(arrays(), encoded("pay my bill  now"), "pay my bill  now")
    assert [boundary.start for boundary in found] == [4, 7, 13]
    assert all(0 < boundary.probability < 1 for boundary in found)


def test_without_arrays_nothing_is_split():
    assert boundaries({}, encoded("pay my bill now"), "pay my bill now") == ()


def test_arrays_of_an_earlier_kind_split_nothing():
    earlier = {name: array for name, array in arrays(start=9.0).items() if name != "transitions"}
    assert boundaries(earlier, encoded("pay my bill now"), "pay my bill now") == ()


@pytest.mark.parametrize("query", ["", "   ", "word", "  word ", "这个多少钱我的包裹什么时候到", "🎉"])
def test_what_has_no_second_word_has_no_boundary(query):
    assert boundaries(arrays(start=9.0), encoded(query), query) == ()


def test_a_query_longer_than_the_encoder_reads_is_left_whole():
    query = "pay my bill and tell me the time"
    assert boundaries(arrays(start=9.0), encoded(query, cut_off=10), query) == ()


def test_the_connector_and_its_marks_belong_to_no_segment():
    query = "pay my bill , and also tell me the time"
    start = query.index("tell")
    found = [Boundary(start=start, probability=0.9, end=query.index(" and also"))]
    assert parts(query, *found) == ["pay my bill", "tell me the time"]


def test_words_marked_outside_end_the_segment_before_them():
    query = "one two three"
    ends = [b.end for b in boundaries(arrays(outside=50.0), encoded(query), query)]
    assert ends == [3, 3]  # the first word always starts a segment
    ends = [b.end for b in boundaries(arrays(outside=-50.0), encoded(query), query)]
    assert ends == [3, 7]


def test_a_sign_standing_alone_belongs_to_no_segment():
    query = "one two - three"
    assert boundaries(arrays(outside=-50.0), encoded(query), query)[-1].end == 7


def test_a_piece_that_is_nothing_but_a_connector_is_dropped():
    query = "one two while at it three four"
    found = (Boundary(start=8, probability=0.6, end=7), Boundary(start=20, probability=0.9, end=7))
    assert parts(query, *found) == ["one two", "three four"]
    # In front of everything else it stays with the first segment: there is nothing that it leads away from.
    assert parts(query, Boundary(start=8, probability=0.9, end=0)) == [query]


def _chains(scores: np.ndarray, transitions: np.ndarray) -> dict[tuple[int, ...], float]:
    """Every way to tag the words, and its score."""
    found = {}
    for tags in itertools.product(range(3), repeat=len(scores)):
        steps = list(itertools.pairwise(tags))
        if tags[0] == STARTS and tags[-1] != OUTSIDE and (OUTSIDE, GOES_ON) not in steps:
            found[tags] = sum(scores[i, tag] for i, tag in enumerate(tags)) + sum(transitions[step] for step in steps)
    return found


@pytest.mark.parametrize("seed", range(4))
def test_chances_are_those_of_all_ways_to_tag_the_words(seed):
    rng = np.random.default_rng(seed)
    scores, transitions = rng.normal(0, 2, (6, 3)), rng.normal(0, 1, (3, 3)).astype(np.float32)
    chains = _chains(scores, transitions)
    total = sum(np.exp(score) for score in chains.values())
    for i, chance in enumerate(chances_of_start(scores, transitions)):
        expected = sum(np.exp(score) for tags, score in chains.items() if tags[i] == STARTS) / total
        assert chance == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("seed", range(20))
def test_a_segment_ends_where_the_likeliest_chain_ends_it(seed):
    """Given that one segment goes from the first word to the last one, where the next starts."""
    rng = np.random.default_rng(seed)
    made, query = arrays(seed=seed), "ab cd ef gh"
    made["transitions"] = rng.normal(0, 1, (3, 3)).astype(np.float32)
    made["transitions"][STARTS] = made["transitions"][GOES_ON]  # a segment of one word is like any other
    encoding = encoded(query)
    starts, tokens = word_starts(query, encoding.offsets)
    scores = word_logits(made, encoding.hidden)[tokens].astype(np.float64)
    chains = {t: s for t, s in _chains(scores, made["transitions"]).items() if STARTS not in t[1:3] and not t[3]}
    best = max(chains, key=lambda tags: chains[tags])
    words = 4 - best.count(OUTSIDE) - 1
    assert boundaries(made, encoding, query)[-1].end == starts[words - 1] + 2


@pytest.mark.parametrize("size", [1e4, -1e4])
def test_scores_of_any_size_give_probabilities(size):
    rng = np.random.default_rng(0)
    found = chances_of_start(size * rng.normal(0, 1, (300, 3)), (size * rng.normal(0, 1, (3, 3))).astype(np.float32))
    assert ((found >= 0) & (found <= 1)).all()


def test_only_boundaries_that_reach_the_threshold_cut():
    query = "one two three"
    found = (Boundary(start=4, probability=0.4), Boundary(start=8, probability=0.6))
    assert parts(query, *found) == ["one two", "three"]
    assert parts(query, *found, threshold=0.3) == ["one", "two", "three"]
    assert parts(query, *found, threshold=0.7) == [query]


@settings(max_examples=200, deadline=None)
@given(
    query=st.text(st.sampled_from("ab .,?!-\n\t\u3000\u00e9\U0001f600"), max_size=60),
    start=st.floats(-3, 3),
    outside=st.floats(-3, 3),
)
def test_spans_are_in_order_apart_and_never_empty(query, start, outside):
    found = boundaries(arrays(start=start, outside=outside, seed=1), encoded(query), query)
    spans = cut(query, found, threshold=0.5)
    edges = [edge for span in spans for edge in span]
    assert edges == sorted(edges)
    assert all(query[start:end].strip() == query[start:end] != "" for start, end in spans)
    assert bool(spans) == bool(query.strip())


def test_words_without_a_token_have_no_start():
    offsets = np.array([(0, 3), (8, 11)], np.int32)
    starts, tokens = word_starts("one \u200b\u200b\u200b two", offsets)
    assert starts.tolist() == [0, 8]
    assert tokens.tolist() == [0, 1]


def test_a_token_sees_only_its_neighbourhood():
    hidden = np.random.default_rng(0).normal(0, 1, (40, 12)).astype(np.float32)
    changed = hidden.copy()
    changed[0] += 1
    difference = np.abs(word_logits(arrays(), hidden) - word_logits(arrays(), changed)).max(axis=1)
    assert difference[0] > 0
    assert difference[4] > 0
    assert not difference[5:].any()
