"""How Envoy's configuration names an extension and its settings."""

from typing import Any

TYPES = "type.googleapis.com/envoy"


def extension(name: str, configuration: dict[str, Any]) -> dict[str, Any]:
    """Returns a filter, a logger or the like. Its settings name their type under "@type", which begins with TYPES."""
    return {"name": name, "typed_config": configuration}
