"""API keys: how one is made, how a text is judged to be one, and what is stored of it.

    trk_  a0B1c2D3e4F5  <43 characters>  <6 characters>
    kind  key id        secret           checksum

All of it is base62, so that a double click selects it and nothing has to be escaped. The prefix lets scanners of source code
recognize a key, and the checksum lets them, and us, refuse a typo without asking anybody; GitHub's tokens are made the
same way (https://github.blog/2021-04-05-behind-githubs-new-authentication-token-formats/).

At rest there is only the SHA-256 of the whole key. A slow hash protects secrets that can be guessed; 256 random bits cannot.
"""

import hashlib
import hmac
import secrets
import string
import zlib
from dataclasses import dataclass
from enum import Enum

ALPHABET = string.digits + string.ascii_uppercase + string.ascii_lowercase
ID_LENGTH = 12
SECRET_BYTES = 32
SECRET_LENGTH = 43  # characters of base62 for 256 bits
CHECKSUM_LENGTH = 6  # the same for 32 bits
PREFIX_LENGTH = 4
LENGTH = PREFIX_LENGTH + ID_LENGTH + SECRET_LENGTH + CHECKSUM_LENGTH


class KeyKind(Enum):
    """What a key is for, as its prefix says."""

    CALLS = "trk_"
    ADMIN = "tra_"


class NoKeyError(ValueError):
    """A text is no key. What it is instead is never repeated."""


@dataclass(frozen=True)
class ApiKey:
    """A whole key, secret and all. Its text is read through `reveal`; printing it shows the id alone.

    Attributes:
        kind: what it is for.
        key_id: under which it is known; no secret.
    """

    kind: KeyKind
    key_id: str
    _text: str

    @classmethod
    def new(cls, kind: KeyKind) -> "ApiKey":
        """Returns a new key."""
        key_id = "".join(secrets.choice(ALPHABET) for _ in range(ID_LENGTH))
        body = kind.value + key_id + _base62(int.from_bytes(secrets.token_bytes(SECRET_BYTES)), SECRET_LENGTH)
        return cls(kind, key_id, body + _checksum(body))

    @classmethod
    def parse(cls, text: str) -> "ApiKey":
        """Returns the key that a text is. Whether anybody has it, only the store knows.

        Raises:
            NoKeyError: it has not a key's form, or its checksum does not fit.
        """
        if len(text) != LENGTH or not text.isascii():
            raise NoKeyError("is no key")
        body, checksum = text[:-CHECKSUM_LENGTH], text[-CHECKSUM_LENGTH:]
        if not hmac.compare_digest(checksum, _checksum(body)):
            raise NoKeyError("is no key")
        try:
            kind = KeyKind(text[:PREFIX_LENGTH])
        except ValueError:
            raise NoKeyError("is no key") from None
        return cls(kind, text[PREFIX_LENGTH : PREFIX_LENGTH + ID_LENGTH], text)

    def reveal(self) -> str:
        """Returns the key's text, to be shown once to whoever is to have it."""
        return self._text

    def digest(self) -> str:
        """Returns what is stored of it: SHA-256 in hexadecimal."""
        return hashlib.sha256(self._text.encode()).hexdigest()

    def fits(self, digest: str) -> bool:
        """Tells whether a stored digest is this key's, in a time that does not depend on how much of it fits."""
        return hmac.compare_digest(self.digest(), digest)

    def __repr__(self) -> str:
        return f"{self.kind.value}{self.key_id}…"

    __str__ = __repr__


def _checksum(body: str) -> str:
    return _base62(zlib.crc32(body.encode()), CHECKSUM_LENGTH)


def _base62(number: int, length: int) -> str:
    digits = []
    for _ in range(length):
        number, digit = divmod(number, len(ALPHABET))
        digits.append(ALPHABET[digit])
    return "".join(reversed(digits))
