"""Patroni's client of etcd, with a real etcd: it goes where the configuration now says."""

from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest
from patroni.dcs.etcd import AbstractEtcdClientWithFailover, DnsCachingResolver
from patroni.dcs.etcd3 import PatroniEtcd3Client
from tests.support.etcd import EtcdProcess, RunningEtcd

from dtr.cluster.engines.patroni_process.etcd_hosts import follow_configured_hosts

pytestmark = pytest.mark.etcd


@pytest.fixture
def following(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have Patroni's client changed as in its own process, for as long as the test runs."""
    original = AbstractEtcdClientWithFailover.reload_config
    monkeypatch.setattr(AbstractEtcdClientWithFailover, "reload_config", original)
    follow_configured_hosts()


@pytest.fixture
def former() -> Iterator[RunningEtcd]:
    """Give the etcd that was there when Patroni started."""
    with RunningEtcd() as etcd:
        yield etcd


@pytest.fixture
def present() -> Iterator[RunningEtcd]:
    """Give the etcd that is there when the former one is lost."""
    with RunningEtcd() as etcd:
        yield etcd


@pytest.mark.usefixtures("following")
def test_patroni_finds_etcd_where_the_configuration_now_says(
    former: RunningEtcd, present: RunningEtcd
) -> None:
    """Also when nobody answers any more of those that it knew."""
    begun, now = former.members[0], present.members[0]
    configuration = configured(begun)
    client = PatroniEtcd3Client(
        {
            **configuration,
            "hosts": [begun.client_url],
            "ca_cert": str(begun.tls.ca),
            "cert": (str(begun.tls.certificate), str(begun.tls.key)),
            "retry_timeout": 3,
        },
        DnsCachingResolver(),
    )
    assert client.machines_cache == [begun.client_url]
    begun.kill()
    # The authorities of the two differ, which is not the matter here.
    client.http.connection_pool_kw.update(
        ca_certs=str(now.tls.ca),
        cert_file=str(now.tls.certificate),
        key_file=str(now.tls.key),
    )
    client.reload_config(configured(now))
    assert "kvs" not in client.range("nothing")
    assert client.machines_cache == [now.client_url]


def configured(etcd: EtcdProcess) -> dict[str, Any]:
    """Return the section of Patroni's configuration."""
    return {"hosts": [urlsplit(etcd.client_url).netloc], "protocol": "https"}
