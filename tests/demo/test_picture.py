"""The picture of the demonstration, on terminals of several sizes."""

from dataclasses import replace
from io import StringIO

import pytest
from demo.picture import Picture, sparkline
from demo.scene import MINUTE, Scene, Second, StepSeen, machines_seen
from rich.console import Console
from tests.demo.scenes import replica_of, scene_of_a_death, status_of

SIZES = [(80, 24), (100, 30), (120, 36)]


def drawn(scene: Scene, columns: int = 80, lines: int = 24, *, is_all: bool = False) -> list[str]:
    """Give the lines of the picture on a terminal of that size, or all that there is to it."""
    console = Console(file=StringIO(), width=columns, height=lines, force_terminal=True)
    options = console.options.update(height=None if is_all else lines)
    rendered = console.render_lines(Picture(scene, is_all=is_all), options)
    return ["".join(each.text for each in line if not each.control) for line in rendered]


@pytest.mark.parametrize(("columns", "lines"), SIZES)
@pytest.mark.parametrize("scene", [Scene(), scene_of_a_death(), scene_of_a_death(steps=1)])
def test_it_fills_the_terminal_and_nothing_wraps(scene: Scene, columns: int, lines: int) -> None:
    """As many lines as there are, each as wide as it is; the last one is a panel's bottom."""
    found = drawn(scene, columns, lines)
    assert len(found) == lines
    assert {len(line) for line in found} == {columns}
    assert found[-1].startswith("╰")


@pytest.mark.parametrize(("columns", "lines"), SIZES)
def test_a_dead_machine_is_seen_at_a_glance(columns: int, lines: int) -> None:
    """Its card says so in its title and its badge, and the others' do not."""
    text = "\n".join(drawn(scene_of_a_death(), columns, lines))
    assert "node1 is dead" in text
    assert text.count("NO POWER") == 1
    assert "primary, FAILED" in text
    assert text.count("is dead") == 1


def test_a_machine_that_comes_back_says_so_until_it_is_healthy() -> None:
    """Not before it had lost its power, and not after."""
    ill = status_of(replica_of("node1", health="it has told nothing for 9 s"))
    well = status_of(replica_of("node1", role="primary"))
    back = Scene(machines=machines_seen({"node1": (True, 4.0)}, ill), status=ill)
    assert "COMES BACK" in "\n".join(drawn(back))
    again = Scene(machines=machines_seen({"node1": (True, 9.0)}, well), status=well)
    text = "\n".join(drawn(again))
    assert "COMES BACK" not in text
    assert "PRIMARY" in text


@pytest.mark.parametrize(("columns", "lines"), SIZES)
def test_failures_numbers_and_waits_are_there_in_full(columns: int, lines: int) -> None:
    """What is cut are titles, never numbers."""
    text = "\n".join(drawn(scene_of_a_death(failed=17), columns, lines))
    for number in ("17 failed", "123456 ", "1234567 ", "12345 ", "123.4 s", "1234.5 s", "62:05"):
        assert number in text


def test_the_balancer_s_pool_names_machines_and_who_is_out() -> None:
    """People know machines by their names, not by the ids of replicas."""
    line = next(each for each in drawn(scene_of_a_death()) if each.startswith("balancer"))
    assert "node1 (DOWN)" in line
    assert "node2" in line
    assert "0123456789a" not in line


def test_the_last_steps_are_shown_where_there_is_no_room_for_all() -> None:
    """With how many there were before; the picture that stays has all of them."""
    scene = scene_of_a_death(steps=30)
    small = "\n".join(drawn(scene))
    assert "$ dtr remove" in small
    assert "… 24 steps before" in small
    assert "step number 3 " not in small
    everything = "\n".join(drawn(scene, is_all=True))
    assert all(f"step number {number} " in everything for number in range(29))


def test_a_step_that_failed_and_a_silent_control_plane_are_said() -> None:
    """The one by its colour, the other by its words."""
    scene = Scene(steps=(StepSeen("node1$ false", 1.0, is_failed=True),), silence="No answer.")
    console = Console(file=StringIO(), width=80, height=24, force_terminal=True)
    console.print(Picture(scene))
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    assert "No answer." in shown
    assert "\x1b[1;31m   1.0 s" in shown


def test_the_last_minute_ends_at_its_right_end() -> None:
    """A short past leaves room at the left; the seconds of a column are added up."""
    seconds = (Second(1, False), Second(2, False), Second(5, True))
    line = sparkline(seconds, 1)
    assert len(line.plain) == MINUTE
    assert line.plain.endswith(" ▃▄█")
    assert sparkline(seconds, 2).plain.endswith(" ▂█")
    assert sparkline((Second(0, False),) * MINUTE, 2).plain == "▁" * (MINUTE // 2)


def test_what_is_to_be_said_above_all_is_in_the_first_line() -> None:
    """Beside the time."""
    first = drawn(replace(scene_of_a_death(), message="everything is taken away …"))[0]
    assert "everything is taken away …" in first
    assert first.rstrip().endswith("62:05")
