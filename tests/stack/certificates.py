"""A certificate authority and what it signs, by openssl: files for brokers and clients."""

import subprocess
from pathlib import Path


class Authority:
    """Signs certificates for 127.0.0.1 that live for a day."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True)
        self.certificate = folder / "ca.pem"
        self._key = folder / "ca.key"
        _openssl(
            "req", "-x509", "-newkey", "rsa:2048", "-noenc", "-days", "1", "-subj", "/CN=tests",
            "-keyout", self._key, "-out", self.certificate,
        )  # fmt: skip

    def signed(self, name: str) -> tuple[Path, Path]:
        """(certificate, key) under a name."""
        certificate, key = self.folder / f"{name}.pem", self.folder / f"{name}.key"
        request, extension = self.folder / f"{name}.csr", self.folder / f"{name}.ext"
        extension.write_text("subjectAltName=IP:127.0.0.1\n")
        _openssl(
            "req", "-newkey", "rsa:2048", "-noenc", "-subj", f"/CN={name}", "-keyout", key,
            "-out", request,
        )  # fmt: skip
        _openssl(
            "x509", "-req", "-in", request, "-CA", self.certificate, "-CAkey", self._key,
            "-CAcreateserial", "-days", "1", "-extfile", extension, "-out", certificate,
        )  # fmt: skip
        return certificate, key


def _openssl(*arguments: str | Path) -> None:
    subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True)
