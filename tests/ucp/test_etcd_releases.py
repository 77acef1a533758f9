"""Which releases of etcd have which holes."""

import pytest

from dtr.ucp.etcd.releases import FAULTS, SOUND, faults_of


@pytest.mark.parametrize(
    ("version", "count"),
    [
        ("3.4.23", 5),
        ("3.4.42", 3),
        ("3.4.44", 2),
        ("3.5.27", 5),
        ("3.5.28", 3),
        ("3.5.33", 1),
        ("3.5.99", 1),
        ("3.6.0", 4),
        ("3.6.9", 2),
        ("3.6.14", 0),
        ("3.7.0", 1),
        ("3.7.1", 0),
        ("4.0.0", 0),
        (SOUND, 0),
    ],
)
def test_a_release_has_the_holes_that_were_not_mended_before_it(version: str, count: int) -> None:
    """A branch that never got a mend keeps its hole."""
    assert len(faults_of(version)) == count


@pytest.mark.parametrize("version", ["", "latest", "3.4"])
def test_what_cannot_be_told_is_not_taken_for_sound(version: str) -> None:
    """Rather one warning too many."""
    assert faults_of(version) == FAULTS


@pytest.mark.parametrize("version", ["3.4.23", "3.4.99", "3.5.0", "3.5.33"])
def test_before_3_6_a_full_etcd_forgets_its_permissions(version: str) -> None:
    """No release of 3.4 or 3.5 has the mend of pull request 22386."""
    assert any("22386" in fault.name for fault in faults_of(version))
