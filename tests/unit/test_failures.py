"""Why something failed, in our own words."""

import asyncio
import errno
import socket
import ssl
from datetime import UTC, datetime
from pathlib import Path

import aiohttp
import pytest
from pydantic import BaseModel
from tests.cluster_plan.plain import strange
from tests.support.processes import free_port

from dtr.cluster.engines.probes import ask
from dtr.model.errors import UnavailableError
from dtr.model.failures import reason_of
from dtr.server.certificates import ensure_certificates
from dtr.ucp.agent.convergence import sentence
from dtr.ucp.agent.probe import Prober
from dtr.ucp.model import Probe

NUMBERS = sorted(errno.errorcode)


@pytest.mark.parametrize("number", NUMBERS)
def test_every_refusal_of_the_system_has_plain_words(number: int) -> None:
    """With the file where there is one, and without the system's own text."""
    error = OSError(number, "Text of the system", "/srv/a file")
    assert reason_of(error).startswith("/srv/a file: ")
    assert "Text of the system" not in reason_of(error)
    assert not strange(reason_of(error))


@pytest.mark.parametrize(
    "error",
    [
        ValueError("'utf-8' codec can't decode byte 0xff"),
        KeyError("x"),
        OSError("Multiple exceptions: [Errno 111] ..."),
        aiohttp.ServerDisconnectedError(),
        ssl.SSLError(1, "[SSL: WRONG_VERSION_NUMBER] wrong version number (_ssl.c:1006)"),
        TimeoutError(),
        asyncio.IncompleteReadError(b"", 3),
        socket.gaierror(-2, "Name or service not known"),
    ],
)
def test_what_libraries_raise_is_never_quoted(error: Exception) -> None:
    """Neither as a reason nor as what a component reports."""
    for text in (reason_of(error), sentence(error)):
        assert text
        assert not strange(text)


def test_a_document_of_another_version_is_said_in_a_sentence() -> None:
    """And not field by field in the words of the parser."""

    class Strict(BaseModel):
        number: int

    with pytest.raises(ValueError, match="number") as caught:
        Strict.model_validate({"number": "x"})
    assert not strange(sentence(caught.value))
    assert "same version" in sentence(caught.value)


def test_what_our_own_exceptions_say_is_kept() -> None:
    """They are sentences."""
    assert sentence(UnavailableError("No controller answered.")) == "No controller answered."


async def test_a_registry_that_does_not_listen_yet_is_said_so() -> None:
    """While a replica joins, whoever watches reads this."""
    port = free_port()
    context = ssl.create_default_context()
    with pytest.raises(UnavailableError) as caught:
        await ask(f"https://127.0.0.1:{port}/health", context, seconds=5)
    assert str(caught.value) == f"127.0.0.1:{port} does not answer: nothing listens there"


async def test_a_server_with_another_certificate_is_said_so(tmp_path: Path) -> None:
    """Not in the words of OpenSSL."""
    made = ensure_certificates(tmp_path, ["localhost"], datetime.now(UTC))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(made.cert_path, made.key_path)
    server = await asyncio.start_server(lambda _r, w: w.close(), "127.0.0.1", 0, ssl=context)
    port = server.sockets[0].getsockname()[1]
    with pytest.raises(UnavailableError) as caught:
        await ask(f"https://127.0.0.1:{port}/", ssl.create_default_context(), seconds=5)
    server.close()
    assert str(caught.value).endswith("does not answer: its certificate is not trusted")


async def test_a_network_test_tells_in_plain_words_what_failed() -> None:
    """For the sentence of a join that is refused."""
    with socket.socket() as taken:
        taken.bind(("", 0))
        taken.listen()
        prober = Prober(connect_seconds=0.5)
        port, closed = taken.getsockname()[1], free_port()
        prober.want(Probe(id="p", listen=(port,), connect=(f"127.0.0.1:{closed}",)))
        async with asyncio.timeout(30):
            while True:
                if (report := prober.report) is not None:
                    break
                await asyncio.sleep(0.05)
        await prober.close()
    told = [*report.listening.values(), *report.connected.values()]
    assert told == [
        f"port {port} cannot be listened on: something else uses it",
        f"127.0.0.1:{closed} cannot be reached: nothing listens there",
    ]
