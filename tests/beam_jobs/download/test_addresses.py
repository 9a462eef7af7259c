"""Tests addresses against the IANA registries' own examples and against `ipaddress`."""

import ipaddress
import random
import socket

import pytest

from beam_jobs.download import addresses


@pytest.mark.parametrize(
    "address",
    [
        "0.0.0.0",
        "10.0.0.1",
        "100.64.0.1",
        "100.100.100.200",  # Alibaba's metadata service
        "127.0.0.1",
        "127.255.255.254",
        "168.63.129.16",  # Azure's
        "169.254.169.254",  # everybody else's
        "172.16.0.1",
        "172.31.255.255",
        "192.0.0.192",  # Oracle's
        "192.168.1.1",
        "198.18.0.1",
        "224.0.0.1",
        "239.255.255.255",
        "255.255.255.255",
        "::",
        "::1",
        "::ffff:127.0.0.1",
        "::ffff:169.254.169.254",
        "::ffff:10.0.0.1",
        "::127.0.0.1",
        "64:ff9b::7f00:1",
        "64:ff9b:1::1",
        "2001:0:7f00:1::1",
        "2002:7f00:1::1",
        "2001:db8::1",
        "fd00:ec2::254",  # Amazon's
        "fe80::1",
        "fe80::1%eth0",
        "fec0::1",
        "ff02::1",
    ],
)
def test_refuses_what_is_not_public(address):
    assert addresses.refusal(address)


@pytest.mark.parametrize(
    "address",
    ["8.8.8.8", "172.15.0.1", "172.32.0.1", "100.128.0.1", "2606:4700::1", "::ffff:8.8.8.8", "64:ff9b::808:808"],
)
def test_permits_public_addresses(address):
    assert addresses.refusal(address) is None


def test_refuses_whatever_python_knows_as_not_global():
    chance = random.Random(0)
    every = [ipaddress.IPv4Address(chance.getrandbits(32)) for _ in range(20_000)]
    # Half of the IPv6 sample inside 2000::/3, where the public ones are.
    every += [ipaddress.IPv6Address(chance.getrandbits(125) | (i % 2) << 125) for i in range(5_000)]
    permitted = [address for address in every if addresses.refusal(str(address)) is None]
    assert len(permitted) > 10_000
    assert all(address.is_global and not address.is_multicast for address in permitted)


def test_allowed_networks_open_just_themselves():
    assert addresses.refusal("127.0.0.1", ["127.0.0.1/32"]) is None
    assert addresses.refusal("::ffff:127.0.0.1", ["127.0.0.1/32"]) is None
    assert addresses.refusal("127.0.0.2", ["127.0.0.1/32"]) == "loopback"
    assert addresses.refusal("169.254.169.254", addresses.ANY_NETWORK) is None


@pytest.mark.parametrize("disguise", ["2130706433", "0x7f.1", "0177.0.0.1", "127.1"])
def test_disguised_addresses_are_checked_as_what_they_resolve_to(disguise):
    assert [addresses.refusal(found) for found in addresses.resolve(disguise)] == ["loopback"]


def test_resolver_errors_pass_through():
    with pytest.raises(socket.gaierror):
        addresses.resolve("no-such-host.invalid")
