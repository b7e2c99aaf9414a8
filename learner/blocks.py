"""Which clusters belong together: a tree of clusters, any branch of which may be one block with a common history.

Clusters whose questions go to one route, and changed it on one day, can tell of each other; those that do not, cannot.
Which of all the ways to cut the tree into blocks is right is not decided but averaged, each by how well it foretells
what was said (Bayesian hierarchical clustering, Heller and Ghahramani 2005; the recursion is that of context tree
weighting, Willems, Shtarkov and Tjalkens 1995).
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_array

from router.version import Array

Floats = npt.NDArray[np.float64]
_LEAST_MASS = 1e-3


@dataclass(frozen=True, slots=True, kw_only=True)
class Tree:
    """A binary tree over M leaves: node M + i joins the two nodes ``children[i]``, (M - 1, 2), both made before it.

    ``above`` (M, 2M - 1) is one where a node is a leaf or has it beneath.
    """

    children: npt.NDArray[np.int64]
    above: csr_array

    @property
    def leaves(self) -> int:
        """M."""
        return len(self.children) + 1


def grow(vectors: Array, mass: Floats) -> Tree:
    """Join clusters at (M, D) of so many questions (M,), each time the pair that adds least variance (Ward 1963).

    By chains of nearest neighbours (Murtagh 1983): two that are each other's nearest are joined at once.
    """
    M = len(vectors)
    centre = np.concatenate([vectors, np.zeros((M - 1, vectors.shape[1]))]).astype(np.float64)
    weight = np.concatenate([np.maximum(mass, _LEAST_MASS), np.zeros(M - 1)])
    alive = np.arange(2 * M - 1) < M
    children: list[tuple[int, int]] = []
    chain: list[int] = []
    while len(children) < M - 1:
        chain = chain or [int(np.argmax(alive))]
        here = chain[-1]
        best = _cheapest(here, centre, weight, alive, before=chain[-2] if len(chain) > 1 else None)
        if len(chain) == 1 or best != chain[-2]:
            chain.append(best)
            continue
        new = M + len(children)
        weight[new] = weight[here] + weight[best]
        centre[new] = (weight[here] * centre[here] + weight[best] * centre[best]) / weight[new]
        alive[[here, best]], alive[new] = False, True
        children.append((min(here, best), max(here, best)))
        del chain[-2:]
    joined = np.array(children, np.int64).reshape(-1, 2)
    return Tree(children=joined, above=_above(joined))


def _cheapest(node: int, centre: Floats, weight: Floats, alive: npt.NDArray[np.bool_], *, before: int | None) -> int:
    """With whom ``node`` is joined at the least cost; with ``before`` if nobody is cheaper, or the chain had no end."""
    others = np.flatnonzero(alive)
    others = others[others != node]
    added = weight[others] * weight[node] / (weight[others] + weight[node])
    added = added * ((centre[others] - centre[node]) ** 2).sum(axis=1)
    if before is not None and added[others == before][0] <= added.min():
        return before
    return int(others[np.argmin(added)])


def _above(children: npt.NDArray[np.int64]) -> csr_array:
    beneath = [[leaf] for leaf in range(len(children) + 1)]
    for one, other in children:
        beneath.append(beneath[one] + beneath[other])
    sizes = [len(leaves) for leaves in beneath]
    cells = (np.concatenate(beneath), np.repeat(np.arange(len(beneath)), sizes))
    return csr_array((np.ones(sum(sizes)), cells), shape=(len(children) + 1, len(beneath)))


def block_chances(tree: Tree, evidence: Floats, *, whole: float) -> csr_array:
    """The chance that each node is the block of each leaf, (M, 2M - 1); rows sum to one.

    Args:
        tree: over M leaves.
        evidence: (2M - 1,) log of how probable all that was said beneath a node is, if the node is a block.
        whole: chance that a node is a block if nothing above it is, before anything was said.
    """
    M, best = tree.leaves, evidence.copy()
    block = np.ones(len(evidence))
    for node, (one, other) in enumerate(tree.children, start=M):
        together = np.log(whole) + evidence[node]
        best[node] = np.logaddexp(together, np.log1p(-whole) + best[one] + best[other])
        block[node] = np.exp(together - best[node])
    reached = np.ones(len(evidence))
    for node in range(len(evidence) - 1, M - 1, -1):
        reached[tree.children[node - M]] = reached[node] * (1 - block[node])
    return csr_array(tree.above * (reached * block)[None, :])
