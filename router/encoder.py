"""The encoder: one forward pass gives a query's embedding and the hidden states that the splitter reads.

Weights come from a pip package by default, or from any sentence-transformers name or folder. They are turned into an
ONNX file once, checked against the original, and kept under ``home/encoders``; serving needs neither torch nor network.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnxruntime
from tokenizers import Encoding as Tokens
from tokenizers import Tokenizer

from router.encoder_store import EncoderFiles, prepare_encoder

BATCH = 32
MAX_TOKENS = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class Encoding:
    """One text's encoding.

    ``embedding`` is (D,) float32 of length one; ``hidden`` is (T, 3 D) float32, three layers side by side, one row a
    token without the special ones; ``offsets`` is (T, 2) int32, each token's characters in the text.
    """

    embedding: npt.NDArray[np.float32]
    hidden: npt.NDArray[np.float32] | None = None
    offsets: npt.NDArray[np.int32] | None = None


class Encoder:
    """A loaded encoder. It may be shared by threads; each call uses one core."""

    def __init__(self, files: EncoderFiles) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 3
        self._session = onnxruntime.InferenceSession(
            files.model.read_bytes(), options, providers=["CPUExecutionProvider"]
        )
        self._tokenizer = Tokenizer.from_str(files.tokenizer.read_text(encoding="utf-8"))
        self._tokenizer.enable_truncation(MAX_TOKENS)
        self._tokenizer.enable_padding()
        self._hidden_names = [o.name for o in self._session.get_outputs() if o.name.startswith("hidden_")]
        self.fingerprint = files.fingerprint
        self.dimension = int(self._session.get_outputs()[0].shape[1])

    def encode(self, texts: Sequence[str], *, hidden: bool = False) -> list[Encoding]:
        """Return one encoding a text, in order. Texts over 256 tokens are cut; lone surrogates are replaced."""
        clean = [text.encode("utf-8", "replace").decode() for text in texts]
        tokens = self._tokenizer.encode_batch(clean) if len(clean) <= BATCH else None
        order = sorted(range(len(clean)), key=lambda i: len(clean[i]))  # alike lengths waste no padding
        result: list[Encoding | None] = [None] * len(clean)
        for at in range(0, len(order), BATCH):
            rows = order[at : at + BATCH]
            batch = [tokens[i] for i in rows] if tokens else self._tokenizer.encode_batch([clean[i] for i in rows])
            for row, encoding in zip(rows, self._forward(batch, hidden=hidden), strict=True):
                result[row] = encoding
        return [encoding for encoding in result if encoding is not None]

    def embed(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """Return the (n, D) embeddings alone."""
        rows = [encoding.embedding for encoding in self.encode(texts)]
        return np.stack(rows) if rows else np.zeros((0, self.dimension), np.float32)

    def _forward(self, batch: Sequence[Tokens], *, hidden: bool) -> list[Encoding]:
        ids = np.array([t.ids for t in batch], np.int64)
        mask = np.array([t.attention_mask for t in batch], np.int64)
        names = ["embedding", *(self._hidden_names if hidden else [])]
        embedding, *layers = self._session.run(names, {"input_ids": ids, "attention_mask": mask})
        if not hidden:
            return [Encoding(embedding=row) for row in embedding]
        encodings = []
        for i, tokens in enumerate(batch):
            real = np.flatnonzero(mask[i] & ~np.array(tokens.special_tokens_mask))
            states = np.concatenate([layer[i, real] for layer in layers], axis=1)
            offsets = np.array(tokens.offsets, np.int32).reshape(-1, 2)[real]
            encodings.append(Encoding(embedding=embedding[i], hidden=states, offsets=offsets))
        return encodings


def load_encoder(name: str | None = None, *, home: Path) -> Encoder:
    """Load the encoder ``name`` (None: all-MiniLM-L6-v2 from its pip package), preparing it at its first use.

    Raises:
        EncoderUnavailable: if its weights are missing, damaged, or give other results than the original.
    """
    return Encoder(prepare_encoder(name, home=home))
