"""Public addresses, the only ones that the server fetches media from."""

import asyncio
import socket
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

__all__ = ["is_public", "public_addresses"]

_GLOBAL_IPV6 = ip_network("2000::/3")
# `ipaddress` calls these global, some of them depending on the release of Python.
_NOT_PUBLIC = tuple(
    map(
        ip_network,
        (
            "168.63.129.16/32",  # host of Azure's virtual machines
            "192.0.0.0/24",  # protocols, and the metadata of Oracle's machines
            "192.88.99.0/24",  # relays of 6to4
            "2001::/23",  # Teredo and other protocols
            "2001:db8::/32",
            "2002::/16",  # 6to4
            "3fff::/20",
        ),
    )
)


def is_public(address: IPv4Address | IPv6Address) -> bool:
    """Return whether an address is that of one host on the internet, not of a tunnel to another address."""
    if address.version == 6 and address not in _GLOBAL_IPV6:
        return False
    return (
        address.is_global
        and not address.is_multicast
        and not address.is_reserved
        and not any(address in network for network in _NOT_PUBLIC)
    )


async def public_addresses(host: str, port: int) -> list[str]:
    """Resolve a host; return its addresses in the order of the resolver.

    Raises:
        OSError: The host has no address, or one that is not public.
    """
    loop = asyncio.get_running_loop()
    # of text, getaddrinfo would convert the name again
    found = await loop.getaddrinfo(host.encode("ascii"), port, type=socket.SOCK_STREAM)
    addresses = list(dict.fromkeys(str(entry[4][0]) for entry in found))
    if not all(is_public(ip_address(address)) for address in addresses):
        raise OSError(f"{host} has an address that is not public: {', '.join(addresses)}")
    return addresses
