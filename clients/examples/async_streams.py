"""Several answers at once, in one event loop: `python -m tokenrelay.client.examples.async_streams [host:port]`."""

import asyncio
import sys

from tokenrelay.client import AsyncClient

SUBJECTS = ("a baker", "a robot", "a lighthouse")


async def tell(client: AsyncClient, subject: str) -> str:
    """Returns a story about something."""
    async with client.stream(f"Tell me a story about {subject}.", max_tokens=60, temperature=0) as stream:
        return await stream.text()


async def main() -> None:
    """Tells all stories."""
    async with AsyncClient(*sys.argv[1:]) as client:
        stories = await asyncio.gather(*(tell(client, subject) for subject in SUBJECTS))
    for subject, story in zip(SUBJECTS, stories, strict=True):
        print(f"-- {subject}\n{story}")


asyncio.run(main())
