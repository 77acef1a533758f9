"""What the history of commits tells: the check itself must not be blind."""

from tests.cluster.writes import Commit, History


def _history(*commits: tuple[str, str, float, float]) -> History:
    return History(
        [
            Commit(server, number, timeline, sent, acknowledged)
            for number, (server, timeline, sent, acknowledged) in enumerate(commits)
        ]
    )


def test_one_primary_after_the_other_is_well() -> None:
    """A failover: the old one is silent before the new one speaks."""
    assert _history(("a", "01", 1, 2), ("b", "02", 30, 31)).second_primaries() == []


def test_an_old_primary_that_goes_on_is_found() -> None:
    """Both acknowledge in turns."""
    history = _history(("a", "01", 1, 2), ("b", "02", 3, 4), ("a", "01", 5, 6))
    assert history.second_primaries() == ["a wrote on timeline 01 1.0 s after b had on 02"]


def test_a_late_answer_for_an_early_commit_is_none() -> None:
    """A frozen primary thaws, and answers what it was asked before the failover."""
    assert _history(("a", "01", 1, 60), ("b", "02", 30, 31)).second_primaries() == []


def test_two_on_one_timeline_are_found() -> None:
    """Nobody was promoted, and yet two write."""
    assert _history(("a", "01", 1, 2), ("b", "01", 3, 4)).second_primaries()


def test_the_longest_gap_includes_the_ends() -> None:
    """A database that never acknowledges again is the longest gap of all."""
    assert _history(("a", "01", 1, 2), ("a", "01", 2, 3)).longest_gap(0, 10) == 7


def test_a_row_that_is_not_there_is_lost() -> None:
    """Only what was acknowledged is owed."""
    history = _history(("a", "01", 1, 2), ("a", "01", 2, 3))
    assert history.lost([("a", 0), ("a", 9)]) == [("a", 1)]
