"""When a certificate expires: Python's ssl module can tell it of a peer's certificate, but not of one in a file.

A certificate (RFC 5280, section 4.1) is nested DER elements, each of a tag, a length and a content:

    Certificate { tbsCertificate { [0] version, serialNumber, signature, issuer, validity { notBefore, notAfter }, ... } }
"""

import re
import ssl
from datetime import UTC, datetime

VERSION, UTC_TIME = 0xA0, 0x17  # tags; any other time is a GeneralizedTime, which has all four digits of the year
_FIRST = re.compile(rb"-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----", re.DOTALL)


def not_after(pem: bytes) -> datetime:
    """Returns when the first certificate of a PEM file expires.

    Raises:
        ValueError: there is none, or it has no such time.
    """
    found = _FIRST.search(pem)
    if found is None:
        raise ValueError("holds no certificate")
    try:
        return _time(*_elements(_validity(ssl.PEM_cert_to_DER_cert(found[0].decode("ascii"))))[1])
    except (IndexError, ValueError):
        raise ValueError("holds a certificate that says nothing of when it expires") from None


def _validity(certificate: bytes) -> bytes:
    [(_, whole)] = _elements(certificate)
    fields = _elements(_elements(whole)[0][1])
    return fields[4 if fields[0][0] == VERSION else 3][1]  # version 1 leaves the version out


def _elements(der: bytes) -> list[tuple[int, bytes]]:
    """Returns the tags and contents of the elements that follow one another."""
    found, at = [], 0
    while at < len(der):
        tag, length, begin = der[at], der[at + 1], at + 2
        if length & 0x80:  # then it is the number of bytes that hold the length
            begin += length & 0x7F
            length = int.from_bytes(der[at + 2 : begin])
        at = begin + length
        found.append((tag, der[begin:at]))
    return found


def _time(tag: int, content: bytes) -> datetime:
    text = content.decode("ascii")
    if tag == UTC_TIME:
        text = ("19" if text[0] >= "5" else "20") + text  # as section 4.1.2.5.1 says
    return datetime.strptime(text, "%Y%m%d%H%M%SZ").replace(tzinfo=UTC)
