"""Which URLs and which addresses the server may fetch media from."""

import asyncio
from ipaddress import ip_address

import httpx2
import pytest

from llava_av.errors import UserError
from llava_av.serving.media_hosts import HostRefusedError, MediaHosts
from llava_av.serving.public_addresses import is_public, public_addresses

HOSTS = MediaHosts(
    ["CDN.example.org", "faß.example", "media.example:8443", "http://plain.example", "a_b.example"]
)
BASE = httpx2.URL("https://cdn.example.org/folder/file")


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("https://cdn.example.org/a b.mp4?x=ü#part", "https://cdn.example.org/a%20b.mp4?x=%C3%BC#part"),
        ("HTTPS://cdn.EXAMPLE.org/", "https://cdn.example.org/"),
        ("https://cdn.example.org:443/", "https://cdn.example.org/"),
        ("https://fa\N{LATIN SMALL LETTER SHARP S}.example/", "https://xn--fa-hia.example/"),
        ("https://media.example:8443/", "https://media.example:8443/"),
        ("http://plain.example:80/", "http://plain.example/"),
        ("https://a_b.example/", "https://a_b.example/"),
    ],
)
def test_a_url_of_a_listed_host_is_accepted(url, expected):
    assert HOSTS.accepted(url) == httpx2.URL(expected)


@pytest.mark.parametrize(
    "url",
    [
        "https://example.org/",
        "https://cdn.example.org.evil.example/",
        "https://evil.example/cdn.example.org",
        "https://x.cdn.example.org/",
        "https://cdn.example.org./",
        "https://cdn.example.org:444/",
        "https://cdn.example.org:0/",
        "http://cdn.example.org/",
        "http://cdn.example.org:443/",
        "https://plain.example/",
        "https://media.example/",
        "https://user@cdn.example.org/",
        "https://user:password@cdn.example.org/",
        "https://cdn.example.org@evil.example/",
        "https://evil.example\\@cdn.example.org/",
        "https://cdn.example.org\\@evil.example/",
        "https://cdn.example.org\t.evil.example/",
        "https://cdn%2eexample.org/",
        "ftp://cdn.example.org/",
        "file:///etc/passwd",
        "gopher://cdn.example.org/",
        "https:cdn.example.org",
        "https:///cdn.example.org",
        "//cdn.example.org/",
        "cdn.example.org",
        "https://[::1/",
        "https://cdn.example.org/" + "a" * 100_000,
        "",
    ],
)
def test_any_other_url_is_refused(url):
    with pytest.raises(HostRefusedError):
        HOSTS.accepted(url)


@pytest.mark.parametrize(
    ("location", "accepted"),
    [
        ("/other", True),
        ("other", True),
        ("//cdn.example.org/x", True),
        ("http://plain.example/", True),
        ("//169.254.169.254/latest", False),
        ("http://cdn.example.org/", False),
        ("file:///etc/passwd", False),
        ("https://[::ffff:127.0.0.1]/", False),
        ("http:////]0::1", False),
        ("https://user@cdn.example.org/", False),
    ],
)
def test_a_relative_url_is_checked_like_any_other(location, accepted):
    if accepted:
        assert HOSTS.accepted(location, base=BASE).host in ("cdn.example.org", "plain.example")
    else:
        with pytest.raises(HostRefusedError):
            HOSTS.accepted(location, base=BASE)


@pytest.mark.parametrize(
    "entry",
    [
        "",
        "*",
        "*.example.org",
        "ftp://a.org",
        "ftp://a.org:443",
        "https://a.org/path",
        "a.org/",
        "u@a.org",
        "a.org?",
        "a.org:0",
    ],
)
def test_an_entry_that_is_no_exact_host_is_refused(entry):
    with pytest.raises(UserError, match="exact name of a host"):
        MediaHosts([entry])


@pytest.mark.parametrize("address", ["93.184.216.34", "1.1.1.1", "2606:2800:220:1:248:1893:25c8:1946"])
def test_addresses_on_the_internet_are_public(address):
    assert is_public(ip_address(address))


@pytest.mark.parametrize(
    "address",
    [
        *("0.0.0.0", "0.1.2.3", "127.0.0.1", "127.255.255.254", "10.0.0.1", "172.16.0.1", "172.31.255.255"),
        *("192.168.1.1", "169.254.169.254", "169.254.170.2", "100.64.0.1", "100.100.100.200", "192.0.0.192"),
        *("192.0.2.1", "198.18.0.1", "198.51.100.1", "203.0.113.1", "192.88.99.1", "168.63.129.16"),
        *("224.0.0.1", "239.255.255.255", "240.0.0.1", "255.255.255.255"),
        *("::", "::1", "::127.0.0.1", "::ffff:127.0.0.1", "::ffff:8.8.8.8", "::ffff:a9fe:a9fe"),
        *("64:ff9b::a00:1", "64:ff9b::808:808", "64:ff9b:1::1", "2002:7f00:1::", "2002:a9fe:a9fe::1"),
        *("2001::1", "2001:0:4136:e378:8000:63bf:3fff:fdd2", "2001:db8::1", "3fff::1", "5f00::1", "100::1"),
        *("fc00::1", "fd00:ec2::254", "fe80::1", "fe80::1%eth0", "fec0::1", "ff02::1", "ff0e::1", "4000::1"),
    ],
)
def test_all_other_addresses_are_not(address):
    assert not is_public(ip_address(address))


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "2130706433", "0x7f.1", "0177.0.0.1", "::1"])
def test_a_host_with_an_address_of_this_machine_is_refused(host):
    with pytest.raises(OSError, match="not public"):
        asyncio.run(public_addresses(host, 443))


def test_a_public_address_resolves_to_itself():
    assert asyncio.run(public_addresses("1.1.1.1", 443)) == ["1.1.1.1"]
