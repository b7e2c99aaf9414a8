import contextlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from router.fleet import Fleet, FleetError, fleet_fingerprint, fleet_from_json, fleet_to_json, load_fleet, parse_fleet

GOOD = """\
fallback: general            # the route for what no domain should answer
routes:
  - name: general
  - name: billing
    description: Invoices, refunds, payment methods
    utterances: ["why was I charged twice", "..."]
    keywords: [invoice, refund, "/re-?fund(s|ed)?/", C++]
    model: billing-slm-1.5b
    score_threshold: 0.2
    input_cost_per_token: 1e-7
    output_cost_per_token: 2.0e-7
    latency_slo_ms: 1500
    max_completion_tokens: 512
"""


def one(fields: str) -> str:
    return f"fallback: general\nroutes:\n  - name: general\n  - name: billing\n    utterances: [hello]\n{fields}\n"


def test_a_fleet_is_read_as_it_was_written(tmp_path):
    path = tmp_path / "fleet.yaml"
    path.write_text("\ufeff" + GOOD, encoding="utf-8")
    fleet = load_fleet(path)
    billing = fleet.routes[1]
    assert fleet.names == ("general", "billing")
    assert (billing.input_cost_per_token, billing.latency_slo_ms, billing.max_completion_tokens) == (1e-7, 1500, 512)
    assert billing.keywords == ("invoice", "refund", "/re-?fund(s|ed)?/", "C++")


def test_json_gives_the_same_fleet_and_fingerprint():
    fleet = parse_fleet(GOOD, source="x")
    assert fleet_from_json(fleet_to_json(fleet)) == fleet
    other = parse_fleet(GOOD.replace("C++]", "'C++']").replace("  - name: general", "  - {name: general}"), source="y")
    assert fleet_fingerprint(other) == fleet_fingerprint(fleet)
    assert fleet_fingerprint(parse_fleet(GOOD.replace("512", "513"), source="x")) != fleet_fingerprint(fleet)


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("", 1, "empty"),
        ("# only a comment\n", 1, "empty"),
        ("- a\n- b", 1, "keys with values"),
        ("fallback: x", 1, "routes: is missing"),
        ("fallback: x\nroutes: []", 2, "is empty"),
        ("fallback: x\nroutes: hello", 2, "must be a list"),
        ("fallback: x\nroutes:\n  - hello", 3, "keys with values"),
        ("fallback: x\nroutes:\n  - model: y", 3, "name: is missing"),
        (one("    utterence: [a]"), 6, "did you mean 'utterances'"),
        (one("    keywords: [a]\n    keywords: [b]"), 7, "written twice"),
        ("fallback: a\nfallback: b\nroutes: []", 2, "written twice"),
        (one("  - name: Billing\n    utterances: [x]"), 6, "on line 4 too"),
        (one("").replace("fallback: general", "fallback: generl"), 1, "did you mean 'general'"),
        (one("").replace("[hello]", "[]"), 4, "empty"),
        (one("").replace("    utterances: [hello]\n", ""), 4, "empty"),
        (one("").replace("[hello]", "[' ']"), 5, "empty entry"),
        (one("").replace("[hello]", "hello"), 5, "must be a list"),
        (one("").replace("[hello]", "[yes]"), 5, "quotes"),
        (one("").replace("[hello]", "[[hello]]"), 5, "must be text"),
        (one("    input_cost_per_token: -1.0e-7"), 6, "between 0 and 1"),
        (one("    output_cost_per_token: cheap"), 6, "must be a number"),
        (one("    output_cost_per_token: .nan"), 6, "must be a number"),
        (one("    latency_slo_ms: 0"), 6, "more than 0"),
        (one("    latency_slo_ms: true"), 6, "must be a number"),
        (one("    latency_slo_ms: '1500'"), 6, "must be a number"),
        (one("    max_completion_tokens: 1.5"), 6, "whole number"),
        (one("    score_threshold: 2"), 6, "a cosine"),
        (one("    keywords: ['/(?=a)/']"), 6, "google-re2"),
        (one("    keywords: ['/(/']"), 6, "google-re2"),
        (one("    keywords: ['/.*/']"), 6, "matches every query"),
        (one("    keywords: ['']"), 6, "match everything"),
        (one('    model: "a\\0b"'), 6, "control character"),
        (one("    model: a\x00b"), 6, "NUL"),
        (one("    model: a\ud800b"), 6, "NUL"),
        (one('    model: "\\ud800"'), 6, "not YAML"),
        (one("    description: &x hello\n    model: *x"), 7, "aliases"),
        ("a: &a [x]\nb: &b [*a, *a]\n", 2, "aliases"),
        ("[" * 5000, 1, "deep"),
        ("fallback: x\nroutes: [", 3, "not YAML"),
        ("a: b: c", 1, "not YAML"),
        ("fallback: a\n---\nfallback: b", 2, "not YAML"),
        ("? [a, b]\n: c", 1, "is not a key"),
        ("!!python/object:os.system x", 1, "keys with values"),
        (one("    model: !!python/name:os.system x"), 6, "must be text"),
        (one(f"    model: {'x' * 2001}"), 6, "2000 are allowed"),
        (one("").replace("name: billing", f"name: {'x' * 101}"), 4, "100 are allowed"),
        (one("").replace("name: billing", 'name: "a\\nb"'), 4, "one line"),
        (one("").replace("[hello]", f"[{', '.join(['x'] * 10_001)}]"), 5, "10000 are allowed"),
    ],
)
def test_whatever_is_wrong_is_one_sentence_with_its_line(text, line, words):
    with pytest.raises(FleetError) as error:
        parse_fleet(text, source="fleet.yaml")
    assert error.value.line == line
    assert words in str(error.value)
    assert str(error.value).startswith(f"fleet.yaml, line {line}: ")
    assert "\n" not in str(error.value)


MODELS = """fallback: small
cost_weight: 0.02
routes:
  - {name: small, model: a}
  - {name: large, model: b}
"""


def test_routes_without_utterances_and_a_price_that_counts_are_a_fleet_of_models():
    fleet = parse_fleet(MODELS, source="fleet.yaml")
    assert fleet.of_models
    assert fleet.cost_weight == 0.02
    assert fleet_from_json(fleet_to_json(fleet)) == fleet


def test_a_fleet_with_utterances_is_none_of_models_and_a_forgotten_domain_is_still_told():
    assert not parse_fleet(GOOD, source="fleet.yaml").of_models
    with pytest.raises(FleetError, match="utterances of route 'large': are empty"):
        parse_fleet(MODELS.replace("{name: small,", "{name: small, utterances: [hello],"), source="fleet.yaml")
    with pytest.raises(FleetError, match=r"line 2: cost_weight: must be between 0 and 100"):
        parse_fleet(MODELS.replace("0.02", "-1"), source="fleet.yaml")


@pytest.mark.parametrize(
    ("data", "line", "words"),
    [
        (b"fallback: x\n\xff\xfe", 2, "UTF-8"),
        (GOOD.encode("utf-16"), 1, "UTF-8"),
        (b"#" * (9 << 20), None, "MiB"),
    ],
)
def test_a_file_of_the_wrong_kind_is_refused(tmp_path, data, line, words):
    path = tmp_path / "fleet.yaml"
    path.write_bytes(data)
    with pytest.raises(FleetError, match=words) as error:
        load_fleet(path)
    assert error.value.line == line


def test_a_missing_file_or_a_folder_is_refused(tmp_path):
    with pytest.raises(FleetError, match="no such file"):
        load_fleet(tmp_path / "none.yaml")
    with pytest.raises(FleetError, match="it is a folder"):
        load_fleet(tmp_path)


@settings(max_examples=300, deadline=None)
@given(st.text(max_size=300) | st.text(alphabet="{}[]:,&*!|>-?\"'# \nab", max_size=200))
def test_any_text_is_a_fleet_or_a_fleet_error(text):
    with contextlib.suppress(FleetError):
        assert isinstance(parse_fleet(text, source="x"), Fleet)
