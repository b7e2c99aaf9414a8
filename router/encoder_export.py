"""Turn a sentence-transformers model into an ONNX file: ``python -m router.encoder_export NAME FOLDER``.

The one module of this package that needs torch; ``router.encoder_store`` runs it in a process of its own, once.
"""

import sys
from pathlib import Path

import numpy as np
import torch
from sentence_transformers import SentenceTransformer

from router.encoder_store import REFERENCE_TEXTS, EncoderUnavailable, check_embeddings, run_onnx


class _Graph(torch.nn.Module):
    """The model with unit embedding and three hidden layers (first, middle, last) as outputs."""

    def __init__(self, model: SentenceTransformer) -> None:
        super().__init__()
        self.transformer = model[0].auto_model
        pooling = model[1].get_config_dict()
        mode = pooling.get("pooling_mode") or next(k for k, v in pooling.items() if k.startswith("pooling_mode_") and v)
        self.first_token = "cls" in str(mode)
        if not self.first_token and "mean" not in str(mode):
            raise EncoderUnavailable(f"Its pooling {mode} is not supported; use a model with mean or cls pooling.")

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> tuple[torch.Tensor, ...]:
        states = self.transformer(input_ids, attention_mask, output_hidden_states=True).hidden_states
        last = states[-1]
        mask = attention_mask.unsqueeze(-1).to(last.dtype)
        pooled = last[:, 0] if self.first_token else (last * mask).sum(1) / mask.sum(1).clamp(min=1e-9)
        middle = len(states) // 2
        return torch.nn.functional.normalize(pooled, dim=1), states[0], states[middle], last


def export(name: str, folder: Path) -> None:
    """Write ``model.onnx`` and ``tokenizer.json`` of the model ``name`` into ``folder``, checked to 1e-4.

    Raises:
        EncoderUnavailable: if the export gives other embeddings than sentence-transformers.
    """
    model = SentenceTransformer(name, device="cpu")
    tokenizer = model.tokenizer.backend_tokenizer
    tokenizer.save(str(folder / "tokenizer.json"))
    graph = _Graph(model).eval()
    example = torch.ones((2, 8), dtype=torch.int64)
    outputs = ["embedding", "hidden_0", "hidden_1", "hidden_2"]
    names = {n: {0: "n", 1: "t"} for n in ("input_ids", "attention_mask", *outputs[1:])} | {"embedding": {0: "n"}}
    torch.onnx.export(
        graph,
        (example, example),
        str(folder / "model.onnx"),
        input_names=["input_ids", "attention_mask"],
        output_names=outputs,
        dynamic_axes=names,
        opset_version=17,
        dynamo=False,
    )
    expected = np.asarray(model.encode(list(REFERENCE_TEXTS), normalize_embeddings=True, batch_size=1))
    check_embeddings(run_onnx(folder, REFERENCE_TEXTS, max_tokens=model.max_seq_length), expected, name=name)


if __name__ == "__main__":
    export(sys.argv[1], Path(sys.argv[2]))
