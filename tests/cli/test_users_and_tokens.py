"""`dtr user` and `dtr token`."""

import json
import re
from datetime import UTC, datetime
from pathlib import Path

import pytest
from tests.cli.command import CALLED_WRONGLY, CommandLine, QuickCommandLine


def users(dtr: CommandLine) -> dict[str, tuple[str, bool, bool]]:
    """Give kind, administration and activity of each account."""
    listed = dtr.good("user", "list", "--json").json
    return {entry["name"]: (entry["kind"], entry["admin"], entry["active"]) for entry in listed}


@pytest.mark.server
def test_a_user_is_added_listed_disabled_enabled_and_removed(
    dtr: CommandLine, password: Path
) -> None:
    """Each command does what it says, and the list shows it."""
    assert dtr.good("user", "add", "alice", "--password-file", password).out == "Added alice.\n"
    dtr.good("user", "add", "root", "--admin", stdin="another long enough password\n")
    everybody = {"admin": ("user", True, True), "root": ("user", True, True)}
    assert users(dtr) == {**everybody, "alice": ("user", False, True)}
    dtr.good("user", "disable", "alice")
    assert users(dtr)["alice"] == ("user", False, False)
    dtr.good("user", "enable", "alice")
    assert users(dtr)["alice"] == ("user", False, True)
    dtr.good("user", "passwd", "alice", "--password-file", password)
    dtr.good("user", "rm", "alice", "--yes")
    assert users(dtr) == everybody
    assert "admin" in dtr.good("user", "list").out


def test_a_user_is_not_removed_without_being_asked_about(
    quick: QuickCommandLine, password: Path
) -> None:
    """Without a terminal `--yes` is needed, and the message says so."""
    quick.good("user", "add", "alice", "--password-file", password)
    assert "--yes" in quick.fails("user", "rm", "alice")
    assert "alice" in users(quick)


def test_the_last_administrator_stays(quick: QuickCommandLine) -> None:
    """Nobody locks everybody out."""
    assert "last administrator" in quick.fails("user", "disable", "admin")
    assert "last administrator" in quick.fails("user", "rm", "admin", "--yes")
    assert users(quick) == {"admin": ("user", True, True)}


@pytest.mark.parametrize(
    ("words", "stdin", "said"),
    [
        (("user", "add", "Alice"), "a long enough password\n", "lower-case"),
        (("user", "add", "admin"), "a long enough password\n", "already"),
        (("user", "add", "alice"), "short\n", "8 to 1024"),
        (("user", "add", "alice"), "", "--password-file"),
        (("user", "add", "alice", "--password-file", "none"), "", "cannot be read"),
        (("user", "passwd", "nobody"), "a long enough password\n", "no account called nobody"),
        (("user", "rm", "nobody", "--yes"), "", "no account called nobody"),
        (("user", "disable", "nobody"), "", "no account called nobody"),
        (("token", "create", "nobody"), "", "no account called nobody"),
        (("token", "create", "admin", "--level", "owner"), "", "read-only, read-write or admin"),
        (("token", "create", "admin", "--expires", "5w"), "", "90d"),
        (("token", "create", "admin", "--expires", "0d"), "", "would have expired already"),
        (("token", "list", "nobody"), "", "no account called nobody"),
        (("org", "create", "admin"), "", "already a user called admin"),
        (("org", "create", "A"), "", "lower-case"),
        (("org", "rm", "admin", "--yes"), "", "no organization called admin: that is a user"),
        (("org", "rm", "nobody", "--yes"), "", "no account called nobody"),
        (("token", "revoke", "admin", "77"), "", "The user admin has no token 77; dtr token list"),
        (("token", "revoke", "admin"), "", "--all"),
        (("token", "revoke", "admin", "1", "--all"), "", "--all"),
    ],
)
def test_what_cannot_be_done_is_said_in_a_sentence(
    quick: QuickCommandLine, words: tuple[str, ...], stdin: str, said: str
) -> None:
    """Exit status 1, one message, and nothing has changed."""
    assert said in quick.fails(*words, stdin=stdin)
    assert users(quick) == {"admin": ("user", True, True)}


@pytest.mark.server
def test_a_token_is_created_listed_and_revoked(dtr: CommandLine) -> None:
    """The secret is shown once, and never listed."""
    created = dtr.good("token", "create", "admin", "--label", "ci", "--expires", "90d")
    secret = created.out.strip()
    made = dtr.good("token", "create", "admin", "--level", "read-only", "--json").json
    assert secret.startswith("dtr_")
    assert made["token"].startswith("dtr_")
    assert made["token"] != secret
    first, second = dtr.good("token", "list", "admin", "--json").json
    assert (first["label"], first["level"]) == ("ci", "read-write")
    assert f"dtr token revoke admin {first['id']}" in created.err
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", first["expires"])
    assert (second["id"], second["level"]) == (made["id"], "read-only")
    assert second["expires"] is not None
    assert secret not in dtr.good("token", "list", "admin").out
    assert (
        dtr.good("token", "revoke", "admin", str(first["id"])).out == "Revoked 1 token of admin.\n"
    )
    assert dtr.good("token", "revoke", "admin", "--all").out == "Revoked 1 token of admin.\n"
    assert dtr.good("token", "list", "admin", "--json").json == []


def test_a_token_ends_within_the_longest_life(
    quick: QuickCommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A year unless told otherwise; no longer than the setting; without end where that is 0."""

    def days(*words: str) -> float | None:
        made = quick.good("token", "create", "admin", *words, "--json").json
        if made["expires"] is None:
            return None
        left = datetime.fromisoformat(made["expires"]) - datetime.now(UTC)
        return round(left.total_seconds() / 86400)

    assert days() == 365
    assert days("--expires", "90d") == 90
    assert "365 days" in quick.fails("token", "create", "admin", "--expires", "2y")
    monkeypatch.setenv("DTR_AUTH__ACCESS_TOKEN_MAX_SECONDS", str(7 * 86400))
    assert days() == 7
    monkeypatch.setenv("DTR_AUTH__ACCESS_TOKEN_MAX_SECONDS", "0")
    assert days() is None
    assert days("--expires", "2y") == 730


def test_a_label_is_shown_as_it_was_given(quick: QuickCommandLine) -> None:
    """Nothing in a label is taken for markup."""
    quick.good("token", "create", "admin", "--label", "[red]a[/b] :smile:")
    assert "[red]a[/b] :smile:" in quick.good("token", "list", "admin").out


def test_an_end_past_all_calendars_is_refused(quick: QuickCommandLine) -> None:
    """A token is not made that could not be listed afterwards."""
    quick.fails("token", "create", "admin", "--expires", "999999y")
    assert quick.good("token", "list", "admin", "--json").json == []


@pytest.mark.parametrize(
    "words",
    [
        ("user",),
        ("user", "add"),
        ("user", "nothing"),
        ("user", "list", "--nothing"),
        ("token", "revoke", "admin", "one"),
        ("nothing",),
        (),
    ],
)
def test_a_wrong_call_ends_with_status_2(quick: QuickCommandLine, words: tuple[str, ...]) -> None:
    """Scripts can tell a typing error from a failure."""
    assert quick.run(*words, names_data=False).status == CALLED_WRONGLY


def test_an_organization_is_created_listed_and_removed(
    quick: QuickCommandLine, password: Path
) -> None:
    """It owns repositories; users come in by grants, and nobody logs in as it."""
    quick.good("org", "create", "team")
    quick.good("repo", "create", "team/tools")
    assert quick.good("org", "list", "--json").json == [{"name": "team", "repositories": 1}]
    assert users(quick)["team"] == ("organization", False, True)
    quick.good("user", "add", "bob", "--password-file", password)
    quick.good("repo", "grant", "team", "bob", "admin", "--namespace")
    assert "nobody can log in as it" in quick.fails("user", "passwd", "team", stdin="12345678\n")
    message = quick.fails("org", "rm", "team", "--yes")
    assert message == "The account team owns repositories (1); remove them first."
    quick.good("repo", "rm", "team/tools", "--yes")
    quick.good("org", "rm", "team", "--yes")
    assert quick.good("org", "list", "--json").json == []


def test_an_error_is_json_where_the_answer_would_be(quick: QuickCommandLine) -> None:
    """On standard error, with the same sentence, and standard output stays empty."""
    ended = quick.run("token", "create", "nobody", "--json")
    assert (ended.status, ended.out) == (1, "")
    message = json.loads(ended.err)["error"]["message"]
    assert message == quick.fails("token", "create", "nobody")


@pytest.mark.parametrize(
    ("words", "typed", "offered"),
    [
        (("user", "passwd"), "a", ["admin"]),
        (("token", "create"), "", ["admin"]),
        (("org", "rm"), "", ["team"]),
        (("repo", "list"), "t", ["team"]),
        (("repo", "rm"), "te", ["team/tools"]),
        (("repo", "grant", "team/tools", "admin"), "read-", ["read-only", "read-write"]),
        (("token", "create", "admin", "--level"), "a", ["admin"]),
        (("token", "revoke", "admin"), "", ["1"]),
    ],
)
def test_names_and_levels_are_completed(
    quick: QuickCommandLine, words: tuple[str, ...], typed: str, offered: list[str]
) -> None:
    """The registry is the one that the line names before."""
    quick.good("org", "create", "team")
    quick.good("repo", "create", "team/tools")
    quick.good("token", "create", "admin")
    where = ("--data-dir", str(quick.data_dir))
    line = ["dtr", words[0], words[1], *where, *words[2:], typed]
    asked = {
        "COMP_WORDS": " ".join(line),
        "COMP_CWORD": str(len(line) - 1),
        "_DTR_COMPLETE": "complete_bash",
    }
    assert quick.run(environment=asked, names_data=False).out.split() == offered


def test_nothing_is_completed_where_there_is_no_registry(quick: QuickCommandLine) -> None:
    """And nothing is said in the middle of the line."""
    asked = {
        "COMP_WORDS": "dtr user rm --data-dir /nowhere a",
        "COMP_CWORD": "5",
        "_DTR_COMPLETE": "complete_bash",
    }
    ended = quick.run(environment=asked, names_data=False)
    assert (ended.out.strip(), ended.err) == ("", "")


def test_a_command_that_there_is_not_is_answered_with_those_that_there_are(
    quick: QuickCommandLine,
) -> None:
    """Accounts are added and organizations created; a slip of the finger gets the one meant."""
    said = quick.run("user", "create", "bob", names_data=False)
    assert said.status == 2
    assert "The commands are: add, list, passwd, disable, enable, rm." in said.err
    assert "Did you mean 'add'?" in quick.run("user", "ad", "bob", names_data=False).err
