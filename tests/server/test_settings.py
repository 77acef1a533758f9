"""Settings: where values come from, which wins, and what is refused."""

import ipaddress
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pydantic
import pytest
from typer.main import get_command

from dtr.cli.application import application
from dtr.cli.ucp.application import application as ucp_application
from dtr.server.settings import (
    ListenAddress,
    Secret,
    ServerSettings,
    Settings,
    setting_fields,
)
from dtr.server.settings_pages import main, reference_markdown, sample_config
from dtr.server.settings_sources import (
    OPTION_VARIABLES,
    UCP_VARIABLES,
    SettingProblem,
    SettingsError,
    load_settings,
)

ROOT = Path(__file__).parents[2]


def load(
    toml: str | None = None,
    environment: Mapping[str, str] | None = None,
    *,
    at: Path | None = None,
    **overrides: Mapping[str, object],
) -> Settings:
    """Load with this file, environment and overrides, and nothing of the real environment."""
    if toml is not None and at is not None:
        at.write_text(toml, encoding="utf-8")
    return load_settings(at if toml is not None else None, overrides, environment or {})


def problems(error: SettingsError) -> dict[str, str]:
    """Map each key that was refused to why."""
    return {problem.key: problem.message for problem in error.problems}


def test_without_anything_given_the_defaults_hold() -> None:
    """An empty environment and no file make the documented defaults."""
    settings = load()
    assert settings == Settings()
    assert settings.server.listen == ListenAddress("127.0.0.1", 5000)
    assert settings.limits.manifest_bytes == 4 * 2**20
    assert settings.storage.sync_every_bytes == 32 * 2**20
    assert (settings.registry.missing_references, settings.collect.untagged) == ("accept", "keep")


def test_the_file_beats_the_default_the_environment_the_file_and_a_flag_both(
    tmp_path: Path,
) -> None:
    """Each source wins over those below it, setting by setting."""
    toml = "[limits]\npage_entries = 11\nurl_bytes = 1111\njson_nesting = 11"
    environment = {"DTR_LIMITS__URL_BYTES": "2222", "DTR_LIMITS__JSON_NESTING": "22"}
    limits = load(toml, environment, at=tmp_path / "c", limits={"json_nesting": 33}).limits
    assert (limits.page_entries, limits.url_bytes, limits.json_nesting) == (11, 2222, 33)


def test_a_flag_that_was_not_given_leaves_the_setting_alone() -> None:
    """None among the overrides is the absence of a flag."""
    assert load(None, {"DTR_LOG__LEVEL": "error"}, log={"level": None}).log.level == "error"


def test_the_environment_may_name_the_file(tmp_path: Path) -> None:
    """DTR_CONFIG is used when no file is given, and loses to one that is."""
    named, given = tmp_path / "named", tmp_path / "given"
    named.write_text('[log]\nformat = "json"', encoding="utf-8")
    given.write_text('[log]\nlevel = "debug"', encoding="utf-8")
    assert load(None, {"DTR_CONFIG": str(named)}).log.format == "json"
    chosen = load_settings(given, {}, {"DTR_CONFIG": str(named)})
    assert (chosen.log.format, chosen.log.level) == ("text", "debug")


def test_the_real_environment_is_read_when_none_is_passed(monkeypatch: pytest.MonkeyPatch) -> None:
    """`load_settings(None, {})` reads the variables of this process."""
    monkeypatch.delenv("DTR_CONFIG", raising=False)
    monkeypatch.setenv("DTR_AUTH__SERVICE", "from-environment")
    assert load_settings(None, {}).auth.service == "from-environment"


def test_all_problems_are_reported_at_once_with_their_sources(tmp_path: Path) -> None:
    """Wrong values and unknown keys of all sources come in one error, a line each."""
    file = tmp_path / "dtr.toml"
    with pytest.raises(SettingsError) as caught:
        load(
            "[limits]\npage_entries = 0\nnonsense_here = 1",
            {"DTR_SERVER__LISTEN": "nowhere", "DTR_SERVER__LISSEN": "1"},
            at=file,
            log={"format": "xml"},
        )
    lines = str(caught.value).splitlines()
    assert sorted(lines) == [
        (
            "DTR_SERVER__LISSEN: is not a variable of DTR; did you mean DTR_SERVER__LISTEN?"
            " (from environment DTR_SERVER__LISSEN)"
        ),
        f"limits.nonsense_here: is not a setting (from file {file})",
        f"limits.page_entries: must be a whole number from 1 to 100000 (from file {file})",
        'log.format: must be "text" or "json" (from the command line)',
        (
            "server.listen: 'nowhere' names no address: write 0.0.0.0:PORT for every interface"
            " (from environment DTR_SERVER__LISTEN)"
        ),
    ]


@pytest.mark.parametrize(
    ("toml", "key", "message"),
    [
        ("[server]\nlisten_on = ''", "server.listen_on", "did you mean server.listen?"),
        ("[data]\nlisten = ''", "data.listen", "did you mean server.listen?"),
        ("listen = ''", "listen", "did you mean server.listen?"),
        ("[serverr]", "serverr", "is not a setting"),
        ("server = 3", "server", "is a section: write [server] above its settings"),
        ("[[server]]\nworkers = 1", "server", "is a section"),
    ],
)
def test_an_unknown_key_of_the_file_is_refused_with_a_suggestion(
    tmp_path: Path, toml: str, key: str, message: str
) -> None:
    """A misspelled or misplaced key never passes in silence."""
    with pytest.raises(SettingsError) as caught:
        load(toml, at=tmp_path / "c")
    assert message in problems(caught.value)[key]


@pytest.mark.parametrize(
    ("variable", "meant"),
    [
        ("DTR_Server__Listen", "DTR_SERVER__LISTEN"),
        ("dtr_server__listen", "DTR_SERVER__LISTEN"),
        ("DTR_DATA__LISTEN", "DTR_SERVER__LISTEN"),
        ("DTR_SERVR__LISTEN", "DTR_SERVER__LISTEN"),
        ("DTR_SERVERLISTEN", "DTR_SERVER__LISTEN"),
        ("DTR_LISTEN", "DTR_SERVER__LISTEN"),
        ("DTR_DATA_DIRECTORY", "DTR_DATA__DIRECTORY"),
        ("dtr_config", "DTR_CONFIG"),
        ("DTR_INSTAL_REPLICA_ID", "DTR_INSTALL_REPLICA_ID"),
    ],
)
def test_an_unknown_variable_is_refused_with_the_nearest_name(variable: str, meant: str) -> None:
    """A variable with our prefix that names nothing is a mistake, in whatever case."""
    with pytest.raises(SettingsError, match=f"did you mean {meant}\\?") as caught:
        load(None, {variable: "0.0.0.0:1"})
    [problem] = caught.value.problems
    assert problem.source == f"environment {variable}"


def test_an_unknown_variable_that_is_near_nothing_is_refused() -> None:
    """There is something to do about it all the same."""
    with pytest.raises(SettingsError, match="DTR_XYZZY: is not a variable of DTR: remove it"):
        load(None, {"DTR_XYZZY": "1"})


def test_variables_of_others_and_of_options_are_left_alone() -> None:
    """Also those that Kubernetes and Docker set for a service that is called dtr."""
    ours = {"DTR_REPLICA_ID": "x", "DTR_WITH_UCP": "1", "DTR_CONFIG": ""}
    links = {
        "DTR_SERVICE_HOST": "10.0.0.1",
        "DTR_SERVICE_PORT": "5000",
        "DTR_SERVICE_PORT_HTTPS": "5000",
        "DTR_PORT": "tcp://10.0.0.1:5000",
        "DTR_PORT_5000_TCP": "tcp://10.0.0.1:5000",
        "DTR_PORT_5000_TCP_ADDR": "10.0.0.1",
        "DTR_WEB_SERVICE_HOST": "10.0.0.2",
    }
    assert load(None, {**ours, **links, "OTHER__THING": "y", "DTR": "z"}) == Settings()
    with pytest.raises(SettingsError, match="DTR_PORT"):
        load(None, {"DTR_PORT": "5001"})


def options_with_variables(command: Any) -> set[str]:
    """Give the environment variables of a command and of those below it."""
    found: set[str] = set()
    for parameter in command.params:
        named = getattr(parameter, "envvar", None) or ()
        found.update([named] if isinstance(named, str) else named)
    for below in getattr(command, "commands", {}).values():
        found |= options_with_variables(below)
    return found


def test_the_variables_of_options_are_those_of_the_commands() -> None:
    """None is refused that a command reads, and none is let through that nothing reads."""
    found = options_with_variables(get_command(application))
    found |= options_with_variables(get_command(ucp_application))
    assert {name for name in found if name.startswith("DTR_")} == OPTION_VARIABLES
    assert {name for name in found if name.startswith("UCP_")} == UCP_VARIABLES


WRONG: list[object] = ["x y", "-1", "1e99", 3.7, -5, True, None, [], [[]], {}, "a://b:c", "[", "\0"]
LIBRARY = re.compile(
    r"Input|valid|unable|parse|codec|instance|type|String|expected|literal|Decimal|int\b|float\b"
)


@pytest.mark.parametrize("key", setting_fields())
def test_what_is_wrong_with_a_value_is_said_in_our_words(key: str) -> None:
    """Whatever is given, what comes back says what the setting may be, and nothing of a library."""
    section, _, name = key.partition(".")
    refused = 0
    for value in WRONG:
        try:
            load_settings(None, {section: {name: value}}, {})
        except SettingsError as error:
            refused += 1
            for problem in error.problems:
                assert not LIBRARY.search(problem.message), problem
    assert refused


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "cannot be read: No such file"), (b"[", "is not TOML"), (b"\xff", "is not TOML")],
)
def test_a_file_that_cannot_be_read_is_a_problem_beside_others(
    tmp_path: Path, content: bytes | None, message: str
) -> None:
    """A missing or broken file is reported together with what else is wrong."""
    file = tmp_path / "c"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(SettingsError) as caught:
        load_settings(file, {}, {"DTR_SERVER__WORKERS": "-1"})
    assert message in problems(caught.value)["config"]
    assert "server.workers" in problems(caught.value)


@pytest.mark.parametrize(
    ("text", "host", "is_loopback", "shown"),
    [
        ("127.0.0.1:5000", "127.0.0.1", True, "127.0.0.1:5000"),
        ("[::1]:5000", "::1", True, "[::1]:5000"),
        ("localhost:5000", "127.0.0.1", True, "127.0.0.1:5000"),
        ("0.0.0.0:5000", "0.0.0.0", False, "0.0.0.0:5000"),
        ("[::]:5000", "::", False, "[::]:5000"),
        ("192.0.2.7:5000", "192.0.2.7", False, "192.0.2.7:5000"),
    ],
)
def test_a_listen_address_has_a_host_a_port_and_knows_whether_it_is_loopback(
    text: str,
    host: str,
    is_loopback: bool,  # noqa: FBT001
    shown: str,
) -> None:
    """ADDRESS:PORT is taken apart and put together again."""
    address = load(server={"listen": text}).server.listen
    assert (address.host, address.port, address.is_loopback) == (host, 5000, is_loopback)
    assert str(address) == shown


@pytest.mark.parametrize(
    "text",
    ["", "5000", ":5000", "*:5000", "1.2.3.4", "1.2.3.4:", "1.2.3.4:0", "1.2.3.4:65536",
     "1.2.3.4:5e3", "1.2.3.4:٣", "::1:5000", "[::1]", "[1.2.3.4]:5000", "example.com:5000",
     "1.2.3.4:100000000000000000000"],
)  # fmt: skip
def test_a_listen_address_of_another_form_is_refused(text: str) -> None:
    """What cannot be listened on is found before anything listens."""
    with pytest.raises(ValueError, match=r"must|names no address|IP address"):
        ListenAddress.parse(text)


def test_a_listen_address_that_is_no_text_is_refused() -> None:
    """A port alone is not an address."""
    with pytest.raises(SettingsError, match=r"server\.listen: must be text"):
        load(server={"listen": 5000})


def test_networks_are_a_list_in_toml_and_separated_by_commas_in_the_environment(
    tmp_path: Path,
) -> None:
    """Both spellings make the same networks."""
    expected = (ipaddress.ip_network("10.0.0.0/8"), ipaddress.ip_network("fd00::/8"))
    toml = '[server]\ntrusted_proxies = ["10.0.0.0/8", "fd00::/8"]'
    assert load(toml, at=tmp_path / "c").server.trusted_proxies == expected
    variables = {"DTR_SERVER__TRUSTED_PROXIES": "10.0.0.0/8, fd00::/8"}
    assert load(None, variables).server.trusted_proxies == expected
    assert load(None, {"DTR_SERVER__TRUSTED_PROXIES": ""}).server.trusted_proxies == ()


@pytest.mark.parametrize("value", ["10.0.0.1/8", "proxy.example.com", 7, [[]]])
def test_a_network_that_is_none_is_refused(value: object) -> None:
    """Host bits, names and numbers are no networks."""
    with pytest.raises(SettingsError, match=r"server\.trusted_proxies"):
        load(server={"trusted_proxies": value})


@pytest.mark.parametrize(
    ("url", "kept"),
    [
        ("", ""),
        ("https://registry.example.com", "https://registry.example.com"),
        ("https://registry.example.com:5000/", "https://registry.example.com:5000"),
        ("http://[::1]:5000", "http://[::1]:5000"),
    ],
)
def test_a_public_url_is_a_scheme_and_a_host(url: str, kept: str) -> None:
    """A trailing slash is dropped so that paths can be appended."""
    assert load(server={"public_url": url}).server.public_url == kept


@pytest.mark.parametrize(
    "url",
    ["registry.example.com", "ftp://x", "https://", "https://x/path", "https://x?y", "https://x#y",
     "https://user:pass@x", "https://x:port"],
)  # fmt: skip
def test_a_public_url_with_anything_else_is_refused(url: str) -> None:
    """Paths, queries, credentials and other schemes cannot be a token realm's base."""
    with pytest.raises(SettingsError, match=r"server\.public_url"):
        load(server={"public_url": url})


@pytest.mark.parametrize(("given", "missing"), [("tls_cert", "tls_key"), ("tls_key", "tls_cert")])
def test_a_certificate_and_its_key_go_together(given: str, missing: str) -> None:
    """One without the other is refused, naming the one that is missing."""
    with pytest.raises(SettingsError, match=f"{missing} is not set"):
        load(server={given: "/x.pem"})
    both = load(server={"tls_cert": "/x.pem", "tls_key": "/y.pem"}).server
    assert (both.tls_cert, both.tls_key) == (Path("/x.pem"), Path("/y.pem"))


def test_plain_http_with_a_certificate_is_refused() -> None:
    """Two answers to one question are reported, together with the other problems."""
    with pytest.raises(SettingsError) as caught:
        load(server={"insecure_http": True, "tls_cert": "/x.pem", "workers": -1})
    assert set(problems(caught.value)) == {
        "server.insecure_http",
        "server.tls_key",
        "server.workers",
    }


def test_listening_to_the_world_with_neither_certificate_nor_plain_http_is_fine() -> None:
    """DTR makes a certificate authority of its own then."""
    assert not load(server={"listen": "0.0.0.0:5000"}).server.listen.is_loopback


def test_the_longest_wait_after_failed_logins_is_not_below_the_first() -> None:
    """The delay doubles up to its maximum, so it cannot start above it."""
    with pytest.raises(SettingsError, match=r"auth\.failed_login_delay_max_seconds"):
        load(auth={"failed_login_delay_seconds": 301})


def test_empty_paths_are_no_paths_and_the_data_directory_needs_one() -> None:
    """An empty variable unsets an optional path; the data directory cannot be unset."""
    assert load(None, {"DTR_DATA__ADMIN_PASSWORD_FILE": ""}).data.admin_password_file is None
    for bad in ("", "a\0b"):
        with pytest.raises(SettingsError, match=r"data\.directory: must be a path"):
            load(data={"directory": bad})


def test_a_path_may_start_at_the_home_directory(monkeypatch: pytest.MonkeyPatch) -> None:
    """`~` in the file means what it means in a shell, not a directory of that name."""
    monkeypatch.setenv("HOME", "/home/someone")
    assert load(data={"directory": "~/dtr"}).data.directory == Path("/home/someone/dtr")


def test_settings_cannot_be_changed_and_models_refuse_unknown_fields() -> None:
    """What was parsed once stays as it is."""
    with pytest.raises(pydantic.ValidationError, match="frozen"):
        Settings().server.workers = 2  # type: ignore[misc]
    with pytest.raises(pydantic.ValidationError, match="Extra inputs"):
        ServerSettings.model_validate({"wokers": 2})


def test_a_secret_shows_three_stars() -> None:
    """Neither repr nor str nor formatting give a secret away."""
    secret = Secret("hunter2")
    assert (repr(secret), str(secret), f"{secret}") == ("***", "***", "***")
    assert secret.get_secret_value() == "hunter2"
    model = pydantic.create_model("Model", password=(Secret, ...))(password="hunter2")
    assert "hunter2" not in f"{model!r} {model.model_dump_json()}"


def test_the_sample_is_toml_and_its_commented_settings_are_the_defaults(tmp_path: Path) -> None:
    """Uncommenting everything changes nothing."""
    sample = sample_config()
    assert all(not table for table in tomllib.loads(sample).values())
    active = re.sub(r"^#(?=\w+ = )", "", sample, flags=re.MULTILINE)
    assert sum(len(table) for table in tomllib.loads(active).values()) == active.count("DTR_") - 1
    assert load(active, at=tmp_path / "c") == Settings()


def test_every_setting_is_described_and_bounded() -> None:
    """No setting goes undocumented, and every number has its least and largest value."""
    for section in Settings.model_fields:
        for name, field in type(getattr(Settings(), section)).model_fields.items():
            assert field.description, f"{section}.{name}"
            if field.annotation in (int, float):
                bounds = {type(item).__name__ for item in field.metadata}
                assert {"Ge", "Le"} <= bounds, f"{section}.{name}"


def test_the_committed_reference_is_current() -> None:
    """docs/configuration.md is what the models say."""
    page = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")
    assert page == reference_markdown(), "run python -m dtr.server.settings_pages --markdown"


def test_the_module_writes_the_reference_and_the_sample(capsys: pytest.CaptureFixture[str]) -> None:
    """The script entry prints one of the two."""
    main(["--markdown"])
    assert capsys.readouterr().out == reference_markdown()
    main(["--sample"])
    assert capsys.readouterr().out == sample_config()


def test_a_problem_reads_as_one_line() -> None:
    """Key, message and source are all there."""
    problem = SettingProblem("server.listen", "is wrong", "environment DTR_SERVER__LISTEN")
    assert str(problem) == "server.listen: is wrong (from environment DTR_SERVER__LISTEN)"


@pytest.mark.parametrize(
    ("toml", "key", "message"),
    [
        (
            '[server]\nlisten = "0.0.0.0:80"\nhttp_listen = "0.0.0.0:80"',
            "server.http_listen",
            "another port",
        ),
        ('[server]\nhttp_listen = "80"', "server.http_listen", "names no address"),
        ('[server]\ntls_ca = "ca.crt"', "server.tls_ca", "belongs to tls_cert"),
        (
            '[data]\nadmin_password_file = "a"\nadmin_password_hash_file = "b"',
            "data.admin_password_hash_file",
            "cannot be combined with admin_password_file",
        ),
        ('[data]\nadmin_username = "Admin"', "data.admin_username", "lower-case"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(
    tmp_path: Path, toml: str, key: str, message: str
) -> None:
    """Each with what would be right."""
    with pytest.raises(SettingsError) as caught:
        load(toml, at=tmp_path / "c")
    assert message in problems(caught.value)[key]


def test_the_plain_listener_is_off_unless_it_is_given_an_address() -> None:
    """The empty text of the sample file is none."""
    assert load(None, {"DTR_SERVER__HTTP_LISTEN": ""}).server.http_listen is None
    given = load(None, {"DTR_SERVER__HTTP_LISTEN": "0.0.0.0:80"}).server.http_listen
    assert given == ListenAddress("0.0.0.0", 80)
