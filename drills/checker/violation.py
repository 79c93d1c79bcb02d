"""What a history shows that must not have happened."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Violation:
    """Something that must not have happened: which invariant, about what, and what was seen."""

    invariant: str
    subject: str
    seen: str

    def __str__(self) -> str:
        return f"{self.invariant}: {self.subject}: {self.seen}"
