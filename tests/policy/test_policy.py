"""Tests of safety_proxy/policy/policy.py: what a policy file says, and for which model."""

import math
from pathlib import Path

import pytest

from safety_proxy.errors import ConfigError
from safety_proxy.policy.policy import (
    Policy,
    check_model,
    default_policy,
    load_policy,
    parse_policy,
)
from safety_proxy.verdict import Action

GOOD = """
name = "fire and water"
score = "contrast"
unreadable = "flag"
templates = ["{}", "a photo of {}"]
neutral = ["a photo"]

[concepts.fire]
threshold = 0.5
critical = 0.8
prompts = ["fire", { text = "a burning house", threshold = 0.6, critical = 0.9 }]

[concepts.water]
prompts = [{ text = "water", threshold = 0.7 }]

[[controls]]
prompts = ["a sunset"]
threshold = 0.25
shifts = { fire = -0.1 }

[[rules]]
name = "both"
action = "block"
all = ["water", { concept = "fire", weight = 2 }]

[[rules]]
name = "either"
action = "flag"
any = ["fire", "water"]
"""


def changed(old: str, new: str) -> str:
    """The good policy with one thing in it replaced."""
    assert old in GOOD
    return GOOD.replace(old, new, 1)


def test_a_good_policy_says_what_it_means() -> None:
    """Short and long forms of prompts and conditions, with bounds of their own or the concept's."""
    policy = parse_policy(GOOD, where="here")
    fire = policy.concepts["fire"]
    assert [fire.bounds(prompt) for prompt in fire.prompts] == [(0.5, 0.8), (0.6, 0.9)]
    water = policy.concepts["water"]
    assert [water.bounds(prompt) for prompt in water.prompts] == [(0.7, None)]
    both, either = policy.rules
    assert [(c.concept, c.weight) for c in both.all] == [("water", 1), ("fire", 2)]
    assert [c.concept for c in either.any] == ["fire", "water"]
    assert (both.action, either.action) == (Action.BLOCK, Action.FLAG)
    assert policy.unreadable is Action.FLAG
    assert policy.controls[0].shifts == {"fire": -0.1}


def test_left_out_keys_have_careful_defaults() -> None:
    """What cannot be read is blocked, and prompts stand as they are."""
    policy = parse_policy(changed('unreadable = "flag"\n', ""), where="here")
    assert policy.unreadable is Action.BLOCK
    assert parse_policy(
        changed('templates = ["{}", "a photo of {}"]\n', ""), where="here"
    ).templates == ["{}"]


def test_a_policy_is_read_from_a_file(tmp_path: Path) -> None:
    """As it is from its text."""
    file = tmp_path / "policy.toml"
    file.write_text(GOOD)
    assert load_policy(file) == parse_policy(GOOD, where="text")


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    """Missing, a folder, not text: the path is in the message."""
    latin = tmp_path / "latin.toml"
    latin.write_bytes(b'name = "\xe9"')
    for file, told in [
        (tmp_path / "none.toml", "No such file"),
        (tmp_path, "Is a directory"),
        (latin, "not UTF-8"),
    ]:
        with pytest.raises(ConfigError) as caught:
            load_policy(file)
        assert str(file) in str(caught.value)
        assert told in str(caught.value)


def test_a_wrong_file_is_named(tmp_path: Path) -> None:
    """The problems are those of this file."""
    file = tmp_path / "policy.toml"
    file.write_text(changed("weight = 2", "weight = 0"))
    with pytest.raises(ConfigError, match=r"policy\.toml(.|\n)*weight"):
        load_policy(file)


@pytest.mark.parametrize(
    ("model", "score"),
    [
        ("ViT-L-14/openai/fp16", "cosine"),
        ("ViT-L-14-quickgelu/openai/fp32", "cosine"),
        ("ViT-L-14/laion2b_s32b_b82k/fp16", "contrast"),
        ("ViT-L-14-336/openai/fp16", "contrast"),
        ("ViT-B-32/datacomp_xl_s13b_b90k/bf16", "contrast"),
        ("ViT-B-32/openai/fp32", "contrast"),
        ("ViT-L-14/openai-other/fp32", "contrast"),
        ("local-dir:/srv/ViT-L-14/openai/fp32", "contrast"),
    ],
)
def test_default_policy_fits_the_model(model: str, score: str) -> None:
    """Cosines only for the weights that they were tested with."""
    policy = default_policy(model)
    assert policy.score == score
    assert policy.unreadable is Action.BLOCK
    assert check_model(policy, model) == ""


@pytest.mark.parametrize("model", ["ViT-L-14/openai/fp16", "other/weights/fp32"])
def test_default_policies_block_only_the_conjunction(model: str) -> None:
    """Adult-only context is flagged and never blocked, and controls can only lower age."""
    rules = {rule.action: rule for rule in default_policy(model).rules}
    assert rules.keys() == {Action.BLOCK, Action.FLAG}
    assert {c.concept for c in rules[Action.BLOCK].all} == {"apparent_minor", "sexual_context"}
    assert [c.concept for c in rules[Action.FLAG].all] == ["sexual_context"]
    shifts = [control.shifts for control in default_policy(model).controls]
    assert shifts
    assert all(shift.keys() == {"apparent_minor"} for shift in shifts)
    assert all(-0.5 < shift["apparent_minor"] < 0 for shift in shifts)


def test_default_cosine_policy_stays_in_the_tested_ranges() -> None:
    """Thresholds that the field uses, and apparent age needs the weight of three."""
    policy = default_policy("ViT-L-14/openai/fp16")
    minor, sexual = policy.concepts["apparent_minor"], policy.concepts["sexual_context"]
    for prompt in minor.prompts:
        threshold, critical = minor.bounds(prompt)
        assert 0.188 <= threshold <= 0.21
        assert critical is not None
        assert 0.22 <= critical <= 0.26
    assert all(0.195 <= sexual.bounds(prompt)[0] <= 0.25 for prompt in sexual.prompts)
    assert {(c.concept, c.weight) for c in policy.rules[0].all} == {
        ("apparent_minor", 3),
        ("sexual_context", 1),
    }


def test_severity_is_the_file_s_or_the_one_handed_over(tmp_path: Path) -> None:
    """So that settings can move a policy that they do not write."""
    file = tmp_path / "policy.toml"
    file.write_text(changed('unreadable = "flag"', 'unreadable = "flag"\nseverity = 0.5'))
    assert load_policy(file).severity == 0.5
    assert load_policy(file, severity=-1).severity == -1
    assert load_policy(file, severity=0.0).severity == 0
    assert default_policy("ViT-B-32/x/fp32").severity == 0
    assert default_policy("ViT-L-14/openai/fp16", severity=2.5).severity == 2.5
    assert load_policy(file, severity=0.5) == load_policy(file)


def test_in_a_dry_run_what_would_block_flags(tmp_path: Path) -> None:
    """Another version, since it judges otherwise; the rest is as written."""
    file = tmp_path / "policy.toml"
    blocks_unreadable = changed('unreadable = "flag"', 'unreadable = "block"')
    file.write_text(blocks_unreadable)
    wanted, dry = load_policy(file), load_policy(file, dry_run=True)
    assert Action.BLOCK in {rule.action for rule in wanted.rules}
    assert Action.BLOCK not in {rule.action for rule in dry.rules}
    assert dry.unreadable is Action.BLOCK
    assert dry.version != wanted.version
    assert [rule.name for rule in dry.rules] == [rule.name for rule in wanted.rules]
    flagging = blocks_unreadable.replace('action = "block"', 'action = "flag"')
    assert dry.version == parse_policy(flagging, where="here").version
    assert dry.name == f"{wanted.name} (dry run)"
    assert parse_policy(flagging, where="here", dry_run=True) == dry
    for policy in (
        load_policy(file, severity=1.5, dry_run=True),
        default_policy("any", severity=1.5, dry_run=True),
    ):
        assert policy.severity == 1.5
        assert {rule.action for rule in policy.rules} == {Action.FLAG}


@pytest.mark.parametrize("severity", [21.0, -20.5, math.nan, math.inf])
def test_a_severity_beyond_all_scores_is_refused(severity: float) -> None:
    """With the range, and what the number means."""
    with pytest.raises(ConfigError, match=r"severity of .* is not from -20 to 20; 0 leaves"):
        default_policy("any", severity=severity)


def named(score: str, model: str) -> Policy:
    """A policy with this score, found for this model."""
    text = changed('score = "contrast"', f'score = "{score}"\nmodel = {model}')
    return parse_policy(text, where="here")


@pytest.mark.parametrize("score", ["cosine", "contrast"])
@pytest.mark.parametrize("model", ['"ViT-L-14"', '"ViT-L-14/"', '["a", "ViT-L-14/openai/fp16"]'])
def test_a_model_is_named_by_the_start_of_its_fingerprint(score: str, model: str) -> None:
    """By whole parts."""
    policy = named(score, model)
    assert check_model(policy, "ViT-L-14/openai/fp16") == ""


def test_cosines_of_another_model_are_an_error() -> None:
    """With three ways out. ViT-L-14 is no start of ViT-L-14-336."""
    with pytest.raises(ConfigError) as caught:
        check_model(named("cosine", '["ViT-L-14", "b"]'), "ViT-L-14-336/openai/fp16")
    message = str(caught.value)
    for part in ["ViT-L-14 or b", "ViT-L-14-336/openai/fp16", "policy.file", "calibrate"]:
        assert part in message


def test_probabilities_of_another_model_are_worth_a_note() -> None:
    """They mean about the same; what was measured does not hold."""
    note = check_model(named("contrast", '"ViT-L-14"'), "ViT-B-32/x/fp32")
    assert "calibrated for ViT-L-14, and the model is ViT-B-32/x/fp32" in note
    assert check_model(named("contrast", "[]"), "ViT-B-32/x/fp32") == ""


def test_cosines_that_name_no_model_are_worth_a_note() -> None:
    """Whoever wrote them knows for which."""
    assert 'model = "' in check_model(named("cosine", "[]"), "ViT-B-32/x/fp32")
