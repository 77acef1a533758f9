"""The rule that decides who may do what: deny by default."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dtr.model.access import (
    ANONYMOUS,
    NEEDED,
    Access,
    Action,
    Door,
    Level,
    Principal,
    Scope,
    Visibility,
    level_of,
)

LEVELS = st.sampled_from(Level)
VISIBILITIES = st.one_of(st.none(), st.sampled_from(Visibility))
PRINCIPALS = st.builds(
    Principal,
    account_id=st.one_of(st.none(), st.integers(1, 5)),
    name=st.sampled_from(["", "alice"]),
    is_admin=st.booleans(),
    ceiling=LEVELS,
)


@given(principal=PRINCIPALS, owns=st.booleans(), visibility=VISIBILITIES, granted=LEVELS)
def test_a_credential_never_gives_more_than_its_ceiling(
    *,
    principal: Principal,
    owns: bool,
    visibility: Visibility | None,
    granted: Level,
) -> None:
    """Whatever its account may."""
    level = level_of(principal, owns_namespace=owns, visibility=visibility, granted=granted)
    assert level <= principal.ceiling


@given(principal=PRINCIPALS, owns=st.booleans(), visibility=VISIBILITIES, granted=LEVELS)
def test_every_level_has_a_reason(
    *,
    principal: Principal,
    owns: bool,
    visibility: Visibility | None,
    granted: Level,
) -> None:
    """Owner or administrator, a grant, or public and then to read only."""
    level = level_of(principal, owns_namespace=owns, visibility=visibility, granted=granted)
    reasons = {Level.NONE, granted}
    if visibility is Visibility.PUBLIC:
        reasons.add(Level.READ_ONLY)
    if (owns or principal.is_admin) and not principal.is_anonymous:
        reasons.add(Level.ADMIN)
    assert level == min(max(reasons), principal.ceiling)


@given(is_admin=st.booleans(), owns=st.booleans(), visibility=VISIBILITIES)
def test_nobody_has_no_more_than_what_is_public(
    *,
    is_admin: bool,
    owns: bool,
    visibility: Visibility | None,
) -> None:
    """Also where a mistake elsewhere calls nobody an owner or administrator."""
    nobody = Principal(is_admin=is_admin)
    level = level_of(nobody, owns_namespace=owns, visibility=visibility)
    expected = Level.READ_ONLY if visibility is Visibility.PUBLIC else Level.NONE
    assert level is expected


def test_nobody_is_anonymous_and_no_administrator() -> None:
    """The default principal may nothing."""
    assert ANONYMOUS.is_anonymous
    assert not ANONYMOUS.acts_as_admin
    assert level_of(ANONYMOUS, owns_namespace=False, visibility=None) is Level.NONE


@pytest.mark.parametrize("ceiling", list(Level))
def test_an_administrator_with_a_lower_ceiling_does_not_act_as_one(ceiling: Level) -> None:
    """Only an unlimited credential opens the operator's door."""
    assert Principal(1, is_admin=True, ceiling=ceiling).acts_as_admin is (ceiling is Level.ADMIN)
    assert not Principal(1, ceiling=ceiling).acts_as_admin


@pytest.mark.parametrize("level", [Level.READ_ONLY, Level.READ_WRITE, Level.ADMIN])
def test_a_level_is_parsed_as_it_is_written(level: Level) -> None:
    """In the original's words."""
    assert Level.parse(str(level)) is level


@pytest.mark.parametrize("text", ["", "none", "READ-ONLY", "read_only", "owner", "1"])
def test_no_other_word_is_a_level(text: str) -> None:
    """`none` is no level that can be granted."""
    with pytest.raises(ValueError, match="read-only, read-write or admin"):
        Level.parse(text)


def test_levels_include_those_below_and_every_action_needs_one() -> None:
    """Nothing can be done without any."""
    assert list(Level) == sorted(Level)
    assert set(NEEDED) == set(Action)
    assert all(level > Level.NONE for level in NEEDED.values())
    assert NEEDED[Action.PULL] < NEEDED[Action.PUSH] <= NEEDED[Action.ADMIN]


@given(
    st.dictionaries(st.sampled_from(["a/a", "a/b"]), st.frozensets(st.sampled_from(Action))),
    st.sampled_from(["a/a", "a/b", "a/a/c", "a"]),
    st.sampled_from(Action),
)
def test_a_scope_allows_exactly_what_it_names(
    repositories: dict[str, frozenset[Action]], name: str, action: Action
) -> None:
    """No prefix, no wildcard."""
    scope = Scope(repositories)
    assert scope.allows(name, action) is (action in repositories.get(name, ()))
    assert not scope.catalog


def test_an_access_has_no_default() -> None:
    """A route cannot forget to say who may pass."""
    with pytest.raises(TypeError):
        Access()  # type: ignore[call-arg]
    assert Access(Door.OPEN).action is None
