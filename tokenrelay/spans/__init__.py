"""Spans that become OTLP's bytes once, when they end, and an exporter for each protocol that sends such bytes.

A generation has ten spans. The SDK makes several objects of each and walks through all of them again to export it, which
costs more than a tenth of a token's way. What decides about spans stays the SDK's: the sampler, the ids, the limits, the
resource, the queue of what waits for export, and the exporters with their OTEL_* variables.
"""
