"""Settings: the only reader of the environment. Each has a default that a user need not touch."""

import hashlib
import ipaddress
import os
import re
import secrets
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict
from pydantic_settings.exceptions import SettingsError

from api.cross_origin import origins
from router.rollout import RolloutSettings

_KEY_BYTES = 32
_HASH_KEY = re.compile(rf"[0-9a-fA-F]{{{2 * _KEY_BYTES}}}")
MOST_QUERY_CHARS = 100_000  # a request with more is not valid, whatever is set
_PLACEHOLDER = "CHANGE-ME"
SAMPLE_FLEET = Path(__file__).parent / "demo" / "sample_fleet.yaml"


class WrongSetting(ValueError):
    """A setting has a value that cannot be used."""


class Settings(BaseSettings):
    """Everything that can be set, by ``TRIMTAB_<NAME>`` in the environment."""

    model_config = SettingsConfigDict(
        env_prefix="TRIMTAB_", env_nested_delimiter="__", env_ignore_empty=True, extra="ignore", frozen=True
    )

    home: Path = Field(Path("~/.trimtab"), description="Folder for the embedded database, encoders and caches.")
    database_url: str | None = Field(None, description="Any Postgres; without it the embedded one is used.")
    pg_bin: Path | None = Field(None, description="Folder with initdb and postgres, instead of the wheel's.")
    fleet: Path | None = Field(None, description="The fleet file; ./fleet.yaml, or else the sample fleet.")
    encoder: str | None = Field(
        None, description="A sentence-transformers name or folder, instead of all-MiniLM-L6-v2."
    )
    next_encoder: str | None = Field(
        None, description="The encoder to change to: loaded beside the other, for a version that is in shadow."
    )
    host: str = Field("127.0.0.1", description="Address to listen on; one that others can reach needs an API key.")
    port: Annotated[int, Field(ge=0, le=65535)] = Field(8080, description="Port to listen on; 0 takes any free one.")
    secret: SecretStr | None = Field(
        None,
        min_length=32,
        description="Hashes people and signs feedback tokens, the same on every server; else hash.key.",
    )
    key_rate: float = Field(5_000, gt=0, description="Requests a second of an API key without a limit of its own.")
    key_concurrency: int = Field(500, ge=1, description="Requests of such a key that may run at once.")
    feedback_token_hours: float = Field(
        72, ge=0, le=8_760, description="How long the feedback token of a decision is good for; 0 gives none."
    )
    cors_origins: str = Field(
        "", description="Origins of web pages that may vote with a feedback token, by comma; * is any, empty none."
    )
    store_text: Literal["full", "redacted", "none"] = Field(
        "full", description="Keep texts whole, with addresses and numbers blanked, or not at all (embeddings stay)."
    )
    keep_days: float | None = Field(
        None, gt=0, description="Days that anything is kept; older is pruned each night, empty keeps all."
    )
    keep_text_days: float | None = Field(
        None, gt=0, description="Days that texts and embeddings are kept, where that is less; counts stay."
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="How much is logged.")
    max_body_bytes: int = Field(5_000_000, ge=1_000, description="Largest request body; larger ones are answered 413.")
    max_batch: int = Field(1_000, ge=1, description="Most items in one batch.")
    max_query_chars: int = Field(
        20_000, ge=1, le=MOST_QUERY_CHARS, description=f"Longest query; at most {MOST_QUERY_CHARS}."
    )
    queue_items: int = Field(5_000, ge=1, description="Events that may wait to be stored before 429 is answered.")
    queue_bytes: int = Field(
        32_000_000, ge=1_000, description="Bytes that may wait to be stored before 429 is answered."
    )
    drain_seconds: float = Field(
        0,
        ge=0,
        le=3_600,
        description="Seconds that a stopped server serves on, with 503 from /readyz, for load balancers.",
    )
    session_minutes: float = Field(30, gt=0, description="How long a session is remembered after its last query.")
    webhook_url: str | None = Field(
        None, pattern="^https?://", description="Is told of each publication, hold, stage and rollback, by POST."
    )
    webhook_secret: SecretStr | None = Field(None, min_length=16, description="Signs what the webhook is told.")
    rollout: RolloutSettings = Field(
        RolloutSettings(), description="How a version comes to serve: TRIMTAB_ROLLOUT__NAME."
    )
    learner: dict[str, str] = Field(
        default_factory=dict, description="Overrides of the learner: TRIMTAB_LEARNER__NAME."
    )

    @field_validator("rollout", mode="before")
    @classmethod
    def _known_names(cls, given: object) -> object:
        names = RolloutSettings.explanations()
        if isinstance(given, dict) and (unknown := [name for name in given if name not in names]):
            raise ValueError(f"{unknown[0]} is not one of {', '.join(names)}")
        return given

    @field_validator("secret", "webhook_secret", "database_url")
    @classmethod
    def _are_filled_in(cls, value: SecretStr | str | None) -> SecretStr | str | None:
        """What stands in an example is known to everybody: whoever has the secret signs tokens."""
        if _PLACEHOLDER in (value.get_secret_value() if isinstance(value, SecretStr) else value or ""):
            raise ValueError(
                f"it still has {_PLACEHOLDER} in it; put your own there (openssl rand -hex 32 makes a secret)"
            )
        return value

    @field_validator("cors_origins")
    @classmethod
    def _are_origins(cls, value: str) -> str:
        origins(value)
        return value

    @property
    def home_folder(self) -> Path:
        """``home`` with ``~`` resolved."""
        return self.home.expanduser().absolute()

    @property
    def loopback(self) -> bool:
        """Whether only this machine can reach the server."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"

    @property
    def fleet_path(self) -> Path:
        """The fleet file: as set, else ./fleet.yaml where there is one, else the sample fleet."""
        if self.fleet is not None:
            return self.fleet.expanduser()
        local = Path("fleet.yaml")
        return local if local.is_file() else SAMPLE_FLEET

    def child_environment(self, *, database_url: str) -> dict[str, str]:
        """Return the environment for a process of ours that shall see the same settings and database."""
        names = self.model_fields_set - {"learner", "rollout", "secret", "webhook_secret"}
        given = {f"TRIMTAB_{name.upper()}": str(getattr(self, name)) for name in names}
        if self.secret is not None:
            given["TRIMTAB_SECRET"] = self.secret.get_secret_value()
        rollout = {f"TRIMTAB_ROLLOUT__{name.upper()}": str(value) for name, value in asdict(self.rollout).items()}
        learner = {f"TRIMTAB_LEARNER__{name.upper()}": value for name, value in self.learner.items()}
        return {**os.environ, **given, **rollout, **learner, "TRIMTAB_DATABASE_URL": database_url}

    def hash_key(self) -> bytes:
        """The key that hashes people's ids: of ``secret``, or made once and kept in ``home`` for the owner alone.

        Raises:
            WrongSetting: the file in ``home`` does not hold a key.
        """
        if self.secret is not None:
            return hashlib.sha256(self.secret.get_secret_value().encode()).digest()
        path = self.home_folder / "hash.key"
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            _make_key(path)
        text = path.read_bytes().decode("ascii", "replace").strip()
        if not _HASH_KEY.fullmatch(text):  # an empty one would let anybody sign tokens
            raise WrongSetting(
                f"{path} is damaged: it must hold {2 * _KEY_BYTES} hexadecimal digits. Restore it from your backup, or"
                " set TRIMTAB_SECRET; a new one makes nobody's earlier events findable under their id."
            )
        return bytes.fromhex(text)


def _make_key(path: Path) -> None:
    """Write a new key that survives a power cut whole: first its bytes, then its name."""
    fresh = path.with_name(f"hash.key.{os.getpid()}")
    fresh.touch(mode=0o600)
    with fresh.open("w") as file:
        file.write(secrets.token_hex(_KEY_BYTES))
        file.flush()
        os.fsync(file.fileno())
    try:
        os.link(fresh, path)  # fails where another process was first: its key counts
    except FileExistsError:
        pass
    finally:
        fresh.unlink()
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def read_settings(**overrides: object) -> Settings:
    """Return the settings of the environment with ``overrides`` (None: not overridden) on top.

    Raises:
        WrongSetting: in one sentence, with the name of the variable.
    """
    try:
        return Settings(**{k: v for k, v in overrides.items() if v is not None})  # type: ignore[arg-type]
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        message = first["msg"].removeprefix("Value error, ")
        name = "TRIMTAB_" + "__".join(str(part) for part in first["loc"]).upper()
        raise WrongSetting(f"{name} cannot be used: {message[0].lower()}{message[1:]}.") from None
    except SettingsError as error:
        raise WrongSetting(f"A TRIMTAB_ setting cannot be read: {error}.") from None
