"""Everything that can be configured, in one place, with defaults that work on the local stack."""

import os
import re
from pathlib import Path
from typing import Literal, get_origin

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict, SettingsError

from adapters.addresses import check_clickhouse, check_postgres
from adapters.failures import Failure


class TierLimit(BaseModel):
    """What is different for the accounts of one tier; None is as everywhere."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    minimum_micro: int | None = Field(None, ge=0, le=10**15)
    monthly_cap_micro: int | None = Field(None, ge=0, le=10**15)
    open_holds_max: int | None = Field(None, ge=1)


class Settings(BaseSettings):
    """The configuration of a process: environment, then `$TOLLGATE_HOME/stack.env`, then defaults.

    Frozen: it is read once by the command and passed on. Every field is set by the environment
    variable of its name with the prefix TOLLGATE_.
    """

    model_config = SettingsConfigDict(
        env_prefix="TOLLGATE_", frozen=True, extra="ignore", hide_input_in_errors=True
    )

    home: Path = Field(Path(".tollgate"), description="directory of the local stack and backups")
    kafka: str = Field("127.0.0.1:19092", description="bootstrap servers of Kafka")
    postgres: SecretStr = Field(
        SecretStr("postgresql://tollgate@127.0.0.1:15432/tollgate"),
        description="DSN of PostgreSQL, 15 or newer",
    )
    clickhouse: SecretStr = Field(
        SecretStr("http://127.0.0.1:18123"),
        description="URL of ClickHouse's HTTP interface, credentials included",
    )
    clickhouse_database: str = Field("tollgate", description="database of the tables for analysts")
    topic_prefix: str = Field("", description="put before every topic name")
    partitions: int = Field(8, ge=1, le=1000, description="partitions of usage.events")
    replication_factor: int = Field(1, ge=1, le=7, description="replicas of every topic")

    create_accounts: bool = Field(
        True,
        description="an unknown account is created at its first event; else it is a dead letter",
    )
    welcome_credits_micro: int = Field(
        1_000_000_000,
        ge=0,
        le=10**15,
        description="credits that a new account gets, in micro-credits",
    )
    default_tier: str = Field("free", description="tier of an account that is created by an event")
    default_demo: bool = Field(False, description="demo mode of an account created by an event")

    batch_records: int = Field(4_000, ge=1, le=20_000, description="records of one transaction")
    batch_wait_ms: int = Field(50, ge=1, le=1_000, description="wait for a record when idle")
    retry_seconds_max: float = Field(
        40.0, gt=0, le=60, description="retries of a batch before the worker stops uncommitted"
    )
    event_age_days_max: int = Field(
        35, ge=1, le=3650, description="older events, by append time, are dead letters"
    )
    dead_letter_share_max: float = Field(
        0.5,
        gt=0,
        le=1,
        description="share of dead letters over dead_letter_window records that halts the rater;"
        " users' own events left out",
    )
    dead_letter_window: int = Field(
        20_000, ge=100, description="records over which dead_letter_share_max is measured"
    )
    statement_seconds_max: float = Field(10.0, gt=0, description="PostgreSQL statement_timeout")
    lock_seconds_max: float = Field(3.0, gt=0, description="PostgreSQL lock_timeout")
    idle_transaction_seconds_max: float = Field(
        10.0, gt=0, description="PostgreSQL idle_in_transaction_session_timeout"
    )
    session_timeout_ms: int = Field(
        30_000, ge=6_000, description="Kafka drops a silent worker after it"
    )
    group_instance_id: str = Field(
        "", description="static Kafka membership, one per pod; empty: none"
    )
    stalled_seconds_max: float = Field(
        60.0, gt=0, description="a worker with lag and no finished batch for longer exits with 70"
    )

    ship_rows_max: int = Field(100_000, ge=1, le=100_000, description="rows of one range")
    ship_wait_ms: int = Field(200, ge=10, le=60_000, description="the warehouse's pause when idle")

    audit_seconds: float = Field(
        300.0, ge=0, description="the warehouse audits all stores so often; 0: never"
    )
    audit_seconds_max: float = Field(
        3_600.0, gt=0, description="an audit that takes longer has failed"
    )

    dual_control_credits_micro: int = Field(
        0,
        ge=0,
        le=10**15,
        description="above it, in micro-credits, what an admin gives or takes waits for another"
        " admin; 0: nothing does",
    )
    dual_control_days: int = Field(
        7, ge=1, le=90, description="a proposal that nobody decides on is over after it"
    )

    minimum_credits_micro: int = Field(
        10_000_000, ge=0, le=10**15, description="balance to start paid work, in micro-credits"
    )
    open_holds_max: int = Field(1_000, ge=1, description="open holds of one account")
    tier_limits: dict[str, TierLimit] = Field(
        {},
        description="limits of a tier where they differ, as JSON of tiers to `minimum_micro`,"
        " `monthly_cap_micro` and `open_holds_max`; an account's own cap wins",
    )
    hold_seconds: int = Field(
        900, ge=1, le=86_400, description="a hold that nobody extends is examined after it"
    )
    hold_seconds_max: int = Field(86_400, ge=1, description="the longest life a caller may ask for")
    gate_seconds_max: float = Field(
        0.9, gt=0, le=10, description="what takes the gate longer is answered with 503"
    )

    refresh_enabled: bool = Field(True, description="the refresh job gives allowances")
    refresh_interval_seconds: int = Field(
        3_600, ge=60, description="how often the clock asks for a refresh"
    )
    refresh_batch: int = Field(
        1_000, ge=1, le=20_000, description="accounts refreshed in one transaction"
    )
    refresh_connections: int = Field(
        2, ge=1, le=16, description="PostgreSQL connections that share one run of the refresh job"
    )
    refresh_dry_run: bool = Field(
        False, description="the refresh job reports what it would give and gives nothing"
    )
    refresh_tier_micro: dict[str, int] = Field(
        {"free": 1_000_000_000, "pro": 20_000_000_000},
        description="allowance of each tier in micro-credits, as JSON; a tier that is not named"
        " gets none",
    )
    refresh_rollover_max_micro: int = Field(
        0, ge=0, le=10**15, description="of an allowance's rest so much is kept; 0: it is replaced"
    )
    reconcile_interval_seconds: int = Field(
        600, ge=10, description="how often the clock asks for a reconciliation"
    )
    reconcile_after_seconds: int = Field(
        300, ge=0, le=86_400, description="an open hold is examined when it is untouched for longer"
    )
    expire_interval_seconds: int = Field(
        3_600, ge=10, description="how often the clock asks to book expired grants"
    )
    audit_interval_seconds: int = Field(
        3_600, ge=60, description="how often the clock asks for an audit"
    )
    purge_interval_seconds: int = Field(
        86_400, ge=60, description="how often the clock asks for a purge"
    )
    idempotency_key_days: int = Field(
        30,
        ge=1,
        le=3650,
        description="an idempotency key, of the API or of a command, is known for so long",
    )
    job_run_days: int = Field(
        90, ge=8, le=3650, description="runs of jobs are kept so long, longer than their messages"
    )

    api_host: str = Field("127.0.0.1", description="address of the HTTP API")
    api_port: int = Field(18_080, ge=0, le=65_535, description="port of the HTTP API")
    api_pool: int = Field(10, ge=2, le=200, description="PostgreSQL connections of one API process")
    api_body_bytes_max: int = Field(
        1_048_576, ge=1_024, description="larger request bodies are answered with 413"
    )
    balance_cache_seconds: float = Field(
        60.0, ge=0, le=60, description="a balance that is only shown may be so old; 0: never"
    )
    ingest_events_max: int = Field(
        1_000, ge=1, le=10_000, description="usage events of one request to the API"
    )
    ingest_waiting_bytes_max: int = Field(
        33_554_432,
        ge=65_536,
        description="usage events that wait for Kafka's acknowledgement; more is answered with 429",
    )
    ingest_seconds_max: float = Field(
        5.0, gt=0, le=60, description="wait for Kafka's acknowledgement of one request"
    )
    api_body_seconds_max: float = Field(
        10.0, gt=0, le=300, description="a body that takes longer is answered with 408"
    )
    api_docs: bool = Field(False, description="serve /docs; /openapi.json is always there")
    jwt_secret: SecretStr = Field(
        SecretStr(""), description="secret of HS256 tokens; empty: only with jwt_jwks_url"
    )
    jwt_jwks_url: str = Field("", description="where the identity provider publishes its keys")
    jwt_algorithm: Literal["HS256", "HS384", "HS512", "RS256", "ES256", "EdDSA"] = Field(
        "HS256", description="the one algorithm of tokens"
    )
    jwt_issuer: str = Field("tollgate", description="the `iss` of tokens")
    jwt_audience: str = Field("tollgate", description="the `aud` of tokens")
    local_login: bool = Field(
        False, description="a login route that gives tokens without a password: local stack only"
    )
    provider_key_secrets: list[SecretStr] = Field(
        default_factory=list,
        description="Fernet keys of stored provider keys, a JSON list; the first encrypts, all"
        " decrypt; empty: none can be stored",
    )
    openrouter_base_url: str = Field(
        "https://openrouter.ai/api/v1", description="where OpenRouter is asked for a key's balance"
    )
    openrouter_seconds_max: float = Field(
        3.0, gt=0, le=30, description="wait for one answer of OpenRouter; it is asked three times"
    )

    bulk_niceness: int = Field(
        10,
        ge=0,
        le=19,
        description="how far rater, warehouse and scheduler step back where the"
        " processor is busy; 0: not at all",
    )
    probe_host: str = Field("127.0.0.1", description="address of /healthz, /readyz and /metrics")
    probe_port: int = Field(0, ge=0, le=65_535, description="port of the probes; 0: none")
    log_format: Literal["auto", "json", "console"] = Field(
        "auto", description="auto: console on a terminal, else JSON lines"
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="least severe level that is logged"
    )

    @field_validator("postgres")
    @classmethod
    def _postgres(cls, dsn: SecretStr) -> SecretStr:
        check_postgres(dsn.get_secret_value())
        return dsn

    @field_validator("clickhouse")
    @classmethod
    def _clickhouse(cls, url: SecretStr) -> SecretStr:
        check_clickhouse(url.get_secret_value())
        return url


def load_settings(**overrides: object) -> Settings:
    """Reads the environment and the local stack's addresses; a wrong value is one clear line.

    Raises Failure naming the variable, and never what it says: that may be a secret.
    """
    home = Path(str(overrides.get("home") or os.environ.get("TOLLGATE_HOME") or ".tollgate"))
    try:
        return Settings(_env_file=home / "stack.env", **overrides)  # type: ignore[arg-type]
    except ValidationError as error:
        first = error.errors()[0]
        variable, *inside = map(str, first["loc"])
        place = "".join(f" {part}:" for part in inside)
        said = first["msg"].removeprefix("Value error, ")
        raise _wrong(variable, f"{place} {said}") from None
    except SettingsError as error:
        found = re.search(r'field "(\w+)"', str(error))
        variable = found[1] if found else ""
        field = Settings.model_fields.get(variable)
        kind = "object" if field and get_origin(field.annotation) is dict else "list"
        raise _wrong(variable, f" is not written as a JSON {kind}") from None


def _wrong(variable: str, said: str) -> Failure:
    return Failure(f"TOLLGATE_{variable.upper()}:{said}; see docs/configuration.md")
