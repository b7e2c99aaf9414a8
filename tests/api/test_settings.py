import os
from dataclasses import fields
from pathlib import Path

import pytest

from api.schemas import RouteRequest
from api.settings import Settings, WrongSetting, read_settings
from learner.settings import LearnerSettings, WrongLearnerSetting
from router.rollout import RolloutSettings

PAGE = (Path(__file__).parents[2] / "docs" / "settings.md").read_text(encoding="utf-8")


def test_the_page_of_settings_lists_every_setting_with_its_default_and_meaning() -> None:
    for name, field in Settings.model_fields.items():
        if name not in ("learner", "rollout"):
            default = "" if field.default is None else field.default
            assert f"| `TRIMTAB_{name.upper()}` | {default} | {field.description} |" in PAGE
    for setting in fields(RolloutSettings):
        meaning = RolloutSettings.explanations()[setting.name]
        assert f"| `TRIMTAB_ROLLOUT__{setting.name.upper()}` | {setting.default} | {meaning} |" in PAGE
    for setting in fields(LearnerSettings):
        meaning = LearnerSettings.explanations()[setting.name]
        assert f"| `TRIMTAB_LEARNER__{setting.name.upper()}` | {setting.default} | {meaning} |" in PAGE


@pytest.mark.parametrize(
    ("name", "value"), [("PORT", "99999"), ("PORT", "x"), ("STORE_TEXT", "maybe"), ("LEARNER", "{")]
)
def test_a_wrong_setting_is_told_in_one_sentence(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(f"TRIMTAB_{name}", value)
    with pytest.raises(WrongSetting, match=name if name != "LEARNER" else "TRIMTAB_") as caught:
        read_settings()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("SECRET", "CHANGE-ME-to-32-or-more-random-characters"),
        ("WEBHOOK_SECRET", "CHANGE-ME-to-something"),
        ("DATABASE_URL", "postgresql://trimtab:CHANGE-ME@postgres:5432/trimtab"),
    ],
)
def test_what_an_example_says_to_change_is_refused_until_it_is(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(f"TRIMTAB_{name}", value)
    with pytest.raises(WrongSetting, match=f"^TRIMTAB_{name} cannot be used: .*openssl rand -hex 32") as caught:
        read_settings()
    assert value not in str(caught.value)
    monkeypatch.setenv(f"TRIMTAB_{name}", value.replace("CHANGE-ME", "5f1d"))
    read_settings()


def test_no_query_may_be_longer_than_a_request_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRIMTAB_MAX_QUERY_CHARS", "100000")
    assert RouteRequest(query="x" * read_settings().max_query_chars).query
    monkeypatch.setenv("TRIMTAB_MAX_QUERY_CHARS", "100001")
    with pytest.raises(WrongSetting, match=r"TRIMTAB_MAX_QUERY_CHARS cannot be used: .*100000"):
        read_settings()


def test_the_learner_takes_overrides_by_name_and_refuses_unknown_ones() -> None:
    assert LearnerSettings.with_overrides({"folds": "4"}).folds == 4
    with pytest.raises(WrongLearnerSetting, match="FOLD is not a setting"):
        LearnerSettings.with_overrides({"fold": "4"})
    with pytest.raises(WrongLearnerSetting, match="must be a number"):
        LearnerSettings.with_overrides({"folds": "many"})


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("most_churn", "1.5", "between 0 and 1"),
        ("explore_share", "-0.1", "between 0 and 1"),
        ("gate_level", "1", "more than 0 and less than 1"),
        ("purity", "nan", "more than 0 and less than 1"),
        ("folds", "1", "at least 2"),
        ("neighbours", "0", "at least 1"),
        ("splitter_examples", "-1", "at least 0"),
        ("window_days", "-90", "not negative"),
        ("beta", "inf", "not negative"),
    ],
)
def test_a_setting_of_the_learner_that_is_out_of_range_is_refused_in_a_sentence(
    name: str, value: str, words: str
) -> None:
    with pytest.raises(WrongLearnerSetting, match=f"TRIMTAB_LEARNER__{name.upper()} must be .*{words}"):
        LearnerSettings.with_overrides({name: value})


def test_the_defaults_of_the_learner_are_in_range() -> None:
    defaults = {setting.name: str(setting.default) for setting in fields(LearnerSettings)}
    assert LearnerSettings.with_overrides(defaults) == LearnerSettings()


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("FIRST_SHARE", "1.5", "first_share must be between 0 and 1"),
        ("HOLDOUT_DAYS", "-1", "holdout_days must not be negative"),
        ("VOTES_PER_USER", "-3", "votes_per_user must not be negative"),
        ("ALPHA", "nan", "alpha must be between 0 and 1"),
    ],
)
def test_a_setting_of_rollouts_that_is_out_of_range_is_refused_in_a_sentence(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, words: str
) -> None:
    monkeypatch.setenv(f"TRIMTAB_ROLLOUT__{name}", value)
    with pytest.raises(WrongSetting, match=f"TRIMTAB_ROLLOUT.*{words}") as caught:
        read_settings()
    assert "\n" not in str(caught.value)


def test_rollouts_take_settings_by_name_and_refuse_unknown_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRIMTAB_ROLLOUT__MODE", "shadow")
    monkeypatch.setenv("TRIMTAB_ROLLOUT__HOLDOUT_DAYS", "3.5")
    settings = read_settings(webhook_secret="a-secret-of-sixteen")
    assert (settings.rollout.mode, settings.rollout.holdout_days) == ("shadow", 3.5)
    child = settings.child_environment(database_url="postgresql:///x")
    assert (child["TRIMTAB_ROLLOUT__MODE"], child["TRIMTAB_ROLLOUT__HOLDOUT_DAYS"]) == ("shadow", "3.5")
    monkeypatch.setenv("TRIMTAB_ROLLOUT__MODE", "sometimes")
    with pytest.raises(WrongSetting, match="TRIMTAB_ROLLOUT__MODE"):
        read_settings()
    monkeypatch.delenv("TRIMTAB_ROLLOUT__MODE")
    monkeypatch.setenv("TRIMTAB_ROLLOUT__DAYS", "1")
    with pytest.raises(WrongSetting, match="days is not one of"):
        read_settings()


def test_the_hash_key_is_made_once_and_for_the_owner_alone(tmp_path: Path) -> None:
    settings = read_settings(home=tmp_path)
    assert settings.hash_key() == settings.hash_key()
    assert len(settings.hash_key()) == 32
    assert (tmp_path / "hash.key").stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("content", [b"", b"\n", b"zz", b"0" * 63, b"0" * 66, b"\xff" * 64])
def test_a_hash_key_that_is_none_is_refused_in_a_sentence(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "hash.key").write_bytes(content)
    with pytest.raises(WrongSetting, match=r"hash\.key is damaged: it must hold 64 hexadecimal digits") as caught:
        read_settings(home=tmp_path).hash_key()
    assert "\n" not in str(caught.value)


def test_the_hash_key_is_on_disk_before_it_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced, fsync = [], os.fsync

    def watched(handle: int) -> None:
        synced.append((str(Path(f"/proc/self/fd/{handle}").readlink()), (tmp_path / "hash.key").exists()))
        fsync(handle)

    monkeypatch.setattr(os, "fsync", watched)
    read_settings(home=tmp_path).hash_key()
    assert synced == [(str(tmp_path / f"hash.key.{os.getpid()}"), False), (str(tmp_path), True)]


def test_an_empty_variable_counts_as_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    every = [*Settings.model_fields, *(f"rollout__{setting.name}" for setting in fields(RolloutSettings))]
    for name in [*every, "learner__folds"]:
        monkeypatch.setenv(f"TRIMTAB_{name.upper()}", "")
    assert read_settings() == Settings.model_construct()
