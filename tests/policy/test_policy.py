"""Tests of safety_proxy/policy/policy.py: what a policy file may say, and how mistakes are told."""

from pathlib import Path

import pytest

from safety_proxy.errors import ConfigError
from safety_proxy.policy.policy import Policy, default_policy, load_policy, parse_policy
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


def problem_of(text: str) -> str:
    """The message of the error that a policy text gives."""
    with pytest.raises(ConfigError) as caught:
        parse_policy(text, where="here.toml")
    return str(caught.value)


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


@pytest.mark.parametrize(
    ("text", "told"),
    [
        pytest.param(
            changed("threshold = 0.5\n", ""),
            ["concepts.fire", "'fire'", "no threshold"],
            id="no threshold for a prompt",
        ),
        pytest.param(
            changed("threshold = 0.5", "threshold = 1.5"),
            ["concepts.fire.threshold", "less than or equal to 1"],
            id="threshold over 1",
        ),
        pytest.param(
            changed("threshold = 0.5", "threshold = nan"),
            ["concepts.fire.threshold"],
            id="threshold that nothing reaches",
        ),
        pytest.param(
            changed("critical = 0.9", "critical = 0.55"),
            ["concepts.fire", "'a burning house'", "critical 0.55", "below threshold 0.6"],
            id="critical below the threshold of the prompt",
        ),
        pytest.param(
            changed("critical = 0.8", "critical = 0.4"),
            ["concepts.fire", "'fire'", "critical 0.4", "below threshold 0.5"],
            id="critical below the threshold of the concept",
        ),
        pytest.param(
            changed('[{ text = "water", threshold = 0.7 }]', "[]"),
            ["concepts.water.prompts", "at least 1 item"],
            id="concept without prompts",
        ),
        pytest.param(
            changed('text = "water"', 'text = ""'),
            ["concepts.water.prompts.0.text", "at least 1 character"],
            id="empty prompt",
        ),
        pytest.param(
            changed('all = ["water", {', 'all = ["fog", {'),
            ["rule 'both'", "'fog'", "there are: fire, water"],
            id="unknown concept in all",
        ),
        pytest.param(
            changed('any = ["fire", "water"]', 'any = ["fire", "fog"]'),
            ["rule 'either'", "'fog'", "there are: fire, water"],
            id="unknown concept in any",
        ),
        pytest.param(
            changed("shifts = { fire", "shifts = { fog"),
            ["control 'a sunset'", "'fog'", "there are: fire, water"],
            id="unknown concept in a control",
        ),
        pytest.param(
            changed("shifts = { fire = -0.1 }", "shifts = {}"),
            ["controls.0.shifts", "at least 1 item"],
            id="control that shifts nothing",
        ),
        pytest.param(
            changed("shifts = { fire = -0.1 }", "shifts = { fire = nan }"),
            ["controls.0.shifts.fire"],
            id="shift that is no number",
        ),
        pytest.param(
            changed("threshold = 0.25\n", ""),
            ["controls.0.threshold", "Field required"],
            id="control without threshold",
        ),
        pytest.param(
            changed('"a photo of {}"', '"a photo of"'),
            ["template 'a photo of'", "{}"],
            id="template without a place",
        ),
        pytest.param(
            changed('["{}", "a photo of {}"]', "[]"),
            ["templates", "at least 1 item"],
            id="no templates",
        ),
        pytest.param(
            changed('neutral = ["a photo"]\n', ""),
            ["contrast", "`neutral`"],
            id="contrast without neutral prompts",
        ),
        pytest.param(
            changed('any = ["fire", "water"]\n', ""),
            ["rules.1", "'either'", "neither `all` nor `any`"],
            id="rule without conditions",
        ),
        pytest.param(
            changed('any = ["fire", "water"]', 'any = [{ concept = "water", weight = 9 }]'),
            ["rule 'either'", "'water'", "weight 9"],
            id="weight that can never be reached",
        ),
        pytest.param(
            changed('name = "either"', 'name = "both"'),
            ["two rules have one name", "both"],
            id="two rules of one name",
        ),
        pytest.param(
            changed("weight = 2", "weight = 0"),
            ["rules.0.all.1.weight", "greater than or equal to 1"],
            id="weight that always holds",
        ),
        pytest.param(
            changed('action = "block"', 'action = "delete"'),
            ["rules.0.action", "'allow', 'flag' or 'block'"],
            id="bad action of a rule",
        ),
        pytest.param(
            changed('unreadable = "flag"', 'unreadable = "skip"'),
            ["unreadable", "'allow', 'flag' or 'block'"],
            id="bad action for the unreadable",
        ),
        pytest.param(
            changed('score = "contrast"', 'score = "logit"'),
            ["score", "'cosine' or 'contrast'"],
            id="bad kind of score",
        ),
        pytest.param(
            changed("critical = 0.8", "critcal = 0.8"),
            ["concepts.fire.critcal", "not permitted"],
            id="unknown key in a concept",
        ),
        pytest.param(
            changed('score = "contrast"', 'score = "contrast"\nthreshhold = 1'),
            ["threshhold", "not permitted"],
            id="unknown key of the file",
        ),
        pytest.param("", ["name", "score", "concepts", "rules", "Field required"], id="empty"),
        pytest.param("name = = 1", ["not valid TOML", "line 1"], id="bad TOML"),
    ],
)
def test_a_wrong_policy_is_refused_with_what_and_where(text: str, told: list[str]) -> None:
    """The message has the file, the key and what to change."""
    message = problem_of(text)
    assert "here.toml" in message
    assert [part for part in told if part not in message] == []


def test_all_wrong_fields_are_told_at_once() -> None:
    """One start shows every problem, a line each."""
    text = changed('action = "block"', 'action = "delete"').replace("critical = 0.8", "critcal = 1")
    message = problem_of(text)
    assert "rules.0.action" in message
    assert "concepts.fire.critcal" in message
    assert len(message.splitlines()) == 3


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
    ],
)
def test_default_policy_fits_the_model(model: str, score: str) -> None:
    """Cosines only for the weights that they were tested with."""
    policy = default_policy(model)
    assert policy.score == score
    assert policy.unreadable is Action.BLOCK


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


def version_of(text: str) -> str:
    policy: Policy = parse_policy(text, where="here")
    return policy.version


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("threshold = 0.5", "threshold = 0.51"),
        ("critical = 0.9", "critical = 0.91"),
        ('"a burning house"', '"a burning car"'),
        ('"a photo of {}"', '"a drawing of {}"'),
        ('neutral = ["a photo"]', 'neutral = ["a drawing"]'),
        ("fire = -0.1", "fire = -0.2"),
        ("threshold = 0.25", "threshold = 0.26"),
        ("weight = 2", "weight = 3"),
        ('action = "block"', 'action = "flag"'),
        ('any = ["fire", "water"]', 'all = ["fire", "water"]'),
        ('unreadable = "flag"', 'unreadable = "block"'),
        ('score = "contrast"', 'score = "cosine"'),
    ],
)
def test_version_changes_with_the_meaning(old: str, new: str) -> None:
    """Verdicts of the policy before must not be found under it."""
    assert version_of(changed(old, new)) != version_of(GOOD)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("threshold = 0.5", "threshold = 0.50  # a comment"),
        ("\n[concepts.fire]", "\n\n# a comment\n[concepts.fire]"),
        ("threshold = 0.5\ncritical = 0.8", "critical = 0.8\nthreshold = 0.5"),
        ('"fire", { text', '{ text = "fire" }, { text'),
        ('all = ["water",', "all = [{ concept = 'water', weight = 1 },"),
    ],
)
def test_version_stays_with_layout_and_comments(old: str, new: str) -> None:
    """The same policy, written otherwise, keeps its verdicts."""
    assert version_of(changed(old, new)) == version_of(GOOD)


def test_version_is_short_and_the_same_in_every_run() -> None:
    """It is written to logs and shared between processes."""
    version = version_of(GOOD)
    assert len(version) == 12
    assert int(version, 16) >= 0
    assert version == version_of(GOOD)
