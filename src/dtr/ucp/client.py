"""How a command speaks to the control plane: an administrator, and any controller that answers."""

import ipaddress
import queue
import ssl
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from email.utils import parsedate_to_datetime
from types import TracebackType
from typing import Any, Final, Self
from urllib.parse import quote, urlsplit

import httpx
from pydantic import JsonValue, ValidationError

from dtr.model.addresses import parse_address
from dtr.ucp.api import PREFIX
from dtr.ucp.authority import AuthorityError, load_certificate
from dtr.ucp.model import CONTROLLER_PORT, Operation, OperationState

_CONNECT_SECONDS: Final = 5.0
_ANSWER_SECONDS: Final = 40.0
_PATIENCE_SECONDS: Final = 120.0
_PAUSE_SECONDS: Final = 0.5
_MAX_ANSWER_BYTES: Final = 16 * 2**20
_MAX_ADDRESSES: Final = 64
NO_MAJORITY: Final = "it runs, and cannot reach a majority of etcd"
"""What `look` says of a controller that can do nothing without the other managers."""
_HTTP_ERRORS: Final = 400
_UNAUTHORIZED: Final = 401
_TOO_MANY: Final = 429
_UNAVAILABLE: Final = 503


class UcpError(Exception):
    """The control plane cannot be used so: `what` is the matter, `remedy` what to do about it."""

    def __init__(self, what: str, remedy: str = "", *, status: int = 0, code: str = "") -> None:
        super().__init__(f"{what} {remedy}".strip())
        self.what = what
        self.remedy = remedy
        self.status = status
        """Of the answer; 0 where there was none."""
        self.code = code
        """The controller's own word for it, such as `OPERATION_RUNNING`."""


class UnreachableError(UcpError):
    """No controller answered."""


class UcpClient:
    """A session with the control plane; not for several threads at once.

    It begins with the addresses that it is given and learns the others' when it logs in, so that it
    survives the end of the controller that it speaks to.
    """

    def __init__(
        self,
        address: str,
        *,
        ca_pem: str | None = None,
        insecure: bool = False,
        others: Iterable[str] = (),
    ) -> None:
        """Take the address `host[:port]`, with or without `https://`; connects when first used.

        With `ca_pem` only certificates of that authority are trusted, without it those that the
        machine trusts, and with `insecure` any at all.

        Raises:
            UcpError: the address or the authority is none.

        """
        self._addresses = list(dict.fromkeys(checked_address(one) for one in (address, *others)))
        self._context = _trust(ca_pem, insecure=insecure)
        self._http = httpx.Client(
            verify=self._context,
            timeout=httpx.Timeout(_ANSWER_SECONDS, connect=_CONNECT_SECONDS),
            trust_env=False,
            headers={"Accept": "application/json"},
        )
        self._credentials: tuple[str, str] | None = None
        self._token = ""
        self._is_lost = False

    @property
    def address(self) -> str:
        """The `host:port` of the controller that is spoken to."""
        return self._addresses[0]

    @property
    def addresses(self) -> tuple[str, ...]:
        """All controllers that are known, the one that is spoken to first."""
        return tuple(self._addresses)

    @property
    def username(self) -> str:
        """Who is logged in; empty for nobody."""
        return self._credentials[0] if self._credentials else ""

    def login(self, username: str, password: str) -> None:
        """Begin a session; when it ends on the way it is begun again.

        Raises:
            UcpError: name or password are wrong, or no controller answers.

        """
        body: JsonValue = {"username": username, "password": password}
        self._token = ""
        answer = self._answer("POST", f"{PREFIX}/auth/login", body, None, is_repeatable=True)
        if not isinstance(answer, dict) or "auth_token" not in answer:
            raise self._not_ucp()
        self._token = str(answer["auth_token"])
        self._credentials = (username, password)
        for address in answer.get("controllers", ())[:_MAX_ADDRESSES]:
            with suppress(UcpError):
                self._learn(checked_address(str(address)))

    def call(
        self,
        method: str,
        path: str,
        body: JsonValue = None,
        params: Mapping[str, str] | None = None,
    ) -> Any:
        """Call a route below `/api/ucp/v0`, such as `/nodes`, and return its answer.

        A GET is sent to another controller where one dies; anything else only where it certainly
        did not arrive.

        Raises:
            UnreachableError: no controller answered.
            UcpError: one refused.

        """
        is_repeatable = method == "GET"
        try:
            return self._answer(method, PREFIX + path, body, params, is_repeatable=is_repeatable)
        except UcpError as error:
            if error.status != _UNAUTHORIZED or self._credentials is None:
                raise
        self.login(*self._credentials)
        return self._answer(method, PREFIX + path, body, params, is_repeatable=is_repeatable)

    def authority(self) -> str:
        """Return the authority's certificate, as PEM; nobody needs to be logged in for that."""
        return str(self._send("GET", "/ca", None, None, is_repeatable=True).text)

    def is_healthy(self) -> bool:
        """Tell whether a controller answers that has a majority of etcd behind it."""
        try:
            self._send("GET", "/_ping", None, None, is_repeatable=True)
        except UcpError:
            return False
        return True

    def look(self) -> dict[str, str]:
        """Return why no known controller can be worked with, by address; all are asked at once.

        Empty as soon as one answers that has a majority of etcd behind it, however long others are
        silent.
        """
        found: queue.Queue[tuple[str, str]] = queue.Queue()
        for address in self._addresses:
            # Daemons: the command may be done before a silent machine is given up.
            threading.Thread(
                target=lambda one: found.put((one, _look_at(one, self._context))),
                args=(address,),
                daemon=True,
            ).start()
        problems = dict.fromkeys(self._addresses, "")
        for _ in self._addresses:
            address, problem = found.get()
            if not problem:
                return {}
            problems[address] = problem
        return problems

    def clock(self) -> float | None:
        """Return what a controller's clock says, to the second; None where it does not say."""
        told = self._send("GET", "/ca", None, None, is_repeatable=True).headers.get("date", "")
        try:
            return parsedate_to_datetime(told).timestamp()
        except ValueError:
            return None

    def nodes(self) -> list[dict[str, Any]]:
        """Return all nodes, as `GET /nodes` shows them."""
        return list(self.call("GET", "/nodes")["nodes"])

    def start_operation(self, kind: str, arguments: Mapping[str, JsonValue]) -> Operation:
        """Ask for an operation and return it as it begins.

        Raises:
            UcpError: it is refused; with status 409 because another runs, whose id is in the
                message.

        """
        return _operation(
            self.call("POST", "/operations", {"kind": kind, "arguments": dict(arguments)})
        )

    def operation(self, operation_id: str) -> Operation:
        """Return an operation as it is now."""
        return _operation(self.call("GET", f"/operations/{quote(operation_id, safe='')}"))

    def cancel(self, operation_id: str) -> Operation:
        """Ask an operation to stop."""
        return _operation(self.call("POST", f"/operations/{quote(operation_id, safe='')}/cancel"))

    def follow(self, operation_id: str) -> Iterator[Operation]:
        """Yield an operation now and after every change, until it has ended.

        While no controller answers, it waits for up to two minutes.

        Raises:
            UcpError: there is no such operation, or no controller answered for too long. The
                operation goes on without whoever follows it.

        """
        path = f"/operations/{quote(operation_id, safe='')}"
        after: float | None = None
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while True:
            try:
                params = {} if after is None else {"after": repr(after)}
                found = _operation(self.call("GET", path, params=params))
            except UcpError as error:
                if error.status not in {0, _TOO_MANY, _UNAVAILABLE}:
                    raise
                if time.monotonic() > deadline:
                    raise _gave_up(operation_id, error) from error
                time.sleep(_PAUSE_SECONDS)
                continue
            deadline = time.monotonic() + _PATIENCE_SECONDS
            if found.updated_at != after:
                after = found.updated_at
                yield found
            if found.state is not OperationState.RUNNING:
                return

    def close(self) -> None:
        """End the session, if anybody still answers, and let go of connections."""
        if self._token and not self._is_lost:
            with suppress(UcpError):
                self._answer("POST", f"{PREFIX}/auth/logout", None, None, is_repeatable=False)
            self._token = ""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _learn(self, address: str) -> None:
        if address not in self._addresses and len(self._addresses) < _MAX_ADDRESSES:
            self._addresses.append(address)

    def _answer(
        self,
        method: str,
        path: str,
        body: JsonValue,
        params: Mapping[str, str] | None,
        *,
        is_repeatable: bool,
    ) -> Any:
        response = self._send(method, path, body, params, is_repeatable=is_repeatable)
        try:
            return response.json()
        except ValueError:
            raise self._not_ucp() from None

    def _not_ucp(self) -> UcpError:
        return UcpError(
            f"The server at {self.address} does not answer as UCP does.",
            "Name a controller's address and port.",
        )

    def _send(
        self,
        method: str,
        path: str,
        body: JsonValue,
        params: Mapping[str, str] | None,
        *,
        is_repeatable: bool,
    ) -> httpx.Response:
        """Send a request to the first controller that answers, which is then asked first."""
        problem = ""
        for address in tuple(self._addresses):
            headers = {"Authorization": f"Bearer {self._token}"} if self._token else {}
            try:
                response = self._http.request(
                    method, f"https://{address}{path}", json=body, params=params, headers=headers
                )
            except httpx.TransportError as error:
                problem = problem or _why_not(address, error)
                if not is_repeatable and not _never_arrived(error):
                    raise UnreachableError(
                        f"The controller at {address} did not answer, and may have done it.",
                        "Look with 'ucp status', then try again.",
                    ) from None
                continue
            if response.status_code == _UNAVAILABLE and len(self._addresses) > 1 and is_repeatable:
                problem = problem or f"The controller at {address} cannot reach a majority of etcd."
                continue
            self._addresses.remove(address)
            self._addresses.insert(0, address)
            self._is_lost = False
            _refuse_error(response, address)
            return response
        self._is_lost = True
        raise UnreachableError(problem, _remedy(problem))


def checked_address(address: str) -> str:
    """Return `host:port` of an address that may have a scheme and may lack the port.

    >>> checked_address("https://ucp.example"), checked_address("10.0.0.1:443")
    ('ucp.example:8443', '10.0.0.1:443')
    >>> checked_address("fd00::1"), checked_address("[::ffff:10.0.0.1]:443")
    ('[fd00::1]:8443', '10.0.0.1:443')

    Raises:
        UcpError: it is no address.

    """
    text = address.strip()
    wrong = UcpError(
        f"{address[:200]!r} is not the address of a controller.",
        "Give it as HOST or HOST:PORT, such as 10.0.0.1:8443.",
    )
    with suppress(ValueError):
        if ipaddress.ip_address(text).version == 6:  # noqa: PLR2004
            text = f"[{text}]"
    try:
        parts = urlsplit(text if "://" in text else f"https://{text}")
        port = parts.port or CONTROLLER_PORT
    except ValueError:
        raise wrong from None
    host = str(parse_address(parts.hostname or "") or parts.hostname or "")
    is_plain = not (parts.path.strip("/") or parts.query or parts.fragment or parts.username)
    if parts.scheme != "https" or not is_plain or not host or any(c.isspace() for c in host):
        raise wrong
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _trust(ca_pem: str | None, *, insecure: bool) -> ssl.SSLContext:
    if ca_pem is None:
        context = ssl.create_default_context()
    else:
        try:
            load_certificate(ca_pem)
            context = ssl.create_default_context(cadata=ca_pem)
        except (AuthorityError, ssl.SSLError):
            raise UcpError(
                "The certificate of the authority (--ucp-ca) is not in PEM format.",
                "Give the content of the file, or its name; 'ucp ca' prints it on a node.",
            ) from None
    if insecure:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def _look_at(address: str, context: ssl.SSLContext) -> str:
    """Return what keeps a controller from being worked with; empty for nothing."""
    try:
        url = f"https://{address}/_ping"
        answer = httpx.get(url, verify=context, timeout=_CONNECT_SECONDS, trust_env=False)
    except httpx.TimeoutException:
        return "it does not answer: the machine is off, cut off or overloaded"
    except httpx.TransportError as error:
        if "CERTIFICATE_VERIFY_FAILED" in str(error):
            return _why_not(address, error).rstrip(".")
        refused = "refused" in str(error)
        return "nothing listens there, the machine is on" if refused else "it cannot be reached"
    if answer.status_code == _UNAVAILABLE:
        return NO_MAJORITY
    return "" if answer.is_success else f"it answers {answer.status_code}, and not as UCP does"


def _never_arrived(error: httpx.TransportError) -> bool:
    return isinstance(error, httpx.ConnectError | httpx.ConnectTimeout)


def _why_not(address: str, error: httpx.TransportError) -> str:
    text = str(error)
    if "CERTIFICATE_VERIFY_FAILED" in text:
        if "mismatch" in text or "not valid for" in text:
            return f"The certificate of the controller at {address} is not for that name."
        if "not yet valid" in text or "expired" in text:
            return f"The certificate of the controller at {address} is not valid now."
        return f"The certificate of the controller at {address} is not trusted."
    if isinstance(error, httpx.TimeoutException):
        return f"The controller at {address} did not answer in time."
    if isinstance(error, httpx.ConnectError):
        return f"No controller can be reached at {address}."
    return f"The controller at {address} broke off the connection."


def _remedy(problem: str) -> str:
    if "not valid now" in problem:
        return "Set the clocks of this machine and of the controllers; see 'ucp status' there."
    if "not for that name" in problem:
        return (
            "Use an address that it has, have it added with 'ucp install --san', or accept any "
            "certificate with --ucp-insecure-tls."
        )
    if "not trusted" in problem:
        return (
            "Name UCP's authority with --ucp-ca ('ucp ca' prints it on a node), or accept any "
            "certificate with --ucp-insecure-tls."
        )
    if "majority" in problem:
        return (
            "What runs goes on. Start the managers that are down, then try again; where a majority "
            "is lost for ever, see 'ucp emergency-repair' on one that is left."
        )
    return "Check that the address is right, that the node's agent runs, and that the port is open."


def _refuse_error(response: httpx.Response, address: str) -> None:
    if len(response.content) > _MAX_ANSWER_BYTES:
        raise UcpError(
            f"The answer of {address} is larger than UCP's can be.", "Check the address."
        )
    if response.status_code < _HTTP_ERRORS:
        return
    try:
        error = response.json()["errors"][0]
        message, code = " ".join(str(error["message"]).split()), str(error["code"])
    except (ValueError, LookupError, TypeError):
        raise UcpError(
            f"{address} answered with status {response.status_code}, and not as UCP does.",
            "Name a controller's address and port.",
            status=response.status_code,
        ) from None
    raise UcpError(message, status=response.status_code, code=code)


def _operation(answer: Any) -> Operation:
    try:
        return Operation.model_validate(answer)
    except ValidationError:
        raise UcpError(
            "The controller described an operation in a way that this version does not know.",
            "Use the version of the command that the cluster has.",
        ) from None


def _gave_up(operation_id: str, error: UcpError) -> UcpError:
    return UcpError(
        f"No controller has answered for two minutes: {error.what}",
        f"The operation {operation_id} goes on by itself; run the same command again to follow it.",
    )
