"""Cuts API keys out of texts that people will read, wherever they have come from."""

import re

KEY = re.compile(r"(tr[ka]_[0-9A-Za-z]{12})[0-9A-Za-z]{8,}")  # its kind and its id, which may be seen; then what may not
CREDENTIALS = re.compile(r"(?i)\b(bearer|basic) +(?!tr[ka]_)[^\s\"',]+")


def redact(text: str) -> str:
    """Returns a text without the secret part of any key in it, and without other credentials that follow their scheme."""
    return CREDENTIALS.sub(r"\1 …", KEY.sub(r"\1…", text))
