"""Parts that a server and a measuring bench are both made of, built from the settings."""

import os
from functools import partial

from safety_proxy.inference.batcher import Batcher
from safety_proxy.inference.embedder import Embedder
from safety_proxy.media.frames import read_frames
from safety_proxy.media.isolation.processes import Decoders
from safety_proxy.metrics import Metrics
from safety_proxy.policy.judge import Judge
from safety_proxy.policy.policy import Policy, check_model, default_policy, load_policy
from safety_proxy.scanner import Model
from safety_proxy.settings import Settings


def load_clip(settings: Settings) -> Embedder:
    """The model of the settings; blocks for seconds to minutes. Raises ConfigError."""
    # torch's threads spin while they wait for each other, and so keep the decoders and pict-rs off
    # the cores they wait for: asleep they are up to three times as fast beside other programs and
    # no slower alone (docs/performance.md). Read once, when torch is imported.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # Importing torch takes seconds, in which the listeners are up already.
    from safety_proxy.inference.clip import ClipEmbedder, choose  # noqa: PLC0415

    return ClipEmbedder(choose(settings.model), threads=settings.model.threads)


def build_decoders(settings: Settings) -> Decoders:
    """Decoder processes, not yet started."""
    return Decoders(
        read_frames,
        processes=settings.scan.decoders,
        memory_bytes=settings.scan.decoder_bytes,
        cpu_seconds=settings.scan.timeout_seconds,
    )


def own_policy(settings: Settings) -> Policy | None:
    """The policy of `policy.file`, where it is set. Raises ConfigError."""
    its = settings.policy
    if its.file is None:
        return None
    return load_policy(its.file.expanduser(), severity=its.severity, dry_run=its.dry_run)


def build_judge(embedder: Embedder, batcher: Batcher, policy: Policy) -> Judge:
    """The policy, ready for the model that the batcher asks; blocks while it embeds the prompts.

    Raises ConfigError if the policy is for another, EmbedderUnavailable.
    """
    check_model(policy, embedder.fingerprint)
    return Judge(
        policy,
        batcher.embed_texts,
        logit_scale=embedder.logit_scale,
        logit_bias=embedder.logit_bias,
    )


def build_batcher(settings: Settings, embedder: Embedder, metrics: Metrics) -> Batcher:
    """What pictures are embedded by, several at a time."""
    return Batcher(embedder, batch_limit=settings.model.batch_limit, metrics=metrics)


def build_model(
    settings: Settings, embedder: Embedder, policy: Policy | None, metrics: Metrics
) -> Model:
    """The model, ready to judge by this policy or by the default for it; blocks for a second.

    Raises ConfigError if the policy is for another model.
    """
    batcher = build_batcher(settings, embedder, metrics)
    judge_of = partial(build_judge, embedder, batcher)
    severity, dry_run = settings.policy.severity, settings.policy.dry_run
    policy = policy or default_policy(embedder.fingerprint, severity=severity, dry_run=dry_run)
    return Model(embedder.fingerprint, embedder.crop_spec, batcher, judge_of(policy), judge_of)
