"""`tokenrelay-admin redis-acl`: Redis' aclfile, with a user of its own for each kind of process."""

import hashlib
import os
import secrets
from pathlib import Path
from typing import Annotated

import typer

from tokenrelay.admin.console import err, out
from tokenrelay.store.redis_users import RedisUser, acl_line

NEXT = ".next"  # of a password that is being brought in
PASSWORD_BYTES = 32

FolderOption = Annotated[
    Path, typer.Option("--passwords", metavar="FOLDER", help="folder with a file for each user; what is missing is made")
]
RotateOption = Annotated[bool, typer.Option("--rotate", help="make a second password for each user, as FOLDER/<user>.next")]


def redis_acl(
    passwords: FolderOption,
    rotate: RotateOption = False,
) -> None:
    """Prints an aclfile for Redis 7.0 and newer; the passwords are in the files, and only their hashes in what is printed.

    To change passwords: with --rotate both count once Redis has loaded the file (ACL LOAD). Then put each <user>.next in the
    place of <user>, and print the file again: the old ones count no more.
    """
    try:
        passwords.mkdir(mode=0o700, parents=True, exist_ok=True)
        lines = [acl_line(user, _digests(passwords, user, rotate=rotate)) for user in RedisUser]
    except OSError as error:
        raise typer.BadParameter(f"{error.filename}: {error.strerror}", param_hint="--passwords") from None
    for line in ("user default reset off", *lines):
        out.print(line)
    err.print(f"The passwords are in {passwords}; give each process its own as TOKENRELAY_REDIS_PASSWORD_FILE.")


def _digests(folder: Path, user: RedisUser, *, rotate: bool) -> list[str]:
    files = [folder / user.value, folder / f"{user.value}{NEXT}"]
    for file in files if rotate else files[:1]:
        if not file.exists():
            _create(file)
    return [hashlib.sha256(file.read_text().strip().encode()).hexdigest() for file in files if file.exists()]


def _create(file: Path) -> None:
    """Writes a new password that only this user of the machine may read."""
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as opened:
        opened.write(secrets.token_urlsafe(PASSWORD_BYTES) + "\n")
