"""A run of the demonstration as one moving picture: the moments at which something changed."""

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Final

from demo.drawing import Frame, animation
from demo.picture import Picture
from demo.scene import Scene

COLUMNS: Final = 100
LINES: Final = 30
_MOST: Final = 30
_LONG_SECONDS: Final = 8.0
_SPEED: Final = 4.0
_SHORTEST, _LONGEST, _LAST = 0.9, 2.5, 6.0
_TITLE: Final = (
    "A recording of make demo-cluster: three replicas are made, the machine of the primary loses"
    " its power while images are pushed and pulled, another takes over, and it comes back."
)


class Recording:
    """The scenes of a run, one a second."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._scenes: list[Scene] = []

    def keep(self, scene: Scene) -> None:
        """Remember what there is to see."""
        self._scenes.append(scene)

    def write(self) -> int:
        """Write the moving picture, and return how many frames it has."""
        shown = chosen(self._scenes)
        frames = [Frame(Picture(scene), seconds) for scene, seconds in shown]
        still = max(range(len(shown)), key=lambda number: _misery(shown[number][0]))
        text = animation(frames, still, columns=COLUMNS, lines=LINES, title=_TITLE)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.write_text(text)
        return len(frames)


def chosen(scenes: Sequence[Scene]) -> list[tuple[Scene, float]]:
    """Choose the scenes that tell something new, and say for how long each is to be seen.

    A long stretch in which nothing changes has one every few seconds; four seconds of the run are
    about one second of the picture; the last scene stays longest.
    """
    moments = [
        scene
        for number, scene in enumerate(scenes)
        if number == 0 or _tells(scenes[number - 1]) != _tells(scene)
    ]
    kept: list[Scene] = []
    for scene in scenes:
        is_long_ago = bool(kept) and scene.elapsed - kept[-1].elapsed >= _LONG_SECONDS
        if scene is scenes[-1] or is_long_ago or any(scene is each for each in moments):
            kept.append(scene)
    while len(kept) > _MOST:
        spans = [kept[at + 1].elapsed - kept[at - 1].elapsed for at in range(1, len(kept) - 1)]
        del kept[1 + spans.index(min(spans))]
    lasting = [
        min(_LONGEST, max(_SHORTEST, (after.elapsed - scene.elapsed) / _SPEED))
        for scene, after in pairwise(kept)
    ]
    return list(zip(kept, [*lasting, _LAST], strict=True))


def _tells(scene: Scene) -> object:
    machines = [
        (
            each.has_power,
            each.is_well,
            each.replica and (each.replica["role"], each.replica["phase"]),
        )
        for each in scene.machines
    ]
    return len(scene.steps), scene.message, machines


def _misery(scene: Scene) -> tuple[bool, int]:
    """Order scenes by how well one of them alone tells the story."""
    has_dead = any(not each.has_power for each in scene.machines)
    return has_dead, len(scene.steps)
