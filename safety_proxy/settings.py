"""All settings: a TOML file, and the environment (`SAFETY_PROXY_...`) over it.

A key `max_file_bytes` in the section `limits` is `[limits] max_file_bytes = ...` in the file and
`SAFETY_PROXY_LIMITS__MAX_FILE_BYTES=...` in the environment. Every key has a default that is right
for a small Lemmy server. `docs/settings.md` is generated from this file.
"""

import os
import tomllib
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, HttpUrl, SecretStr, ValidationError
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
    TomlConfigSettingsSource,
)

from safety_proxy.errors import ConfigError

# What `policy` allows as well.
SEVERITY_LIMIT = 10.0

MEBIBYTE = 1024 * 1024


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ServerSettings(_Section):
    """Where the two listeners stand."""

    host: str = Field("127.0.0.1", description="Address that Lemmy and nginx reach")
    port: int = Field(8580, ge=0, le=65535, description="Port of it; 0 takes a free one")
    admin_host: str = Field(
        "127.0.0.1",
        description="Address of `/stats`, `/metrics`, `/healthz`, `/readyz`, and of what commands "
        "ask; keep it private",
    )
    admin_port: int = Field(8581, ge=0, le=65535, description="Port of it; 0 takes a free one")
    admin_token: SecretStr | None = Field(
        None,
        min_length=16,
        description="What commands on other machines or in other containers show to it; without "
        "one it serves these health and metrics alone",
    )
    upload_seconds: float = Field(
        29.5, gt=0, description="Longest upload, from its first byte on; Lemmy gives it 30 s"
    )
    request_seconds: float = Field(
        9.5,
        gt=0,
        description="Longest fetch, scan and store of a foreign picture; Lemmy gives it 10 s",
    )
    shutdown_seconds: float = Field(
        30.0, gt=0, description="How long work in flight may go on after a stop was asked for"
    )


class UpstreamSettings(_Section):
    """pict-rs, which nothing but this proxy should reach."""

    url: HttpUrl = Field(HttpUrl("http://127.0.0.1:8080"), description="Base address of pict-rs")
    api_key: SecretStr | None = Field(
        None,
        description="pict-rs' `server.api_key`, which Lemmy has as `pictrs.api_key`; without it "
        "proxied images (`?proxy=`) are not offered",
    )
    connect_seconds: float = Field(5.0, gt=0, description="Longest wait for a connection to it")
    read_seconds: float = Field(60.0, gt=0, description="Longest silence of it within an answer")


class LimitsSettings(_Section):
    """Bounds on what clients send."""

    max_file_bytes: int = Field(
        40 * MEBIBYTE, ge=1, description="Largest file; keep equal to pict-rs' media.max_file_size"
    )
    max_files: int = Field(
        10, ge=1, description="Most files in one upload; pict-rs itself allows 1 unless configured"
    )
    max_spool_bytes: int = Field(
        800 * MEBIBYTE,
        ge=1,
        description="Most bytes of all files that are being received and judged at the same time, "
        "on the disk (or tmpfs) of `TMPDIR`; beyond it the answer is 503",
    )
    max_frame_pixels: int = Field(
        40_000_000,
        ge=1,
        le=178_000_000,  # beyond it `scan.decoder_bytes` would not do
        description="Largest width x height that is decoded; pict-rs itself takes 40 million",
    )
    max_total_pixels: int = Field(
        1_500_000_000,
        ge=1,
        description="Most pixels of all frames together that are decoded of an animation or video",
    )
    max_frames: int = Field(
        32, ge=2, le=256, description="Frames of an animation or a video that are looked at"
    )
    max_gap_seconds: float = Field(
        1.0,
        gt=0,
        description="Longest stretch of it that goes unseen, as far as `max_frames` allows",
    )


class FetchSettings(_Section):
    """Requests to foreign servers on behalf of `image/download?url=` and `?proxy=`."""

    allow_networks: list[IPv4Network | IPv6Network] = Field(
        [], description="Private networks that may be fetched from nevertheless"
    )
    allow_ports: list[int] = Field(
        [80, 443], description="Ports that may be asked; an empty list allows all"
    )
    silence_seconds: float = Field(
        4.0, gt=0, description="Longest wait for a connection, and for the next byte"
    )
    total_seconds: float = Field(7.0, gt=0, description="Longest fetch in all, redirects included")
    refused: Literal["placeholder", "error"] = Field(
        "placeholder",
        description="Answer to a download that was blocked: a neutral gray picture in its place, "
        "or 400, upon which Lemmy shows the picture from where it lies",
    )


class ProxiedSettings(_Section):
    """Pictures that were fetched for `?proxy=`, and stored in pict-rs on behalf of an address."""

    keep_days: float = Field(
        7.0, gt=0, description="Days without access after which one is deleted, as pict-rs does"
    )
    revalidate_seconds: float = Field(
        3600.0, gt=0, description="Age from which on its origin is asked whether it has changed"
    )


class CacheSettings(_Section):
    """Verdicts kept in memory."""

    max_entries: int = Field(
        200_000, ge=1, description="Verdicts kept, about 1 KB each; least recently used goes first"
    )


class ScanSettings(_Section):
    """How many scans at once, and how long one may take."""

    queue_limit: int = Field(
        64, ge=1, description="New pictures being scanned or waiting; beyond it the answer is 503"
    )
    timeout_seconds: float = Field(8.0, gt=0, description="Longest scan, waiting included")
    on_failure: Literal["block", "allow"] = Field(
        "block",
        description="What becomes of a picture that could not be judged (model failed, queue "
        "full, too late): 503, or stored unseen and noted for a later scan",
    )
    decoders: int = Field(
        2, ge=1, le=64, description="Pictures decoded at the same time, each in a process"
    )
    decoder_bytes: int = Field(
        1536 * MEBIBYTE,
        ge=256 * MEBIBYTE,
        description="Most memory (address space) of such a process",
    )
    hidden: Literal["scan", "refuse"] = Field(
        "scan",
        description="What becomes of pictures that a file holds beside the one that browsers show "
        "(thumbnails, data after the end): looked at as well, or the file is refused",
    )


class StoreSettings(_Section):
    """What outlives a restart."""

    folder: Path = Field(
        Path("~/.local/state/safety-proxy"),
        description="Folder of the database; it is made when it is missing",
    )
    keep_days: float = Field(
        180.0, gt=0, description="Days for which what a scan found out is kept, from the last look"
    )
    max_embeddings: int = Field(
        500_000,
        ge=1,
        description="Most embeddings kept; a still picture has one or a few, of 1 to 2 KB each",
    )


class ValidatorSettings(_Section):
    """The door for pict-rs' `media.external_validation`: `POST /api/v1/scan/{id}`."""

    ids: list[SecretStr] = Field(
        [],
        description="The ids that are served, as a password in the path; none: no such door",
    )
    host: str = Field("127.0.0.1", description="Address that pict-rs reaches")
    port: int = Field(8583, ge=0, le=65535, description="Port of it; 0 takes a free one")
    allow_networks: list[IPv4Network | IPv6Network] = Field(
        [
            IPv4Network("127.0.0.0/8"),
            IPv4Network("10.0.0.0/8"),
            IPv4Network("172.16.0.0/12"),
            IPv4Network("192.168.0.0/16"),
            IPv6Network("::1/128"),
            IPv6Network("fc00::/7"),
        ],
        description="Where pict-rs may call from",
    )


class ModelSettings(_Section):
    """Which CLIP judges, and on what."""

    name: str = Field(
        "auto",
        description="An open_clip architecture such as `ViT-L-14`, or `local-dir:PATH`. `auto`: "
        "ViT-L-14 on CUDA, else ViT-B-32. `demo`: the small model of the package, no safety tool",
    )
    weights: str = Field(
        "auto", description="A tag of open_clip such as `openai`, or the path of a weights file"
    )
    cache_dir: Path | None = Field(None, description="Where downloaded weights are kept")
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="`auto`: CUDA if it works")
    precision: Literal["auto", "fp32", "fp16", "bf16"] = Field(
        "auto", description="`auto`: fp16 on CUDA; on CPU bf16 where it is native, else fp32"
    )
    batch_limit: int = Field(32, ge=1, le=1024, description="Most frames in one forward pass")
    threads: int = Field(0, ge=0, description="CPU threads of the model; 0: all that are allowed")


class PolicySettings(_Section):
    """What is blocked."""

    file: Path | None = Field(
        None, description="A policy file; none: the default of the package for the model"
    )
    severity: float | None = Field(
        None,
        ge=-SEVERITY_LIMIT,
        le=SEVERITY_LIMIT,
        description="Moves all thresholds of it, in place of its own `severity`: above 0 it finds "
        "more, below 0 less; docs/policy.md",
    )
    dry_run: bool = Field(
        False,
        description="Whether rules that block only flag, to see what a policy would do: pictures "
        "are stored and counted; lists and unreadable files block as ever",
    )
    harmless_limit: float = Field(
        0.2,
        ge=0,
        le=1,
        description="Largest share of the package's 50 harmless pictures that a policy may block; "
        "one that blocks more is refused, or turns `/readyz` to 503. 1: they are not looked at",
    )


class ListFile(_Section):
    """A list of hashes that others keep."""

    name: str = Field(min_length=1, description="For logs and explanations")
    file: Path = Field(description="Hashes, one a line, or CSV or JSON of ThreatExchange")
    kind: Literal["md5", "sha1", "sha256", "pdq"] | None = Field(
        None, description="Of the hashes for which the file does not say it"
    )


class ListsSettings(_Section):
    """Pictures that are blocked by hash, beside the admin's own (`safety-proxy block`)."""

    files: list[ListFile] = Field(
        [], description="Block lists, each with `name`, `file` and, where needed, `kind`"
    )
    max_distance: int = Field(
        31, ge=0, le=31, description="Most bits of 256 by which a PDQ hash may differ"
    )
    min_quality: int = Field(
        50, ge=0, le=100, description="PDQ hashes of a lower quality match nothing"
    )
    turned: bool = Field(
        False,
        description="Match turned and mirrored copies by PDQ too, for some 60 ms more a picture",
    )


class Settings(BaseSettings):
    """The effective settings, validated and frozen."""

    model_config = SettingsConfigDict(
        env_prefix="SAFETY_PROXY_",
        env_nested_delimiter="__",
        env_ignore_empty=True,  # compose files pass on what is not set as ""
        extra="forbid",
        frozen=True,
    )

    server: ServerSettings = ServerSettings()
    upstream: UpstreamSettings = UpstreamSettings()
    limits: LimitsSettings = LimitsSettings()
    fetch: FetchSettings = FetchSettings()
    proxied: ProxiedSettings = ProxiedSettings()
    validator: ValidatorSettings = ValidatorSettings()
    cache: CacheSettings = CacheSettings()
    scan: ScanSettings = ScanSettings()
    model: ModelSettings = ModelSettings()
    policy: PolicySettings = PolicySettings()
    lists: ListsSettings = ListsSettings()
    store: StoreSettings = StoreSettings()
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="Least severe kind of line that is logged"
    )
    log_format: Literal["console", "json"] = Field(
        "console", description="For people, or a JSON object a line"
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Arguments over environment over file."""
        del dotenv_settings, file_secret_settings
        return init_settings, env_settings, TomlConfigSettingsSource(settings_cls)


def load_settings(file: Path | None = None, **overrides: Any) -> Settings:
    """Settings from `file`, the environment over it, and `overrides` (whole sections) over both.

    Raises ConfigError that lists every problem at once.
    """

    class _FromFile(Settings):
        model_config = SettingsConfigDict(toml_file=file)

    if file is not None and not file.is_file():
        raise ConfigError(f"Settings file {file}: not found. Create it or leave --config out.")
    try:
        loaded = _FromFile(**overrides)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"Settings file {file}: not valid TOML: {error}.") from error
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"Settings file {file}: cannot be read: {error}.") from error
    except SettingsError as error:
        # pydantic reads lists from the environment as JSON before it validates anything.
        raise ConfigError(
            f"Wrong settings in the environment: {error}: {error.__cause__}. "
            "A list is written as JSON there: SAFETY_PROXY_FETCH__ALLOW_PORTS='[80, 443]'."
        ) from error
    except ValidationError as error:
        raise ConfigError("\n".join([_explain(error, file), *_unknown_environment()])) from error
    if unknown := _unknown_environment():
        raise ConfigError("\n".join(unknown))
    return Settings.model_construct(
        **{name: getattr(loaded, name) for name in Settings.model_fields}
    )


def _explain(error: ValidationError, file: Path | None) -> str:
    where = f"{file} or the environment" if file else "the environment"
    lines = [f"Wrong settings in {where}:"]
    for problem in error.errors():
        path = [str(part) for part in problem["loc"][:2]]  # what follows is inside a list
        variable = "SAFETY_PROXY_" + "__".join(path).upper()
        lines.append(f"  {'.'.join(path)} ({variable}): {problem['msg']}; got {problem['input']!r}")
    lines.append("docs/settings.md lists every key with its type, range and default.")
    return "\n".join(lines)


def _unknown_environment() -> list[str]:
    """A mistyped variable is a setting silently not applied: pydantic ignores it, we do not."""
    known = {"SAFETY_PROXY_CONFIG"}
    for name, field in Settings.model_fields.items():
        variable = f"SAFETY_PROXY_{name.upper()}"
        known.add(variable)
        section = field.annotation
        if isinstance(section, type) and issubclass(section, BaseModel):
            known.update(f"{variable}__{key.upper()}" for key in section.model_fields)
    unknown = sorted(
        name
        for name in os.environ
        if name.upper().startswith("SAFETY_PROXY_") and name.upper() not in known
    )
    message = (
        f"Unknown environment variables: {', '.join(unknown)}. "
        "docs/settings.md lists the right ones; unset what is not meant for this program."
    )
    return [message] if unknown else []
