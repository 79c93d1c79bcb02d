"""What a tenant or a key may use at most. None is no limit."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields


@dataclass(frozen=True)
class Quota:
    """The limits of one tenant or of one key.

    Attributes:
        requests_per_minute: generations that are accepted.
        tokens_per_minute: tokens of prompts and answers.
        concurrent: generations that wait or run at a time.
        queued_percent: its share of a model's queue, in percent of the queue's bound on generations.
        tokens_per_day: tokens of prompts and answers in a day of UTC.
        tokens_per_month: the same in a month of UTC.
    """

    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    concurrent: int | None = None
    queued_percent: int | None = None
    tokens_per_day: int | None = None
    tokens_per_month: int | None = None

    def as_numbers(self) -> dict[str, int]:
        """Returns what is limited, by name."""
        return {name: value for name, value in asdict(self).items() if value is not None}

    def as_fields(self) -> dict[str, str]:
        """Returns the same as texts."""
        return {name: str(value) for name, value in self.as_numbers().items()}

    @classmethod
    def names(cls) -> list[str]:
        """Returns the names of all limits."""
        return [field.name for field in fields(cls)]

    @classmethod
    def of_fields(cls, given: Mapping[str, str]) -> "Quota":
        """Reads what as_fields returned, among whatever else there is; raises ValueError for what is no number."""
        return cls(**{name: int(given[name]) for name in cls.names() if name in given})


UNLIMITED = Quota()


@dataclass(frozen=True)
class Allowance:
    """By what a new generation is judged: whose it is, and what that one and the key may use.

    Attributes:
        tenant: the tenant's quota.
        key: the key's own.
        prompt_tokens: of the prompt, as far as they are known before the engine has counted them.
        most_tokens: what it may generate at most, over all choices; None: no bound but the context.
    """

    tenant: Quota
    key: Quota
    prompt_tokens: int
    most_tokens: int | None


@dataclass(frozen=True)
class TokensLeft:
    """What is left of the tightest limit of tokens a minute."""

    limit: int
    left: int
