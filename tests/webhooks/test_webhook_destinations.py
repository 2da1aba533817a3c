"""Which URLs and addresses are refused: every notation of what the hub must not dial."""

import socket
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hub.addresses import networks
from hub.control.links import redacted
from hub.errors import InvalidRequest
from hub.webhooks.destinations import Policy, is_public, literal, target_of

STRICT = Policy()
LOOPBACK = Policy(allow=tuple(networks("127.0.0.0/8,::1/128")))

PRIVATE = [
    *("0.0.0.0", "0.1.2.3", "10.0.0.1", "10.255.255.255", "100.64.0.1"),  # noqa: S104  not bound to
    *("100.127.255.255", "127.0.0.1", "127.9.9.9"),
    *("169.254.169.254", "172.16.0.1", "172.31.255.255", "192.0.0.8", "192.0.0.192", "192.0.2.1", "192.88.99.1"),
    *("192.168.1.1", "198.18.0.1", "198.19.255.255", "198.51.100.7", "203.0.113.9", "224.0.0.1", "239.255.255.255"),
    *("240.0.0.1", "255.255.255.255", "168.63.129.16", "100.100.100.200"),
    *("::", "::1", "::127.0.0.1", "::ffff:127.0.0.1", "::ffff:10.0.0.1", "::ffff:169.254.169.254"),
    *("64:ff9b::10.0.0.1", "64:ff9b::8.8.8.8", "64:ff9b:1::1", "2002:7f00:1::", "2002:808:808::1", "2001::1"),
    *("2001:db8::1", "3fff::1", "fc00::1", "fd00::1", "fe80::1", "fec0::1", "ff02::1", "5f00::1", "100::1"),
]
PUBLIC = ["8.8.8.8", "1.1.1.1", "172.32.0.1", "100.128.0.1", "2606:4700:4700::1111", "2a00:1450::1", "::ffff:8.8.8.8"]


@pytest.mark.parametrize("text", PRIVATE)
def test_private_addresses_are_refused(text: str) -> None:
    """No address of the tables is dialled, on whichever port and by whichever scheme."""
    address = ip_address(text)
    assert not is_public(address)
    assert STRICT.why_refused("https", address, 443)


@pytest.mark.parametrize("text", PUBLIC)
def test_public_addresses_are_dialled_on_the_allowed_port_alone(text: str) -> None:
    """443 by https, and nothing else."""
    address = ip_address(text)
    assert STRICT.why_refused("https", address, 443) == ""
    assert "port" in STRICT.why_refused("https", address, 22)
    assert "https" in STRICT.why_refused("http", address, 80)
    assert Policy(ports=frozenset({443, 8443})).why_refused("https", address, 8443) == ""
    assert Policy(deny=tuple(networks("::/0,0.0.0.0/0"))).why_refused("https", address, 443)


@given(st.integers(0, 2**32 - 1))
def test_mapped_and_plain_addresses_are_judged_alike(number: int) -> None:
    """An IPv4 address and its mapped form never differ; NAT64 and 6to4 forms are refused whatever is inside."""
    plain = IPv4Address(number)
    assert is_public(plain) == is_public(IPv6Address(f"::ffff:{plain}"))
    assert not is_public(IPv6Address(int(IPv6Address("64:ff9b::")) | number))
    assert not is_public(IPv6Address(int(IPv6Address("2002::")) | number << 80))
    if not plain.is_global:
        assert not is_public(plain)  # the table refuses at least what Python refuses


@given(st.integers(0, 2**128 - 1))
def test_ipv6_beyond_global_unicast_is_refused(number: int) -> None:
    """Outside 2000::/3 nothing is public but mapped IPv4."""
    address = IPv6Address(number)
    if address.ipv4_mapped is None and address not in ip_network("2000::/3"):
        assert not is_public(address)


@given(st.integers(0, 2**32 - 1), st.sampled_from(["{a}.{b}.{c}.{d}", "{n}", "0x{n:x}", "0{n:o}", "{a}.{rest}"]))
def test_every_notation_of_an_address_is_recognised(number: int, form: str) -> None:
    """Whatever the system's resolver reads as an address is checked as that address before it is dialled."""
    a, b, c, d = number.to_bytes(4, "big")
    host = form.format(a=a, b=b, c=c, d=d, n=number, rest=number & 0xFFFFFF)
    assert literal(host) == IPv4Address(socket.inet_aton(host))
    with pytest.raises(InvalidRequest):
        target_of(f"https://{host}/", STRICT)


@pytest.mark.parametrize(
    "url",
    [
        *("http://hooks.example.com/", "ftp://hooks.example.com/", "https://", "https:///x", "//hooks.example.com"),
        *("https://user@hooks.example.com/", "https://user:pw@hooks.example.com/", "https://@hooks.example.com/"),
        *("https://hooks.example.com/#part", "https://hooks.example.com/#", "https://hooks.example.com:8443/"),
        *("https://localhost/", "https://hub/", "https://127.0.0.1/", "https://127.1/", "https://0x7f.1/"),
        *("https://2130706433/", "https://0177.0.0.1/", "https://[::1]/", "https://[::ffff:127.0.0.1]/"),
        *("https://8.8.8.8/", "https://[2606:4700::1]/", "https://hooks.example.com\\@10.0.0.1/"),
        *("https://hooks.example.com/a b", "https://hooks.exa\tmple.com/", "https://hooks.example.com/\r\nX: y"),
        *(
            "https://[fe80::1%25eth0]/",
            "https://hooks..example.com/",
            "https://-hooks.example.com/",
            "https://%31%30.1/",
        ),
        *(
            "https://hooks.example.com:0/",
            "https://hooks.example.com:99999/",
            "javascript:alert(1)",
            "https://\uff11\uff12\uff17.0.0.1/",
        ),
        "https://hooks.example.com/" + "a" * 2_048,
    ],
)
def test_urls_are_refused(url: str) -> None:
    """Each trick of a URL is an error that names the field."""
    with pytest.raises(InvalidRequest) as refused:
        target_of(url, STRICT)
    assert refused.value.violations[0].field == "endpoint.url"


@pytest.mark.parametrize(
    ("url", "host"),
    [
        ("https://hooks.example.com/path?query=1", "hooks.example.com"),
        ("https://HOOKS.example.com.:443", "hooks.example.com"),
        ("https://bücher.example/", "xn--bcher-kva.example"),
    ],
)
def test_names_are_taken_and_written_in_ascii(url: str, host: str) -> None:
    """What is taken is a name, in the form in which it is looked up."""
    assert target_of(url, STRICT)[:3] == ("https", host, 443)


def test_allowed_networks_may_be_dialled_by_http_and_as_addresses() -> None:
    """Within `webhook_allow` every port, http and addresses are allowed; outside they are not."""
    assert target_of("http://127.0.0.1:8080/x", LOOPBACK).port == 8080
    assert target_of("http://[::1]:8080/x", LOOPBACK).host == "::1"
    assert LOOPBACK.why_refused("http", ip_address("::ffff:127.0.0.1"), 8080) == ""
    for url in ("http://10.0.0.1/", "https://[::2]/", "http://8.8.8.8/"):
        with pytest.raises(InvalidRequest):
            target_of(url, LOOPBACK)
    assert LOOPBACK.why_refused("http", ip_address("8.8.8.8"), 80)


def test_paths_and_queries_are_not_shown() -> None:
    """They may be secrets."""
    assert redacted("https://hooks.example.com/secret?token=1") == "https://hooks.example.com/..."
    assert redacted("https://hooks.example.com?token=1") == "https://hooks.example.com/..."
    assert redacted("https://hooks.example.com/") == "https://hooks.example.com/"
