"""The reference documents say what the code says."""

import pytest

from tools import reference


@pytest.mark.parametrize("name", reference.documents())
def test_the_reference_documents_are_what_the_code_gives(name: str) -> None:
    written = (reference.FOLDER / name).read_text()
    assert written == reference.documents()[name], f"docs/reference/{name} is stale; run `make reference`"


def test_no_metric_is_named_twice_and_each_says_what_it_is() -> None:
    rows = [line for line in reference.metrics_document().splitlines() if line.startswith("| `")]
    assert len(rows) > 20
    for row in rows:
        assert row.split("|")[3].strip(), row
