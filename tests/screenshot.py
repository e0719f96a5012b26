"""Takes the screenshot of the gateway's page for docs/gateway.md: `python -m tests.screenshot docs/images/page.png`.

Starts its own Valkey, simulator and worker. Needs Debian's package `chromium`.
"""

import argparse
import asyncio
import tempfile
from pathlib import Path

from tailrace.demo.valkey import EmbeddedValkey
from tests.browser import chromium, ends, has_reached, submit, tab
from tests.gateway_rig import gateway
from tests.rig import rig

SIZE = {"width": 1180, "height": 900}


async def take(path: Path) -> None:
    """Shows three requests: one has ended, one is retried, one is halfway."""
    with EmbeddedValkey() as valkey, tempfile.TemporaryDirectory() as folder:
        async with rig(valkey.url), gateway(valkey.url, Path(folder), is_open=True) as served, chromium() as browser:
            async with tab(browser, served.url, viewport=SIZE) as page:
                await ends(await submit(page, "letta"))
                again = await submit(page, "again")
                await has_reached(again, 8)
                half = await submit(page, "reasoning", prompt="Where does the water go?")
                await has_reached(half, 60)
                await page.evaluate("scrollTo(0, 0)")
                await page.screenshot(path=path)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("path", type=Path)
    asyncio.run(take(parser.parse_args().path))
