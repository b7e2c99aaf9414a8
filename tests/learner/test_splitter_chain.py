"""The splitter's loss against every way to tag the words, counted one by one."""

import itertools

import numpy as np
import pytest
import torch

from learner.concatenate import SplitExample
from learner.splitter_chain import allowed_parts, chain_loss
from router.splitter import GOES_ON, OUTSIDE, STARTS

TEXT = "one two and three"
WORDS = np.array([0, 4, 8, 12])


def tags_allowed(example: SplitExample) -> set[tuple[int, ...]]:
    allowed = allowed_parts(example, WORDS)
    return {tags for tags in itertools.product(range(3), repeat=4) if all(allowed[i, t] for i, t in enumerate(tags))}


def test_a_known_end_leaves_one_way_to_tag_the_words():
    assert tags_allowed(SplitExample(text=TEXT, starts=(12,), ends=(7,))) == {(STARTS, GOES_ON, OUTSIDE, STARTS)}


def test_an_unknown_end_leaves_every_word_before_the_next_start_open():
    found = tags_allowed(SplitExample(text=TEXT, starts=(12,)))
    assert found == {(STARTS, one, two, STARTS) for one in (GOES_ON, OUTSIDE) for two in (GOES_ON, OUTSIDE)}


def test_a_single_question_has_no_connector():
    assert tags_allowed(SplitExample(text=TEXT, starts=())) == {(STARTS, GOES_ON, GOES_ON, GOES_ON)}


@pytest.mark.parametrize("starts", [(), (12,), (4, 12)])
def test_the_loss_is_that_of_all_ways_counted_whatever_is_padded(starts):
    rng = np.random.default_rng(len(starts))
    scores, transitions = rng.normal(0, 2, (4, 3)), rng.normal(0, 1, (3, 3))
    example = SplitExample(text=TEXT, starts=starts)
    weights = {}
    for tags in itertools.product(range(3), repeat=4):
        steps = list(itertools.pairwise(tags))
        if tags[0] == STARTS and tags[-1] != OUTSIDE and (OUTSIDE, GOES_ON) not in steps:
            total = sum(scores[i, tag] for i, tag in enumerate(tags)) + sum(transitions[step] for step in steps)
            weights[tags] = np.exp(total)
    some = sum(weights[tags] for tags in tags_allowed(example) & set(weights))
    padded = torch.from_numpy(np.concatenate([scores, rng.normal(0, 9, (2, 3))]))[None]
    allowed = torch.from_numpy(np.concatenate([allowed_parts(example, WORDS), np.ones((2, 3), bool)]))[None]
    real = torch.tensor([[True] * 4 + [False] * 2])
    loss = chain_loss(padded, torch.from_numpy(transitions), real, allowed)
    assert loss.item() == pytest.approx(np.log(sum(weights.values()) / some), abs=1e-6)
