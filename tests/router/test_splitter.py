import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from router.decision import Boundary
from router.encoder import Encoding
from router.splitter import boundaries, cut, word_logits, word_starts


def arrays(*, start: float = 0.0, outside: float = 0.0, width: int = 12, seed: int = 0) -> dict[str, np.ndarray]:
    """A splitter of random weights whose two logits are moved up or down."""
    rng = np.random.default_rng(seed)
    shapes = {"reduce": (width, 8), "conv0": (24, 6), "conv1": (18, 6), "conv2": (18, 6), "head": (6, 2)}
    made = {f"{name}.weight": rng.normal(0, 0.3, shape).astype(np.float32) for name, shape in shapes.items()}
    made |= {f"{name}.bias": np.zeros(shape[1], np.float32) for name, shape in shapes.items()}
    made["head.bias"] += np.array([start, outside], np.float32)
    return made


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
    assert ends == [0, 0]
    ends = [b.end for b in boundaries(arrays(outside=-50.0), encoded(query), query)]
    assert ends == [3, 7]


def test_a_sign_standing_alone_belongs_to_no_segment():
    query = "one two - three"
    assert boundaries(arrays(outside=-50.0), encoded(query), query)[-1].end == 7


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
