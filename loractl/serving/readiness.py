"""Where a server answers, whether it can have that address, and whether it answers there yet."""

from __future__ import annotations

import http.client
import ipaddress
import os
import socket
from dataclasses import dataclass

from loractl.serving.errors import PortTakenError

INSTANCE_HEADER = "x-loractl-instance"
_ANY = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}  # noqa: S104
_PROBE_TIMEOUT_S = 2.0


@dataclass(frozen=True, slots=True)
class Endpoint:
    """The address of a server; `host` is what it listens on."""

    host: str
    port: int

    @property
    def url(self) -> str:
        """Where a client on this machine reaches it, without a path."""
        reached = _ANY.get(self.host, self.host)
        return f"http://[{reached}]:{self.port}" if ":" in reached else f"http://{reached}:{self.port}"


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a server that listens on `host`; a name that does not resolve is not that."""
    try:
        found = socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE) if host else []
    except OSError:
        return False
    return bool(found) and all(ipaddress.ip_address(address[0]).is_loopback for *_, address in found)


def claim_endpoint(host: str, port: int) -> Endpoint:
    """Return the address if a server could listen on it now; port 0 becomes one that is free.

    The engine takes a minute to load, so a taken port has to be said before that.

    Raises:
        PortTakenError: Something listens there, or this machine has no such address.
    """
    try:
        family, _, _, _, address = socket.getaddrinfo(
            host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
            return Endpoint(host, int(probe.getsockname()[1]))
    except OSError as error:
        reason = (os.strerror(error.errno) if error.errno and error.errno > 0 else str(error)).lower()
        raise PortTakenError(host, port, reason) from error


def answers(endpoint: Endpoint, instance: str) -> bool:
    """Whether the server that was started as `instance`, and no other, says at `endpoint` that it is healthy."""
    host = _ANY.get(endpoint.host, endpoint.host)
    connection = http.client.HTTPConnection(host, endpoint.port, timeout=_PROBE_TIMEOUT_S)
    try:
        connection.request("GET", "/health")
        response = connection.getresponse()
        return response.status == http.HTTPStatus.OK and response.getheader(INSTANCE_HEADER) == instance
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
