"""Clusters that belong together tell of each other; what changes in one place only is found there."""

import numpy as np
import pytest

from learner.blocks import block_chances, grow
from learner.evidence import Votes, capped_weights
from learner.owners import owners_by_day


def unit(X):
    return (X / np.linalg.norm(X, axis=-1, keepdims=True)).astype(np.float32)


RNG = np.random.default_rng(3)
TOPICS = unit(RNG.normal(size=(4, 16)))
PLACES = unit(np.repeat(TOPICS, 3, axis=0) + 0.05 * RNG.normal(size=(12, 16)))


def beneath(tree, node):
    return set(tree.above[:, [node]].nonzero()[0].tolist())


def test_clusters_of_one_topic_are_joined_before_they_are_joined_to_others():
    tree = grow(PLACES, np.full(12, 5.0))
    blocks = [beneath(tree, node) for node in range(12, 23)]
    assert [{0, 1, 2}, {3, 4, 5}, {6, 7, 8}, {9, 10, 11}] == sorted(filter(lambda b: len(b) == 3, blocks), key=min)
    assert blocks[-1] == set(range(12))


def test_few_questions_between_two_topics_go_to_the_nearer_one_before_large_ones_are_joined():
    line = unit(np.array([[1.0, 0.0], [0.9, 0.436], [0.62, 0.785]]))  # 26 and 26 degrees apart
    assert beneath(grow(line, np.array([50.0, 50.0, 1.0])), 3) == {1, 2}
    assert beneath(grow(line, np.array([1.0, 50.0, 50.0])), 3) == {0, 1}


def test_one_cluster_alone_is_a_tree():
    tree = grow(PLACES[:1], np.ones(1))
    assert tree.leaves == 1
    np.testing.assert_array_equal(block_chances(tree, np.zeros(1), whole=0.5).toarray(), [[1.0]])


def paths(said, tree, hazard=0.01):
    nodes = np.stack([tree.above.T @ day for day in said])
    return owners_by_day(np.full((nodes.shape[1], 3), 1 / 3), nodes, hazard=np.full(len(said), hazard))


def test_the_chances_of_all_blocks_of_a_cluster_sum_to_one():
    tree = grow(PLACES, np.full(12, 5.0))
    chances = block_chances(tree, RNG.normal(size=23), whole=0.3)
    np.testing.assert_allclose(chances.sum(axis=1), 1.0, atol=1e-12)


def test_what_says_the_same_is_one_block_and_what_contradicts_is_not():
    tree = grow(PLACES[:4], np.full(4, 5.0))  # three of the first topic, one of the second
    said = np.zeros((1, 4, 3))
    said[0, :, 0] = 4.0
    alike = block_chances(tree, paths(said, tree).evidence, whole=0.5)
    said[0, 3] = (0.0, 4.0, 0.0)
    apart = block_chances(tree, paths(said, tree).evidence, whole=0.5)
    assert alike[0, 6] > 0.8
    assert apart[0, 6] < 0.1
    assert apart[3, 3] > 0.9


def test_weak_signs_of_one_change_in_neighbouring_clusters_are_put_together():
    tree = grow(PLACES[:3], np.full(3, 5.0))
    said = np.zeros((6, 3, 3))
    said[:3, :, 0] = 3.0
    said[3:, :, 1] = 1.2  # too little for each alone: 3.6 against a change at a chance of .005
    found = paths(said, tree)
    together = block_chances(tree, found.evidence, whole=0.5) @ found.owners[-1]
    alone = found.owners[-1][:3]
    assert (alone[:, 1] < 0.5).all()
    assert (together[:, 1] > 0.8).all()


def votes(users):
    n = len(users)
    number = np.arange(n)
    return Votes(
        question=number,
        unit=number,
        row=number,
        route=np.zeros(n, np.int64),
        up=np.ones(n, bool),
        correction=np.full(n, -1),
        user=np.array(users),
        share=np.ones(n),
        users=tuple(map(str, range(max(users) + 1))),
    )


def weights(users):
    given = votes(users)
    return capped_weights(given, nearest=given.question, night=np.zeros(len(users), np.int64), cap=3.0)


def test_where_everybody_votes_often_nobody_is_cut_to_three_votes():
    assert weights([u for u in range(20) for _ in range(6)]) == pytest.approx(1.0)


def test_whoever_votes_far_more_than_others_counts_for_two_of_them():
    often = [u for u in range(20) for _ in range(6)] + [20] * 120
    assert weights(often)[-120:].sum() == pytest.approx(12.0)
    seldom = list(range(200)) + [200] * 120
    assert weights(seldom)[-120:].sum() == pytest.approx(3.0)
