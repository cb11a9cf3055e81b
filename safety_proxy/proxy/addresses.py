"""May this address, host or port be asked on behalf of a stranger?

Only global unicast may. The ranges are listed here instead of asking `ipaddress`, whose answers
differ between patch releases of Python. Source: the special-purpose address registries of IANA.
"""

import re
from collections.abc import Collection, Iterable
from ipaddress import (
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    ip_address,
    ip_network,
)
from typing import Final

IPAddress = IPv4Address | IPv6Address
IPNetwork = IPv4Network | IPv6Network

# All of IPv6 that is handed out as global unicast. Outside lie loopback, link-local, site-local
# and unique-local addresses, multicast, discard (100::/64), SRv6 (5f00::/16), and the forms that
# carry an IPv4 address: compatible (::/96) and NAT64 (64:ff9b::/96, 64:ff9b:1::/48).
_GLOBAL_IPV6: Final = IPv6Network("2000::/3")

_NEVER: Final = tuple(
    ip_network(network)
    for network in (
        "0.0.0.0/8",  # "this host": Linux connects it to loopback
        "10.0.0.0/8",  # private
        "100.64.0.0/10",  # shared by a provider's customers; metadata of Alibaba Cloud
        "127.0.0.0/8",  # loopback
        "168.63.129.16/32",  # public by its number, and the host agent inside every Azure machine
        "169.254.0.0/16",  # link-local; metadata of most clouds
        "172.16.0.0/12",  # private
        "192.0.0.0/24",  # IETF protocol assignments; metadata of Oracle Cloud
        "192.0.2.0/24",  # documentation
        "192.31.196.0/24",  # AS112 anycast: who answers is up to the nearest router
        "192.52.193.0/24",  # AMT anycast
        "192.88.99.0/24",  # 6to4 relay anycast
        "192.168.0.0/16",  # private
        "192.175.48.0/24",  # AS112 anycast
        "198.18.0.0/15",  # benchmarking
        "198.51.100.0/24",  # documentation
        "203.0.113.0/24",  # documentation
        "224.0.0.0/4",  # multicast
        "240.0.0.0/4",  # reserved, and broadcast
        "2001::/23",  # IETF protocol assignments: Teredo, which carries IPv4, ORCHID, benchmarking
        "2001:db8::/32",  # documentation
        "2002::/16",  # 6to4, which carries IPv4
        "2620:4f:8000::/48",  # AS112 anycast
        "3fff::/20",  # documentation
    )
)

# The last label of a host that is a number in decimal, octal or hexadecimal. No such top-level
# domain exists. Source: https://url.spec.whatwg.org/#ends-in-a-number-checker
_NUMBER: Final = re.compile(r"[0-9]+|0x[0-9a-f]*", re.IGNORECASE)


def is_allowed(address: IPAddress, allowed: Iterable[IPNetwork] = ()) -> bool:
    """Whether it may be asked: global unicast, or in a network that the admin allows.

    An IPv4-mapped address (`::ffff:10.0.0.1`) is judged as the IPv4 address that it is.
    """
    if isinstance(address, IPv6Address):
        if address.scope_id is not None:
            return False  # a zone is a network card of this machine
        if address.ipv4_mapped is not None:
            address = address.ipv4_mapped
    # `in` is False where the versions differ.
    if any(address in network for network in allowed):
        return True
    if isinstance(address, IPv6Address) and address not in _GLOBAL_IPV6:
        return False
    return not any(address in network for network in _NEVER)


def is_port_allowed(port: int, allowed: Collection[int]) -> bool:
    """Whether it is one of those that the admin allows; none listed: all are."""
    return not allowed or port in allowed


def literal(host: str) -> IPAddress | None:
    """The address that a host (IPv6: without brackets) stands for; None if it is a name.

    Raises ValueError for an address in any but its usual form, such as `127.1`, `0x7f.0.0.1`,
    `2130706433`, `127.0.0.1.`, `fe80::1%eth0`: what they mean depends on who reads them.
    """
    last_label = host.rstrip(".").rpartition(".")[2]
    if ":" not in host and not _NUMBER.fullmatch(last_label):
        return None
    if "%" in host:
        raise ValueError("an address with a zone")
    return ip_address(host)
