"""Training of the splitter: torch at night, the arrays it leaves are all that serving needs."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
import numpy.typing as npt

from learner.concatenate import SplitExample
from learner.splitter_chain import allowed_parts, chain_loss
from router.encoder import Encoding
from router.splitter import Array, dilation, word_starts

if TYPE_CHECKING:
    import torch

Tensors = dict[str, "torch.Tensor"]
Progress = Callable[[float], None]

WIDTH = 88
LAYERS = 5
EPOCHS = 6
BATCH = 32
LEARNING_RATE = 2e-3
LEARNING_RATE_AGAIN = 1e-3  # gentler where there is something to forget
DROPOUT = 0.25
NEW_SHARE = 0.6


class HiddenEncoder(Protocol):
    """What the training needs of an encoder."""

    def encode(self, texts: Sequence[str], *, hidden: bool = ...) -> list[Encoding]:
        """Encode texts, with hidden states if asked."""
        ...


@dataclass(frozen=True, slots=True)
class _Prepared:
    """An example as the training reads it: hidden (T, H) float16, words' tokens (W,), allowed parts (W, 3), weight."""

    hidden: npt.NDArray[np.float16]
    tokens: npt.NDArray[np.int64]
    allowed: npt.NDArray[np.bool_]
    weight: float


def train_splitter(
    examples: Sequence[SplitExample],
    *,
    encoder: HiddenEncoder,
    seed: int,
    warm_start: Mapping[str, Array] | None = None,
    progress: Progress | None = None,
) -> dict[str, Array]:
    """Train a splitter; the same input gives the same bytes.

    Args:
        examples: queries with the places where they are to be split; see ``learner.concatenate``.
        encoder: its hidden states are what the splitter reads; they are held in memory (2.3 KB a token).
        seed: of the first weights, the order of batches and the dropout.
        warm_start: arrays of an earlier splitter to go on from; ignored if they have other shapes.
        progress: is told the share done, between 0 and 1.

    Returns:
        The arrays that ``router.splitter`` serves; none if no example is split, for then it has nothing to learn.
    """
    if not any(example.starts for example in examples):
        return {}
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # sums of several threads differ in their last bits
    try:
        prepared = [p for p in _prepare(examples, encoder=encoder) if len(p.tokens) > 1]
        generator = torch.Generator().manual_seed(seed)
        tensors, rate = _first_tensors(prepared[0].hidden.shape[1], generator), LEARNING_RATE
        if warm_start and _fits(warm_start, tensors):
            tensors = {name: torch.from_numpy(warm_start[name].copy()) for name in tensors}
            rate = LEARNING_RATE_AGAIN
        _fit(tensors, prepared, generator=generator, seed=seed, rate=rate, progress=progress)
    finally:
        torch.set_num_threads(threads)
    return {name: np.ascontiguousarray(tensor.detach().numpy()) for name, tensor in tensors.items()}


def averaged(before: Mapping[str, Array], new: Mapping[str, Array]) -> dict[str, Array]:
    """Return the mean of two splitters' weights, the new one's counting ``NEW_SHARE``; the new one if shapes differ.

    What both know stays, and of what the new one alone knows most does: so much more is kept of what was known before
    than is given up of what was learned (Wortsman et al., Robust fine-tuning of zero-shot models, 2022).
    """
    if not _fits(before, new):
        return dict(new)
    share = np.float32(NEW_SHARE)
    return {name: share * array + (1 - share) * before[name] for name, array in new.items()}


def _fits(before: Mapping[str, Array], weights: "Mapping[str, Array] | Tensors") -> bool:
    """Whether there is an earlier array of the same shape for each of the weights."""
    return all(name in before and before[name].shape == weight.shape for name, weight in weights.items())


def _prepare(examples: Sequence[SplitExample], *, encoder: HiddenEncoder) -> list[_Prepared]:
    prepared = []
    for at in range(0, len(examples), 512):  # full precision is held for a part at a time
        some = examples[at : at + 512]
        encodings = encoder.encode([example.text for example in some], hidden=True)
        prepared += [_prepared(example, encoding) for example, encoding in zip(some, encodings, strict=True)]
    return prepared


def _prepared(example: SplitExample, encoding: Encoding) -> _Prepared:
    if encoding.hidden is None or encoding.offsets is None:
        raise ValueError("The splitter is trained on encodings with hidden states.")
    starts, tokens = word_starts(example.text, encoding.offsets)
    return _Prepared(
        hidden=encoding.hidden.astype(np.float16),
        tokens=tokens,
        allowed=allowed_parts(example, starts),
        weight=example.weight,
    )


def _first_tensors(width: int, generator: "torch.Generator") -> Tensors:
    """Fresh weights, uniform within 1/sqrt(fan in)."""
    import torch

    shapes = {"reduce": (width, 64), "conv0": (3 * 64, WIDTH)}
    shapes |= {f"conv{layer}": (3 * WIDTH, WIDTH) for layer in range(1, LAYERS)} | {"head": (WIDTH, 3)}
    tensors: Tensors = {}
    for name, shape in shapes.items():
        bound = shape[0] ** -0.5
        tensors[f"{name}.weight"] = (torch.rand(shape, generator=generator) * 2 - 1) * bound
        tensors[f"{name}.bias"] = torch.zeros(shape[1])
    return tensors | {"transitions": torch.zeros(3, 3)}


def _fit(
    tensors: Tensors,
    prepared: Sequence[_Prepared],
    *,
    generator: "torch.Generator",
    seed: int,
    rate: float,
    progress: Progress | None,
) -> None:
    """AdamW with one cycle of the learning rate, over batches of queries of like length."""
    import torch

    parameters = [tensor.requires_grad_() for tensor in tensors.values()]
    optimizer = torch.optim.AdamW(parameters, lr=rate, weight_decay=0.01)
    rng = np.random.default_rng(seed)
    steps = EPOCHS * -(-len(prepared) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=rate, total_steps=steps)
    for epoch in range(EPOCHS):
        batches = _batches(prepared, rng)
        for done, batch in enumerate(batches):
            loss = _loss(tensors, [prepared[i] for i in batch], generator)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            schedule.step()
            if progress:
                progress((epoch * len(batches) + done + 1) / steps)


def _batches(prepared: Sequence[_Prepared], rng: np.random.Generator) -> list[npt.NDArray[np.int64]]:
    """Batches of like lengths, so that little is padding, in random order."""
    lengths = np.array([len(p.hidden) for p in prepared]) + rng.uniform(0, 6, len(prepared))
    order = np.argsort(lengths)
    batches = [order[i : i + BATCH] for i in range(0, len(order), BATCH)]
    return [batches[i] for i in rng.permutation(len(batches))]


def _loss(tensors: Tensors, batch: Sequence[_Prepared], generator: "torch.Generator") -> "torch.Tensor":
    import torch

    n, longest, words = len(batch), max(len(p.hidden) for p in batch), max(len(p.tokens) for p in batch)
    hidden = torch.zeros(n, longest, batch[0].hidden.shape[1])
    tokens, allowed = torch.zeros(n, words, dtype=torch.int64), torch.ones(n, words, 3, dtype=torch.bool)
    for i, p in enumerate(batch):
        hidden[i, : len(p.hidden)] = torch.from_numpy(p.hidden)
        tokens[i, : len(p.tokens)] = torch.from_numpy(p.tokens)
        allowed[i, : len(p.tokens)] = torch.from_numpy(p.allowed)
    real = torch.tensor([[t < len(p.hidden) for t in range(longest)] for p in batch])
    real_words = torch.tensor([[w < len(p.tokens) for w in range(words)] for p in batch])
    scores = torch.gather(_logits(tensors, hidden, real, generator), 1, tokens.unsqueeze(2).expand(-1, -1, 3))
    losses = chain_loss(scores, tensors["transitions"], real_words, allowed)
    return (losses * torch.tensor([p.weight for p in batch])).sum() / real_words.sum()


def _logits(
    tensors: Tensors, hidden: "torch.Tensor", real: "torch.Tensor", generator: "torch.Generator | None"
) -> "torch.Tensor":
    """The tagger of ``router.splitter.word_logits`` over padded rows, (n, T, H) to (n, T, 3); a generator drops out."""
    import torch

    def thinned(x: "torch.Tensor") -> "torch.Tensor":
        if generator is None:
            return x
        return x * (torch.rand(x.shape, generator=generator) >= DROPOUT) / (1 - DROPOUT)

    def gelu(x: "torch.Tensor") -> "torch.Tensor":
        return torch.nn.functional.gelu(x, approximate="tanh") * real.unsqueeze(2)

    x = thinned(gelu(hidden @ tensors["reduce.weight"] + tensors["reduce.bias"]))
    for layer in range(LAYERS):
        d, T = dilation(layer), x.shape[1]
        wide = torch.nn.functional.pad(x, (0, 0, d, d))
        around = torch.cat([wide[:, :T], x, wide[:, 2 * d :]], dim=2)
        y = gelu(around @ tensors[f"conv{layer}.weight"] + tensors[f"conv{layer}.bias"])
        x = x + thinned(y) if layer else y
    return x @ tensors["head.weight"] + tensors["head.bias"]
