"""Settings: flags > environment (HUB_*) > a TOML file > defaults. Every limit of the hub has its place here.

Lives here: names, units, defaults and bounds. Must not know what the settings are used for beyond that.
"""

import difflib
import os
import re
import tomllib
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from urllib.parse import unquote

from pydantic import BeforeValidator, Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import (
    BaseSettings,
    InitSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from hub.errors import StartError

ENV_PREFIX = "HUB_"
CALLERS_VARIABLES = {"HUB_ADMIN_KEY", "HUB_BOT_KEY", "HUB_KEY", "HUB_ADDRESS", "HUB_CONFIG"}
"""What callers export beside the settings; the settings do not read them."""

KIB, MIB = 1024, 1024 * 1024

ADDRESS = re.compile(r"(\[[0-9a-fA-F:.]+\]|[^:\[\]\s/@,\0]+)(?::(\d{1,5}))?")
"""A host and perhaps a port."""


def check_address(text: str) -> str:
    """The text, if it is host:port. ValueError says what it must be."""
    found = ADDRESS.fullmatch(text)
    if found is None or found[2] is None or int(found[2]) > 65535:
        raise ValueError("must be host:port, such as 127.0.0.1:50051 or [::1]:50051")
    return text


def _check_path(value: object) -> object:
    if value == "" or "\0" in str(value):  # the empty one would be the current directory
        raise ValueError("must be a path, neither empty nor with a NUL character in it")
    return value


Where = Annotated[Path, BeforeValidator(_check_path)]
Seconds = Annotated[float, "seconds"]
Bytes = Annotated[int, "bytes"]
"""The units: complaints and the help say them."""


class Settings(BaseSettings):
    """All that can be set. Sizes are bytes, times are seconds unless the name says otherwise."""

    model_config = SettingsConfigDict(env_prefix=ENV_PREFIX, extra="forbid", frozen=True, allow_inf_nan=False)

    data_dir: Where = Field(Path("data"), description="where the embedded storage, the lock and the secret lie")
    listen: str = Field("127.0.0.1:50051", description="host:port to listen on; port 0 takes a free one")
    storage: str = Field("sqlite", description="the log: 'sqlite', in the data directory, or nats://host:4222,...")
    secret: SecretStr | None = Field(
        None, description="the hub's own secret, at least 32 characters; unset = made once and kept with the store"
    )

    nats_stream: str = Field(
        "TICKETS_HUB", pattern="^[A-Za-z0-9_-]{1,32}$", description="NATS: the stream that is the log"
    )
    nats_replicas: int = Field(1, description="NATS: how many servers keep the log: 1, 3 or 5")
    nats_user: str | None = Field(None, description="NATS: who the hub is; may stand in the storage URL")
    nats_password: SecretStr | None = Field(None, description="NATS: the user's password; may stand in the storage URL")
    nats_token: SecretStr | None = Field(None, description="NATS: a token, in place of a user")
    nats_credentials: Where | None = Field(None, description="NATS: a credentials file, in place of a user")
    nats_tls_ca: Where | None = Field(None, description="NATS: PEM file: the authority of the servers' certificates")
    nats_tls_certificate: Where | None = Field(None, description="NATS: PEM file: the hub's certificate towards NATS")
    nats_tls_key: Where | None = Field(None, description="NATS: PEM file: the private key of that")

    tls_certificate: Where | None = Field(None, description="PEM file: the certificate chain of the hub")
    tls_key: Where | None = Field(None, description="PEM file: the private key of the certificate")
    tls_client_ca: Where | None = Field(None, description="PEM file: clients must show a certificate of this authority")
    insecure: bool = Field(default=False, description="allow plaintext on an address that is not loopback")

    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="what to log")
    log_format: Literal["auto", "json", "console"] = Field("auto", description="auto: console on a terminal")

    max_request_bytes: Bytes = Field(256 * KIB, ge=1 * KIB, description="largest request")
    max_batch_bytes: Bytes = Field(1 * MIB, ge=1 * KIB, description="largest BatchEmitEvents request")
    max_metadata_bytes: Bytes = Field(8 * KIB, ge=1 * KIB, description="largest metadata of a call")
    max_concurrent_calls: int = Field(2_000, ge=1, description="calls in flight beside the streams")
    max_open_calls: int = Field(
        1_000, ge=1, description="streams without a key (health, reflection on loopback); of one address a fifth"
    )
    max_streams: int = Field(10_000, ge=1, description="open Subscribe streams in all")
    max_streams_per_integration: int = Field(5, ge=1, description="open Subscribe streams of one integration")
    max_subscriptions: int = Field(10, ge=1, description="named readers of one integration")
    max_installations: int = Field(10_000, ge=1, description="guilds that may install one integration")
    max_emit_backlog: int = Field(10_000, ge=1, description="events that may wait to be stored")
    max_failed_authentications: int = Field(10, ge=1, description="a minute and peer; a valid key is never throttled")
    max_changes: int = Field(
        60, ge=1, description="an hour: changes of one integration by its developer, or by one user through the bot"
    )

    retention: Seconds = Field(72 * 3600, ge=60, description="how long events are kept")
    dedupe_window: Seconds = Field(3600, ge=1, description="how long an event id is remembered")
    window_bytes: Bytes = Field(32 * MIB, ge=64 * KIB, description="newest events held in memory")
    page_cache_bytes: Bytes = Field(
        32 * MIB, ge=64 * KIB, description="older events held in memory for those who catch up"
    )
    max_frame_bytes: Bytes = Field(1 * MIB, ge=1 * KIB, description="largest frame, unless one event alone is larger")
    write_deadline: Seconds = Field(30, gt=0, description="how long one frame may take to be taken by a client")
    heartbeat_interval: Seconds = Field(15, ge=1, le=60, description="unless a stream asks for another")

    max_live_keys: int = Field(2, ge=2, le=10, description="keys of one integration that live at a time")
    max_service_keys: int = Field(100, ge=2, description="keys of bots and admins that live at a time")
    key_overlap: Seconds = Field(24 * 3600, ge=0, le=7 * 24 * 3600, description="how long a rotated key lives on")
    guild_access: Literal["all", "installed"] = Field("all", description="what a new integration gets by default")

    rules_version: str = Field("1", min_length=1, max_length=50, description="the version of the rules in force")

    keepalive_interval: Seconds = Field(20, ge=1, description="silence after which the hub pings a peer")
    keepalive_timeout: Seconds = Field(5, ge=0.1, description="how long a peer may take to answer a ping")
    drain_time: Seconds = Field(5, ge=0, description="how long a stop waits for calls to end")

    page_size: int = Field(50, ge=1, description="entries of a list, unless a request asks for another number")
    max_page_size: int = Field(200, ge=1, description="entries of a list at most")

    @field_validator("listen")
    @classmethod
    def _listen_is_host_and_port(cls, value: str) -> str:
        return check_address(value)

    @field_validator("storage")
    @classmethod
    def _servers_are_addresses(cls, value: str) -> str:
        """Each of them with its port, if it has one; what is no cluster at all is told where it is opened."""
        scheme, separator, rest = value.partition("://")
        if separator and scheme in ("nats", "tls"):
            for part in rest.split(","):
                found = ADDRESS.fullmatch(part.rpartition("://")[2])
                if found is None or int(found[2] or 0) > 65535:
                    raise ValueError("must name servers as host:port, such as nats://nats-1:4222,nats-2:4222")
        return value

    @field_validator("secret")
    @classmethod
    def _secret_is_long(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and len(value.get_secret_value()) < 32:
            raise ValueError("must have at least 32 characters: 'openssl rand -hex 32' makes one")
        return value

    @field_validator("nats_replicas")
    @classmethod
    def _replicas_can_agree(cls, value: int) -> int:
        if value not in (1, 3, 5):
            raise ValueError("must be 1, 3 or 5")
        return value

    @model_validator(mode="before")
    @classmethod
    def _take_secrets_out_of_the_url(cls, values: Any) -> Any:  # noqa: ANN401  whatever the sources gave
        """Move ``user:password@`` or ``token@`` of the storage URL to where they are not shown."""
        if not isinstance(values, dict) or "@" not in str(values.get("storage", "")):
            return values
        found = re.fullmatch(r"([a-z]+://)([^@/]*)@(.*)", str(values["storage"]), re.DOTALL)
        if found is None:
            return values
        rest = re.sub(r"(^|,)([a-z]+://)?[^@,]*@", r"\1\2", found[3])
        user, colon, password = (unquote(part) for part in found[2].partition(":"))
        taken = {"nats_user": user, "nats_password": password} if colon else {"nats_token": user}
        return {**taken, **values, "storage": found[1] + rest}

    @model_validator(mode="after")
    def _together(self) -> Self:
        if (self.tls_certificate is None) != (self.tls_key is None):
            raise ValueError("tls_certificate and tls_key go together")
        if self.tls_client_ca is not None and self.tls_certificate is None:
            raise ValueError("tls_client_ca needs tls_certificate and tls_key")
        if self.tls_certificate is None and not self.insecure and not self.is_loopback:
            raise ValueError(
                f"listen: '{self.listen}' is not loopback: set tls_certificate and tls_key, or say --insecure"
            )
        if (self.nats_tls_certificate is None) != (self.nats_tls_key is None):
            raise ValueError("nats_tls_certificate and nats_tls_key go together")
        if self.dedupe_window > self.retention:
            raise ValueError("dedupe_window cannot be longer than retention")
        return self

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach the hub."""
        host = self.listen.rsplit(":", 1)[0].strip("[]")
        return host in ("localhost", "::1") or bool(re.fullmatch(r"127(\.\d{1,3}){3}", host))


def read_toml(path: Path) -> dict[str, Any]:
    """The settings in a TOML file: a flat table of the names above.

    Raises:
        StartError: the file cannot be read or is not TOML.
    """
    try:
        with path.open("rb") as file:
            return tomllib.load(file)
    except OSError as error:
        raise StartError(f"settings file {path}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise StartError(f"settings file {path}: {error}") from None


def load(flags: Mapping[str, Any] | None = None, file: Path | None = None) -> Settings:
    """The settings in force.

    Args:
        flags: what was said on the command line, by name; None = not said.
        file: a TOML file of settings; None = the one that HUB_CONFIG names, if any.

    Raises:
        StartError: a name or a value is wrong; the text names each on a line.
    """
    refuse_misspelt(os.environ)
    said = {name: value for name, value in (flags or {}).items() if value is not None}
    file = file or (Path(os.environ["HUB_CONFIG"]) if os.environ.get("HUB_CONFIG") else None)
    try:
        return _layered(read_toml(file) if file else {})(**said)
    except ValidationError as error:
        raise StartError(
            "\n".join(_complaint(e) for e in error.errors(include_url=False, include_input=False))
        ) from None


def _layered(values: dict[str, Any]) -> type[Settings]:
    """The settings with the values of a file as their weakest source."""

    class Layered(Settings):
        @classmethod
        def settings_customise_sources(  # type: ignore[override]  # the two others are not looked at
            cls,
            settings_cls: type[BaseSettings],
            init_settings: PydanticBaseSettingsSource,
            env_settings: PydanticBaseSettingsSource,
            **others: PydanticBaseSettingsSource,
        ) -> tuple[PydanticBaseSettingsSource, ...]:
            del others  # no .env file and no directory of secrets by surprise
            return init_settings, env_settings, InitSettingsSource(settings_cls, values)

    return Layered


def refuse_misspelt(environment: Mapping[str, str]) -> None:
    """Refuse a HUB_ variable that looks like a misspelt setting; others are not ours (Kubernetes sets HUB_PORT).

    Raises:
        StartError: with the name that was probably meant.
    """
    names = {ENV_PREFIX + name.upper() for name in Settings.model_fields}
    for name in sorted(environment):
        if name.startswith(ENV_PREFIX) and name not in names | CALLERS_VARIABLES:
            meant = difflib.get_close_matches(name, sorted(names), n=1, cutoff=0.85)
            if meant:
                raise StartError(f"{name} is no setting: did you mean {meant[0]}?")


def version() -> str:
    """The version of the hub that is installed; "unknown" where it runs from its files alone."""
    try:
        return metadata.version("tickets-hub")
    except metadata.PackageNotFoundError:
        return "unknown"


def unit_of(name: str) -> str:
    """What a setting counts, such as seconds; empty for most."""
    return next((note for note in Settings.model_fields[name].metadata if isinstance(note, str)), "")


def _complaint(error: Any) -> str:  # noqa: ANN401  pydantic's ErrorDetails has no public name
    """One line for one wrong setting; its value is not repeated, it may be a secret."""
    name = ".".join(str(part) for part in error["loc"])
    if error["type"] == "extra_forbidden":
        meant = difflib.get_close_matches(name, list(Settings.model_fields), n=1)
        return f"{name} is no setting" + (f": did you mean {meant[0]}?" if meant else "")
    unit = unit_of(name) if name in Settings.model_fields else ""
    words = {"unit": f" {unit}" if unit else "", "of": f" of {unit}" if unit else ""} | error.get("ctx", {})
    plain = _MUST.get(error["type"])
    text = plain.format_map(words) if plain else error["msg"].removeprefix("Value error, ")
    return f"{name}: {text}" if name else text


_MUST = {
    "greater_than_equal": "must be at least {ge:.15g}{unit}",
    "less_than_equal": "must be at most {le:.15g}{unit}",
    "greater_than": "must be more than {gt:.15g}{unit}",
    "literal_error": "must be {expected}",
    "string_pattern_mismatch": "must be 1 to 32 letters, digits, - or _",  # nats_stream alone has a pattern
    "string_too_short": "must not be empty",
    "string_too_long": "must have at most {max_length} characters",
    **dict.fromkeys(("int_parsing", "int_type", "int_from_float"), "must be a whole number{of}"),
    **dict.fromkeys(("float_parsing", "float_type", "finite_number"), "must be a number{of}"),
    **dict.fromkeys(("bool_parsing", "bool_type"), "must be true or false"),
    "string_type": "must be text",
    "path_type": "must be a path",
}
"""What pydantic finds wrong with a value, in plain words."""
