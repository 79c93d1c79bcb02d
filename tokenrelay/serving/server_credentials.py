"""How gRPC's own server shows the certificate that is current."""

from typing import Any

import grpc

from tokenrelay.serving.certificates import Certificates, Pair


def of(certificates: Certificates) -> grpc.ServerCredentials:
    """Returns credentials that show each new connection the newest pair; open connections keep theirs.

    Clients need a certificate if the settings name authorities of such.
    """
    shown = certificates.current

    def newest() -> Any:  # or None, of which the stubs do not know
        # gRPC calls this for each handshake, on a thread of its own. Its handshakes stand in a row here, so `shown` has
        # one writer; None says that nothing has changed, which spares gRPC from parsing the pair for every connection.
        nonlocal shown
        found = certificates.current
        if found is shown:
            return None
        shown = found
        return _configuration(found)

    return grpc.dynamic_ssl_server_credentials(
        _configuration(shown), newest, require_client_authentication=shown.client_ca is not None
    )


def _configuration(pair: Pair) -> grpc.ServerCertificateConfiguration:
    return grpc.ssl_server_certificate_configuration([(pair.key, pair.certificate)], pair.client_ca)
