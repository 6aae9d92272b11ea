"""A real Redis on loopback, to be killed, stopped, emptied and started again.

    with RedisServer(tmp_path / "redis") as redis:
        redis.url
        redis.kill()    # kill -9; what was not saved is lost
        redis.start()   # the same port, whatever the disk kept
        with redis.paused():  # SIGSTOP
            ...

`persistent` writes every command to disk before it answers. `tls` makes an authority and
certificates of its own. Whatever is missing raises RedisError, one line with the remedy.
"""

import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from redis import Redis
from redis.exceptions import AuthenticationError, ConnectionError, NoPermissionError

READY_SECONDS = 10.0


class RedisError(Exception):
    """Redis cannot be started; the message names the remedy."""


@dataclass(frozen=True)
class Authority:
    """A certificate authority, a server's certificate for 127.0.0.1, and a client's."""

    folder: Path

    def __post_init__(self) -> None:
        """Make all of them with openssl."""
        if shutil.which("openssl") is None:
            raise RedisError(
                "openssl was not found; install it (Debian, Ubuntu: apt install openssl)"
            )
        self.folder.mkdir(parents=True)
        self._openssl(
            "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
            "-days", "2", "-subj", "/CN=Freshet test", "-keyout", "ca.key", "-out", "ca.crt",
            "-addext", "basicConstraints=critical,CA:TRUE",
            "-addext", "keyUsage=critical,keyCertSign",
        )  # fmt: skip
        for name in ("server", "client"):
            self._issue(name)

    @property
    def ca(self) -> Path:
        """The authority's certificate."""
        return self.folder / "ca.crt"

    def cert(self, name: str) -> Path:
        """The certificate of `server` or `client`."""
        return self.folder / f"{name}.crt"

    def key(self, name: str) -> Path:
        """The key of it."""
        return self.folder / f"{name}.key"

    def _issue(self, name: str) -> None:
        extensions = self.folder / f"{name}.ext"
        extensions.write_text(
            "subjectAltName=IP:127.0.0.1\nbasicConstraints=CA:FALSE\n"
            "authorityKeyIdentifier=keyid\nkeyUsage=digitalSignature\n"
        )
        self._openssl(
            "req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
            "-subj", f"/CN={name}", "-keyout", f"{name}.key", "-out", f"{name}.csr",
        )  # fmt: skip
        self._openssl(
            "x509", "-req", "-in", f"{name}.csr", "-CA", "ca.crt", "-CAkey", "ca.key", "-days", "2",
            "-CAcreateserial", "-extfile", extensions.name, "-out", f"{name}.crt",
        )  # fmt: skip

    def _openssl(self, *arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=self.folder, check=True, capture_output=True)


class RedisServer:
    """One redis-server with its data under `root`; runs while it is entered."""

    def __init__(
        self,
        root: Path,
        *arguments: str,
        persistent: bool = False,
        tls: Authority | None = None,
        acl: Sequence[str] = (),
    ) -> None:
        """acl: lines of an ACL file, such as `user default off`."""
        if shutil.which("redis-server") is None:
            raise RedisError(
                "redis-server was not found; install Redis 7 (Debian, Ubuntu: apt install "
                "redis-server)"
            )
        root.mkdir(parents=True, exist_ok=True)
        self.root, self.tls, self.port = root, tls, _free_port()
        listen = (
            ["--port", "0", "--tls-port", str(self.port)] if tls else ["--port", str(self.port)]
        )
        if tls:
            listen += [
                "--tls-ca-cert-file",
                str(tls.ca),
                "--tls-cert-file",
                str(tls.cert("server")),
            ]
            listen += ["--tls-key-file", str(tls.key("server"))]
        if acl:
            (root / "users.acl").write_text("\n".join(acl) + "\n")
            listen += ["--aclfile", str(root / "users.acl")]
        kept = ["--appendonly", "yes", "--appendfsync", "always"] if persistent else []
        self._command = [
            "redis-server", "--bind", "127.0.0.1", "--dir", str(root), "--save", "", *listen, *kept,
            *arguments,
        ]  # fmt: skip
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> "RedisServer":
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.kill()

    @property
    def pid(self) -> int:
        """Its process id."""
        assert self._process is not None
        return self._process.pid

    @property
    def url(self) -> str:
        """Where it is, without secrets."""
        return f"{'rediss' if self.tls else 'redis'}://127.0.0.1:{self.port}/0"

    def client(self, **more: object) -> Redis:
        """A client of this server."""
        given = {"ssl_ca_certs": str(self.tls.ca), **self._client_files()} if self.tls else {}
        return Redis.from_url(self.url, **{**given, **more})

    def start(self) -> None:
        """Start, and return when it answers."""
        with (self.root / "log").open("ab") as log:
            self._process = subprocess.Popen(self._command, stdout=log, stderr=log)
        deadline = time.monotonic() + READY_SECONDS
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                break
            try:
                with self.client() as client:
                    client.ping()
                return
            except (AuthenticationError, NoPermissionError):
                return
            except ConnectionError:
                time.sleep(0.01)
        raise RedisError(f"redis-server did not start: {(self.root / 'log').read_text()[-800:]}")

    def kill(self) -> None:
        """kill -9."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    @contextmanager
    def paused(self) -> Iterator[None]:
        """SIGSTOP inside: connections stand, and nothing answers."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self._process.send_signal(signal.SIGCONT)

    def _client_files(self) -> dict[str, str]:
        assert self.tls is not None
        return {
            "ssl_certfile": str(self.tls.cert("client")),
            "ssl_keyfile": str(self.tls.key("client")),
        }


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])
