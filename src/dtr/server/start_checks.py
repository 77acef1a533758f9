"""What a start needs, checked without changing anything: by `dtr serve` and by `dtr config check`.

Database and storage are not asked here: a server waits for those.
"""

import errno
import os
import socket

from dtr.database import check_database_url
from dtr.model.errors import InvalidError
from dtr.model.location import StorageLocation
from dtr.model.members import MembersFile
from dtr.server.bootstrap import given_password_hash
from dtr.server.certificates import check_authority, check_certificate
from dtr.server.datadir import DataDirectory
from dtr.server.passwords import read_password
from dtr.server.settings import ListenAddress, Settings
from dtr.storage import storage_directory


class StartError(Exception):
    """The server cannot start; one sentence of what happened and one of what to do."""


def check_start(settings: Settings, *, may_be_running: bool = False) -> None:
    """Promise that a server could start with these settings, if database and storage answer.

    With `may_be_running` an address or a directory that a server has already is fine, and root may
    check what a system user serves.

    Raises:
        StartError, DataDirectoryError, CertificateError, InvalidError: what is wrong, and what to
            do about it.

    """
    server = settings.server
    for listen in (server.listen, server.http_listen, server.proxy_listen):
        if listen is not None:
            check_port(listen, may_be_taken=may_be_running)
    is_roots = may_be_running and os.geteuid() == 0
    is_set_up = DataDirectory.check(settings.data.directory, may_be_anothers=is_roots)
    _check_certificate(settings)
    _check_database(settings)
    _check_storage(settings)
    if not is_set_up and not settings.database.url:
        given_password_hash(settings)


def check_port(listen: ListenAddress, *, may_be_taken: bool = False) -> None:
    """Bind once without sharing the port, as the workers do among themselves.

    Raises:
        StartError: somebody has the port, or this machine or user cannot have it.

    """
    try:
        family, kind, proto, _, address = socket.getaddrinfo(
            listen.host, listen.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        with socket.socket(family, kind, proto) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        if error.errno == errno.EADDRINUSE and may_be_taken:
            return
        reason = os.strerror(error.errno) if error.errno else "the address is not usable"
        raise StartError(f"Cannot listen on {listen}: {reason}. {_remedy(error)}") from None


def _remedy(error: OSError) -> str:
    where = "--listen ADDRESS:PORT (server.http_listen for plain HTTP)"
    match error.errno:
        case errno.EADDRINUSE:
            return f"Stop what uses the address, or choose another with {where}."
        case errno.EACCES | errno.EPERM:
            return (
                "This user may not listen on a port that low: choose one from 1024 on with "
                f"{where}, or give the program the capability CAP_NET_BIND_SERVICE."
            )
        case _:
            return (
                "The address is not one of this machine: choose one that 'ip address' shows, or "
                f"0.0.0.0 for all, with {where}."
            )


def _check_certificate(settings: Settings) -> None:
    server = settings.server
    if server.tls_cert is not None and server.tls_key is not None:
        check_certificate(server.tls_cert, server.tls_key)
        if server.tls_ca is not None:
            check_authority(server.tls_ca)


def _check_database(settings: Settings) -> None:
    chosen, members = settings.database, settings.cluster.members_file
    url = chosen.url.get_secret_value()
    if url:
        password = None if chosen.password_file is None else read_password(chosen.password_file)
        check_database_url(
            url, password=password, members=None if members is None else MembersFile(members)
        )


def _check_storage(settings: Settings) -> None:
    url, own = settings.storage.url, settings.cluster
    if not url:
        return
    location = StorageLocation.parse(url)
    if location.scheme == "file":
        storage_directory(location)
    if location.scheme == "replicated":
        needed = (own.members_file, own.certificate, own.key, own.ca)
        for path in needed:
            if path is None or not path.is_file():
                raise InvalidError(
                    "The storage URL replicated: needs the other replicas, and "
                    f"{'a file of the section cluster is not set' if path is None else path}"
                    f"{'' if path is None else ' is not a file'}. dtr join sets "
                    "cluster.members_file, cluster.certificate, cluster.key and cluster.ca."
                )
