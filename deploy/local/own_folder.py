"""Folders that are emptied before they are used: only those that bear our mark, since a path may be anybody's."""

import shutil
from pathlib import Path

MARK = ".made-by-tokenrelay"


class ForeignFolderError(Exception):
    """There is something that we did not make where a folder is to be made. Its text is for the user."""


def is_ours(folder: Path) -> bool:
    """Tells whether a folder was made here: it bears our mark, and is no link to another place."""
    return not folder.is_symlink() and (folder / MARK).is_file()


def make_anew(folder: Path) -> None:
    """Makes a folder with nothing in it but our mark; what an earlier run left there is removed.

    Raises:
        ForeignFolderError: something is there without our mark. It is left as it is.
    """
    if is_ours(folder):
        shutil.rmtree(folder)
    try:
        folder.mkdir(parents=True)
    except FileExistsError:
        if folder.is_symlink() or not folder.is_dir() or any(folder.iterdir()):
            raise ForeignFolderError(
                f"{folder} is there and was not made by Tokenrelay, so it is left as it is; move it, or choose another place"
            ) from None
    (folder / MARK).touch()
