"""A span while it is recorded."""

import logging
import time
from collections.abc import Callable, Mapping, Sequence

from opentelemetry.trace import Link, NonRecordingSpan, SpanContext, SpanKind, Status, StatusCode

Value = str | bool | int | float | Sequence[str]
Attributes = Mapping[str, Value]

log = logging.getLogger(__name__)


class RecordedSpan(NonRecordingSpan):
    """A span with attributes, links and a status; of what else the interface has, such as events, it keeps nothing.

    Args:
        context: its ids.
        parent: None if it is a root.
        on_end: takes the span once, when it ends.

    Attributes:
        end_ns: None until it ends. What is set after that is lost.
    """

    def __init__(
        self,
        context: SpanContext,
        *,
        parent: SpanContext | None,
        name: str,
        kind: SpanKind,
        start_ns: int,
        attributes: Attributes | None,
        links: Sequence[Link],
        on_end: Callable[["RecordedSpan"], None],
    ) -> None:
        super().__init__(context)
        self.parent = parent
        self.name = name
        self.kind = kind
        self.start_ns = start_ns
        self.end_ns: int | None = None
        self.attributes: dict[str, Value] = dict(attributes) if attributes else {}
        self.links = links
        self.status: Status | None = None
        self._on_end = on_end

    def is_recording(self) -> bool:
        return self.end_ns is None

    def set_attribute(self, key: str, value: Value) -> None:  # type: ignore[override]  # of what the interface allows, less
        self.attributes[key] = value

    def set_attributes(self, attributes: Attributes) -> None:  # type: ignore[override]
        self.attributes.update(attributes)

    def set_status(self, status: Status | StatusCode, description: str | None = None) -> None:
        self.status = status if isinstance(status, Status) else Status(status, description)

    def end(self, end_time: int | None = None) -> None:
        if self.end_ns is not None:
            log.warning("a span is ended twice: %s", self.name)
            return
        self.end_ns = time.time_ns() if end_time is None else end_time
        self._on_end(self)
