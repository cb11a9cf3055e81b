"""Tests of safety_proxy/evaluation/groups.py: one kind of picture that fares far worse is named."""

from safety_proxy.evaluation.bounds import Rate
from safety_proxy.evaluation.groups import groups_of
from safety_proxy.evaluation.tally import Survey
from tests.evaluation.scenes import survey_of


def of(**groups: tuple[int, int]) -> Survey:
    """A survey with this many blocked of so many pictures in each group."""
    severities, names = [], []
    for name, (blocked, pictures) in groups.items():
        severities += [-0.5] * blocked + [1.0] * (pictures - blocked)
        names += [name] * pictures
    return survey_of(severities, groups=names)


def test_each_group_has_its_rate_and_the_worst_comes_first() -> None:
    """Of equals in the order of the names."""
    groups = groups_of(of(sport=(0, 30), food=(3, 20), avatars=(0, 10)))
    assert [(group.name, group.blocked) for group in groups] == [
        ("food", Rate(3, 20)),
        ("avatars", Rate(0, 10)),
        ("sport", Rate(0, 30)),
    ]
    assert groups[0].flagged == Rate(3, 20)


def test_a_group_far_above_the_rest_is_marked_alone() -> None:
    """12 of 100 against none of 200 is no chance."""
    groups = groups_of(of(food=(12, 100), pets=(0, 100), sport=(0, 100)))
    assert [group.is_far_above for group in groups] == [True, False, False]


def test_what_chance_explains_is_not_marked() -> None:
    """One of 20 against none of 60: seen in one sample of four."""
    groups = groups_of(of(food=(1, 20), pets=(0, 30), sport=(0, 30)))
    assert not any(group.is_far_above for group in groups)


def test_a_small_difference_is_not_marked_however_sure_it_is() -> None:
    """Less than twice the rest's rate is no whole group refused."""
    groups = groups_of(of(food=(300, 400), pets=(200, 400)))
    assert not any(group.is_far_above for group in groups)


def test_one_folder_alone_has_nothing_to_be_compared_with() -> None:
    """No groups at all."""
    assert groups_of(of(food=(1, 3))) == ()
