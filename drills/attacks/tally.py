"""What came of hostile requests."""

import re
from collections import Counter, defaultdict

import grpc

from drills.raw_http2.frames import Answer

STATUSES = {code.value[0]: code.name for code in grpc.StatusCode}
OUR_FAULT = re.compile(
    r"Traceback|Exception|<class|object at 0x|\.py\b|error_id|(Decode|Value|Type|Key|Attribute|Unicode)Error"
)


class Tally:
    """Counts answers by the kind of their request.

    Attributes:
        outcomes: by kind, how often there was which outcome.
        bad: a line for each answer that is not proper: none, or one that shows a fault of the server.
    """

    def __init__(self) -> None:
        self.outcomes: dict[str, Counter[str]] = defaultdict(Counter)
        self.bad: list[str] = []

    def answered(self, kind: str, answer: Answer, *, may_break: bool = False) -> None:
        """Counts an answer, and keeps it if it was not a proper one.

        Args:
            may_break: whether what was sent breaks HTTP/2's own rules, so that a reset or a cut is an answer too.
        """
        status = answer.status
        if status is None:
            outcome = "cut" if answer.cut else "none" if answer.reset is None else f"reset {answer.reset}"
            proper = may_break
        else:
            outcome = STATUSES.get(status, str(status))
            proper = outcome not in ("UNKNOWN", "CANCELLED") and not OUR_FAULT.search(answer.text)
        self.came(kind, outcome)
        if not proper:
            self.bad.append(f"{kind}: {outcome}: {answer.text[:200]}")

    def came(self, kind: str, outcome: str, times: int = 1) -> None:
        """Counts an outcome that is no answer."""
        self.outcomes[kind][outcome] += times

    def is_bad(self, kind: str, outcome: str, what: str) -> None:
        """Counts an outcome that must not be."""
        self.came(kind, outcome)
        self.bad.append(f"{kind}: {what}")

    @property
    def requests(self) -> int:
        return sum(sum(counts.values()) for counts in self.outcomes.values())
