"""Tests of safety_proxy/assembly.py: parts are what the settings say."""

import asyncio
import os
from pathlib import Path
from typing import Any

import pytest

from safety_proxy import assembly as module
from safety_proxy.assembly import build_decoders, build_model, load_clip, own_policy
from safety_proxy.errors import ConfigError
from safety_proxy.media.frames import read_frames
from safety_proxy.metrics import Metrics
from safety_proxy.policy.policy import default_policy, parse_policy
from safety_proxy.settings import Settings
from safety_proxy.verdict import Action
from tests.fakes import POLICY_TEXT, FakeEmbedder, color_policy

FOR_ANOTHER = parse_policy('model = "ViT-L-14/openai"\n' + POLICY_TEXT, where="the test")


def settings_of(**sections: dict[str, Any]) -> Settings:
    return Settings.model_validate(sections)


@pytest.mark.parametrize("policy", ["ACTIVE", None])
def test_the_model_is_loaded_with_threads_that_sleep(
    monkeypatch: pytest.MonkeyPatch, policy: str | None
) -> None:
    """Unless the admin chose otherwise."""
    monkeypatch.setenv("OMP_WAIT_POLICY", policy or "")
    if policy is None:
        monkeypatch.delenv("OMP_WAIT_POLICY")
    model = {"name": "demo", "device": "cpu", "precision": "fp32", "threads": 1}
    assert load_clip(settings_of(model=model)).fingerprint == "demo/fp32"
    assert os.environ["OMP_WAIT_POLICY"] == (policy or "PASSIVE")


def test_decoders_are_bounded_by_the_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """In number, memory and time; and they read every type that there is a reader for."""
    made: list[tuple[Any, dict[str, Any]]] = []

    class Recorder:
        def __init__(self, decode: Any, **bounds: Any) -> None:
            made.append((decode, bounds))

    monkeypatch.setattr(module, "Decoders", Recorder)
    scan = {"decoders": 3, "decoder_bytes": 600_000_000, "timeout_seconds": 7.0}
    build_decoders(settings_of(scan=scan))
    bounds = {"processes": 3, "memory_bytes": 600_000_000, "cpu_seconds": 7.0}
    assert made == [(read_frames, bounds)]


def test_the_policy_is_the_file_s_under_the_severity(tmp_path: Path) -> None:
    """None without a file; a file that cannot be read ends the start."""
    file = tmp_path / "policy.toml"
    file.write_text(POLICY_TEXT)
    assert own_policy(Settings()) is None
    policy = own_policy(settings_of(policy={"file": str(file), "severity": 0.5}))
    assert policy == color_policy().with_severity(0.5)
    dry = own_policy(settings_of(policy={"file": str(file), "dry_run": True}))
    assert dry == color_policy().only_flagging()
    with pytest.raises(ConfigError, match=r"nowhere\.toml"):
        own_policy(settings_of(policy={"file": str(tmp_path / "nowhere.toml")}))


def test_a_model_judges_by_its_policy() -> None:
    """By the default for it where none is given, which takes the severity too."""
    embedder = FakeEmbedder()
    settings = settings_of(policy={"severity": 0.5})
    for policy, used in (
        (color_policy(), color_policy()),
        (None, default_policy("fake/fp32", severity=0.5)),
    ):
        model = build_model(settings, embedder, policy, Metrics())
        assert (model.fingerprint, model.crop_spec) == (embedder.fingerprint, embedder.crop_spec)
        assert model.judge.policy == used
        assert model.judge_of(color_policy()).version == color_policy().version
        asyncio.run(model.batcher.aclose())


def test_in_a_dry_run_the_default_policy_only_flags() -> None:
    """Without a policy of one's own."""
    settings = settings_of(policy={"dry_run": True})
    model = build_model(settings, FakeEmbedder(), None, Metrics())
    assert {rule.action for rule in model.judge.policy.rules} == {Action.FLAG}
    asyncio.run(model.batcher.aclose())


def test_a_policy_for_another_model_is_refused() -> None:
    """At the start, and when it is put in force later."""
    with pytest.raises(ConfigError, match="ViT-L-14/openai"):
        build_model(Settings(), FakeEmbedder(), FOR_ANOTHER, Metrics())
    model = build_model(Settings(), FakeEmbedder(), color_policy(), Metrics())
    with pytest.raises(ConfigError, match="ViT-L-14/openai"):
        model.judge_of(FOR_ANOTHER)
    asyncio.run(model.batcher.aclose())
