"""The consumer group's pending list says who works on what, idle time says who is gone, and nobody looks at who writes."""

from drills.broken import scripts


def install() -> None:
    scripts.alter(
        claim=[scripts.CLAIM_WHAT_RUNS],
        renew=[scripts.RENEW_FOR_ANYBODY],
        append=[scripts.APPEND_WITHOUT_FENCE, scripts.APPEND_AT_THE_END],
        finish=[scripts.FINISH_WITHOUT_FENCE, scripts.FINISH_ANYWHERE],
    )
