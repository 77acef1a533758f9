"""The database's URL: as libpq reads it, and without its password wherever it is shown."""

import traceback
from pathlib import Path

import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st
from psycopg.conninfo import conninfo_to_dict

from dtr.database.postgresql.location import Location
from dtr.model.errors import InvalidError
from dtr.model.members import Member, Members, MembersFile, MemberState
from dtr.server.datadir import write_atomically

WORD = st.text("abcdefghijklmnopqrstuvwxyz0123456789", min_size=1, max_size=12)
SECRET = st.text(st.characters(codec="ascii", exclude_characters="\0\r\n"), min_size=1, max_size=20)
HOST = WORD | st.sampled_from(["[::1]", "127.0.0.1", "db.example", "%2Fvar%2Frun%2Fpostgresql"])
PORT = st.none() | st.integers(1, 65535)
MARK = "hunter2secret"


def escaped(text: str) -> str:
    """Write every character so that it means itself."""
    return "".join(f"%{byte:02X}" for byte in text.encode())


@given(
    hosts=st.lists(st.tuples(HOST, PORT), min_size=1, max_size=5),
    user=WORD,
    name=WORD,
    password=SECRET,
)
def test_each_host_is_what_libpq_would_connect_to(
    hosts: list[tuple[str, int | None]], user: str, name: str, password: str
) -> None:
    """One by one they are the same hosts, ports, user, password and database."""
    places = ",".join(host if port is None else f"{host}:{port}" for host, port in hosts)
    url = f"postgresql://{user}:{escaped(password)}@{places}/{name}"
    whole = conninfo_to_dict(url)
    names = str(whole["host"]).split(",")
    ports = str(whole.get("port", "")).split(",")
    ports = ports * len(names) if len(ports) == 1 else ports
    found = Location.parse(url).hosts
    assert [one["host"] for one in found] == names
    assert [str(one.get("port", "")) for one in found] == ports
    for one in found:
        assert (one["user"], one["dbname"], one["password"]) == (user, name, password)


def test_addresses_may_stand_beside_names() -> None:
    """`hostaddr` is connected to, `host` is what the certificate must name."""
    location = Location.parse(
        "postgresql://a.example,b.example/dtr?hostaddr=10.0.0.1,10.0.0.2&port=5433"
        "&sslmode=verify-full&sslrootcert=/etc/ca.pem"
    )
    places = [(one["host"], one["hostaddr"], one["port"]) for one in location.hosts]
    assert places == [("a.example", "10.0.0.1", "5433"), ("b.example", "10.0.0.2", "5433")]
    assert {one["sslmode"] for one in location.hosts} == {"verify-full"}
    assert {one["sslrootcert"] for one in location.hosts} == {"/etc/ca.pem"}


def test_what_the_url_says_stands_before_what_is_meant_well() -> None:
    """Timeouts and options of the user's own are kept; ours come first, so that theirs win."""
    location = Location.parse(
        "postgresql://h/dtr?connect_timeout=9&options=-c%20lock_timeout%3D3s&application_name=mine"
    )
    parameters = location.parameters
    assert parameters["connect_timeout"] == "9"
    assert parameters["tcp_user_timeout"] == "3000"
    assert parameters["options"].endswith("-c lock_timeout=3s")
    assert "idle_in_transaction_session_timeout" in parameters["options"]
    assert parameters["application_name"].startswith("mine ")


def test_a_password_of_a_file_stands_in_for_one_that_is_missing() -> None:
    """It does not replace one of the URL."""
    assert Location.parse("postgresql://u@h/d", "filed").parameters["password"] == "filed"
    assert Location.parse("postgresql://u:given@h/d", "filed").parameters["password"] == "given"
    assert "password" not in Location.parse("postgresql://u@h/d").parameters


@pytest.mark.parametrize(
    "url",
    [
        f"postgresql://u:{MARK}@h/d",
        f"postgres://u:{MARK}@a:1,b:2/d?sslmode=disable",
        f"postgresql://u@h/d?password={MARK}",
        f"postgresql://h/d?user=u&password={MARK}&port=5433",
        f"postgresql:///d?host=/run/postgresql&user=u&password={MARK}",
        f"postgresql://u:{MARK}?@h/d",
        f"postgresql://h/d?sslpassword={MARK}",
    ],
)
def test_a_password_is_never_shown(url: str) -> None:
    """Not in a log line, not in a message, not in a traceback's values."""
    location = Location.parse(url)
    assert str(location).startswith("postgresql://")
    assert MARK not in str(location)
    assert MARK not in f"{location!r} {[location]}"


@pytest.mark.parametrize(
    ("url", "said"),
    [
        (f"mysql://u:{MARK}@h/d", "must begin with postgresql://"),
        (f"POSTGRESQL://u:{MARK}@h/d", "must begin with postgresql://"),
        (f"host=h password={MARK}", "must begin with postgresql://"),
        ("", "must begin with postgresql://"),
        (f"postgresql://u:p@{MARK}@h/d", "write it as %40"),
        (f"postgresql://u:12/{MARK}@h/d", "write it as %40"),
        (f"postgresql://u:{MARK}/x@h/d", "%40|%2F"),
        (f"postgresql://h:{MARK}/d", "%2F"),
        (f"postgresql://u:{MARK}%zz@h/d", "a % in it must be written as %25"),
        (f"postgresql://u:{MARK}@[::1/d", "the ] of an address is missing"),
        (f"postgresql://u:{MARK}@[::1]x/d", "something follows an address"),
        (f"postgresql://u@h/d?{MARK}", "has no value"),
        (f"postgresql://u@h/d?passwort={MARK}", "not one of libpq's"),
        (f"postgresql://u:{MARK}@a,b,c/d?port=1,2", "3 hosts and 2 ports"),
        (f"postgresql://u:{MARK}@a,b/d?hostaddr=10.0.0.1", "2 hosts and 1 addresses"),
    ],
)
def test_a_wrong_url_is_refused_without_repeating_a_password(url: str, said: str) -> None:
    """Also one that stands where a password does not belong."""
    with pytest.raises(InvalidError, match=said) as caught:
        Location.parse(url)
    assert MARK not in "".join(traceback.format_exception(caught.value))


@given(url=st.text(max_size=40).map(lambda text: f"postgresql://{text}") | st.text(max_size=60))
def test_any_text_is_a_location_or_refused(url: str) -> None:
    """Nothing else comes of it."""
    try:
        location = Location.parse(url)
    except InvalidError:
        return
    assert str(location)
    assert len(location.hosts) >= 1
    for one in location.hosts:
        try:
            psycopg.conninfo.make_conninfo(**one)
        except psycopg.ProgrammingError as error:
            pytest.fail(str(error))


def members_at(path: Path, *members: Member, own: str = "a") -> MembersFile:
    """Write a members file, as an agent does, and give it."""
    write_atomically(path, Members(own, members).render().encode())
    return MembersFile(path)


def places(location: Location) -> list[tuple[str, str]]:
    """Give the host and port of each place to connect to."""
    return [(one["host"], one["port"]) for one in location.hosts]


def test_a_url_without_a_host_has_the_members_own_first_and_as_they_are_now(
    tmp_path: Path,
) -> None:
    """Of every state; with everything else that the URL says."""
    one = Member("a", "n1", "10.0.0.1", state=MemberState.DRAINING)
    two = Member("b", "n2", "10.0.0.2", database_port=5433)
    new = Member("c", "n3", "fd00::3", state=MemberState.JOINING)
    members = members_at(tmp_path / "members", two, one)
    location = Location.parse(
        "postgresql://dtr@/registry?sslmode=verify-full&sslrootcert=/ca", "secret", members
    )
    assert places(location) == [("10.0.0.1", "5432"), ("10.0.0.2", "5433")]
    assert {each["sslmode"] for each in location.hosts} == {"verify-full"}
    assert {each["password"] for each in location.hosts} == {"secret"}
    members_at(tmp_path / "members", two, new)
    assert places(location) == [("10.0.0.2", "5433"), ("fd00::3", "5432")]
    assert location.own_and_others[0] == []
    (tmp_path / "members").write_text("damaged")
    assert places(location) == [("10.0.0.2", "5433"), ("fd00::3", "5432")]
    assert str(location) == "postgresql://dtr@10.0.0.2:5433,fd00::3:5432/registry"


def test_a_url_with_hosts_has_no_use_for_members(tmp_path: Path) -> None:
    """A cluster's database may be somewhere else altogether."""
    members = members_at(tmp_path / "members", Member("a", "n1", "10.0.0.1"))
    location = Location.parse("postgresql://dtr@db.example/registry", members=members)
    assert [one["host"] for one in location.hosts] == ["db.example"]
    assert not location.may_have_standbys


def test_without_members_to_read_there_is_no_start(tmp_path: Path) -> None:
    """It says which file."""
    with pytest.raises(InvalidError, match=r"no members in .*/none"):
        Location.parse("postgresql://dtr@/registry", members=MembersFile(tmp_path / "none"))
