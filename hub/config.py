"""Settings: flags > environment (HUB_*) > a TOML file > defaults. Every limit of the hub is one of them."""

import os
import re
import tomllib
from collections.abc import Collection, Mapping
from functools import cache
from importlib import metadata
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args
from urllib.parse import unquote

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_settings import (
    BaseSettings,
    InitSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from hub import addresses
from hub.complaints import complaint
from hub.environment import ENV_PREFIX, refuse_misspelt
from hub.errors import StartError
from hub.secret_files import check_length, read_secret, refuse_exposed
from hub.text_files import read_text

MIN_TOKEN = 16
"""Characters."""

KIB, MIB = 1024, 1024 * 1024


def _check_path(value: object) -> object:
    if value == "" or "\0" in str(value):  # the empty one would be the current directory
        raise ValueError("must be a path: not empty, and without NUL characters")
    return value


Hosts = Annotated[str, AfterValidator(addresses.check_hosts)]
Listen = Annotated[str, AfterValidator(addresses.check_address)]
Networks = Annotated[str, AfterValidator(addresses.check_networks)]
Ports = Annotated[str, AfterValidator(addresses.check_ports)]
Proxy = Annotated[str, AfterValidator(addresses.check_proxy)]
Where = Annotated[Path, BeforeValidator(_check_path)]
Seconds = Annotated[float, "seconds"]
Bytes = Annotated[int, "bytes"]
"""The units of settings; error messages and the help name them."""


class Settings(BaseSettings):
    """All settings. Sizes are in bytes, times in seconds, unless the name says otherwise."""

    model_config = SettingsConfigDict(env_prefix=ENV_PREFIX, extra="forbid", frozen=True, allow_inf_nan=False)

    data_dir: Where = Field(Path("data"), description="directory of the embedded storage, the lock and the secret")
    listen: Listen = Field("127.0.0.1:50051", description="host:port to listen on; port 0 picks a free one")
    http_listen: str = Field("127.0.0.1:50080", description="host:port of metrics, probes and the console; or 'off'")
    directory_listen: str = Field(
        addresses.OFF, description="host:port of the public directory of integrations; or 'off'"
    )
    http_hosts: Hosts = Field("", description="host names of the HTTP listeners: hub.example,...")
    metrics_token: SecretStr | None = Field(
        None, description="a token that permits scraping /metrics, as an admin key does; loopback needs none"
    )
    metrics_token_file: Where | None = Field(None, description="a file that contains the token")
    storage: str = Field("sqlite", description="the log: 'sqlite', in the data directory, or nats://host:4222,...")
    secret: SecretStr | None = Field(
        None,
        description="the hub's secret, at least 32 characters; unset = made once, and kept with the store",
    )
    secret_file: Where | None = Field(None, description="a file that contains the secret")
    erasures_file: Where | None = Field(
        None, description="the list of all erasures; unset = 'erasures' in data_dir; none with NATS"
    )

    nats_stream: str = Field(
        "TICKETS_HUB", pattern="^[A-Za-z0-9_-]{1,32}$", description="NATS: the stream that is the log"
    )
    nats_replicas: int = Field(1, description="NATS: how many servers store the log: 1, 3 or 5")
    nats_user: str | None = Field(None, description="NATS: the hub's user, unless in the storage URL")
    nats_password: SecretStr | None = Field(None, description="NATS: the user's password, unless in the storage URL")
    nats_password_file: Where | None = Field(None, description="NATS: a file that contains the password")
    nats_token: SecretStr | None = Field(None, description="NATS: a token, instead of a user")
    nats_token_file: Where | None = Field(None, description="NATS: a file that contains the token")
    nats_credentials: Where | None = Field(None, description="NATS: a credentials file, instead of a user")
    nats_tls_ca: Where | None = Field(None, description="NATS: PEM file: the CA of the servers' certificates")
    nats_tls_certificate: Where | None = Field(None, description="NATS: PEM file: the hub's client certificate")
    nats_tls_key: Where | None = Field(None, description="NATS: PEM file: the private key of nats_tls_certificate")

    tls_certificate: Where | None = Field(None, description="PEM file: the certificate chain of the hub")
    tls_key: Where | None = Field(None, description="PEM file: the private key of tls_certificate")
    tls_client_ca: Where | None = Field(None, description="PEM file: clients must have a certificate of this CA (mTLS)")
    insecure: bool = Field(default=False, description="allow plaintext on an address that is not loopback")

    webhook_allow: Networks = Field(
        "", description="networks, 10.1.0.0/16,...: endpoint URLs there may use http, any port and IP addresses"
    )
    webhook_deny: Networks = Field("", description="networks that get nothing, besides private and reserved ones")
    webhook_ports: Ports = Field("443", description="ports that endpoint URLs may name: 443,8443")
    webhook_proxy: Proxy = Field(
        "", description="http://host:port: requests to endpoints go through this proxy (CONNECT)"
    )
    webhook_requests: int = Field(
        200,
        ge=1,
        description="requests in flight to quick endpoints; slow and failing ones get a quarter each in addition",
    )

    trusted_proxies: Networks = Field(
        "", description="addresses and networks of proxies, 10.0.0.0/8,192.0.2.1, whose x-forwarded-for is trusted"
    )

    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="what to log")
    log_format: Literal["auto", "json", "console"] = Field("auto", description="auto: console on a terminal, else json")

    max_request_bytes: Bytes = Field(256 * KIB, ge=1 * KIB, description="largest request")
    max_batch_bytes: Bytes = Field(1 * MIB, ge=1 * KIB, description="largest BatchEmitEvents request")
    max_metadata_bytes: Bytes = Field(8 * KIB, ge=1 * KIB, description="largest metadata of a call")
    max_concurrent_calls: int = Field(2_000, ge=1, description="calls in flight, not counting streams")
    max_open_calls: int = Field(
        1_000, ge=1, description="streams without a key (health, reflection on loopback); a fifth for one address"
    )
    max_half_open_calls: int = Field(
        1_000,
        ge=1,
        description="calls whose request has not arrived: of one address, or one bot or admin key; "
        "of one integration, or of one address without a key, a tenth",
    )
    request_timeout: Seconds = Field(5, gt=0, description="how long a call may take to send its request")
    max_calls_per_connection: int = Field(
        1_000, ge=1, description="calls and streams on one connection; further ones wait in the client"
    )
    max_streams: int = Field(10_000, ge=1, description="open Subscribe streams of all integrations")
    max_streams_per_integration: int = Field(5, ge=1, description="open Subscribe streams of one integration")
    max_tails: int = Field(20, ge=1, description="concurrent tails of admins")
    max_subscriptions: int = Field(10, ge=1, description="subscriptions of one integration")
    max_endpoints: int = Field(5, ge=0, description="webhook endpoints of one integration")
    max_installations: int = Field(10_000, ge=1, description="guilds that may install one integration")
    max_emit_backlog: int = Field(10_000, ge=1, description="events that may wait to be stored")
    max_failed_authentications: int = Field(10, ge=1, description="failed authentications a minute from one address")
    max_changes: int = Field(
        60, ge=1, description="changes an hour of one integration by its developer, or by one user through the bot"
    )
    max_erasures: int = Field(1_000, ge=1, description="unfinished erasures")
    retention: Seconds = Field(72 * 3600, ge=60, description="how long events are kept")
    audit_retention: Seconds = Field(730 * 24 * 3600, ge=60, description="how long superseded records are kept")
    dedupe_window: Seconds = Field(3600, ge=1, description="how long an event id is remembered")
    window_bytes: Bytes = Field(32 * MIB, ge=64 * KIB, description="memory for the newest events")
    page_cache_bytes: Bytes = Field(32 * MIB, ge=64 * KIB, description="memory for older events")
    max_frame_bytes: Bytes = Field(1 * MIB, ge=1 * KIB, description="largest frame, unless one event alone is larger")
    write_deadline: Seconds = Field(30, gt=0, description="how long a client may take to read a frame")
    heartbeat_interval: Seconds = Field(
        15, ge=1, le=60, description="how often an idle stream gets a heartbeat, by default"
    )
    max_store_silence: Seconds = Field(
        20, ge=5, description="NATS: how long streams stay open, without events, while the store does not answer"
    )

    max_live_keys: int = Field(2, ge=2, le=10, description="live keys of one integration")
    max_service_keys: int = Field(100, ge=2, description="live keys of bots and admins")
    key_overlap: Seconds = Field(
        24 * 3600,
        ge=0,
        le=7 * 24 * 3600,
        description="how long a rotated key remains valid, by default",
    )
    guild_access: Literal["all", "installed"] = Field(
        "all", description="which guilds' events a new integration gets by default"
    )

    report_grace: Seconds = Field(
        7 * 24 * 3600, ge=0, description="how old an unused grant must be before the privilege report names it"
    )
    private_links: bool = Field(
        default=False, description="allow documentation, support and endpoint URLs on localhost and private addresses"
    )
    rules_version: str = Field(
        "1", min_length=1, max_length=50, description="the version of the rules that developers accept"
    )

    keepalive_interval: Seconds = Field(20, ge=1, description="silence after which the hub pings a peer")
    keepalive_timeout: Seconds = Field(5, ge=0.1, description="how long a peer may take to answer a ping")
    drain_time: Seconds = Field(5, ge=0, description="how long a stop waits for calls to end")

    page_size: int = Field(50, ge=1, description="entries on a page of a list, unless a request sets another number")
    max_page_size: int = Field(200, ge=1, description="the most entries on a page of a list")
    max_page_bytes: Bytes = Field(1 * MIB, ge=1 * KIB, description="largest page of a list, unless one entry is larger")
    max_scanned: int = Field(
        1_000_000, ge=1, description="records that searches, lists and reports of one key may read within 10 s"
    )

    @field_validator("http_listen", "directory_listen")
    @classmethod
    def _http_listen_is_host_and_port(cls, value: str) -> str:
        return value if value == addresses.OFF else addresses.check_address(value)

    @field_validator("metrics_token")
    @classmethod
    def _token_is_long(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and len(value.get_secret_value()) < MIN_TOKEN:
            raise ValueError(f"must have at least {MIN_TOKEN} characters: 'openssl rand -hex 32' makes one")
        return value

    @field_validator("storage")
    @classmethod
    def _servers_are_addresses(cls, value: str) -> str:
        """Every server is host[:port]; `open_storage` rejects an unknown scheme."""
        scheme, separator, rest = value.partition("://")
        if separator and scheme in ("nats", "tls"):
            for part in rest.split(","):
                found = addresses.ADDRESS.fullmatch(part.rpartition("://")[2])
                if found is None or int(found[2] or 0) > 65535:
                    raise ValueError("must name servers as host:port, such as nats://nats-1:4222,nats-2:4222")
        return value

    @field_validator("secret")
    @classmethod
    def _secret_is_long(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None:
            check_length(value.get_secret_value())
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
        found = re.fullmatch(r"(?is)([a-z]+://)((?:(?!://)[^@])*)@(.*)", str(values["storage"]))
        if found is None:
            return values
        rest = re.sub(r"(?i)(^|,)([a-z]+://)?[^@,]*@", r"\1\2", found[3])
        user, colon, password = (unquote(part) for part in found[2].partition(":"))
        taken = {"nats_user": user, "nats_password": password} if colon else {"nats_token": user}
        return {**taken, **values, "storage": found[1] + rest}

    @model_validator(mode="before")
    @classmethod
    def _read_secrets_from_files(cls, values: Any) -> Any:  # noqa: ANN401  whatever the sources gave
        """Fill in each secret whose file is named."""
        if not isinstance(values, dict):
            return values
        found = {name: values.get(f"{name}_file") for name in SECRETS}
        read = {}
        for name, file in found.items():
            if not file or not isinstance(file, str | Path):
                continue  # the field's own rule says what is wrong with it
            if values.get(name) is not None:
                raise ValueError(f"{name} and {name}_file are both set: set one of them")
            _check_path(file)
            read[name] = read_secret(Path(file), f"{name}_file")
        return {**values, **read}

    @model_validator(mode="after")
    def _private_keys_are_private(self) -> Self:
        for name in ("tls_key", "nats_tls_key", "nats_credentials"):
            file = getattr(self, name)
            if file is not None:
                refuse_exposed(file, name)
        return self

    @model_validator(mode="after")
    def _together(self) -> Self:
        if (self.tls_certificate is None) != (self.tls_key is None):
            raise ValueError("tls_certificate and tls_key go together: set both")
        if self.tls_client_ca is not None and self.tls_certificate is None:
            raise ValueError("tls_client_ca needs tls_certificate and tls_key")
        for name in ("listen", "http_listen", "directory_listen"):
            address = getattr(self, name)
            if self.tls_certificate is None and not self.insecure and not addresses.is_loopback(address):
                raise ValueError(
                    f"{name}: '{address}' is not loopback: set tls_certificate and tls_key, or use --insecure"
                )
        if (self.nats_tls_certificate is None) != (self.nats_tls_key is None):
            raise ValueError("nats_tls_certificate and nats_tls_key go together: set both")
        if self.dedupe_window > self.retention:
            raise ValueError("dedupe_window cannot be longer than retention")
        if self.audit_retention < self.retention:
            raise ValueError("audit_retention cannot be shorter than retention")
        return self

    @property
    def proxies(self) -> list[IPv4Network | IPv6Network]:
        """The proxies whose x-forwarded-for is trusted."""
        return addresses.networks(self.trusted_proxies)

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach the hub."""
        return addresses.is_loopback(self.listen)


SECRETS = tuple(name for name, field in Settings.model_fields.items() if SecretStr in get_args(field.annotation))
"""Secret settings. Each has a twin that names a file, and no flag: other users of the machine see flags."""

SERVING = frozenset(
    name
    for name in Settings.model_fields
    if name.startswith(("tls_", "webhook_", "metrics_", "http_"))
    or name in ("listen", "directory_listen", "insecure", "trusted_proxies")
)
"""Settings that only a hub that serves uses: who calls it, and whom it calls."""


def read_toml(path: Path) -> dict[str, Any]:
    """The settings in a TOML file: a flat table of the names above.

    Raises:
        StartError: the file cannot be read or is not TOML.
    """
    try:
        values = tomllib.loads(read_text(path))
    except OSError as error:
        raise StartError(f"settings file {path}: {error.strerror}") from None
    except ValueError as error:  # it is not TOML, not text, or has a number of too many digits
        raise StartError(f"settings file {path}: {error}") from None
    except RecursionError:
        raise StartError(f"settings file {path}: it is nested too deeply") from None
    if any(name in values for name in SECRETS) or "@" in str(values.get("storage", "")):
        refuse_exposed(path, "settings file")
    return values


def load(
    flags: Mapping[str, Any] | None = None, file: Path | None = None, unused: Collection[str] = frozenset()
) -> Settings:
    """The settings in force.

    Args:
        flags: what was given on the command line, by name; None = not given.
        file: a TOML file of settings; None = the one that HUB_CONFIG names, if any.
        unused: settings that the command does without: they keep their defaults, and wrong ones are no error.

    Raises:
        StartError: a name or a value is wrong; the text names each on a line.
    """
    refuse_misspelt(os.environ, Settings.model_fields)
    given = {name: value for name, value in (flags or {}).items() if value is not None}
    file = file or (Path(os.environ["HUB_CONFIG"]) if os.environ.get("HUB_CONFIG") else None)
    given |= {"of_file": read_toml(file) if file else {}, "unused": unused}
    try:
        return _Layered(**given)
    except ValidationError as error:
        found = error.errors(include_url=False, include_input=False)
        raise StartError("\n".join(complaint(one, Settings.model_fields, unit_of) for one in found)) from None


class _Layered(Settings):
    """The settings from their sources; the values of a file come in as `of_file`, and are the weakest."""

    @model_validator(mode="before")  # of these validators the last one runs first
    @classmethod
    def _leave_out_what_is_unused(cls, values: dict[str, Any]) -> dict[str, Any]:
        unused = values.pop("unused")
        return {name: value for name, value in values.items() if name not in unused}

    @classmethod
    def settings_customise_sources(  # type: ignore[override]  # the two others are not looked at
        cls,
        settings_cls: type[BaseSettings],
        init_settings: InitSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        **others: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        del others  # no .env file and no directory of secrets by surprise
        of_file = init_settings.init_kwargs.pop("of_file")
        return init_settings, env_settings, InitSettingsSource(settings_cls, of_file)


@cache
def version() -> str:
    """The version of the hub that is installed; "unknown" where it runs from its files alone."""
    try:
        return metadata.version("tickets-hub")
    except metadata.PackageNotFoundError:
        return "unknown"


def unit_of(name: str) -> str:
    """What a setting counts, such as seconds; empty for most."""
    return next((note for note in Settings.model_fields[name].metadata if isinstance(note, str)), "")
