"""The store on a real etcd, with mutual TLS and users."""

import asyncio
from collections.abc import Iterator

import pytest
from tests.support.etcd import RunningEtcd

from dtr.testing.stores import StoreConformance
from dtr.ucp.etcd import EtcdLogin, EtcdStore
from dtr.ucp.etcd.users import EtcdUsers

pytestmark = pytest.mark.etcd

PASSWORD = "the password of root"


@pytest.fixture(scope="module")
def etcd() -> Iterator[RunningEtcd]:
    """Give an etcd of one member that wants to know who asks."""
    with RunningEtcd() as running:

        async def enable() -> None:
            connection = running.connection()
            await EtcdUsers(connection).enable_authentication(PASSWORD)
            await connection.close()

        asyncio.run(enable())
        yield running


class TestEtcdStore(StoreConformance):
    """The conformance suite, over two connections."""

    @pytest.fixture
    def store(self, etcd: RunningEtcd) -> EtcdStore:
        """Return a store as `root`."""
        return EtcdStore(etcd.connection(EtcdLogin(PASSWORD)))

    @pytest.fixture
    def twin(self, etcd: RunningEtcd) -> EtcdStore:
        """Return another connection."""
        return EtcdStore(etcd.connection(EtcdLogin(PASSWORD)))
