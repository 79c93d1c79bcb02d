"""Certificates and keys in PEM files: whether they can be used, and if not, why, in words."""

import os
import ssl
import stat

LARGEST_FILE = 1024 * 1024  # bytes; a bundle of all public authorities has a quarter of it
# What OpenSSL says of a pair, in words.
REASONS = {
    "KEY_VALUES_MISMATCH": "does not belong to the certificate",
    "KEY_TYPE_MISMATCH": "does not belong to the certificate",
    "EE_KEY_TOO_SMALL": "is for a certificate whose key is too short to be safe",
}


class PemError(Exception):
    """A file cannot be used. The text names the problem and has nothing of the file's content.

    Attributes:
        file: its path.
        reason: what is wrong with it, without the path.
    """

    def __init__(self, file: str, reason: str) -> None:
        super().__init__(f"{file} {reason}")
        self.file = file
        self.reason = reason


def read(file: str) -> bytes:
    """Returns a file's content.

    Raises:
        PemError: it cannot be read, or is too large.
    """
    try:
        # Not blocking, because opening a pipe waits for a writer.
        with open(os.open(file, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as opened:
            if not stat.S_ISREG(os.fstat(opened.fileno()).st_mode):
                raise PemError(file, "is no regular file")
            content = opened.read(LARGEST_FILE + 1)
    except OSError as error:
        raise _unreadable(file, error) from None
    if len(content) > LARGEST_FILE:
        raise PemError(file, f"has more than {LARGEST_FILE} bytes")
    return content


def check_certificates(file: str, content: bytes) -> None:
    """Checks that a file's content has certificates, each of them whole.

    Raises:
        PemError: it does not.
    """
    text = content.decode("ascii", errors="ignore")  # between certificates there may be names in any script
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=text)
    except (ssl.SSLError, ValueError):
        raise PemError(file, "holds no certificate, or one that is broken off; it must be PEM") from None


def load_pair(context: ssl.SSLContext, certificate_file: str, key_file: str) -> None:
    """Has a context show a certificate, whose file has been checked.

    Raises:
        PemError: the key cannot be used, or is that of another certificate.
    """
    try:
        context.load_cert_chain(certificate_file, key_file, _no_password)
    except _EncryptedError:
        raise PemError(key_file, "is encrypted; nobody is there to type its password, so store the key without one") from None
    except ssl.SSLError as error:
        raise PemError(key_file, REASONS.get(error.reason or "", "holds no private key that can be read")) from None
    except OSError as error:
        raise _unreadable(key_file, error) from None


def _unreadable(file: str, error: OSError) -> PemError:
    return PemError(file, f"cannot be read: {os.strerror(error.errno or 0)}")


class _EncryptedError(Exception):
    """OpenSSL asks for a password."""


def _no_password() -> str:
    raise _EncryptedError
