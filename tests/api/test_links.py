"""Links of integrations to private hosts are refused, unless the settings allow them."""

from typing import Any

import pytest

from hub.control.links import is_public
from tests.support.admin_calls import violations
from tests.support.calls import ask
from tests.support.hubs import REGISTRATION, RunningHub, StartHub, scope_requests

LOCAL = [
    *(
        "localhost",
        "LOCALHOST",
        "localhost.",
        "a.localhost",
        "localhost:8443",
        "l%6fcalhost",
        "printer.local",
        "hub.lan",
    ),
    *("metadata.google.internal", "router.home.arpa", "intranet", "localhost.localdomain"),
    *("127.0.0.1", "127.1", "127.0.0.1.", "2130706433", "0x7f000001", "0x7f.1", "0177.0.0.1", "0", "0.0.0.1"),
    *("10.1.2.3", "172.16.0.1", "172.31.255.255", "192.168.1.1:80", "169.254.169.254", "100.64.0.1", "192.0.0.8"),
    *("192.0.2.1", "198.18.0.1", "198.51.100.7", "203.0.113.9", "224.0.0.1", "240.0.0.1", "255.255.255.255"),
    *("1%32%37.0.0.1", "127%2e0%2e0%2e1", "999.1.1.1", "%EF%BC%91%EF%BC%92%EF%BC%97.0.0.1", "127%E3%80%820.0.1"),
    *("[::1]", "[::]", "[::ffff:127.0.0.1]", "[::ffff:10.0.0.1]", "[::127.0.0.1]", "[fe80::1]", "[fe80::1%25eth0]"),
    *(
        "[fc00::1]",
        "[fd12:3456::1]",
        "[fec0::1]",
        "[ff02::1]",
        "[64:ff9b::10.0.0.1]",
        "[64:ff9b:1::1]",
        "[2002:7f00:1::]",
    ),
    *("[2001:db8::1]", "[2001::1]", "[100::1]", "[v1.a]"),
]
PUBLIC = [
    *("example.com", "docs.example.com:8443", "xn--caf-dma.example", "8.8.8.8", "172.32.0.1", "11.0.0.1", "1.1"),
    *(
        "[2606:4700::1111]",
        "[2001:4860:4860::8888]:443",
        "[64:ff9b::8.8.8.8]",
        "localhost.example.com",
        "local.example",
    ),
    *("notlocalhost.example", "2130706433.example", "my-internal.example"),
]


@pytest.mark.parametrize("host", LOCAL)
def test_links_to_local_and_private_hosts_are_not_public(host: str) -> None:
    """A link to localhost is refused in every spelling that a browser takes."""
    assert not is_public(f"https://{host}/docs?to=https://example.com")


@pytest.mark.parametrize("host", PUBLIC)
def test_links_to_internet_hosts_are_public(host: str) -> None:
    """Also hosts that only look like a local name, or lie next to a private network."""
    assert is_public(f"https://{host}/docs?to=https://localhost")


LINKS = ["documentation_url", "support_url", "endpoint_url"]


@pytest.mark.parametrize("field", LINKS)
async def test_a_private_link_is_refused_in_every_request(hub: RunningHub, field: str) -> None:
    """Registration, application and both kinds of update name the field."""
    link = {field: "https://192.168.0.1/docs"}
    fields: dict[str, Any] = REGISTRATION | {"scopes": scope_requests("DROP_CLAIMED")} | link
    assert await violations(ask(hub.admin, "AdminService/RegisterIntegration", **fields)) == [field]
    applied = fields | {"rules_accepted": True}
    assert await violations(ask(hub.bot, "DirectoryService/SubmitApplication", **applied)) == [field]
    made, reader = await hub.register("DROP_CLAIMED")
    update = {"integration_id": made.integration_id} | link
    named = [f"integration.{field}"]
    assert await violations(ask(hub.admin, "AdminService/UpdateIntegration", integration=update)) == named
    assert await violations(ask(reader, "DeveloperService/UpdateProfile", integration=link)) == named


async def test_the_setting_private_links_allows_private_links(start_hub: StartHub) -> None:
    """Once the setting is off again, other fields of such an integration can still be changed."""
    hub = await start_hub(private_links=True)
    link = dict.fromkeys(LINKS, "https://localhost/docs")
    fields: dict[str, Any] = REGISTRATION | {"scopes": scope_requests("DROP_CLAIMED")} | link
    made = (await ask(hub.admin, "AdminService/RegisterIntegration", **fields)).integration
    await hub.close()
    hub = await start_hub()
    update = {"integration_id": made.integration_id, "description": "x"}
    await ask(hub.admin, "AdminService/UpdateIntegration", integration=update)
