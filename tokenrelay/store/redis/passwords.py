"""A password that lies in a file, and is read again for every new connection, so that it can be changed without a restart."""

from pathlib import Path
from typing import Any
from urllib.parse import unquote

from redis.credentials import CredentialProvider

from tokenrelay.store.redis import errors


class PasswordFile(CredentialProvider):
    """What redis-py asks for credentials when it connects.

    Args:
        user: the name; None: Redis' default user.
        file: holds the password, and perhaps an end of line.
    """

    def __init__(self, user: str | None, file: Path) -> None:
        self._user = user
        self._file = file

    def get_credentials(self) -> tuple[str] | tuple[str, str]:
        """Returns what is in the file now.

        Raises:
            StoreUnavailableError: it cannot be read, which may pass.
        """
        try:
            password = self._file.read_text().strip()
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is no text"
            raise errors.away(f"TOKENRELAY_REDIS_PASSWORD_FILE: {self._file} cannot be read: {reason}") from None
        return (self._user, password) if self._user else (password,)

    async def get_credentials_async(self) -> tuple[str] | tuple[str, str]:
        """Returns the same; a file of a line is read at once."""
        return self.get_credentials()


def options(url: str, password_file: str | None) -> tuple[str, dict[str, Any]]:
    """Returns a URL and what redis-py is to be told beside it, so that the password of a file counts instead of the URL's."""
    if password_file is None:
        return url, {}
    scheme, _, rest = url.partition("://")
    authority, slash, path = rest.partition("/")
    credentials, _, host = authority.rpartition("@")
    user = unquote(credentials.partition(":")[0]) or None
    return f"{scheme}://{host}{slash}{path}", {"credential_provider": PasswordFile(user, Path(password_file))}
