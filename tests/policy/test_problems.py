"""Tests of safety_proxy/policy/problems.py: every mistake is told with line, cause and remedy."""
# ruff: noqa: E501 -- the table of mistakes reads best with a few long rows

import re

import pytest
from _pytest.mark import ParameterSet

from safety_proxy.errors import ConfigError
from safety_proxy.policy.problems import read_tables

GOOD = """\
name = "fire and water"
score = "contrast"
unreadable = "flag"
templates = ["{}", "a photo of {}"]
neutral = ["a photo"]

[concepts.fire]
threshold = 0.5
critical = 0.8
prompts = [
    "fire",
    { text = "a burning house", threshold = 0.6, critical = 0.9 },
]

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
COSINE = GOOD.replace('"contrast"', '"cosine"')


def changed(*pairs: tuple[str, str], text: str = GOOD) -> str:
    """The good policy with something in it replaced."""
    for old, new in pairs:
        assert old in text
        text = text.replace(old, new, 1)
    return text


def told(text: str) -> list[str]:
    """What is said of each problem of a policy text, in order."""
    with pytest.raises(ConfigError) as caught:
        read_tables(text, where="here.toml")
    head, *problems = str(caught.value).splitlines()
    assert head == "Policy here.toml cannot be used:"
    return problems


def row(what: str, text: str, line: int, cause: str, remedy: str) -> ParameterSet:
    return pytest.param(text, line, cause, remedy, id=what)


def one(what: str, old: str, new: str, line: int, cause: str, remedy: str) -> ParameterSet:
    return row(what, changed((old, new)), line, cause, remedy)


HEAD_KEYS = "name, note, score, model, severity, unreadable, templates, neutral, concepts"

MISTAKES = [
    # names
    one("key misspelled", "critical = 0.8", "critcal = 0.8", 9,
        "concepts.fire.critcal: there is no key `critcal` here",
        "did you mean 'critical'? these are known: prompts, threshold, critical"),
    one("key of the file misspelled", "unreadable", "unreadible", 3,
        "unreadible: there is no key `unreadible` here",
        f"did you mean 'unreadable'? these are known: {HEAD_KEYS}"),
    one("table misspelled", '[[rules]]\nname = "both"', '[[rule]]\nname = "both"', 23,
        "rule: there is no key `rule` here", "did you mean 'rules'?"),
    one("key of nothing like it", "critical = 0.8", "colour = 1", 9,
        "there is no key `colour` here", "these are known: prompts, threshold, critical"),
    one("key of the file after a table", 'action = "flag"\nany', 'unreadable = "block"\naction = "flag"\nany', 30,
        "rules[1].unreadable: there is no key `unreadable` here",
        "if you mean the file's `unreadable`, put it before the first [table]"),
    one("key of a prompt misspelled", "threshold = 0.7", "treshold = 0.7", 16,
        "concepts.water.prompts[0].treshold", "did you mean 'threshold'?"),
    one("key of a condition misspelled", "weight = 2", "wieght = 2", 26,
        "rules[0].all[1].wieght", "did you mean 'weight'? these are known: concept, weight"),
    one("key of a control misspelled", "shifts = {", "shift = {", 21,
        "controls[0].shift: there is no key", "did you mean 'shifts'?"),
    one("unknown concept in all", 'all = ["water", {', 'all = ["watr", {', 26,
        "rules[0].all[0]: there is no concept 'watr'",
        "did you mean 'water'? name one of: fire, water; or add [concepts.watr]"),
    one("unknown concept in a long condition", '{ concept = "fire"', '{ concept = "fog"', 26,
        "rules[0].all[1].concept: there is no concept 'fog'", "name one of: fire, water"),
    one("unknown concept in any", 'any = ["fire", "water"]', 'any = [\n"fire",\n"Fire"]', 33,
        "rules[1].any[1]: there is no concept 'Fire'", "did you mean 'fire'?"),
    one("unknown concept in a control", "shifts = { fire", "shifts = { fier", 21,
        "controls[0].shifts.fier: there is no concept 'fier'", "did you mean 'fire'?"),
    one("action that is none", 'action = "block"', 'action = "delete"', 25,
        'rules[0].action: `action` cannot be "delete"', 'write one of: "allow", "flag", "block"'),
    one("action misspelled", 'action = "block"', 'action = "blok"', 25,
        '`action` cannot be "blok"', "did you mean 'block'? write one of:"),
    one("action for the unreadable", 'unreadable = "flag"', 'unreadable = "skip"', 3,
        '`unreadable` cannot be "skip"', 'write one of: "allow", "flag", "block"'),
    one("form of score", 'score = "contrast"', 'score = "cosin"', 2,
        '`score` cannot be "cosin"', "did you mean 'cosine'? write one of: \"cosine\", \"contrast\""),
    one("two rules of one name", 'name = "either"', 'name = "both"', 29,
        "rules[1].name: the name 'both' is that of rules[0] too", "give each rule a name of its own"),
    one("rule without a name", 'name = "either"\n', "", 28,
        "rules[1].name: `name` is missing", 'add it, as in name = "my policy"'),
    one("empty name", 'name = "fire and water"', 'name = ""', 1,
        "name: the text is empty", 'write one, as in name = "my policy"'),
    # thresholds
    one("no threshold for a prompt", "threshold = 0.5\n", "", 10,
        "concepts.fire.prompts[0]: prompt 'fire' has no threshold",
        "give it one, or give the concept one for all its prompts"),
    row("oversized threshold", changed(("threshold = 0.5", "threshold = 50"), text=COSINE), 8,
        "concepts.fire.threshold: 50 is more than 1", "write 1 or less, as in threshold = 0.2"),
    one("undersized threshold", "threshold = 0.25", "threshold = -2.5", 20,
        "controls[0].threshold: -2.5 is less than -1", "write -1 or more, as in threshold = 0.5"),
    one("probability of everything", "threshold = 0.7", "threshold = 0.0", 16,
        "concepts.water.prompts[0].threshold: 0.0 is a probability that everything reaches",
        "write a probability above 0 and below 1"),
    one("probability of nothing", "critical = 0.9", "critical = 1", 12,
        "concepts.fire.prompts[1].critical: 1 is a probability that nothing reaches",
        "write a probability above 0 and below 1"),
    one("NaN", "threshold = 0.5", "threshold = nan", 8,
        "concepts.fire.threshold: nan is no number that a score can reach", "as in threshold = 0.5"),
    one("infinite", "critical = 0.8", "critical = inf", 9,
        "inf is no number that a score can reach", "as in critical = 0.8"),
    one("number in quotes", "threshold = 0.5", 'threshold = "0.5"', 8,
        'concepts.fire.threshold: "0.5" is no number', "write a number without quotes"),
    one("truth for a number", "threshold = 0.25", "threshold = true", 20,
        "controls[0].threshold: true is no number", "as in threshold = 0.5"),
    one("critical below the prompt's threshold", "critical = 0.9", "critical = 0.55", 12,
        "'a burning house': critical 0.55 is below threshold 0.6",
        "give it a critical of 0.6 or more, or lower the threshold"),
    one("critical below the concept's threshold", "critical = 0.8", "critical = 0.4", 11,
        "prompts[0]: prompt 'fire': critical 0.4 is below threshold 0.5",
        "give it a critical of 0.5 or more"),
    one("control without a threshold", "threshold = 0.25\n", "", 18,
        "controls[0].threshold: `threshold` is missing", "add it, as in threshold = 0.5"),
    one("severity too high", "unreadable", "severity = 1000\nunreadable", 3,
        "severity: 1000 is more than 20", "write 20 or less, as in severity = 0.5"),
    # prompts and texts
    one("concept without prompts", '[{ text = "water", threshold = 0.7 }]', "[]", 16,
        "concepts.water.prompts: there is nothing in `prompts`", "add at least one entry"),
    one("concept with no key prompts", 'prompts = [{ text = "water", threshold = 0.7 }]', "threshold = 0.7", 15,
        "concepts.water.prompts: `prompts` is missing", 'as in prompts = ["fire", "a flame"]'),
    one("empty prompt", 'text = "water"', 'text = ""', 16,
        "concepts.water.prompts[0].text: the text is empty", "or remove it"),
    one("empty short prompt", '    "fire",', '    "",', 11,
        "concepts.fire.prompts[0].text: the text is empty", "or remove it"),
    one("blank prompt", '    "fire",', '    "  ",', 11,
        "concepts.fire.prompts[0]: the prompt is blank", "write what is to be found, or remove it"),
    one("prompt twice", 'text = "a burning house"', 'text = "fire"', 12,
        "prompt 'fire' is there twice", "remove one, or give one the `weight` of both"),
    one("prompts as one text", 'prompts = ["a sunset"]', 'prompts = "a sunset"', 19,
        'controls[0].prompts: "a sunset" is no list', "put it in brackets"),
    one("prompt as a number", '    "fire",', "    7,", 11,
        "concepts.fire.prompts[0]: 7 is no table", "as in prompts = "),
    one("template without a place", '"a photo of {}"', '"a photo of"', 4,
        "templates[1]: template 'a photo of' has no {}", 'as in "a photo of {}"'),
    one("no templates", '["{}", "a photo of {}"]', "[]", 4,
        "templates: there is nothing in `templates`", 'as in templates = ["a photo of {}"]'),
    one("contrast without neutral prompts", 'neutral = ["a photo"]\n', "", 1,
        "score = 'contrast' compares prompts with neutral ones, and there are none",
        'add some, as in neutral = ["a photo", "an object"], or use score = "cosine"'),
    one("contrast with no neutral prompt in the list", '["a photo"]', "[]", 5,
        "neutral: score = 'contrast' compares", "add some"),
    # weights and rules
    one("weight that can never be reached", '"fire", "water"]', '{ concept = "water", weight = 9 }]', 31,
        "rules[1].any[0].weight: weight 9 of 'water' can never be reached: its prompts weigh 1 at most",
        "ask for 1 or less, or give the concept more prompts, weights or a critical"),
    one("weight that always holds", "weight = 2", "weight = 0", 26,
        "rules[0].all[1].weight: 0 is less than 1", "write 1 or more, as in weight = 2"),
    one("weight in halves", "weight = 2", "weight = 2.5", 26,
        "2.5 is no whole number", "write one without quotes, as in weight = 2"),
    one("weight of a prompt too small", "threshold = 0.7", "threshold = 0.7, weight = -1", 16,
        "concepts.water.prompts[0].weight: -1 is less than 1", "write 1 or more"),
    one("rule without conditions", 'any = ["fire", "water"]\n', "", 28,
        "rules[1]: rule 'either' has neither `all` nor `any`", "or remove the rule"),
    one("rule with empty conditions", '["fire", "water"]', "[]", 28,
        "rules[1]: rule 'either' has neither `all` nor `any`", 'as in all = ["fire"]'),
    one("control that shifts nothing", "{ fire = -0.1 }", "{}", 21,
        "controls[0].shifts: there is nothing in `shifts`", "as in shifts = { fire = -0.1 }"),
    one("shift that is no number", "fire = -0.1", 'fire = "less"', 21,
        'controls[0].shifts.fire: "less" is no number', "as in shifts = { fire = -0.1 }"),
    one("shift too far", "fire = -0.1", "fire = -3", 21,
        "controls[0].shifts.fire: -3 is less than -1", "write -1 or more"),
    one("concept that is no table", "[concepts.water]\nprompts = [{", "[concepts]\nwater = 1\nx.prompts = [{", 16,
        "concepts.water: 1 is no table", "write one, as in [concepts.fire]"),
    row("no concepts", 'name = "x"\nscore = "cosine"\nrules = []\n', 1,
        "concepts: `concepts` is missing", "[concepts.fire] with"),
    one("model as a number", "unreadable", "model = 14\nunreadable", 3,
        "model: 14 is no list", 'as in model = "ViT-L-14/openai"'),
    row("provenance without its data", GOOD + '[provenance]\nmodel = "m"\ndate = 2026-01-31\npictures = 5\nwanted_rate = 0.1', 32,
        "provenance.data: `data` is missing", 'as in data = "sha256 of the pictures"'),
    row("date as a text", GOOD + '[provenance]\nmodel = "m"\ndata = "d"\ndate = "today"\npictures = 5\nwanted_rate = 0.1', 35,
        'provenance.date: "today" is no date', "write one without quotes, as in date = 2026-01-31"),
    # what is no TOML
    one("two equal signs", 'score = "contrast"', "score = = 1", 2,
        "not valid TOML: Invalid value, at or before 'score = = 1'", "texts stand in quotes"),
    one("text without quotes", 'score = "contrast"', "score = contrast", 2,
        "not valid TOML: Invalid value", "texts stand in quotes"),
    one("key twice", "critical = 0.8", "threshold = 0.8", 9,
        "not valid TOML: Cannot overwrite a value", "keep one of the two"),
    one("table twice", "[concepts.water]", "[concepts.fire]", 15,
        "not valid TOML: Cannot declare ('concepts', 'fire') twice", "this table is there already"),
    one("list left open", 'any = ["fire", "water"]', 'any = ["fire", "water"', 31,
        "not valid TOML: Unclosed array", "close it with ]"),
    one("text left open", 'name = "both"', 'name = "both', 24,
        "not valid TOML: Illegal character", "remove it"),
    one("no equal sign", "critical = 0.8", "critical 0.8", 9,
        "not valid TOML: Expected '='", "write `key = value`"),
    one("two on a line", "critical = 0.8", "critical = 0.8 x = 1", 9,
        "not valid TOML: Expected newline", "on a line of its own"),
    one("table left open", "[concepts.water]", "[concepts.water", 15,
        "not valid TOML: Expected ']'", "close the table's name with ]"),
    one("a line that is nothing", "critical = 0.8", "= 0.8", 9,
        "not valid TOML: Invalid statement", "a line is `key = value`, [table]"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "line", "cause", "remedy"), MISTAKES)
def test_each_mistake_is_told_with_line_cause_and_remedy(
    text: str, line: int, cause: str, remedy: str
) -> None:
    """In one line of its own, which begins with the file and the line in it."""
    start = f"  here.toml, line {line}: "
    lines = [problem for problem in told(text) if problem.startswith(start)]
    found = [problem for problem in lines if cause in problem]
    assert len(found) == 1, "\n".join(told(text))
    before, _, after = found[0].partition("; ")
    assert cause in before
    assert remedy in after


def test_the_table_is_long_enough_and_a_good_policy_passes() -> None:
    """Else the table would prove nothing."""
    assert len(MISTAKES) >= 40
    assert read_tables(GOOD, where="here.toml").name == "fire and water"
    assert read_tables(COSINE, where="here.toml").score == "cosine"


def test_an_empty_file_is_told_what_it_needs() -> None:
    """Every key that has no default."""
    problems = told("")
    assert [problem.split(": ")[1] for problem in problems] == [
        "concepts",
        "name",
        "rules",
        "score",
    ]
    assert all(problem.startswith("  here.toml, line 1: ") for problem in problems)


def test_all_problems_are_told_at_once_in_the_order_of_the_file() -> None:
    """Wrong kinds and what does not fit together, with no second start between."""
    text = changed(
        ('score = "contrast"', 'score = "contrast"\nthreshhold = 1'),
        ("critical = 0.8", "critical = 0.4"),
        ('prompts = ["a sunset"]', 'prompts = ["a sunset", 5]'),
        ("shifts = { fire", "shifts = { fog"),
        ('action = "block"', 'action = "delete"'),
        ('any = ["fire", "water"]', 'any = ["fire", "wate"]'),
    )
    problems = told(text)
    lines = [int(re.findall(r"line (\d+):", problem)[0]) for problem in problems]
    assert lines == [3, 12, 20, 22, 26, 32]


def test_a_mistake_within_a_concept_does_not_hide_or_invent_others() -> None:
    """The rules that name it are still right."""
    assert len(told(changed(("threshold = 0.5", 'threshold = "high"')))) == 1
    assert len(told(changed(('    "fire",', "    7,")))) == 1


def test_a_long_value_is_cut() -> None:
    """A problem is a line that can be read."""
    (problem,) = told(changed(("threshold = 0.5", f"threshold = [{'1, ' * 900}]")))
    assert len(problem) < 200


def test_nesting_without_end_is_told() -> None:
    """Tomllib gives up; so does this."""
    (problem,) = told(f"a = {'[' * 5000}")
    assert "not valid TOML" in problem
