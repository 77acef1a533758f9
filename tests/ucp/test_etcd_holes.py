"""What the installed etcd lets those do whom TLS has let in: as our table of its releases says."""

from base64 import b64encode
from typing import Any

import pytest
from tests.support.etcd import RunningEtcd

from dtr.model.errors import UnavailableError
from dtr.ucp import keys
from dtr.ucp.etcd import EtcdConnection, EtcdLogin, EtcdMembers, EtcdRefusedError, EtcdStore
from dtr.ucp.etcd.releases import faults_of
from dtr.ucp.etcd.users import EtcdUsers
from dtr.ucp.store import Put

pytestmark = pytest.mark.etcd

REPLICA = "a" * 12
SECRET = {"key": b64encode(keys.CONTROL_SECRETS.encode()).decode()}
ALARM = {"action": "ACTIVATE", "memberID": "1", "alarm": "NOSPACE"}


async def is_answered(connection: EtcdConnection, path: str, body: dict[str, Any]) -> bool:
    """Tell whether a request of somebody who may not make it is carried out."""
    try:
        answer = await connection.call(path, body, is_repeatable=False)
    except (EtcdRefusedError, UnavailableError):
        return False
    return bool(answer)


async def test_the_holes_of_the_installed_release_are_those_that_we_name() -> None:
    """Patroni's user reads every secret, and nobody at all ends authorisation, where they are."""
    with RunningEtcd() as etcd:
        root = etcd.connection(EtcdLogin("root-secret"))
        patroni = etcd.connection(EtcdLogin("secret", f"patroni-{REPLICA}"))
        nobody = etcd.connection()
        try:
            users = EtcdUsers(root)
            await users.enable_authentication("root-secret")
            await users.add_patroni_user(REPLICA, "secret")
            await EtcdStore(root).commit([Put(keys.CONTROL_SECRETS, b"{}")])
            status = await EtcdMembers(root).status(etcd.endpoints[0])
            assert status is not None
            named = {fault.name for fault in faults_of(status.version)}
            read = {"request_range": SECRET}
            nested = {"success": [{"request_txn": {"success": [read]}}]}
            assert not await is_answered(patroni, "kv/range", SECRET)
            assert not await is_answered(patroni, "kv/txn", {"success": [read]})
            assert await is_answered(patroni, "kv/txn", nested) is ("CVE-2026-33343" in named)
            assert not await is_answered(nobody, "auth/disable", {})
            is_raised = await is_answered(nobody, "maintenance/alarm", ALARM)
            assert is_raised is ("CVE-2026-33413" in named)
            if is_raised:
                is_disabled = await is_answered(nobody, "auth/disable", {})
                assert is_disabled is any("22386" in name for name in named)
        finally:
            for connection in (root, patroni, nobody):
                await connection.close()
