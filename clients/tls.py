"""How a client speaks TLS: whom it trusts, and who it says it is."""

import os
import ssl
from dataclasses import dataclass
from typing import TypeAlias

import grpc

from tokenrelay import pem

Path: TypeAlias = str | os.PathLike[str]


@dataclass(frozen=True)
class Tls:
    """What a client shows and demands when it connects. The files are PEM, and are read once, when the client is made.

    Attributes:
        ca: file with the authorities to trust; None: the public ones that come with gRPC.
        certificate: file with the client's own certificate, for gateways that ask for one.
        key: file with its private key, not encrypted.
        server_name: the name that the gateway's certificate must have; None: that of the target.
    """

    ca: Path | None = None
    certificate: Path | None = None
    key: Path | None = None
    server_name: str | None = None


@dataclass(frozen=True)
class Security:
    """How all channels of a client are secured.

    Attributes:
        credentials: gRPC's; None: plain text.
        context: opens connections with the same certificate, to find out why a gateway refused one, and trusts any gateway;
            None if the application has made the credentials itself.
        server_name: the name that the gateway's certificate must have; None: that of the target.
        has_certificate: whether the client shows one.
    """

    credentials: grpc.ChannelCredentials | None
    context: ssl.SSLContext | None
    server_name: str | None = None
    has_certificate: bool = False

    @property
    def options(self) -> tuple[tuple[str, str], ...]:
        """Further options of a channel."""
        return (("grpc.ssl_target_name_override", self.server_name),) if self.server_name is not None else ()


def secure(tls: "bool | Path | Tls | None", credentials: grpc.ChannelCredentials | None) -> Security:
    """Returns the security that a client's arguments ask for.

    Raises:
        ValueError: a file cannot be used, or the arguments contradict each other.
        TypeError: tls is of another type.
    """
    if credentials is not None:
        if tls is not None:
            raise ValueError("tls: give either tls or credentials, since credentials say all of it")
        return Security(credentials, context=None)
    if tls is None or tls is False:
        return Security(None, context=_trusting())
    return _secure(_as_tls(tls))


def _as_tls(tls: bool | Path | Tls) -> Tls:
    if isinstance(tls, Tls):
        return tls
    if isinstance(tls, str | os.PathLike):
        return Tls(ca=tls)
    if tls is True:
        return Tls()
    raise TypeError(f"tls: must be True, the path of a CA file, or Tls, is {type(tls).__name__}")


def _secure(tls: Tls) -> Security:
    if (tls.certificate is None) != (tls.key is None):
        raise ValueError("tls: a certificate needs its key, and a key its certificate")
    context = _trusting()
    try:
        ca = _certificates(tls.ca) if tls.ca is not None else None
        if tls.certificate is None or tls.key is None:
            credentials = grpc.ssl_channel_credentials(ca)
        else:
            certificate, key = _certificates(tls.certificate), pem.read(os.fspath(tls.key))
            pem.load_pair(context, os.fspath(tls.certificate), os.fspath(tls.key))
            credentials = grpc.ssl_channel_credentials(ca, key, certificate)
    except pem.PemError as error:
        raise ValueError(f"tls: {error}") from None
    return Security(credentials, context, tls.server_name, has_certificate=tls.certificate is not None)


def _certificates(file: Path) -> bytes:
    content = pem.read(os.fspath(file))
    pem.check_certificates(os.fspath(file), content)
    return content


def _trusting() -> ssl.SSLContext:
    """Returns a context that accepts any certificate: nothing is sent over its connections."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    return context
