"""A certificate authority for one machine: what it signs is for tests and for trying TLS out, not for anybody else.

The library is cryptography, which the engine's libraries bring anyway; Python's own ssl module cannot make certificates.
"""

import ipaddress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

LOCAL_NAMES = ("localhost", "127.0.0.1", "::1")
CLOCK_DIFFERENCE = timedelta(hours=1)  # between this machine and one that checks, at most


@dataclass(frozen=True)
class Issued:
    """A certificate and its key, both as PEM."""

    certificate: bytes
    key: bytes

    @property
    def not_after(self) -> datetime:
        """When the certificate expires."""
        return x509.load_pem_x509_certificate(self.certificate).not_valid_after_utc


class Authority:
    """Signs certificates.

    Args:
        own: the authority's own certificate and key.
    """

    def __init__(self, own: Issued) -> None:
        self.own = own
        self._certificate = x509.load_pem_x509_certificate(own.certificate)
        key = load_pem_private_key(own.key, password=None)
        assert isinstance(key, ec.EllipticCurvePrivateKey)
        self._key = key

    @classmethod
    def new(cls, name: str, lifetime: timedelta) -> "Authority":
        """Makes an authority with a key of its own."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = _name(name)
        usage = x509.KeyUsage(
            digital_signature=True,
            key_cert_sign=True,
            crl_sign=True,
            content_commitment=False,
            key_encipherment=False,
            data_encipherment=False,
            key_agreement=False,
            encipher_only=False,
            decipher_only=False,
        )
        builder = (
            _builder(subject, subject, key.public_key(), lifetime)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(usage, critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        )
        return cls(_signed(builder, key, key))

    def server(self, lifetime: timedelta, names: tuple[str, ...] = LOCAL_NAMES) -> Issued:
        """Makes a server's certificate for host names and addresses."""
        return self._issue(names[0], lifetime, ExtendedKeyUsageOID.SERVER_AUTH, names)

    def client(self, name: str, lifetime: timedelta) -> Issued:
        """Makes a client's certificate."""
        return self._issue(name, lifetime, ExtendedKeyUsageOID.CLIENT_AUTH, (name,))

    def _issue(self, name: str, lifetime: timedelta, usage: x509.ObjectIdentifier, names: tuple[str, ...]) -> Issued:
        key = ec.generate_private_key(ec.SECP256R1())
        authority = x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key())
        builder = (
            _builder(_name(name), self._certificate.subject, key.public_key(), lifetime)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
            .add_extension(x509.SubjectAlternativeName([_alternative(one) for one in names]), critical=False)
            .add_extension(authority, critical=False)
        )
        return _signed(builder, self._key, key)


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _alternative(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, lifetime: timedelta
) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return x509.CertificateBuilder(
        subject_name=subject,
        issuer_name=issuer,
        public_key=key,
        serial_number=x509.random_serial_number(),
        not_valid_before=min(now, now + lifetime) - CLOCK_DIFFERENCE,
        not_valid_after=now + lifetime,
    )


def _signed(builder: x509.CertificateBuilder, signer: ec.EllipticCurvePrivateKey, key: ec.EllipticCurvePrivateKey) -> Issued:
    certificate = builder.sign(signer, hashes.SHA256())
    return Issued(
        certificate.public_bytes(Encoding.PEM),
        key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
    )
