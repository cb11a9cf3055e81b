"""From a policy file to a `Policy`, or to an error that tells every problem with its line."""

from functools import partial
from importlib import resources
from pathlib import Path

from pydantic import ValidationError

from safety_proxy.errors import ConfigError
from safety_proxy.policy.checks import CRITICAL_WEIGHT
from safety_proxy.policy.problems import read_tables
from safety_proxy.policy.tables import (
    SEVERITY_LIMIT,
    Concept,
    Condition,
    Control,
    CurvePoint,
    Policy,
    Prompt,
    Provenance,
    Rule,
)

__all__ = [
    "CRITICAL_WEIGHT",
    "SEVERITY_LIMIT",
    "Concept",
    "Condition",
    "Control",
    "CurvePoint",
    "Policy",
    "Prompt",
    "Provenance",
    "Rule",
    "check_model",
    "default_policy",
    "load_policy",
    "parse_policy",
]


def parse_policy(
    text: str, *, where: str, severity: float | None = None, dry_run: bool = False
) -> Policy:
    """The policy in a TOML text.

    where: names its origin in errors. severity: instead of the text's own. dry_run: whether what
    would block only flags.
    Raises ConfigError with all problems, each with its line, cause and remedy.
    """
    policy = read_tables(text, where=where)
    if severity is not None:
        policy = _at(severity, policy, where)
    return policy.only_flagging() if dry_run else policy


def _at(severity: float, policy: Policy, where: str) -> Policy:
    try:
        return policy.with_severity(severity)
    except ValidationError as error:
        raise ConfigError(
            f"A severity of {severity} for policy {where} is not from {-SEVERITY_LIMIT:g} to "
            f"{SEVERITY_LIMIT:g}; 0 leaves the thresholds as written, 1 is e times the odds."
        ) from error


def load_policy(file: Path, *, severity: float | None = None, dry_run: bool = False) -> Policy:
    """The policy in a file, as `parse_policy` has it. Raises ConfigError."""
    try:
        text = file.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(
            f"Policy file {file} cannot be read: {error.strerror}; check its path and that the "
            "user this program runs as may read it."
        ) from error
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise ConfigError(
            f"Policy file {file}, line {line}: not UTF-8: {error}; save it with that encoding."
        ) from error
    return parse_policy(text, where=str(file), severity=severity, dry_run=dry_run)


def default_policy(model: str, *, severity: float | None = None, dry_run: bool = False) -> Policy:
    """The policy of the package for the model with this fingerprint (see Embedder)."""
    texts = [
        (name, resources.files("safety_proxy.policy").joinpath(name).read_text(encoding="utf-8"))
        for name in ("default_cosine.toml", "default_contrast.toml")
    ]
    parse = partial(parse_policy, severity=severity, dry_run=dry_run)
    policies = (parse(text, where=name) for name, text in texts)
    return next(policy for policy in policies if not policy.model or _names(policy, model))


def check_model(policy: Policy, model: str) -> str:
    """What is to be said of judging the model with this fingerprint by this policy; "" for nothing.

    Raises ConfigError for cosines that were found for another model: they would mean something
    else, and silently let everything in, or nothing.
    """
    if _names(policy, model):
        return ""
    named = " or ".join(policy.model)
    if policy.score == "cosine":
        if not policy.model:
            return (
                f"policy {policy.name!r} has cosine thresholds, which hold for one model, and "
                'names none: write it, as in model = "ViT-L-14/openai"'
            )
        raise ConfigError(
            f"Policy {policy.name!r} has cosine thresholds for {named}, and the model is {model}: "
            "there they mean something else. Use that model (`model.name`), leave `policy.file` "
            "out for a default that fits, or run `safety-proxy calibrate` and write the model's "
            "name into the policy's `model`."
        )
    if not policy.model:
        return ""
    return (
        f"policy {policy.name!r} was calibrated for {named}, and the model is {model}: the rates "
        "measured there do not hold here; run `safety-proxy calibrate`"
    )


def _names(policy: Policy, model: str) -> bool:
    """Whether the policy names this fingerprint, or the start of it, by whole parts."""
    return any(f"{model}/".startswith(f"{prefix.rstrip('/')}/") for prefix in policy.model)
