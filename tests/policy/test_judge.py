"""Tests of safety_proxy/policy/judge.py: from embeddings to scores, found concepts, an action."""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from safety_proxy.crops import Float32Array
from safety_proxy.errors import EmbedderUnavailable
from safety_proxy.policy.judge import CHUNK_ROWS, Judge, Judgment, joint_actions
from safety_proxy.policy.policy import Policy, default_policy, parse_policy
from safety_proxy.verdict import Action
from tests.policy.policies import judge_of as policies_judge
from tests.policy.policies import policies, rows, starts_of

# Each of these texts is an axis of its own, so that a cosine is what a test says it is. The empty
# text is all that no prompt names.
PROMPTS = ("flame", "ember", "wave", "drop", "sunset", "drawing", "photo", "thing")
TEXTS = (*PROMPTS, "")


def embed_axes(texts: Sequence[str]) -> Float32Array:
    """An axis for each text."""
    return np.eye(len(TEXTS), dtype=np.float32)[[TEXTS.index(text) for text in texts]]


def picture(*frames: Mapping[str, float]) -> Float32Array:
    """Normalized embeddings of frames with these cosines to the prompts, and 0 to all others."""
    rows = []
    for cosines in frames:
        row = [cosines.get(prompt, 0.0) for prompt in PROMPTS]
        rest = 1 - sum(value * value for value in row)
        assert rest >= 0
        rows.append([*row, math.sqrt(rest)])
    return np.array(rows, np.float32)


def judge_of(text: str, *, logit_scale: float = 10.0, logit_bias: float | None = None) -> Judge:
    policy = parse_policy(text, where="test")
    return Judge(policy, embed_axes, logit_scale=logit_scale, logit_bias=logit_bias)


def judged(judge: Judge, *frames: Mapping[str, float]) -> Judgment:
    """The judgment on these frames, which are the first ones of their file."""
    return judge.judge(picture(*frames), [f"frame {number}" for number in range(len(frames))])


COSINE = """
name = "cosine"
score = "cosine"

[concepts.fire]
threshold = 0.2
critical = 0.24
prompts = ["flame", { text = "ember", threshold = 0.21, critical = 0.25 }]

[concepts.water]
threshold = 0.22
prompts = ["wave", { text = "drop", threshold = 0.3 }]

[[controls]]
prompts = ["sunset"]
threshold = 0.25
shifts = { fire = -0.03 }

[[controls]]
prompts = ["drawing"]
threshold = 0.25
shifts = { fire = -0.02, water = 0.01 }

[[rules]]
name = "flagged"
action = "flag"
all = ["water"]

[[rules]]
name = "blocked"
action = "block"
all = [{ concept = "fire", weight = 3 }, "water"]
"""


@pytest.mark.parametrize(
    ("cosines", "weight"),
    [
        ({}, 0),
        ({"flame": 0.199}, 0),
        ({"flame": 0.2}, 1),
        ({"flame": 0.2399}, 1),
        ({"flame": 0.24}, 3),
        ({"flame": 0.9}, 3),
        ({"ember": 0.205}, 0),
        ({"ember": 0.21}, 1),
        ({"ember": 0.245}, 1),
        ({"ember": 0.25}, 3),
        ({"flame": 0.2, "ember": 0.21}, 2),
        ({"flame": 0.24, "ember": 0.21}, 4),
        ({"flame": 0.24, "ember": 0.25}, 6),
        ({"flame": -0.9}, 0),
    ],
)
def test_prompts_weigh_one_when_found_and_three_when_critical(
    cosines: dict[str, float], weight: int
) -> None:
    """Each at its own bounds, reached or passed; a concept's weight is the sum."""
    fire, water = judged(judge_of(COSINE), cosines).scores
    assert (fire.concept, fire.weight) == ("fire", weight)
    assert (water.concept, water.weight) == ("water", 0)


@pytest.mark.parametrize(
    ("cosines", "action"),
    [
        ({}, Action.ALLOW),
        ({"flame": 0.9}, Action.ALLOW),
        ({"wave": 0.22}, Action.FLAG),
        ({"drop": 0.22}, Action.ALLOW),
        ({"flame": 0.2, "ember": 0.21, "wave": 0.3}, Action.FLAG),  # weighs 2 of 3
        ({"flame": 0.24, "wave": 0.3}, Action.BLOCK),
        ({"flame": 0.24, "wave": 0.21}, Action.ALLOW),
        ({"flame": 0.24, "drop": 0.3}, Action.BLOCK),
    ],
)
def test_a_rule_holds_from_the_weights_it_names(cosines: dict[str, float], action: Action) -> None:
    """Fire must weigh three here, and alone it is nothing."""
    assert judged(judge_of(COSINE), cosines).action is action


def test_concepts_found_in_different_frames_do_not_join() -> None:
    """A rule holds in one frame or not at all."""
    judge = judge_of(COSINE)
    assert judged(judge, {"flame": 0.5}, {"wave": 0.5}).action is Action.FLAG
    assert judged(judge, {"flame": 0.5}, {"flame": 0.5, "wave": 0.5}).action is Action.BLOCK


@pytest.mark.parametrize(
    ("cosines", "fire", "water"),
    [
        ({"flame": 0.25, "wave": 0.3}, 0.25, 0.3),
        ({"flame": 0.25, "wave": 0.3, "sunset": 0.249}, 0.25, 0.3),
        ({"flame": 0.25, "wave": 0.3, "sunset": 0.25}, 0.22, 0.3),
        ({"flame": 0.25, "wave": 0.3, "drawing": 0.5}, 0.23, 0.31),
        ({"flame": 0.25, "wave": 0.3, "sunset": 0.5, "drawing": 0.5}, 0.2, 0.31),
    ],
)
def test_controls_shift_scores_only_where_they_are_found(
    cosines: dict[str, float], fire: float, water: float
) -> None:
    """Each shifts the concepts it names, and several add up."""
    scores = judged(judge_of(COSINE), cosines).scores
    assert [score.score for score in scores] == pytest.approx([fire, water], abs=1e-6)


def test_a_control_corrects_its_own_frame_alone() -> None:
    """A sunset woman in one frame excuses nothing in another."""
    strong = {"flame": 0.25, "wave": 0.3}
    judge = judge_of(COSINE)
    assert judged(judge, {**strong, "sunset": 0.3}).action is Action.FLAG
    judgment = judged(judge, {**strong, "sunset": 0.3}, strong)
    assert judgment.action is Action.BLOCK
    assert [(reason.rule, reason.where) for reason in judgment.reasons] == [
        ("flagged", "frame 0"),
        ("blocked", "frame 1"),
    ]


CONTRAST = """
name = "contrast"
score = "contrast"
neutral = ["photo", "thing"]

[concepts.fire]
threshold = 0.5
prompts = ["flame", "ember"]

[[controls]]
prompts = ["drawing"]
threshold = 0.5
shifts = { fire = -0.25 }

[[rules]]
name = "fire"
action = "block"
all = ["fire"]
"""


@pytest.mark.parametrize(
    ("cosines", "probability"),
    [
        ({"flame": 0.3, "photo": 0.2, "thing": 0.1}, 0.6652409558),  # e3 / (e3 + e2 + e1)
        ({"flame": 0.3, "ember": 0.2, "photo": 0.2, "thing": 0.1}, 0.6652409558),  # not each other
        ({"flame": 0.2, "photo": 0.2, "thing": 0.2}, 1 / 3),
        ({"photo": 0.3, "thing": 0.3}, 0.0242889198),  # e0 / (e0 + 2 e3)
        ({"flame": -0.5, "ember": 0.1, "photo": 0.1}, 0.4223187982),  # e1 / (e1 + e1 + e0)
    ],
)
def test_contrast_is_the_probability_beside_all_neutral_prompts(
    cosines: dict[str, float], probability: float
) -> None:
    """At the model's own scale; other prompts of the concept do not take from it."""
    judgment = judged(judge_of(CONTRAST, logit_scale=10), cosines)
    assert judgment.scores[0].score == pytest.approx(probability, abs=1e-5)
    assert judgment.action is (Action.BLOCK if probability >= 0.5 else Action.ALLOW)


@pytest.mark.parametrize(
    ("cosine", "probability"),
    [
        (0.3, 0.7310585786),  # 1 / (1 + e^-(10 * 0.3 - 2))
        (0.2, 0.5),
        (0.0, 0.1192029220),
    ],
)
def test_a_model_with_a_bias_lets_each_prompt_stand_for_itself(
    cosine: float, probability: float
) -> None:
    """A sigmoid, whatever the neutral prompts score."""
    judge = judge_of(CONTRAST, logit_scale=10, logit_bias=-2)
    for neutral in (0.0, 0.9):
        judgment = judged(judge, {"flame": cosine, "ember": -0.2, "photo": neutral})
        assert judgment.scores[0].score == pytest.approx(probability, abs=1e-5)


def test_a_bias_of_zero_is_a_bias() -> None:
    """It tells how the model was trained, not only what to add."""
    judgment = judged(
        judge_of(CONTRAST, logit_scale=10, logit_bias=0.0), {"drawing": -0.1, "photo": 0.9}
    )
    assert judgment.scores[0].score == pytest.approx(0.5)


def test_controls_shift_probabilities_too() -> None:
    """Where the control itself is as probable as its threshold says."""
    judge = judge_of(CONTRAST, logit_scale=10)
    cosines = {"flame": 0.3, "photo": 0.2, "thing": 0.1}
    assert judged(judge, {**cosines, "drawing": 0.1}).action is Action.BLOCK
    shifted = judged(judge, {**cosines, "drawing": 0.3})
    assert shifted.scores[0].score == pytest.approx(0.4152409558, abs=1e-5)
    assert shifted.action is Action.ALLOW


@pytest.mark.parametrize("bias", [None, -10.0])
def test_a_sharp_model_overflows_nowhere(bias: float | None) -> None:
    """Logits of hundreds still give probabilities between 0 and 1."""
    judge = judge_of(CONTRAST, logit_scale=500, logit_bias=bias)
    for cosines, probability in [({"flame": 1.0}, 1.0), ({"flame": -0.7, "ember": -0.7}, 0.0)]:
        assert judged(judge, cosines).scores[0].score == pytest.approx(probability, abs=1e-5)


RULES = """
name = "rules"
score = "cosine"

[concepts.a]
threshold = 0.4
critical = 0.9
prompts = ["flame"]
[concepts.b]
threshold = 0.4
prompts = ["ember"]
[concepts.c]
threshold = 0.4
prompts = ["wave"]

[[rules]]
name = "rule"
action = "block"
"""


@pytest.mark.parametrize(
    ("conditions", "holding"),
    [
        ('all = ["a"]', ["a", "ab", "ac", "abc"]),
        ('all = ["a", "b"]', ["ab", "abc"]),
        ('any = ["a", "b"]', ["a", "b", "ab", "ac", "bc", "abc"]),
        ('all = ["a"]\nany = ["b", "c"]', ["ab", "ac", "abc"]),
        ('all = ["a", "b"]\nany = ["c"]', ["abc"]),
        ('any = [{ concept = "a", weight = 2 }, "b"]', ["b", "ab", "bc", "abc"]),
    ],
)
def test_a_rule_needs_every_entry_of_all_and_one_of_any(
    conditions: str, holding: list[str]
) -> None:
    """Over all subsets of three concepts."""
    judge = judge_of(RULES + conditions)
    prompts = {"a": "flame", "b": "ember", "c": "wave"}
    held = [
        found
        for found in ("", "a", "b", "c", "ab", "ac", "bc", "abc")
        if judged(judge, {prompts[name]: 0.5 for name in found}).action is Action.BLOCK
    ]
    assert held == holding


@pytest.mark.parametrize(
    ("actions", "expected"),
    [
        (("allow", "flag", "block"), Action.BLOCK),
        (("block", "flag", "allow"), Action.BLOCK),
        (("flag", "allow", "flag"), Action.FLAG),
        (("allow", "allow", "allow"), Action.ALLOW),
    ],
)
def test_the_most_severe_action_of_all_rules_that_hold_wins(
    actions: tuple[str, ...], expected: Action
) -> None:
    """In whatever order they stand, and with a reason for each."""
    start = RULES.partition("[[rules]]")[0]
    rules = [
        f'[[rules]]\nname = "rule {n}"\naction = "{action}"\nall = ["a"]\n'
        for n, action in enumerate(actions)
    ]
    judgment = judged(judge_of(start + "".join(rules)), {"flame": 0.5})
    assert judgment.action is expected
    assert [reason.rule for reason in judgment.reasons] == ["rule 0", "rule 1", "rule 2"]


def test_a_reason_names_rule_concepts_and_the_frame_of_the_file() -> None:
    """Of an animation looked at in parts, the first frame where the rule held."""
    strong = {"flame": 0.3, "wave": 0.4}
    judgment = judge_of(COSINE).judge(
        picture({}, {"wave": 0.25}, strong, strong), ["a", "b", "c", "d"]
    )
    flagged, blocked = judgment.reasons
    assert (flagged.rule, flagged.where) == ("flagged", "b")
    assert (blocked.rule, blocked.where) == ("blocked", "c")
    assert [(c.concept, c.weight) for c in blocked.concepts] == [("fire", 3), ("water", 1)]
    found = [(c.score, c.threshold) for c in blocked.concepts]
    assert np.array(found) == pytest.approx(np.array([(0.3, 0.2), (0.4, 0.22)]), abs=1e-6)


def test_a_reason_leaves_out_what_was_not_found() -> None:
    """Of `any`, only the concepts that made it hold."""
    (reason,) = judged(judge_of(RULES + 'any = ["a", "b", "c"]'), {"ember": 0.5}).reasons
    assert [concept.concept for concept in reason.concepts] == ["b"]


def test_scores_are_the_highest_over_all_frames() -> None:
    """For each concept by itself, of the prompt that stands highest over its threshold."""
    judge = judge_of(COSINE)
    frames = [{"flame": 0.1, "drop": 0.25}, {"flame": 0.15, "wave": 0.19}, {"flame": 0.12}]
    fire, water = judged(judge, *frames).scores
    assert (fire.score, fire.threshold) == pytest.approx((0.15, 0.2), abs=1e-6)
    # 0.03 below its threshold is nearer than 0.05, though the cosine is lower
    assert (water.score, water.threshold) == pytest.approx((0.19, 0.22), abs=1e-6)


def test_nothing_found_gives_scores_but_no_reasons() -> None:
    """A plain allow can still be calibrated by."""
    judgment = judged(judge_of(COSINE), {"flame": 0.1})
    assert judgment.action is Action.ALLOW
    assert judgment.reasons == ()
    assert [score.concept for score in judgment.scores] == ["fire", "water"]


@pytest.mark.parametrize("text", [COSINE, CONTRAST])
@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("frame", [0, 1])
def test_scores_that_are_no_numbers_are_a_failure_and_no_allow(
    text: str, value: float, frame: int
) -> None:
    """NaN is below every threshold; in any frame it means that the model is broken."""
    embeddings = picture({"flame": 0.1}, {"flame": 0.1})
    embeddings[frame, 0] = value
    with (
        np.errstate(invalid="ignore"),
        pytest.raises(EmbedderUnavailable, match="not finite"),
    ):
        judge_of(text).judge(embeddings, ["", ""])


def test_templates_are_averaged_and_normalized() -> None:
    """A prompt points where the mean over the templates does, each prompt for itself."""
    vectors = {
        "x fire": [1.0, 0.0, 0.0],
        "y fire": [0.0, 1.0, 0.0],
        "x water": [0.0, 0.0, 1.0],
        "y water": [0.0, 0.6, 0.8],
    }
    policy = parse_policy(
        """
        name = "templates"
        score = "cosine"
        templates = ["x {}", "y {}"]
        concepts.fire = { threshold = 0.9, prompts = ["fire"] }
        concepts.either = { threshold = 0.9, prompts = ["fire", "water"] }
        rules = [{ name = "fire", action = "block", all = ["fire"] }]
        """,
        where="test",
    )

    def embed(texts: Sequence[str]) -> Float32Array:
        return np.array([vectors.get(text, [1.0, 0.0, 0.0]) for text in texts], np.float32)

    judge = Judge(policy, embed, logit_scale=10, logit_bias=None)
    half = math.sqrt(0.5)
    for embedding, fire, either in [
        ([half, half, 0.0], 1.0, 1.0),
        ([1.0, 0.0, 0.0], half, half),
        ([0.0, 0.0, 1.0], 0.0, 1.8 / math.sqrt(0.36 + 1.8 * 1.8)),
    ]:
        scores = judge.judge(np.array([embedding], np.float32), [""]).scores
        assert [score.score for score in scores] == pytest.approx([fire, either], abs=1e-6)


def test_every_text_of_the_policy_is_put_into_every_template() -> None:
    """Concepts, controls and neutral prompts alike."""
    asked: list[str] = []

    def embed(texts: Sequence[str]) -> Float32Array:
        asked.extend(texts)
        return np.ones((len(texts), 2), np.float32)

    templated = CONTRAST.replace("neutral", 'templates = ["{}", "a {} b"]\nneutral')
    policy = parse_policy(templated, where="test")
    judge = Judge(policy, embed, logit_scale=10, logit_bias=None)
    texts = [prompt for prompt in PROMPTS if prompt not in {"wave", "drop", "sunset"}]
    assert sorted(asked) == sorted([*texts, *(f"a {text} b" for text in texts)])
    assert judge.version == policy.version


# In steps far above what 32 bit floats round to.
score = st.integers(0, 500).map(lambda thousandths: thousandths / 1000)
makers: list[Callable[[], Judge]] = [
    lambda: judge_of(COSINE),
    lambda: judge_of(CONTRAST, logit_scale=30),
    lambda: judge_of(CONTRAST, logit_scale=30, logit_bias=-5),
]


@pytest.mark.parametrize("make", makers)
@settings(deadline=None)
@given(low=score, high=score, other=score, wave=score)
def test_a_higher_score_is_never_judged_milder(
    make: Callable[[], Judge], low: float, high: float, other: float, wave: float
) -> None:
    """Of two pictures alike but for one prompt, the one that shows more of it."""
    low, high = sorted((low, high))
    judge = make()
    mild, severe = (
        judged(judge, {"flame": flame, "ember": other, "wave": wave}) for flame in (low, high)
    )
    assert mild.action.severity <= severe.action.severity
    assert mild.scores[0].weight <= severe.scores[0].weight


@pytest.mark.parametrize("model", ["ViT-L-14/openai/fp16", "other/weights/fp32"])
def test_default_policies_judge(model: str) -> None:
    """What is like none of their texts is allowed, what is like all of them is blocked."""
    policy: Policy = default_policy(model)
    controls = {text for control in policy.controls for text in control.prompts}
    ignored = {
        template.replace("{}", text)
        for text in [*controls, *policy.neutral]
        for template in policy.templates
    }

    def embed(texts: Sequence[str]) -> Float32Array:
        return np.array([[text not in ignored, text in ignored] for text in texts], np.float32)

    judge = Judge(policy, embed, logit_scale=100, logit_bias=None)
    like_none, like_all = np.array([[0, 1], [1, 0]], np.float32)
    assert judge.judge(like_none[None], [""]).action is Action.ALLOW
    blocked = judge.judge(like_all[None], [""])
    assert blocked.action is Action.BLOCK
    assert blocked.reasons[0].rule == policy.rules[0].name


@settings(deadline=None, max_examples=200)
@given(policy=policies(), seed=st.integers(0, 999), bias=st.sampled_from([None, -2.0]))
def test_many_pictures_at_once_get_exactly_the_action_of_each(
    policy: Policy, seed: int, bias: float | None
) -> None:
    """Over controls, weights, criticals, `all` and `any`, both forms, and several frames."""
    judge = policies_judge(policy, logit_bias=bias)
    embeddings, starts = rows(seed, 12), starts_of(seed, 12)
    actions = judge.actions(embeddings, starts)
    assert actions.dtype == np.int8
    pictures = np.split(embeddings, starts[1:])
    each = [judge.judge(picture, [""] * len(picture)).action.severity for picture in pictures]
    assert actions.tolist() == each


@settings(deadline=None, max_examples=50)
@given(policy=policies(), other=policies(), seed=st.integers(0, 999))
def test_policies_judged_together_act_as_each_alone(
    policy: Policy, other: Policy, seed: int
) -> None:
    """Whether they have their scores in common or not."""
    several = [policies_judge(it) for it in (policy, policy.with_severity(1.5), other)]
    assert several[0].scorer.agrees(several[1].scorer)
    embeddings, starts = rows(seed, 40), starts_of(seed, 40)
    together = joint_actions(several, embeddings, starts)
    for judge, actions in zip(several, together, strict=True):
        assert actions.tolist() == judge.actions(embeddings, starts).tolist()


@settings(deadline=None, max_examples=100)
@given(policy=policies(), seed=st.integers(0, 999))
def test_severity_of_a_picture_is_the_least_that_acts_so(policy: Policy, seed: int) -> None:
    """A policy of just that severity does, one of a hair less does not; so actions only rise."""
    judge = policies_judge(policy)
    embeddings, starts = rows(seed, 8), starts_of(seed, 8)
    before = np.zeros(len(starts), np.int8)
    limits = {a: judge.severity_of(embeddings, starts, a) for a in (Action.FLAG, Action.BLOCK)}
    assert (limits[Action.FLAG] <= limits[Action.BLOCK]).all()
    near = np.concatenate(list(limits.values()))
    near = near[np.abs(near) < 19]
    for severity in sorted({*near, *np.nextafter(near, np.float32(-99)), -19.0, 0.0, 19.0}):
        moved = policies_judge(policy.with_severity(float(severity)))
        actions = moved.actions(embeddings, starts)
        for action, limit in limits.items():
            assert np.array_equal(actions >= action.severity, limit <= np.float32(severity))
        assert (actions >= before).all()
        before = actions


def test_severity_of_allow_is_always_reached_and_of_an_action_without_rules_never() -> None:
    """At both ends of the scale."""
    judge = judge_of(RULES + 'all = ["a"]')
    embeddings, starts = picture({"flame": 0.5}, {}), np.array([0, 1])
    assert judge.severity_of(embeddings, starts, Action.ALLOW).tolist() == [-math.inf] * 2
    flag = judge.severity_of(embeddings, starts, Action.FLAG)
    assert flag == pytest.approx([-1, 4], abs=1e-5)  # 0.1 over and 0.4 under, at a scale of 10
    mild = judge_of(RULES.replace("block", "flag") + 'all = ["a"]')
    assert mild.severity_of(embeddings, starts, Action.BLOCK).tolist() == [math.inf] * 2


def test_margins_are_scores_over_thresholds_by_concept() -> None:
    """Of the prompt that stands highest, controls applied, and whatever the severity."""
    severe = COSINE.replace('"cosine"\n\n', '"cosine"\nseverity = 1.5\n\n')
    for text in (COSINE, severe):
        margins = judge_of(text).margins(
            picture({"flame": 0.25, "ember": 0.2, "drop": 0.1}, {"flame": 0.25, "sunset": 0.3})
        )
        assert margins == pytest.approx(np.array([[0.05, -0.2], [0.02, -0.22]]), abs=1e-6)
        assert margins.dtype == np.float32


@pytest.mark.parametrize("rows_in_all", [1, CHUNK_ROWS - 1, CHUNK_ROWS, 2 * CHUNK_ROWS + 1])
def test_chunks_end_anywhere(rows_in_all: int) -> None:
    """A picture whose frames lie in two chunks has the severest of them all."""
    embeddings = np.repeat(picture({}), rows_in_all, axis=0)
    embeddings[-1] = picture({"flame": 0.3, "wave": 0.3})
    judge = judge_of(COSINE)
    assert judge.actions(embeddings, np.array([0])).tolist() == [Action.BLOCK.severity]
    assert judge.severity_of(embeddings, np.array([0]), Action.BLOCK)[0] < 0
    starts = np.arange(rows_in_all)
    assert judge.actions(embeddings, starts).tolist() == [0] * (rows_in_all - 1) + [2]
    assert len(judge.margins(embeddings)) == rows_in_all


def test_no_pictures_have_no_actions() -> None:
    """An empty store is none to fail at."""
    none, starts = np.empty((0, len(TEXTS)), np.float32), np.empty(0, np.int64)
    assert judge_of(COSINE).actions(none, starts).shape == (0,)
    assert judge_of(COSINE).severity_of(none, starts, Action.BLOCK).shape == (0,)


@pytest.mark.parametrize("starts", [[], [1], [0, 0], [0, 2, 1], [0, 3], [0, 1, 2, 3]])
def test_starts_that_part_nothing_are_refused(starts: list[int]) -> None:
    """A picture without rows would silently get another's action."""
    judge = judge_of(COSINE)
    for ask in (judge.actions, partial(judge.severity_of, action=Action.FLAG)):
        with pytest.raises(ValueError, match="part 3 rows"):
            ask(picture({}, {}, {}), np.array(starts, np.int64))


def test_half_precision_is_judged_as_it_is_stored() -> None:
    """The evidence store keeps embeddings so."""
    embeddings = picture({"flame": 0.3, "wave": 0.3}, {"wave": 0.3}).astype(np.float16)
    judge = judge_of(COSINE)
    whole = embeddings.astype(np.float32)
    starts = np.array([0, 1])
    assert judge.actions(embeddings, starts).tolist() == judge.actions(whole, starts).tolist()


def test_one_broken_row_among_many_fails_all() -> None:
    """Rather than clear one picture silently."""
    embeddings = np.repeat(picture({}), 3 * CHUNK_ROWS, axis=0)
    embeddings[-1, 0] = np.nan
    with pytest.raises(EmbedderUnavailable, match="not finite"):
        judge_of(COSINE).actions(embeddings, np.arange(len(embeddings)))


def test_weights_of_prompts_count() -> None:
    """Found it weighs its own, critical three times that."""
    text = COSINE.replace('text = "ember",', 'text = "ember", weight = 2,')
    for ember, weight in [(0.2, 0), (0.21, 2), (0.25, 6)]:
        assert judged(judge_of(text), {"ember": ember}).scores[0].weight == weight


def test_severity_moves_thresholds_and_criticals_but_no_control() -> None:
    """A control corrects an error of the model, however severe the policy is."""
    text = COSINE.replace('"cosine"\n\n', '"cosine"\nseverity = 0.3\n\n')
    fire, _ = judged(judge_of(text), {"flame": 0.17, "sunset": 0.22}).scores
    assert fire.weight == 1
    assert fire.threshold == pytest.approx(0.17)  # 0.3 / 10 lower
    assert judged(judge_of(text), {"flame": 0.21}).scores[0].weight == 3
    assert judged(judge_of(text), {"flame": 0.169}).scores[0].weight == 0
