"""Structured logs: one event a line, JSON for machines or columns for people.

The library is structlog, because an event's fields stay fields until the last moment.
"""

import logging
import sys
from functools import partial
from typing import Any

import structlog

from tokenrelay.redaction import redact
from tokenrelay.settings import ProcessSettings


def set_up(process: str, settings: ProcessSettings) -> None:
    """Configures logging once, before the event loop runs; every line carries the process' name."""
    level = logging.getLevelNamesMapping()[settings.log_level.upper()]
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        partial(_name_process, process),
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    as_json = settings.log_format == "json" or (settings.log_format == "auto" and not sys.stderr.isatty())
    if as_json:
        # Tracebacks without local variables: those may hold prompts.
        tracebacks = structlog.tracebacks.ExceptionDictTransformer(show_locals=False)
        last: list[structlog.typing.Processor] = [
            structlog.processors.ExceptionRenderer(tracebacks),
            structlog.processors.JSONRenderer(default=str),
        ]
    else:
        last = [
            structlog.dev.ConsoleRenderer(
                colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback, sort_keys=False
            )
        ]
    # On the whole line, so that a key is cut out of tracebacks and of other programs' texts as well.
    last.append(_redact)
    structlog.configure(
        processors=[*shared, *last],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        # Else each line, also a debug line that nobody sees, makes a logger anew.
        cache_logger_on_first_use=True,
    )
    # Libraries log through the standard module; their warnings go the same way.
    renderer = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=shared,
        processors=[
            structlog.stdlib.ProcessorFormatter.remove_processors_meta,
            *last,
        ],
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(renderer)
    logging.basicConfig(handlers=[handler], level=max(level, logging.WARNING), force=True)


def _redact(_: object, __: str, line: Any) -> str:
    return redact(str(line))


def _name_process(process: str, _: object, __: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    """Adds the process' name, unless another one is bound.

    A context variable would not do: the tasks in which Envoy's module serves requests are no children of the one in which
    the process starts.
    """
    event.setdefault("process", process)
    return event
