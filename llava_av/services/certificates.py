"""Certificate for mutual TLS between SeaweedFS's components, which refuse all other clients."""

import datetime
import ipaddress
from pathlib import Path

from llava_av.services.ports import LOOPBACK
from llava_av.services.state import write_private

__all__ = ["write_security"]

_CERTIFICATE, _KEY, _CONFIG = "tls.crt", "tls.key", "security.toml"
_VALID = datetime.timedelta(days=3650)
# The clock may be set back after the start.
_EARLIER = datetime.timedelta(days=1)
_GRPC = ("volume", "master", "filer", "s3", "client")
_HTTPS = ("volume", "master", "filer")


def write_security(folder: Path) -> None:
    """Write a new certificate, its key and the `security.toml` that requires it of every client.

    Master, volume server and filer then accept only mutual TLS, over gRPC and HTTP, and SeaweedFS holds the
    only key. The S3 port is not affected, since its requests are signed.
    """
    certificate, key = _make_pair()
    write_private(folder / _CERTIFICATE, certificate)
    write_private(folder / _KEY, key)
    pair = f'cert = "{_CERTIFICATE}"\nkey = "{_KEY}"\n'
    authority = f'ca = "{_CERTIFICATE}"\n'
    sections = [
        f"[grpc]\n{authority}",
        *(f"[grpc.{name}]\n{pair}" for name in _GRPC),
        f"[https.client]\nenabled = true\n{pair}{authority}",
        *(f"[https.{name}]\n{pair}{authority}" for name in _HTTPS),
    ]
    write_private(folder / _CONFIG, "\n".join(sections))


def _make_pair() -> tuple[str, str]:
    """Return a self-signed certificate for the loopback address and its private key, both as PEM."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "llava-av")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder(issuer_name=name, subject_name=name, public_key=key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _EARLIER)
        .not_valid_after(now + _VALID)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(LOOPBACK))]), critical=False
        )
        .sign(key, hashes.SHA256())
    )
    encoding = serialization.Encoding.PEM
    private = key.private_bytes(encoding, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return certificate.public_bytes(encoding).decode(), private.decode()
