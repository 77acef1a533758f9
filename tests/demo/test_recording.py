"""What of a run goes into its moving picture, and what that is made of."""

import re
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path

from demo.drawing import Frame, animation
from demo.recording import Recording, chosen
from demo.scene import Scene, StepSeen
from rich.text import Text
from tests.demo.scenes import scene_of_a_death

SVG = "{http://www.w3.org/2000/svg}"


def quiet(seconds: int, *, steps: int = 1) -> list[Scene]:
    """Give scenes, one a second, in which nothing happens but time."""
    some = tuple(StepSeen(f"step {number}", 1.0) for number in range(steps))
    return [Scene(elapsed=second, steps=some) for second in range(seconds)]


def test_a_change_is_kept_at_once_and_a_quiet_time_now_and_then() -> None:
    """The first and the last scene are always there."""
    scenes = [*quiet(20), *(replace(each, elapsed=20) for each in quiet(1, steps=2))]
    scenes.append(replace(scenes[-1], elapsed=21.0))
    assert [scene.elapsed for scene, _ in chosen(scenes)] == [0, 8, 16, 20, 21]


def test_a_long_run_has_no_more_frames_than_fit() -> None:
    """However much happens; and the last one stays longest."""
    scenes = [
        replace(scene, elapsed=float(number))
        for number, scene in enumerate(quiet(1, steps=count)[0] for count in range(200))
    ]
    shown = chosen(scenes)
    assert len(shown) <= 30
    assert shown[-1][0] is scenes[-1]
    assert max(seconds for _, seconds in shown) == shown[-1][1]


def test_a_recording_is_a_small_picture_that_needs_nothing_from_elsewhere(tmp_path: Path) -> None:
    """Well-formed, no script, no address but the namespace; each line is drawn once."""
    recording = Recording(tmp_path / "pictures" / "demo.svg")
    for scene in (*quiet(10), scene_of_a_death(elapsed=10), *quiet(1, steps=3)):
        recording.keep(scene)
    count = recording.write()
    text = recording.path.read_text()
    root = ET.fromstring(text)
    assert len([each for each in root.iter(f"{SVG}g") if each.get("class") == "f"]) == count
    assert text.count("node1 is dead") == 1
    assert re.findall(r"https?://[^\"]*", text) == ["http://www.w3.org/2000/svg"]
    assert "<script" not in text


def test_whoever_wants_no_motion_sees_the_machine_dead(tmp_path: Path) -> None:
    """The frame that is visible without animation is the one that tells most."""
    recording = Recording(tmp_path / "demo.svg")
    for scene in (*quiet(3), scene_of_a_death(elapsed=3), *quiet(1, steps=99)):
        recording.keep(scene)
    recording.write()
    text = recording.path.read_text()
    still = re.findall(r"^#(f\d+)\{visibility:visible\}", text, re.MULTILINE)
    assert len(still) == 1
    root = ET.fromstring(text)
    shown = next(each for each in root.iter(f"{SVG}g") if each.get("id") == still[0])
    names = {use.get("href", "").removeprefix("#") for use in shown}
    lines = [each for each in root.iter(f"{SVG}g") if each.get("id") in names]
    assert any("is dead" in "".join(each.itertext()) for each in lines)


def test_frames_are_shown_one_after_the_other_for_as_long_as_asked() -> None:
    """Each from its predecessor's end to its own; what a browser would take as a tag is text."""
    frames = [Frame(Text("<one>"), 1.0), Frame(Text("two"), 3.0)]
    text = animation(frames, 0, columns=10, lines=1, title="a & b")
    assert "animation:4.0s step-end infinite" in text
    assert "@keyframes k0{0.00%{visibility:visible}25.00%{visibility:hidden}}" in text
    assert "@keyframes k1{0%{visibility:hidden}25.00%{visibility:visible}}" in text
    assert "&lt;one&gt;" in text
    assert ET.fromstring(text).findtext(f"{SVG}title") == "a & b"
