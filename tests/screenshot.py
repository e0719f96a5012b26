"""Takes the picture of the gateway's page that stands in the README: `python -m tests.screenshot docs/images/page.png`.

On a Valkey, a simulator and a worker of its own; needs Debian's package `chromium`.
"""

import argparse
import asyncio
import tempfile
from pathlib import Path

from tailrace.demo.valkey import EmbeddedValkey
from tests.browser import chromium, ends, has_come_to, submit, tab
from tests.gateway_rig import gateway
from tests.rig import rig

SIZE = {"width": 1180, "height": 900}


async def take(path: Path) -> None:
    """Three requests, one of which has ended, one begun again, one half way."""
    with EmbeddedValkey() as valkey, tempfile.TemporaryDirectory() as folder:
        async with rig(valkey.url), gateway(valkey.url, Path(folder), is_open=True) as served, chromium() as browser:
            async with tab(browser, served.url, viewport=SIZE) as page:
                await ends(await submit(page, "letta"))
                again = await submit(page, "again")
                await has_come_to(again, 8)
                half = await submit(page, "reasoning", prompt="Where does the water go?")
                await has_come_to(half, 60)
                await page.evaluate("scrollTo(0, 0)")
                await page.screenshot(path=path)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("path", type=Path)
    asyncio.run(take(parser.parse_args().path))
