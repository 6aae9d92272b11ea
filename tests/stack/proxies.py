"""A network that can be cut: a TCP proxy on loopback, in this process."""

import contextlib
import socket
import threading
import time
from types import TracebackType

CHUNK_BYTES = 65536
LOOK_SECONDS = 0.05


class Proxy:
    """Forwards connections to 127.0.0.1:`target`. `cut` closes them and takes no new ones;
    `hold` leaves them open and carries nothing, as a network that drops packets; `mend` ends both.
    """

    def __init__(self, target: int) -> None:
        self._target = target
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listening.getsockname()[1]
        self._open: list[socket.socket] = []
        self._lock = threading.Lock()
        self._cut = self._closed = False
        self._flows = threading.Event()
        self._flows.set()

    def __enter__(self) -> "Proxy":
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._closed = True
        self._flows.set()
        self._listening.close()
        self._drop()

    def cut(self) -> None:
        """Close every connection; new ones are closed at once."""
        self._cut = True
        self._drop()

    def hold(self) -> None:
        """Carry nothing from now on."""
        self._flows.clear()

    def mend(self) -> None:
        """Carry again. Connections that were held go on where they were."""
        self._cut = False
        self._flows.set()

    def _drop(self) -> None:
        with self._lock:
            dropped, self._open = self._open, []
        for one in dropped:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()

    def _accept(self) -> None:
        while not self._closed:
            try:
                client, _ = self._listening.accept()
                if self._cut:
                    client.close()
                    continue
                server = socket.create_connection(("127.0.0.1", self._target))
            except OSError:
                time.sleep(LOOK_SECONDS)
                continue
            with self._lock:
                self._open += [client, server]
            for pair in ((client, server), (server, client)):
                threading.Thread(target=self._carry, args=pair, daemon=True).start()

    def _carry(self, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(CHUNK_BYTES):
                self._flows.wait()
                sink.sendall(data)
        for one in (source, sink):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
