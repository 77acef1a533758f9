"""What time it is by most machines."""

from dataclasses import dataclass, field

import pytest

from dtr.ucp.agreed_time import AgreedTime

HOUR = 3600.0
SECONDS_OF_A_REPORT = 2


@dataclass
class Nodes:
    """Nodes that report, each with a clock that may be wrong."""

    ahead: dict[str, float]
    passed: float = 0.0
    own_ahead: float = 0.0
    revisions: dict[str, int] = field(default_factory=dict)
    silent: set[str] = field(default_factory=set)
    agreed: AgreedTime = field(init=False)

    def __post_init__(self) -> None:
        self.agreed = AgreedTime(lambda: self.now() + self.own_ahead, lambda: self.passed)
        self.told: dict[str, tuple[int, float]] = {}

    def now(self) -> float:
        """Give the right time."""
        return 1_000_000 + self.passed

    def pass_time(self, reports: int = 10) -> None:
        """Let each node report so often, and the controller see it."""
        for _ in range(reports):
            self.passed += SECONDS_OF_A_REPORT
            for name, ahead in self.ahead.items():
                if name not in self.silent:
                    self.revisions[name] = self.revisions.get(name, 0) + 1
                    self.told[name] = (self.revisions[name], self.now() + ahead)
            self.agreed.see(self.told)

    def correction(self) -> float | None:
        """Give by how much the controller's machine is to be corrected."""
        return self.agreed.correction()


def test_nothing_is_known_before_reports_were_seen_to_change() -> None:
    """A report that lies there may be old."""
    nodes = Nodes({"a": 0, "b": 0, "c": 0})
    assert nodes.correction() is None
    for _ in range(3):
        nodes.pass_time(1)
        assert nodes.correction() is None
    nodes.pass_time(1)
    assert nodes.correction() == 0


@pytest.mark.parametrize("wrong", [HOUR, -HOUR, 10.0])
def test_one_of_three_that_is_wrong_is_outvoted(wrong: float) -> None:
    """Also where it is the controller's own machine."""
    nodes = Nodes({"a": wrong, "b": 0.5, "c": -0.5}, own_ahead=wrong)
    nodes.pass_time()
    correction = nodes.correction()
    assert correction is not None
    assert abs(correction + wrong) < 2


def test_two_that_differ_agree_on_nothing() -> None:
    """None of them is right; a third one decides."""
    nodes = Nodes({"a": HOUR, "b": 0})
    nodes.pass_time()
    assert nodes.correction() is None
    nodes.ahead["c"] = 0
    nodes.pass_time(4)
    assert nodes.correction() == 0


def test_a_silent_machine_has_no_vote_and_a_lone_one_decides() -> None:
    """Its clock was compared when it reported; that says nothing of now."""
    nodes = Nodes({"a": 0, "b": HOUR, "c": HOUR})
    nodes.pass_time()
    assert nodes.correction() == HOUR
    nodes.silent = {"b", "c"}
    nodes.pass_time(8)
    assert nodes.correction() == 0
    nodes.silent = {"a", "b", "c"}
    nodes.pass_time(8)
    assert nodes.correction() is None


def test_reports_that_were_under_way_for_minutes_say_nothing_of_the_time() -> None:
    """A control plane that was stopped meets all nodes' old reports at once when it goes on."""
    nodes = Nodes({"a": 0, "b": 0, "c": 0})
    nodes.pass_time()
    stale = {name: (revision + 1, at) for name, (revision, at) in nodes.told.items()}
    nodes.passed += 300
    nodes.agreed.see(stale)
    assert nodes.correction() == 0
    nodes.revisions = {name: revision for name, (revision, _) in stale.items()}
    nodes.pass_time(20)
    assert nodes.correction() == 0


def test_a_clock_that_is_set_back_is_believed_after_some_reports() -> None:
    """The newest alone might be late."""
    nodes = Nodes({"a": 0, "b": 0, "c": 0})
    nodes.pass_time()
    nodes.ahead = dict.fromkeys("abc", -HOUR)
    nodes.pass_time(7)
    assert nodes.correction() == 0
    nodes.pass_time(1)
    assert nodes.correction() == -HOUR


def test_a_node_that_was_removed_is_forgotten() -> None:
    """A new one of the same name begins anew."""
    nodes = Nodes({"a": 0, "b": 0, "c": HOUR})
    nodes.pass_time()
    del nodes.told["c"], nodes.ahead["c"]
    nodes.pass_time()
    assert nodes.correction() == 0
