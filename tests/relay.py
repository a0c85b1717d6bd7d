"""A relay between a client and a scheduler that counts the bytes which the client is sent."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from urllib.parse import urlsplit


class Relay:
    """Passes on whatever comes to a port of this machine.

    Attributes
    ----------
    address
        Where it listens: ``"tcp://127.0.0.1:41235"``.
    bytes_back
        Bytes passed back to those who connected.
    """

    def __init__(self, target: str) -> None:
        parts = urlsplit(target)
        self._target = (str(parts.hostname), int(parts.port or 0))
        self._server = socket.create_server(("127.0.0.1", 0))
        self._sockets = [self._server]
        self._counting = threading.Lock()
        self.address = f"tcp://127.0.0.1:{self._server.getsockname()[1]}"
        self.bytes_back = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with suppress(OSError):  # the server is closed
            while True:
                near, _ = self._server.accept()
                far = socket.create_connection(self._target)
                self._sockets += [near, far]
                threading.Thread(target=self._pass, args=(near, far, 0), daemon=True).start()
                threading.Thread(target=self._pass, args=(far, near, 1), daemon=True).start()

    def _pass(self, source: socket.socket, target: socket.socket, count: int) -> None:
        with suppress(OSError):  # one end is closed
            while block := source.recv(1 << 16):
                with self._counting:
                    self.bytes_back += count * len(block)
                target.sendall(block)
        with suppress(OSError):
            target.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        """Close all connections."""
        for end in self._sockets:
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()


@contextmanager
def relayed(target: str) -> Iterator[Relay]:
    """Run a relay to an address, ``"tcp://127.0.0.1:8786"``, until the block ends."""
    relay = Relay(target)
    try:
        yield relay
    finally:
        relay.close()
