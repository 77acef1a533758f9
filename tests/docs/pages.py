"""The pages of the documentation, and what they say to type."""

import re
from collections.abc import Iterator
from pathlib import Path

from tests.support.processes import ROOT

PAGES = sorted(
    page
    for page in (*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("benchmarks/*.md"))
    if page.is_file()
)
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def name_of(page: Path) -> str:
    """Give a page's name below the repository."""
    return str(page.relative_to(ROOT))


def shell_blocks(page: Path) -> Iterator[list[str]]:
    """Give the command lines of each of a page's shell blocks."""
    for language, body in BLOCK.findall(page.read_text()):
        if language in {"sh", "bash", "console"}:
            yield [line for line in body.splitlines() if line and not line.startswith("#")]


def commands(program: str) -> list[tuple[str, str]]:
    """Give every call of a program in the documentation, with the page it stands on.

    What stands before it may be the machine, variables, and who calls it.
    """
    start = re.compile(rf"^(?:\w+\$ )?(?:\w+=\S+ )*(?:sudo -u \w+ )?(?:\S*/)?{program}(?= |$)")
    return [
        (name_of(page), line.partition("$ ")[2] or line)
        for page in PAGES
        for lines in shell_blocks(page)
        for line in lines
        if start.match(line.split(" | ")[-1])
    ]
