"""How one of our processes calls another over TLS: whom it trusts, and which certificate it shows."""

from dataclasses import dataclass

import grpc

from tokenrelay import pem
from tokenrelay.pem import PemError
from tokenrelay.start_up import SettingError


@dataclass(frozen=True)
class ClientFiles:
    """PEM files. What is in them may be replaced; each new channel reads them again.

    Attributes:
        ca: the authorities to trust.
        certificate: the own certificate; None: none is shown.
        key: its private key.
        server_name: the name that the server's certificate must have; None: that of its address.
        variables: the environment variables that name ca, certificate and key, for what is said of a file.
    """

    ca: str
    certificate: str | None
    key: str | None
    server_name: str | None
    variables: tuple[str, str, str]

    def contents(self) -> tuple[bytes, bytes | None, bytes | None]:
        """Returns what is in them now.

        Raises:
            SettingError: a file cannot be used, or a certificate has no key.
        """
        if (self.certificate is None) != (self.key is None):
            raise SettingError(", ".join(self.variables[1:]), "a certificate needs its key; set both, or neither")
        try:
            ca = pem.read(self.ca)
            pem.check_certificates(self.ca, ca)
            if self.certificate is None or self.key is None:  # both
                return ca, None, None
            certificate, key = pem.read(self.certificate), pem.read(self.key)
            pem.check_certificates(self.certificate, certificate)
        except PemError as error:
            named = dict(zip((self.ca, self.certificate, self.key), self.variables, strict=True))
            raise SettingError(named[error.file], str(error)) from None
        return ca, certificate, key

    @property
    def options(self) -> tuple[tuple[str, str], ...]:
        """Further options of a channel."""
        return (("grpc.ssl_target_name_override", self.server_name),) if self.server_name is not None else ()


def credentials(contents: tuple[bytes, bytes | None, bytes | None]) -> grpc.ChannelCredentials:
    """Returns a channel's credentials."""
    ca, certificate, key = contents
    return grpc.ssl_channel_credentials(ca, key, certificate)
