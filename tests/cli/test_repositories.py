"""`dtr repo`, `dtr gc`, `dtr fsck` and `dtr config`."""

import tomllib
from pathlib import Path

import pytest
from tests.cli.command import FAILED, CommandLine, QuickCommandLine


@pytest.fixture(autouse=True)
def alice(quick: QuickCommandLine, password: Path) -> None:
    """Add a user."""
    quick.good("user", "add", "alice", "--password-file", password)


@pytest.mark.server
def test_a_repository_is_created_listed_changed_and_removed(dtr: CommandLine) -> None:
    """Each command does what it says, and the list shows it."""
    dtr.good("repo", "create", "alice/tools", "--public")
    dtr.good("repo", "create", "admin/other")
    held = dict.fromkeys(("bytes", "untagged", "untagged_bytes"), 0)
    empty = {"tags": 0, "manifests": 0, **held, "pulls": 0, "last_pulled": None}
    tools = {"name": "alice/tools", "visibility": "public", **empty}
    other = {"name": "admin/other", "visibility": "private", **empty}
    assert dtr.good("repo", "list", "--json").json == [other, tools]
    assert dtr.good("repo", "list", "alice", "--json").json == [tools]
    dtr.good("repo", "set", "alice/tools", "--private")
    assert dtr.good("repo", "list", "alice", "--json").json[0]["visibility"] == "private"
    assert "--yes" in dtr.fails("repo", "rm", "alice/tools")
    dtr.good("repo", "rm", "alice/tools", "--yes")
    assert dtr.good("repo", "list", "--json").json == [other]
    assert "admin/other" in dtr.good("repo", "list").out


def test_a_long_name_is_listed_whole(quick: QuickCommandLine) -> None:
    """A name that is cut could not be used."""
    name = "alice/" + "/".join(["a-rather-long-part-of-a-name"] * 6)
    quick.good("repo", "create", name)
    assert name in quick.good("repo", "list").out


def test_grants_are_given_listed_and_taken_away(quick: QuickCommandLine) -> None:
    """On a repository and on a namespace; the second to the same user replaces the first."""
    quick.good("repo", "create", "admin/tools")
    quick.good("repo", "grant", "admin/tools", "alice", "read-only")
    grants = ("repo", "grants", "admin/tools", "--json")
    assert quick.good(*grants).json == [{"user": "alice", "level": "read-only"}]
    quick.good("repo", "grant", "admin/tools", "alice", "read-write")
    assert quick.good(*grants).json == [{"user": "alice", "level": "read-write"}]
    quick.good("repo", "revoke", "admin/tools", "alice")
    assert quick.good(*grants).json == []
    quick.good("repo", "grant", "admin", "alice", "admin", "--namespace")
    assert quick.good(*grants).json == [{"user": "alice", "level": "admin"}]
    assert "alice" in quick.good("repo", "grants", "admin/tools").out
    quick.good("repo", "revoke", "admin", "alice", "--namespace")
    assert quick.good(*grants).json == []


def test_a_revocation_says_what_the_user_may_still_do(quick: QuickCommandLine) -> None:
    """And through what; and where there was nothing to revoke, that."""
    quick.good("repo", "create", "admin/tools", "--public")
    quick.good("repo", "grant", "admin/tools", "alice", "admin")
    quick.good("repo", "grant", "admin", "alice", "read-write", "--namespace")
    assert quick.good("repo", "revoke", "admin/tools", "alice").out.splitlines() == [
        "Revoked: alice had admin on admin/tools.",
        "Still: alice has read-write on admin/tools, through the grant on the namespace admin.",
        "Still: alice has read-only on admin/tools, because the repository is public.",
    ]
    again = quick.good("repo", "revoke", "admin/tools", "alice").out
    assert again.startswith("There was no grant to revoke: alice had none on admin/tools itself.")
    quick.good("repo", "grant", "admin/tools", "alice", "read-only")
    assert quick.good("repo", "revoke", "admin", "alice", "--namespace").out.splitlines() == [
        "Revoked: alice had read-write on the namespace admin.",
        "Still: alice has read-only on admin/tools, through the grant on that repository.",
    ]
    quick.good("repo", "set", "admin/tools", "--private")
    last = quick.good("repo", "revoke", "admin/tools", "alice").out
    assert last.endswith("alice has no access to admin/tools now.\n")
    owner = quick.good("repo", "revoke", "admin/tools", "admin").out
    assert "as an administrator" in owner
    assert "because the namespace is their own" in owner


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("repo", "create", "nobody/tools"), "no account called nobody"),
        (("repo", "create", "Alice/tools"), "lower-case"),
        (("repo", "set", "alice/none", "--public"), "no repository called alice/none"),
        (("repo", "rm", "alice/none", "--yes"), "no repository called alice/none"),
        (("repo", "grant", "alice/none", "alice", "admin"), "no repository called alice/none"),
        (("repo", "grant", "alice", "alice", "all", "--namespace"), "read-only, read-write"),
        (("repo", "grant", "alice", "bob", "admin", "--namespace"), "no account called bob"),
        (("repo", "grants", "alice/none"), "no repository called alice/none"),
        (("repo", "list", "nobody"), "no account called nobody"),
    ],
)
def test_what_cannot_be_done_is_said_in_a_sentence(
    quick: QuickCommandLine, words: tuple[str, ...], said: str
) -> None:
    """Exit status 1 and one message."""
    assert said in quick.fails(*words)


def test_a_user_with_repositories_is_not_removed(quick: QuickCommandLine) -> None:
    """The message says what to do first."""
    quick.good("repo", "create", "alice/tools")
    assert "owns repositories (1)" in quick.fails("user", "rm", "alice", "--yes")


@pytest.mark.server
def test_a_new_registry_has_nothing_to_collect_and_nothing_wrong(dtr: CommandLine) -> None:
    """`dtr gc` and `dtr fsck` say so to people and to scripts."""
    planned = dtr.good("gc", "--dry-run", "--json").json
    assert planned["dry_run"] is True
    done = dtr.good("gc", "--json").json
    assert done["dry_run"] is False
    assert {kind: done[kind] for kind in ("manifests", "links", "blobs", "bytes", "uploads")} == {
        "manifests": 0,
        "links": 0,
        "blobs": 0,
        "bytes": 0,
        "uploads": 0,
    }
    assert dtr.good("gc").out.startswith("Collected 0 manifests")
    assert dtr.good("gc", "--dry-run").out.startswith("Would collect 0 manifests")
    assert dtr.good("fsck", "--verify", "--json").json == []
    assert dtr.good("fsck", "--repair").out == "No problems found.\n"


def test_the_settings_are_checked_all_at_once(quick: QuickCommandLine, tmp_path: Path) -> None:
    """Every problem has its line, with the setting and where the value came from."""
    config = tmp_path / "bad.toml"
    config.write_text('[server]\nworkers = "many"\n[collect]\nuntaged = "keep"\n')
    ended = quick.run("config", "check", "--config", config, environment={"DTR_LOG__FORMAT": "xml"})
    lines = ended.message.splitlines()
    for key, meant in (
        ("server.workers", "bad.toml"),
        ("collect.untaged", "did you mean collect.untagged?"),
        ("log.format", "DTR_LOG__FORMAT"),
    ):
        assert any(line.startswith(key) and meant in line for line in lines), lines


def test_a_good_configuration_is_said_to_be_good(quick: QuickCommandLine, tmp_path: Path) -> None:
    """The sample, as it stands, is one."""
    sample = quick.run("config", "sample", names_data=False).out
    assert tomllib.loads(sample).keys() >= {"server", "data", "log"}
    config = tmp_path / "dtr.toml"
    config.write_text(sample)
    assert "are valid" in quick.good("config", "check", "--config", config).out


@pytest.mark.server
def test_the_shell_is_given_completion(dtr: CommandLine) -> None:
    """The script for bash is one that bash takes, and it completes commands."""
    # Else the shell is looked for among those that started the tests, where there may be none.
    named = {"_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"}
    shown = dtr.run("--show-completion", "bash", names_data=False, environment=named)
    assert shown.status == 0
    assert "complete" in shown.out
    words = {"COMP_WORDS": "dtr us", "COMP_CWORD": "1", "_DTR_COMPLETE": "complete_bash"}
    offered = dtr.run(names_data=False, environment=words)
    assert offered.out.split() == ["user"]


def test_commands_say_what_is_wrong_with_their_directory(
    quick: QuickCommandLine, tmp_path: Path
) -> None:
    """None, an empty one, one without a registry, and one of another version."""
    for name, content, said in (
        ("missing", None, "does not exist"),
        ("empty", {}, "is empty"),
        ("new", {"FORMAT": "dtr-data 1\n"}, "dtr serve"),
        ("newer", {"FORMAT": "dtr-data 99\n"}, "newer DTR"),
        ("foreign", {"photo": ""}, "DTR did not make it"),
    ):
        path = tmp_path / name
        if content is not None:
            path.mkdir()
            for file, text in content.items():
                (path / file).write_text(text)
        elsewhere = QuickCommandLine(tmp_path, path)
        for command in (("user", "list"), ("gc",), ("fsck",)):
            ended = elsewhere.run(*command)
            assert ended.status == FAILED
            assert said in ended.message
