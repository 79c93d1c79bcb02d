"""Reads what a process shows of itself."""

import aiohttp
from prometheus_client.parser import text_string_to_metric_families

PATIENCE = aiohttp.ClientTimeout(total=20.0)


async def total(port: int, name: str) -> float:
    """Returns a metric of a process on this machine, summed over its labels; 0 if it has no such metric.

    Raises:
        aiohttp.ClientError: it does not answer.
    """
    async with aiohttp.ClientSession(timeout=PATIENCE) as session, session.get(f"http://127.0.0.1:{port}/metrics") as page:
        families = text_string_to_metric_families(await page.text())
        return sum(sample.value for family in families for sample in family.samples if sample.name == name)
