"""What the documentation says is so: links, commands, settings, metrics, routes, errors."""

import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
import typer
from tests.docs.pages import BLOCK, PAGES, commands, name_of
from tests.support.processes import ROOT

from dtr.cli.application import application
from dtr.cli.ucp.application import application as ucp
from dtr.model.access import Access, Action, Door
from dtr.model.errors import RegistryError
from dtr.server.app import build_application
from dtr.server.drivers import open_drivers
from dtr.server.errors import spoken
from dtr.server.metrics import Metrics
from dtr.server.settings import Settings
from dtr.server.settings_pages import sample_config

LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)|!\[[^\]]*\]\(([^)\s]+)\)")
SETTING = re.compile(rf"`((?:{'|'.join(Settings.model_fields)})\.[a-z_]+)`")
PROGRAMS = {"dtr": application, "ucp": ucp}
UNITS = {
    "KiB": 2**10,
    "KiB/s": 2**10,
    "MiB": 2**20,
    "s": 1,
    "h": 3600,
    "d": 86_400,
    "characters": 1,
}


def anchors(page: Path) -> set[str]:
    """Give the anchors that a page's headings make."""
    headings = re.findall(r"^#+ (.+)$", BLOCK.sub("", page.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-") for text in headings}


def rows(page: str, heading: str) -> list[list[str]]:
    """Give the cells of the tables under one heading of a page, without their head rows."""
    text = (ROOT / page).read_text()
    section = re.split(
        r"^#{1,4} ", text.split(f" {heading}\n", 1)[1], maxsplit=1, flags=re.MULTILINE
    )[0]
    lines = [line for line in section.splitlines() if line.startswith("|")]
    body = [
        line for before, line in pairwise(["", *lines]) if before and not set(line) <= set("|- ")
    ]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in body]


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_relative_link_leads_somewhere(page: Path) -> None:
    """The file is there, and so is the heading."""
    broken = []
    for link, image in LINK.findall(page.read_text()):
        target, _, anchor = (link or image).partition("#")
        if "://" in target or target.startswith("mailto:"):
            continue
        file = (page.parent / target).resolve() if target else page
        if not file.exists() or (anchor and anchor not in anchors(file)):
            broken.append(link or image)
    assert broken == []


@pytest.mark.parametrize(("page", "line"), commands("(?:dtr|ucp)"))
def test_every_command_in_the_documentation_is_one(page: str, line: str) -> None:
    """Its names, options and arguments are what the command line takes."""
    call = line.rpartition(" | ")[2] or line
    words = shlex.split(call.split(" > ")[0], comments=True)
    names = [Path(word).name for word in words]
    first = min(names.index(each) for each in PROGRAMS if each in names)
    name, words = names[first], words[first + 1 :]
    command = typer.main.get_command(PROGRAMS[name])
    while hasattr(command, "commands"):
        name, *words = words
        command = command.commands[name]
    command.make_context(name, words).close()


@pytest.mark.parametrize(("page", "line"), commands("make"))
def test_every_make_target_in_the_documentation_is_one(page: str, line: str) -> None:
    """The Makefile has it."""
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    words = [word for word in shlex.split(line)[1:] if "=" not in word]
    assert set(words) <= targets


def test_make_alone_explains_every_target() -> None:
    """Each target for people has its line of help."""
    makefile = (ROOT / "Makefile").read_text()
    explained = set(re.findall(r"^([a-z]+):.*## ", makefile, re.MULTILINE))
    phony = set(" ".join(re.findall(r"^\.PHONY: ([a-z ]+)$", makefile, re.MULTILINE)).split())
    assert phony - explained <= {"help"}
    shown = subprocess.run(["make"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert {f"make {target}" for target in explained} <= {
        " ".join(line.split()[:2]) for line in shown.splitlines() if line.startswith("  make ")
    }


def test_every_setting_that_a_page_names_exists() -> None:
    """Nothing is called by a name that it has not."""
    known = {
        f"{section}.{name}"
        for section, field in Settings.model_fields.items()
        for name in getattr(field.annotation, "model_fields", ())
    }
    named = {
        (name_of(page), setting) for page in PAGES for setting in SETTING.findall(page.read_text())
    }
    # `server.md` and the like are files, not settings.
    wrong = {(page, s) for page, s in named if s not in known and not s.endswith((".py", ".md"))}
    assert wrong == set()


def test_the_limits_in_the_documentation_are_the_defaults() -> None:
    """Each limit with a setting is listed with the value that it has."""
    settings = Settings()
    wrong = {}
    for _, value, setting, _ in rows("docs/operating.md", "Limits"):
        match = re.fullmatch(r"`(\w+)\.(\w+)`", setting)
        if match is None or not value[0].isdigit():
            continue
        number, _, unit = value.partition(" ")
        default = getattr(getattr(settings, match[1]), match[2])
        if int(number) * UNITS.get(unit, 1) != default:
            wrong[setting] = (value, default)
    assert wrong == {}


def test_the_metrics_in_the_documentation_are_those_that_are_counted() -> None:
    """None is missing and none is made up."""
    exposed = Metrics().exposition(uploads_open=0).decode()
    real = set(re.findall(r"^# TYPE (\w+)", exposed, re.MULTILINE))
    documented = {row[0].strip("`") for row in rows("docs/operating.md", "Metrics")}
    assert {name for name in documented if name.startswith("dtr_")} == {
        name for name in real if not name.endswith("_created")
    }


def test_every_dependency_has_its_reason() -> None:
    """What pyproject.toml asks for is what docs/dependencies.md explains."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    names = [*project["project"]["dependencies"], *project["dependency-groups"]["dev"]]
    wanted = {re.split(r"[<>=\[; ]", name)[0] for name in names}
    documented = {
        row[0].strip("`")
        for heading in ("What DTR runs on", "What only the tests and checks need")
        for row in rows("docs/dependencies.md", heading)
    }
    assert documented == wanted


def test_every_dependency_is_locked() -> None:
    """The lock files have what pyproject.toml asks for, with hashes."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    for lock, names in (
        ("requirements.lock", project["project"]["dependencies"]),
        ("requirements-dev.lock", project["dependency-groups"]["dev"]),
    ):
        text = (ROOT / lock).read_text()
        locked = set(re.findall(r"^([\w.-]+(?:\[[\w,-]+\])?)==", text, re.MULTILINE))
        assert {re.split(r"[<>=; ]", name)[0] for name in names} <= locked
        assert text.count("--hash=sha256:") >= len(locked)


def test_every_error_is_in_the_table() -> None:
    """A client finds each status and code that it can be given."""
    documented = {
        (status, code)
        for statuses, codes, _ in rows("docs/api.md", "Errors")
        for status in statuses.split(", ")
        for code in re.findall(r"`(\w+)`", codes)
    }
    real = {spoken(kind) for kind in descendants(RegistryError)}
    assert {(str(int(status)), str(code)) for code, status in real} - documented == set()


def descendants(kind: type[RegistryError]) -> Iterator[type[RegistryError]]:
    """Give a class and every class below it."""
    yield kind
    for child in kind.__subclasses__():
        yield from descendants(child)


async def test_every_endpoint_is_in_the_table_with_its_access(tmp_path: Path) -> None:
    """Path, method and access are what the routes declare."""
    drivers = open_drivers(Settings(), tmp_path)
    built = build_application(Settings(), drivers, Metrics())
    real = {
        (route.template.replace("{", "<").replace("}", ">"), method, word_of(endpoint.access))
        for route in built.router.routes
        for method, endpoint in route.endpoints.items()
    }
    await built.close()
    documented = set()
    path = ""
    for where, methods, access in rows("docs/api.md", "Endpoints"):
        path = where or path
        for place in path.replace("<id>", "<upload>").split(", "):
            for method in methods.split(", "):
                word = re.split(r"[;,:]", access)[0].removesuffix(", and the same account")
                documented.add((place.strip("`"), method, word))
    # The same without the slash at the end.
    assert {each for each in real if f"{each[0]}/" not in {r[0] for r in real}} == documented


def word_of(access: Access) -> str:
    """Say an access as docs/api.md does."""
    words = {
        Door.OPEN: "open",
        Door.ACCOUNT: "an account",
        Door.CATALOG: "an account",
        Door.OPERATOR: "an administrator",
        Door.ADMINISTRATOR: "an administrator",
    }
    return words.get(access.door) or str(Action(access.action or ""))


def test_the_sample_configuration_is_current() -> None:
    """deploy/dtr.toml is what `dtr config sample` prints."""
    assert (ROOT / "deploy" / "dtr.toml").read_text() == sample_config()


def test_the_systemd_unit_is_well_formed(tmp_path: Path) -> None:
    """Every line of it is one that systemd takes."""
    program = shutil.which("systemd-analyze")
    if program is None:
        pytest.skip("not on this machine: systemd-analyze (the Debian package systemd)")
    unit = (ROOT / "deploy" / "dtr.service").read_text()
    copy = tmp_path / "dtr.service"
    copy.write_text(unit.replace("/opt/dtr/bin/dtr", sys.executable))
    done = subprocess.run(
        [program, "verify", copy], capture_output=True, text=True, check=False, timeout=60
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_whatever_is_installed_is_locked() -> None:
    """No page and no file of ours tells pip to take what is newest."""
    deploy = [path for path in (ROOT / "deploy").iterdir() if path.is_file()]
    lines = [
        (path.name, line)
        for path in (*PAGES, *deploy, ROOT / "Dockerfile", ROOT / "Makefile")
        for line in path.read_text().splitlines()
        if re.search(r"\bpip install\b", line) and "`pip install" not in line
    ]
    assert len(lines) >= 6
    locked = re.compile(r"--require-hashes|--no-deps --no-build-isolation")
    assert [line for line in lines if not locked.search(line[1])] == []
