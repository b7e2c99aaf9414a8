import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from uuid import UUID

import numpy as np
import pytest

from learner.concatenate import SplitExample, concatenations, join
from learner.connectors import CONNECTORS
from learner.first_version import build_first_version
from learner.splitter_training import averaged, train_splitter
from router.artifact import pack
from router.decide import Router, decide
from router.decision import Boundary, Decision
from router.encoder import Encoder, load_encoder
from router.fleet import Fleet, Route
from router.splitter import boundaries, cut
from router.version import RouterVersion
from router.version_cache import write_cache

UTTERANCES = {
    "billing": (
        "why was i charged twice|what is my current balance|i want a refund for last month|send me the invoice for may|"
        "how do i change my credit card|my payment was declined|when is the next bill due|explain the fee on my bill|"
        "can i pay by bank transfer|cancel my automatic payments"
    ),
    "delivery": (
        "when does my parcel arrive|where is my order|the package never came|change the address of my delivery|"
        "how much is express shipping|track my shipment please|the courier left it with a neighbour|"
        "can you deliver on saturday|my parcel is damaged|which carrier do you use"
    ),
    "account": (
        "i forgot my password|how do i delete my account|change my email address|why is my account locked|"
        "turn on two factor login|update my phone number|i cannot log in any more|merge my two accounts|"
        "who has access to my profile|sign me out everywhere"
    ),
    "weather": (
        "will it rain tomorrow|what is the temperature in oslo|do i need an umbrella today|how windy is it outside|"
        "is there snow in the mountains|what is the forecast for the weekend|how hot does it get in july|"
        "when does the sun set tonight|is a storm coming|how humid is it in singapore"
    ),
    "travel": (
        "book a flight to madrid|find me a hotel near the station|do i need a visa for japan|"
        "what time does the train to paris leave|rent a car for three days|how do i get from the airport to the city|"
        "is my flight delayed|reserve a window seat|what can i see in rome|cancel my hotel reservation"
    ),
    "kitchen": (
        "how long do i boil an egg|give me a recipe for lasagna|what can replace butter in a cake|"
        "how many calories are in an apple|is this chicken still good|what goes well with salmon|"
        "how do i sharpen a knife|convert two cups to grams|suggest a vegetarian dinner|how do i store fresh basil"
    ),
    "music": (
        "play some jazz|skip this song|who sings this track|add this to my playlist|turn the volume up|"
        "what is the newest album by adele|stop the music|play my workout mix|when did this band start|"
        "shuffle all my songs"
    ),
    "code": (
        "why does my loop never end|how do i reverse a list in python|explain this stack trace|"
        "write a unit test for this function|what does static mean in java|how do i undo a git commit|"
        "my query is slow in postgres|convert this json to yaml|what is a race condition|"
        "how do i parse a date in javascript"
    ),
}
QUERIES: Mapping[str, tuple[str, ...]] = {route: tuple(text.split("|")) for route, text in UTTERANCES.items()}


@pytest.fixture(scope="session")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Encoder:
    return load_encoder(home=tmp_path_factory.mktemp("encoder"))


@pytest.fixture(scope="session")
def version(encoder: Encoder) -> RouterVersion:
    routes = tuple(Route(name=name, utterances=utterances) for name, utterances in QUERIES.items())
    return build_first_version(Fleet(fallback="billing", routes=routes), encoder=encoder)


@pytest.fixture(scope="session")
def splitter(version: RouterVersion) -> Mapping[str, np.ndarray]:
    return version.splitter


def decided(version: RouterVersion, encoder: Encoder, query: str) -> Decision:
    (encoding,) = encoder.encode([query], hidden=True)
    rng = np.random.default_rng(0)
    router = Router(version)
    return decide(router, query, encoding, encode=encoder.encode, inference_id=UUID(int=1), rng=rng, explore=False)


def segments(splitter: Mapping[str, np.ndarray], encoder: Encoder, query: str) -> list[str]:
    (encoding,) = encoder.encode([query], hidden=True)
    return [query[a:b] for a, b in cut(query, boundaries(splitter, encoding, query), threshold=0.5)]


@pytest.mark.parametrize(
    ("query", "parts"),
    [
        (
            "why was i charged twice and when does my parcel arrive",
            ["why was i charged twice", "when does my parcel arrive"],
        ),
        ("i forgot my password, also will it rain tomorrow", ["i forgot my password", "will it rain tomorrow"]),
        ("book a flight to rome play some jazz", ["book a flight to rome", "play some jazz"]),
    ],
)
def test_a_fleets_first_version_splits_questions_of_two_routes(version, encoder, query, parts):
    decision = decided(version, encoder, query)
    assert [segment.text for segment in decision.segments] == parts
    assert all(query[segment.start : segment.end] == segment.text for segment in decision.segments)


LIST = "eggs, milk, bread, butter and two onions"
CODE = "def f(x):\n    return [y for y in x if y and not y < 0]"
MEETING = "we talked about the budget and the new office and then somebody asked about the parking "


@pytest.mark.parametrize(
    "query",
    [
        "what is the difference between a debit and a credit card",
        "word " * 2000,
        MEETING * 118,  # 2,000 words
        "play",
        "Hi!",
        "?",
        "🎉 🎉 🎉",
        "👩‍👩‍👧 ❤️ and 🏳️‍🌈",
        "我的包裹什么时候到我被收了两次钱",
        "这个多少钱\uff1f什么时候到\uff1f",
        "日本語で 質問 しても いい ですか",
        "متى تصل الشحنة الخاصة بي",
        "\u200b\u200b \u00ad \t\r\n",
        "a\ud800b c",
        CODE,
        f"```python\n{CODE}\n```",
        "SELECT a, b FROM t WHERE a = 1 AND b = 2; -- and then some",
        '{"name": "and", "then": ["also", "plus"]}',
        "https://example.com/a?b=c&d=e and https://example.com/f",
        LIST,
        f"1. {LIST.replace(', ', '; ')}",
        "- milk\n- eggs\n- bread",
        "1. milk\n2. eggs\n3. bread",
        "2 + 2, 3 + 3, 4 + 4",
        "AND " * 40,
        ", " * 40,
        "",
        "   ",
    ],
)
def test_one_need_is_never_split_whatever_it_looks_like(version, encoder, query):
    decision = decided(version, encoder, query)
    assert len(decision.segments) == 1
    assert (decision.segments[0].start, decision.segments[0].end) == (0, len(query))
    assert decision.split.reason.endswith(".")


def test_a_query_that_the_encoder_cannot_read_to_its_end_says_so(version, encoder):
    decision = decided(version, encoder, "where is my order and why was i charged twice " * 200)
    assert len(decision.segments) == 1
    assert "longer than the encoder reads" in decision.split.reason


@pytest.mark.parametrize("tail", ["and for tomorrow?", ", and for two?", "and the other one", "also in rome"])
def test_what_cannot_stand_alone_goes_with_the_whole_query(version, encoder, tail):
    assert len(decided(version, encoder, f"will it rain tomorrow {tail}").segments) == 1


def test_the_decision_says_why_it_was_split_or_not(version, encoder):
    split = decided(version, encoder, "why was i charged twice and when does my parcel arrive").split
    assert split.utility_split > split.utility_whole
    assert max(b.probability for b in split.boundaries) > 0.5
    assert "Splitting pays" in split.reason
    whole = decided(version, encoder, "why was i charged twice").split
    assert whole.boundaries
    assert "No boundary reached" in whole.reason


def test_where_three_parts_do_not_pay_the_two_that_are_sure_do(version, encoder, monkeypatch):
    query = "how do i pay my bill with express shipping costs and will it rain tomorrow"
    sure, unsure = query.index("will"), query.index("with")
    found = (
        Boundary(start=unsure, probability=0.31, end=unsure - 1),
        Boundary(start=sure, probability=0.97, end=sure - 5),
    )
    monkeypatch.setattr("router.splitter.boundaries", lambda *_: found)
    decision = decided(version, encoder, query)
    assert [segment.text for segment in decision.segments] == [query[: sure - 5], query[sure:]]
    assert "97% sure" in decision.split.reason


def test_a_split_that_costs_more_than_it_gains_is_not_made(version, encoder):
    dear = replace(version, parameters=replace(version.parameters, split_cost=0.9))
    decision = decided(dear, encoder, "why was i charged twice and when does my parcel arrive")
    assert len(decision.segments) == 1
    assert decision.split.utility_split < decision.split.utility_whole
    assert "Splitting gains nothing" in decision.split.reason


def test_a_served_decision_leaves_torch_alone(version, tmp_path):
    """A process that loads a version from its cache, splits a question and decides has imported nothing heavy."""
    write_cache(tmp_path / "version", pack(version), number=1)
    code = """
import sys
from pathlib import Path
from uuid import UUID
import numpy as np
from router.artifact import pack
from router.decide import Router, decide
from router.encoder import load_encoder
from router.version_cache import read_cache
home = Path(sys.argv[1])
router, encoder = Router(read_cache(home / "version")), load_encoder(home=home)
query = "why was i charged twice and when does my parcel arrive"
encoding = encoder.encode([query], hidden=True)[0]
rng = np.random.default_rng(0)
decision = decide(router, query, encoding, encode=encoder.encode, inference_id=UUID(int=1), rng=rng, explore=False)
print(len(decision.segments), sorted({"torch", "pandas", "sklearn", "transformers"} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[0] == "2 []"


def test_the_same_input_gives_the_same_bytes_and_another_seed_others(encoder):
    examples = concatenations(QUERIES, count=60, seed=1)
    first, again, other = (train_splitter(examples, encoder=encoder, seed=seed) for seed in (3, 3, 4))
    assert {n: a.tobytes() for n, a in first.items()} == {n: a.tobytes() for n, a in again.items()}
    assert any((first[name] != other[name]).any() for name in first)


def test_a_splitter_is_small_and_float32(splitter):
    assert sum(array.size for array in splitter.values()) <= 200_000
    assert {array.dtype for array in splitter.values()} == {np.dtype(np.float32)}


def test_what_torch_trains_is_what_numpy_serves(splitter, encoder):
    import torch

    from learner.splitter_training import _logits
    from router.splitter import word_logits

    (encoding,) = encoder.encode(["why was i charged twice and when does my parcel arrive"], hidden=True)
    tensors = {name: torch.from_numpy(array) for name, array in splitter.items()}
    hidden = torch.from_numpy(encoding.hidden)[None]
    padded = torch.nn.functional.pad(hidden, (0, 0, 0, 5))
    real = torch.arange(padded.shape[1])[None] < hidden.shape[1]
    trained = _logits(tensors, padded, real, None)[0, : hidden.shape[1]].numpy()
    np.testing.assert_allclose(word_logits(splitter, encoding.hidden), trained, atol=1e-4)


def test_a_warm_start_goes_on_from_what_was_learned(splitter, encoder):
    wrong = segments(splitter, encoder, "rent a car for three days")
    assert wrong == ["rent a car for three days"]
    mined = [SplitExample(text="rent a car for three days", starts=(11,), ends=(10,))] * 200
    learned = train_splitter(mined, encoder=encoder, seed=0, warm_start=splitter)
    assert segments(learned, encoder, "rent a car for three days") == ["rent a car", "for three days"]


def test_what_was_known_outlives_a_night_that_taught_one_thing_only(splitter, encoder):
    pools = list(QUERIES.values())
    said = [" in the same breath "]
    taught = [join([pools[i % 8][i % 5], pools[(i + 1) % 8][i % 5 + 1]], said) for i in range(160)]
    new = train_splitter(taught, encoder=encoder, seed=0, warm_start=splitter)
    mean = averaged(splitter, new)
    known = concatenations(QUERIES, count=200, seed=9)
    heard = [join([pools[i][7], pools[i - 1][8]], said) for i in range(8)]

    def right(arrays, examples):
        encodings = encoder.encode([one.text for one in examples], hidden=True)
        found = [
            cut(one.text, boundaries(arrays, encoding, one.text), threshold=0.5)
            for one, encoding in zip(examples, encodings, strict=True)
        ]
        return sum(tuple(a for a, _ in f[1:]) == one.starts for f, one in zip(found, examples, strict=True))

    assert right(splitter, known) > right(mean, known) > right(new, known)
    assert right(mean, heard) == len(heard)
    assert {array.dtype for array in mean.values()} == {np.dtype(np.float32)}


def test_without_a_splitter_of_the_same_shapes_before_it_the_new_one_stands_alone(splitter):
    assert averaged({}, splitter) == splitter
    assert averaged({**splitter, "head.bias": np.zeros(5, np.float32)}, splitter) == splitter
    assert averaged(splitter, {}) == {}


def test_without_a_split_in_the_examples_there_is_no_splitter(encoder):
    only_singles = concatenations({"one": QUERIES["music"]}, count=20, seed=0)
    assert train_splitter(only_singles, encoder=encoder, seed=0) == {}
    assert train_splitter([], encoder=encoder, seed=0) == {}


def test_progress_rises_to_one(encoder):
    told: list[float] = []
    train_splitter(concatenations(QUERIES, count=40, seed=0), encoder=encoder, seed=0, progress=told.append)
    assert told == sorted(told)
    assert told[-1] == 1.0


def test_concatenations_are_exact_and_of_different_routes():
    queries = {route: [f"{route} asks question number {i}" for i in range(5)] for route in ("one", "two", "three")}
    examples = concatenations(queries, count=300, seed=0)
    for example in examples:
        starts, ends = (0, *example.starts), (*(example.ends or ()), len(example.text))
        parts = [example.text[a:b] for a, b in zip(starts, ends, strict=True)]
        routes = {part.split()[0] for part in parts}
        assert len(routes) == len(parts)
        assert routes <= set(queries)
    lengths = [len(example.starts) for example in examples]
    assert 0.2 < lengths.count(0) / 300 < 0.4
    assert lengths.count(2) > 50


def test_a_family_of_connectors_can_be_left_out():
    words = {word for family in ("more", "while") for word in CONNECTORS[family]}
    texts = [e.text for e in concatenations(QUERIES, count=500, seed=0, without=("more", "while"))]
    assert not any(word in text for word in words for text in texts)
