"""Certificates of a test's own authority, made by openssl. Nobody else trusts them."""

import ssl
import subprocess
from dataclasses import dataclass
from pathlib import Path
from shutil import which

import pytest


@dataclass(frozen=True)
class Certificates:
    """Files of an authority, and what a server of its shows.

    Attributes:
        authority: whom a client has to trust.
        server: the server's context.
    """

    authority: Path
    server: ssl.SSLContext


def made_in(folder: Path, name: str = "DNS:localhost,IP:127.0.0.1") -> Certificates:
    """A new authority and a certificate for these names.

    Args:
        folder: for the files.
        name: subject alternative names as openssl writes them.
    """
    program = which("openssl")
    if program is None:
        pytest.skip("openssl is missing")
    certificate, key = folder / "certificate.pem", folder / "key.pem"
    command = [program, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    command += ["-keyout", str(key), "-out", str(certificate), "-days", "2"]
    command += ["-subj", "/CN=Tailrace tests", "-addext", f"subjectAltName={name}"]
    subprocess.run(command, check=True, capture_output=True)
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(certificate, key)
    return Certificates(certificate, server)
