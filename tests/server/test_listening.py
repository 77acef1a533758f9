"""A web worker that another one has taken the place of stops listening under its server."""

import socket

import pytest

from dtr.server.listening import stop_listening


def _listener(port: int = 0) -> socket.socket:
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    listener.bind(("127.0.0.1", port))
    listener.listen(16)
    return listener


def test_nobody_connects_any_more_and_what_was_accepted_goes_on() -> None:
    """And the server may close what it takes for its socket."""
    with _listener() as listener:
        address = listener.getsockname()
        with socket.create_connection(address) as client, listener.accept()[0] as accepted:
            stop_listening(address[1])
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection(address)
            client.sendall(b"x")
            assert accepted.recv(1) == b"x"


def test_every_copy_of_the_listening_socket_is_taken_away() -> None:
    """A copy that stayed would go on taking connections that nobody accepts."""
    with _listener() as listener, listener.dup():
        address = listener.getsockname()
        stop_listening(address[1])
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(address)


def test_others_go_on_listening() -> None:
    """At another port of this process nothing changes."""
    with _listener() as listener, _listener() as other:
        stop_listening(listener.getsockname()[1])
        with socket.create_connection(other.getsockname()), other.accept()[0]:
            pass
