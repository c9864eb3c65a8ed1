"""The connections of a parent: each asks for one thing in one line and then hears messages. Nothing here blocks."""

import selectors
import socket
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field

import msgspec

from research_steps.trial.launcher.protocol import AskedOfParent, line

LARGEST_REQUEST = 64 << 20


@dataclass(eq=False)
class Client:
    """Whoever connected: what came from there until it had asked, and what is still to be sent."""

    connection: socket.socket
    received: bytearray = field(default_factory=bytearray)
    unsent: bytearray = field(default_factory=bytearray)
    has_asked: bool = False
    answered: bool = False


class Connections:
    """Those of one listener. `asked` is called with what a client asks for, `left` when it goes before its answer."""

    def __init__(
        self,
        selector: selectors.BaseSelector,
        listener: socket.socket,
        asked: Callable[[Client, AskedOfParent], None],
        left: Callable[[Client], None],
    ) -> None:
        self.clients: list[Client] = []
        self._selector, self._listener, self._asked, self._left = selector, listener, asked, left
        listener.setblocking(False)
        selector.register(listener, selectors.EVENT_READ, self._accept)

    def tell(self, client: Client, message: msgspec.Struct) -> None:
        """Say something on the way to the answer."""
        if client in self.clients:
            client.unsent += line(message)
            self._send(client)

    def answer(self, client: Client, message: msgspec.Struct) -> None:
        """Say the last thing, if anybody is left to hear it."""
        client.answered = True
        self.tell(client, message)

    def drop(self, client: Client) -> None:
        """Have nothing more to do with a client."""
        self.clients.remove(client)
        self._selector.unregister(client.connection)
        client.connection.close()

    def _accept(self) -> None:
        # The client may be gone again, or there are too many.
        with suppress(OSError):
            connection, _ = self._listener.accept()
            connection.setblocking(False)
            client = Client(connection)
            self.clients.append(client)
            self._selector.register(connection, selectors.EVENT_READ, lambda: self._receive(client))

    def _receive(self, client: Client) -> None:
        try:
            data = client.connection.recv(1 << 16)
        except OSError:
            data = b""
        if client.has_asked:
            # It has nothing more to say, so anything to read is its end.
            self._leave(client)
            return
        client.received += data
        if data and not data.endswith(b"\n") and len(client.received) <= LARGEST_REQUEST:
            return
        try:
            asked: AskedOfParent = msgspec.json.decode(client.received, type=AskedOfParent)
        except msgspec.MsgspecError:
            # Gone before it had asked, or none of ours.
            self._leave(client)
            return
        client.has_asked = True
        client.received = bytearray()
        self._asked(client, asked)

    def _send(self, client: Client) -> None:
        try:
            while client.unsent:
                del client.unsent[: client.connection.send(client.unsent)]
        except BlockingIOError:
            # Whichever comes first: room for the rest, or its end.
            self._selector.modify(
                client.connection, selectors.EVENT_READ | selectors.EVENT_WRITE, lambda: self._ready(client)
            )
            return
        except OSError:
            # Nobody is left to tell.
            client.unsent.clear()
            self._leave(client)
            return
        if client.answered:
            self.drop(client)

    def _ready(self, client: Client) -> None:
        self._selector.modify(client.connection, selectors.EVENT_READ, lambda: self._receive(client))
        self._send(client)

    def _leave(self, client: Client) -> None:
        self.drop(client)
        if not client.answered:
            self._left(client)
