"""Where a call comes from: a host is one address for the limits, also behind a proxy, and cannot pose as another."""

import pytest

from hub import config
from hub.addresses import networks
from hub.api.peers import CACHED_PEERS, Addresses
from hub.api.throttle import Throttle
from hub.errors import StartError
from tests.support.calls import ask, fails, reason_of
from tests.support.hubs import FakeClock, StartHub
from tests.support.peers import CallFrom

PROXIES = "10.0.0.0/8, 2001:db8:ff::/48,192.0.2.200"


def addresses(proxies: str = "") -> Addresses:
    """Addresses as a hub tells them that trusts these proxies."""
    return Addresses(networks(proxies))


@pytest.mark.parametrize(
    ("peer", "whose"),
    [
        ("ipv4:192.0.2.1:50000", "192.0.2.1"),
        ("ipv6:%5B2001:db8:1:2:3:4:5:6%5D:50000", "2001:db8:1:2::/64"),
        ("ipv6:[2001:db8:1:2::1]:50000", "2001:db8:1:2::/64"),
        ("ipv6:%5Bfe80::1%25eth0%5D:50000", "fe80::/64"),
        ("ipv6:%5B::ffff:192.0.2.1%5D:50000", "192.0.2.1"),
        ("unix:/run/hub", "unix"),
        ("unix:", "unix"),
        ("", ""),
    ],
)
def test_one_host_is_one_address(peer: str, whose: str) -> None:
    """A host has all ports of its address, and all addresses of its IPv6 network."""
    assert addresses().of(CallFrom(peer)) == (peer, whose)


@pytest.mark.parametrize(
    ("forwarded", "whose"),
    [
        (("203.0.113.7",), "203.0.113.7"),
        (("203.0.113.7:4711",), "203.0.113.7"),
        (("198.51.100.1, 203.0.113.7",), "203.0.113.7"),
        (("198.51.100.1", "203.0.113.7"), "203.0.113.7"),
        (("198.51.100.1, 203.0.113.7, 10.9.9.9",), "203.0.113.7"),
        (("203.0.113.7,10.9.9.9,192.0.2.200",), "203.0.113.7"),
        (("[2001:db8::1]:4711",), "2001:db8::/64"),
        (("2001:db8::1",), "2001:db8::/64"),
        (("::ffff:203.0.113.7",), "203.0.113.7"),
        ((), "10.1.2.3"),
        (("",), "10.1.2.3"),
        (("unknown",), "10.1.2.3"),
        (("203.0.113.7, _hidden",), "10.1.2.3"),
        (("10.9.9.9, 10.8.8.8",), "10.1.2.3"),
        (("999.1.1.1",), "10.1.2.3"),
        (("203.0.113.7" * 500,), "10.1.2.3"),
    ],
)
def test_a_trusted_proxy_names_the_caller(forwarded: tuple[str, ...], whose: str) -> None:
    """The last address that is not a proxy's counts; if it cannot be read, the proxy's own counts."""
    assert addresses(PROXIES).of(CallFrom("ipv4:10.1.2.3:5", forwarded)).address == whose


@pytest.mark.parametrize("peer", ["ipv4:192.0.2.1:5", "ipv6:%5B2001:db8::1%5D:5", "ipv4:11.0.0.1:5"])
def test_forwarded_addresses_of_other_callers_are_ignored(peer: str) -> None:
    """A caller that is no trusted proxy cannot choose its address, nor can anyone where none is trusted."""
    forged = CallFrom(peer, ("203.0.113.7",))
    assert addresses(PROXIES).of(forged) == addresses().of(CallFrom(peer))
    assert addresses().of(CallFrom("ipv4:10.1.2.3:5", ("203.0.113.7",))).address == "10.1.2.3"


@pytest.mark.parametrize("text", ["10.0.0.0/33", "proxy.example", "10.0.0.1/8", "10.0.0.0/8;192.0.2.1", "-"])
def test_invalid_networks_are_refused(text: str) -> None:
    """A typo here would let everyone choose an address, or no one; the start says so."""
    with pytest.raises(StartError, match=r"^trusted_proxies: must be addresses or networks, such as "):
        config.load({"trusted_proxies": text})


async def test_callers_behind_a_proxy_are_throttled_separately(start_hub: StartHub) -> None:
    """One guesser behind a proxy does not take the guesses of another; without the setting they share them."""
    for proxies, second in (("127.0.0.0/8", "KEY_UNKNOWN"), ("", "AUTH_THROTTLED")):
        hub = await start_hub(max_failed_authentications=1, trusted_proxies=proxies)
        said = []
        for host in ("203.0.113.1", "203.0.113.2"):
            guesser = hub.caller("x")
            guesser.metadata = (*guesser.metadata, ("x-forwarded-for", host))
            said.append(reason_of(await fails(ask(guesser, "DirectoryService/ListScopes"))))
        assert said == ["KEY_UNKNOWN", second]
        await hub.close()


def test_a_customers_ipv6_addresses_share_their_guesses() -> None:
    """A caller with one /64 network has 2^64 addresses."""
    throttle, told = Throttle(1, FakeClock()), addresses()
    assert not throttle.wait(told.of(CallFrom("ipv6:%5B2001:db8::1%5D:5")).address)
    assert throttle.wait(told.of(CallFrom("ipv6:%5B2001:db8::2%5D:6")).address)


def test_the_number_of_remembered_peers_is_bounded() -> None:
    """Connections without end do not fill the memory."""
    told = addresses()
    for port in range(CACHED_PEERS + 10):
        told.of(CallFrom(f"ipv4:192.0.2.1:{port}"))
    assert told._direct.cache_info().currsize == CACHED_PEERS
