import hashlib
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from router.apart import state_between
from router.bert_graph import build_bert_graph
from router.encoder import Encoder, load_encoder
from router.encoder_store import PACKAGE, REFERENCE_TEXTS, EncoderUnavailable, check_embeddings


@pytest.fixture(scope="session")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Encoder:
    return load_encoder(home=tmp_path_factory.mktemp("encoder"))


def test_the_reference_pair_has_its_known_cosine(encoder: Encoder) -> None:
    a, b = encoder.embed(["A man is eating food.", "A man is eating a piece of bread."])
    assert float(a @ b) == pytest.approx(0.7553, abs=1e-4)


def test_a_text_gives_the_same_embedding_alone_and_in_a_batch(encoder: Encoder) -> None:
    texts = [f"question number {i} " + "about my invoice " * (i % 7) for i in range(70)]
    together = encoder.embed(texts)
    alone = np.stack([encoder.embed([text])[0] for text in texts])
    np.testing.assert_allclose(together, alone, atol=1e-5)


@pytest.mark.parametrize("text", ["", "a\ud800b", "word " * 3000, "😀" * 500, "这个多少钱", "\n\t "])
def test_odd_texts_give_unit_embeddings_and_offsets_within_the_text(encoder: Encoder, text: str) -> None:
    (encoding,) = encoder.encode([text], hidden=True)
    assert np.linalg.norm(encoding.embedding) == pytest.approx(1.0, abs=1e-4)
    assert encoding.hidden is not None
    assert encoding.offsets is not None
    assert encoding.hidden.shape == (len(encoding.offsets), 3 * encoder.dimension)
    assert encoding.offsets.size == 0 or int(encoding.offsets.max()) <= len(text)


def test_a_damaged_cache_is_rebuilt(tmp_path: Path) -> None:
    before = load_encoder(home=tmp_path).fingerprint
    (model,) = tmp_path.glob("encoders/*/model.onnx")
    data = bytearray(model.read_bytes())
    data[len(data) // 2] ^= 1
    model.write_bytes(data)
    assert load_encoder(home=tmp_path).fingerprint == before
    assert hashlib.sha256(model.read_bytes()).hexdigest() != hashlib.sha256(data).hexdigest()


def test_an_unknown_encoder_is_refused_in_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(EncoderUnavailable, match="could not be prepared") as caught:
        load_encoder(str(tmp_path / "nothing-here"), home=tmp_path)
    assert "\n" not in str(caught.value)


def test_an_export_that_differs_is_refused() -> None:
    with pytest.raises(EncoderUnavailable, match="differs from sentence-transformers"):
        check_embeddings(np.zeros((2, 4), np.float32), np.full((2, 4), 2e-4, np.float32), name="x")


def test_a_graph_that_computes_otherwise_is_refused_when_it_is_built(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def with_one_weight_off(weights, shape, **rest):
        name = "encoder.layer.3.output.dense.weight"
        return build_bert_graph({**weights, name: weights[name] * 1.01}, shape, **rest)

    monkeypatch.setattr("router.encoder_store.build_bert_graph", with_one_weight_off)
    with pytest.raises(EncoderUnavailable, match="differs from sentence-transformers by"):
        load_encoder(home=tmp_path)
    assert not list(tmp_path.glob("encoders/*/manifest.json"))


@pytest.mark.slow
def test_a_sentence_transformers_folder_is_exported_and_checked_against_the_original(
    tmp_path: Path, encoder: Encoder
) -> None:
    """The package's own folder through sentence-transformers gives what is built from its weights without torch."""
    folder = Path(str(find_spec(PACKAGE).origin)).parent / "model"
    exported = load_encoder(str(folder), home=tmp_path)
    np.testing.assert_allclose(exported.embed(REFERENCE_TEXTS), encoder.embed(REFERENCE_TEXTS), atol=1e-4)
    (one,), (other,) = (some.encode([REFERENCE_TEXTS[2]], hidden=True) for some in (exported, encoder))
    np.testing.assert_allclose(one.hidden, other.hidden, atol=1e-3)

    code = """
import sys
from pathlib import Path
from router import encoder_export
right = encoder_export.run_onnx
encoder_export.run_onnx = lambda *given, **rest: right(*given, **rest) + 2e-4
encoder_export.export(sys.argv[1], Path(sys.argv[2]))
"""
    done = subprocess.run([sys.executable, "-c", code, str(folder), str(tmp_path)], capture_output=True, text=True)
    assert done.returncode != 0
    assert "differs from sentence-transformers by 2.0e-04" in done.stderr


def test_a_glance_is_near_to_what_a_part_is_embedded_as(encoder: Encoder) -> None:
    first, second = "what is the weather in Lisbon", "please pay my phone bill"
    (whole,) = encoder.encode([f"{first} {second}"], hidden=True)
    parts = encoder.embed([first, second])
    glances = np.stack([state_between(whole, 0, len(first)), state_between(whole, len(first) + 1, 99)])
    glances /= np.linalg.norm(glances, axis=1, keepdims=True)
    assert (glances * parts).sum(axis=1).min() > 0.5
    assert ((glances @ parts.T).argmax(axis=1) == [0, 1]).all()
    assert not state_between(whole, 99, 100).any()
