"""Where settings come from: defaults, a file, the environment, the command line; the later wins.

Nothing else in DTR reads settings from the environment.
"""

import difflib
import itertools
import os
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from pydantic import BaseModel, ValidationError

from dtr.server.settings import Settings, setting_fields, variable_of
from dtr.server.settings_pages import allowed_values

_Given = tuple[str, object, str]  # the key, "section.name"; the value; its source
_PREFIX: Final = "DTR_"
_UCP_PREFIX: Final = "UCP_"
_OWNER_CHARACTERS: Final = 3
_CONFIG: Final = "DTR_CONFIG"
_ENVIRONMENT: Final = "environment "
_DEFAULT: Final = "default"
_POSITION: Final = re.compile(r"\(at (line \d+, column \d+|end of document)\)$")
_NEAR: Final = 0.75

OPTION_VARIABLES: Final = frozenset(
    {
        "DTR_CA",
        "DTR_CERT",
        _CONFIG,
        "DTR_DESTROY_REPLICA_ID",
        "DTR_EXTERNAL_URL",
        "DTR_FORCE_REMOVE_REPLICA",
        "DTR_INSTALL_REPLICA_ID",
        "DTR_KEY",
        "DTR_REMOVE_REPLICA_ID",
        "DTR_REMOVE_REPLICA_IDS",
        "DTR_REPLICA_ID",
        "DTR_SKIP_NETWORK_TEST",
        "DTR_STORAGE",
        "DTR_STORAGE_IS_SHARED",
        "DTR_UNSAFE_JOIN",
        "DTR_WITH_UCP",
    }
)
"""Variables of options of `dtr` that are no settings; a test compares them with the commands."""

UCP_VARIABLES: Final = frozenset(
    {
        "UCP_ADMIN_PASSWORD",
        "UCP_ADMIN_USER",
        "UCP_CA",
        "UCP_CONTROLLER_PORT",
        "UCP_DATA_DIR",
        "UCP_HOST_ADDRESS",
        "UCP_INSECURE_TLS",
        "UCP_JOIN_TOKEN",
        "UCP_LOG_FORMAT",
        "UCP_LOG_LEVEL",
        "UCP_NODE",
        "UCP_NODE_NAME",
        "UCP_PASSWORD",
        "UCP_PASSWORD_FILE",
        "UCP_URL",
        "UCP_USERNAME",
    }
)
"""The variables of options of `ucp` and of the cluster's commands."""
# Kubernetes and Docker links set these for a service that is called dtr: nobody wrote them.
_SERVICE_LINK: Final = re.compile(
    r"(DTR|UCP)_(\w+_)?(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT_\d+_(TCP|UDP|SCTP)(_(ADDR|PORT|PROTO))?)"
)
_SERVICE_URL: Final = re.compile(r"(tcp|udp|sctp)://")


@dataclass(frozen=True, slots=True)
class SettingProblem:
    """One thing that is wrong: with which setting, and where its value came from."""

    key: str
    message: str
    source: str

    def __str__(self) -> str:
        return f"{self.key}: {self.message} (from {self.source})"


class SettingsError(Exception):
    """Everything that is wrong with the settings, a line each."""

    def __init__(self, problems: Sequence[SettingProblem]) -> None:
        super().__init__("\n".join(map(str, problems)))
        self.problems = tuple(problems)


@dataclass(frozen=True, slots=True)
class Sourced:
    """Settings, and for each that was given where its value came from."""

    settings: Settings
    sources: Mapping[str, str]

    def effective(self) -> Iterator[tuple[str, Any, str]]:
        """Yield of every setting its key, its value, and its source."""
        for key in setting_fields():
            section, _, name = key.partition(".")
            value = getattr(getattr(self.settings, section), name)
            yield key, value, self.sources.get(key, _DEFAULT)


def load_settings(
    config_file: Path | None,
    overrides: Mapping[str, Mapping[str, object]],
    environment: Mapping[str, str] = os.environ,
) -> Settings:
    """Read the settings; see `read_settings`."""
    return read_settings(config_file, overrides, environment).settings


def read_settings(
    config_file: Path | None,
    overrides: Mapping[str, Mapping[str, object]],
    environment: Mapping[str, str] = os.environ,
) -> Sourced:
    """Read defaults, the file, the environment and the overrides; the later wins.

    The file is `config_file`, else the one that DTR_CONFIG names, else none. An override that is
    None was not given.

    Raises:
        SettingsError: it holds every problem that there is, not only the first.
    """
    problems: list[SettingProblem] = list(unknown_variables(environment))
    sections: dict[str, dict[str, object]] = {}
    sources: dict[str, str] = {}
    path = config_file or (Path(name) if (name := environment.get(_CONFIG)) else None)
    for key, value, source in itertools.chain(
        _from_file(path, problems) if path else (),
        _from_environment(environment),
        _from_overrides(overrides),
    ):
        if key in setting_fields():
            section, _, name = key.partition(".")
            sections.setdefault(section, {})[name] = value
            sources[key] = source
        else:
            problems.append(SettingProblem(key, _unknown(key), source))
    try:
        settings = Settings.model_validate(sections)
    except ValidationError as error:
        problems += _explained(error, sources)
    if problems:
        raise SettingsError(problems)
    return Sourced(settings, sources)


def unknown_variables(
    environment: Mapping[str, str], *, with_control_plane: bool = False
) -> Iterator[SettingProblem]:
    """Yield a problem for every variable with our prefix, in any case, that names nothing of ours.

    A mistyped name would otherwise leave the default in effect, and nobody would be told. The
    registry itself reads no variables of the control plane, so these are looked at by request.
    """
    prefixes = (_PREFIX, _UCP_PREFIX) if with_control_plane else (_PREFIX,)
    known = {*map(variable_of, setting_fields()), *OPTION_VARIABLES, *UCP_VARIABLES}
    for name, value in sorted(environment.items()):
        is_link = _SERVICE_LINK.fullmatch(name) or (
            name.endswith("_PORT") and _SERVICE_URL.match(value)
        )
        if name.upper().startswith(prefixes) and name not in known and not is_link:
            meant = _meant_variable(name, known)
            hint = f"; did you mean {meant}?" if meant else ": remove it, or correct its name"
            owner = name[:_OWNER_CHARACTERS].upper()
            yield SettingProblem(name, f"is not a variable of {owner}{hint}", _ENVIRONMENT + name)


def _meant_variable(name: str, known: set[str]) -> str:
    upper = name.upper()
    if upper in known:
        return upper
    # Without its underscores, for DTR_SERVER_LISTEN and DTR_SERVERLISTEN.
    bare = {each.replace("_", ""): each for each in sorted(known)}
    if (same := bare.get(upper.replace("_", ""))) is not None:
        return same
    last = upper.removeprefix(_PREFIX).rpartition("__")[2]
    misplaced = [each for each in sorted(known) if each.endswith(f"__{last}")]
    return next(iter(misplaced or difflib.get_close_matches(upper, known, 1, _NEAR)), "")


def _from_file(path: Path, problems: list[SettingProblem]) -> Iterator[_Given]:
    source = f"file {path}"
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        reason = error.strerror or type(error).__name__
        problems.append(
            SettingProblem(
                "config", f"cannot be read: {reason}; name a file that this user may read", source
            )
        )
        return
    except UnicodeDecodeError:
        problems.append(
            SettingProblem("config", "is not TOML: it is not text in UTF-8; write it again", source)
        )
        return
    except tomllib.TOMLDecodeError as error:
        found = _POSITION.search(str(error))
        where = found[1] if found else "a line"
        problems.append(SettingProblem("config", f"is not TOML: see {where}", source))
        return
    for section, table in document.items():
        if not isinstance(table, dict) or (not table and section not in Settings.model_fields):
            yield section, table, source
        else:
            yield from ((f"{section}.{name}", value, source) for name, value in table.items())


def _from_environment(environment: Mapping[str, str]) -> Iterator[_Given]:
    for key in setting_fields():
        variable = variable_of(key)
        if variable in environment:
            yield key, environment[variable], _ENVIRONMENT + variable


def _from_overrides(overrides: Mapping[str, Mapping[str, object]]) -> Iterator[_Given]:
    for section, values in overrides.items():
        for name, value in values.items():
            if value is not None:
                yield f"{section}.{name}", value, "the command line"


def _explained(error: ValidationError, sources: Mapping[str, str]) -> Iterator[SettingProblem]:
    """Yield each problem once, in our words: those of the library are for programmers."""
    seen = set[str]()
    for detail in error.errors(include_url=False, include_input=False):
        key = ".".join(str(part) for part in detail["loc"][:2])
        if key in seen:
            continue
        seen.add(key)
        own = detail.get("ctx", {}).get("error") if detail["type"] == "value_error" else None
        message = str(own) if own is not None else f"must be {allowed_values(key)}"
        yield SettingProblem(key, message, sources.get(key, _DEFAULT))


def _unknown(key: str) -> str:
    """Say why a key of the file is refused, with the setting that was probably meant."""
    if key in Settings.model_fields:
        return f"is a section: write [{key}] above its settings"
    name = key.rpartition(".")[2]
    misplaced = [known for known in setting_fields() if known.endswith(f".{name}")]
    near = misplaced or difflib.get_close_matches(key.lower(), setting_fields(), 1, _NEAR)
    return f"is not a setting; did you mean {near[0]}?" if near else "is not a setting"


def shown_value(value: object) -> object:
    """Return a setting's value as JSON has it: a secret as three stars, addresses as text."""
    if isinstance(value, tuple | list):
        return [shown_value(each) for each in value]
    if value is None or isinstance(value, bool | int | float):
        return value
    assert not isinstance(value, BaseModel)  # noqa: S101 - sections are flat
    return str(value)
