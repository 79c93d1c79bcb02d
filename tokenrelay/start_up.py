"""Why a process cannot start. The texts are for the operator."""

from typing import ClassVar


class StartUpError(Exception):
    """The process cannot start, and trying again without a change would not help.

    Attributes:
        status: the process's exit status; 2 where the text names a wrong setting, as for a value that cannot be read.
        is_said: whether the operator has been told already why, on standard error, by a process that this one has started.
    """

    status: ClassVar[int] = 1
    is_said: ClassVar[bool] = False


class SettingError(StartUpError):
    """What a setting asks for cannot be had.

    Args:
        variables: the environment variables that the operator may change, separated by commas.
        problem: what is wrong; never the value itself, which may hold a password.
    """

    status = 2

    def __init__(self, variables: str, problem: str) -> None:
        super().__init__(f"{variables}: {problem}")
