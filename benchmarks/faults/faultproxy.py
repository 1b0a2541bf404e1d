"""A TCP proxy on loopback that spoils connections on command, as a store on a bad day does.

    with FaultProxy(store_port) as proxy:
        ...  # clients use 127.0.0.1:proxy.port
        proxy.fault = Fault("cut responses", 1_000)
        ...
        print(proxy.counts)

The fault that is set applies from the next piece of data on, to new connections and to those that
are open: HTTP clients keep theirs. `counts` says how often each kind has struck.
"""

import asyncio
import contextlib
import socket
import struct
import threading
from collections import Counter
from dataclasses import dataclass

HOST = "127.0.0.1"
#: Bytes forwarded at once.
PIECE = 16_384

#: What can be set, and what its amount means.
KINDS = {
    "pass": "nothing",
    "refuse": "nothing; open connections are reset when they are used",
    "delay": "seconds before a request goes on",
    "cut responses": "bytes of a connection's responses, after which it is closed",
    "cut uploads": "bytes of a connection's requests, after which it is closed",
    "throttle": "bytes per second and direction",
    "answer 503": "nothing",
}

_BODY = b"<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"
_HEAD = (
    b"HTTP/1.1 503 Slow Down\r\nContent-Type: application/xml\r\nConnection: close\r\n"
    b"Content-Length: %d\r\n\r\n" % len(_BODY)
)


@dataclass(frozen=True, eq=False)  # the same fault, set again, begins to count anew
class Fault:
    """What to do to connections."""

    kind: str = "pass"
    amount: float = 0.0

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"no fault '{self.kind}'; there are {', '.join(KINDS)}")


class FaultProxy:
    """Forwards connections to `target_port`; runs in a thread while the context lasts."""

    def __init__(self, target_port: int) -> None:
        self.target_port = target_port
        self.port = 0
        self.fault = Fault()  # may be set from any thread
        self.counts: Counter[str] = Counter()
        self._started = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), daemon=True)

    def __enter__(self) -> "FaultProxy":
        self._thread.start()
        if not self._started.wait(10):
            raise RuntimeError("the proxy did not start")
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(10)

    async def _serve(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        server = await asyncio.start_server(self._accept, HOST, 0, backlog=512)
        self.port = server.sockets[0].getsockname()[1]
        self._started.set()
        await self._stop.wait()
        server.close()  # open connections are cancelled with the loop

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.counts["connections"] += 1
        if self.fault.kind == "refuse":
            self.counts["refuse"] += 1
            _reset(writer)
            return
        try:
            upstream = await asyncio.open_connection(HOST, self.target_port)
        except OSError:
            _reset(writer)
            return
        await _Connection(self, (reader, writer), upstream).run()


Stream = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class _Connection:
    """One client's connection and the one to the store behind it."""

    def __init__(self, proxy: FaultProxy, client: Stream, store: Stream) -> None:
        self.proxy = proxy
        self.client_reader, self.client_writer = client
        self.store_reader, self.store_writer = store
        self.fault = proxy.fault
        self.passed: Counter[str] = Counter()  # bytes by direction, since the fault was set
        self.idle = True  # what the client sends next begins a request

    async def run(self) -> None:
        """Forward in both directions until one side is done."""
        both = [asyncio.create_task(self.requests()), asyncio.create_task(self.responses())]
        try:
            await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in both:
                task.cancel()
            await asyncio.gather(*both, return_exceptions=True)  # errors are the ends of sockets
            for writer in (self.client_writer, self.store_writer):
                writer.close()

    async def requests(self) -> None:
        """Client to store."""
        while data := await self.client_reader.read(PIECE):
            fault, begins, self.idle = self.current(), self.idle, False
            if fault.kind == "answer 503" and begins:
                self.strike("answer 503")
                return await self.answer_503(data)
            if fault.kind == "delay" and begins:
                self.strike("delay")
                await asyncio.sleep(fault.amount)
            if not await self.forward("cut uploads", data, self.store_writer):
                return None
        return None

    async def responses(self) -> None:
        """Store to client."""
        while data := await self.store_reader.read(PIECE):
            self.idle = True
            if not await self.forward("cut responses", data, self.client_writer):
                return

    async def forward(self, cut: str, data: bytes, writer: asyncio.StreamWriter) -> bool:
        """Pass `data` on as the fault allows; False if that was the connection's end."""
        fault = self.current()
        if fault.kind == "refuse":
            self.strike("refuse")
            _reset(self.client_writer)
            return False
        if fault.kind == "throttle":
            if not self.passed[cut]:
                self.strike("throttle")
            await asyncio.sleep(len(data) / fault.amount)
        left = int(fault.amount) - self.passed[cut] if fault.kind == cut else len(data)
        self.passed[cut] += len(data)
        writer.write(data[:left])
        await writer.drain()
        if left >= len(data):
            return True
        self.strike(cut)
        return False

    async def answer_503(self, request: bytes) -> None:
        """Refuse a request as stores do that have too many."""
        self.client_writer.write(_HEAD if request.startswith(b"HEAD ") else _HEAD + _BODY)
        self.client_writer.write_eof()
        with contextlib.suppress(TimeoutError):  # closed with data unread, it would be reset
            async with asyncio.timeout(1):
                while await self.client_reader.read(PIECE):
                    pass

    def current(self) -> Fault:
        """The fault in force; a new one starts to count bytes at zero."""
        if self.fault is not self.proxy.fault:
            self.fault = self.proxy.fault
            self.passed.clear()
        return self.fault

    def strike(self, kind: str) -> None:
        self.proxy.counts[kind] += 1


def _reset(writer: asyncio.StreamWriter) -> None:
    """End a connection with a RST instead of a FIN."""
    linger = struct.pack("ii", 1, 0)
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    writer.transport.abort()
