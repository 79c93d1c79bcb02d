"""The consumer group's pending list says who works on what, idle time says who is gone, and nobody looks at who writes."""

from tests.drill.broken import scripts


def install() -> None:
    scripts.alter(
        claim=[scripts.CLAIM_WHAT_RUNS],
        renew=[scripts.RENEW_FOR_ANYBODY],
        append=[scripts.NO_FENCE, scripts.APPEND_AT_THE_END],
        finish=[scripts.NO_FENCE, scripts.FINISH_ANYWHERE],
    )
