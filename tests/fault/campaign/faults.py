"""Applies the planned faults to the site, and records each with its target and its time.

Faults of the same worker, or of the server, never overlap: the later one waits.
"""

import asyncio
import os
import signal
import time
from collections.abc import Awaitable, Callable
from typing import Any

from tailrace.broker import scripts
from tailrace.broker.script import Script
from tests.fault.campaign.history import Disturbance
from tests.fault.campaign.plan import CLIENTS, FaultKind, PlannedFault
from tests.fault.campaign.site import Site, Worker
from tests.proxy import Proxy

HURRY_S = 0.1
DELAY_S = 0.03
_SCRIPTS: dict[str, Script[Any]] = {
    script.name: script
    for script in (
        scripts.SUBMIT,
        scripts.CANCEL,
        scripts.CLAIM,
        scripts.BEGIN,
        scripts.FINISH,
        scripts.ACKNOWLEDGE,
        scripts.HAND_BACK,
        scripts.RENEW,
        scripts.RELEASE,
        scripts.NEXT_ATTEMPT,
    )
}


class Faults:
    """The faults of one campaign.

    Args:
        site: the parts.
        recorded: gets every fault that was applied.
    """

    def __init__(self, site: Site, recorded: list[Disturbance]) -> None:
        self._site = site
        self._recorded = recorded
        self._acts: dict[FaultKind, Callable[[PlannedFault], Awaitable[int]]] = {
            "kill_worker": self._kill_worker,
            "hang_worker": self._hang_worker,
            "drain_worker": self._drain_worker,
            "hurry_worker": self._hurry_worker,
            "kill_fleet": self._kill_fleet,
            "kill_server": self._kill_server,
            "stop_server": self._stop_server,
            "hang_server": self._hang_server,
            "cut": self._cut,
            "delay": self._delay,
            "blackhole": self._blackhole,
            "lose_reply": self._lose_reply,
            "halve_request": self._halve_request,
        }
        self.last = "none"

    async def apply(self, fault: PlannedFault) -> None:
        """Applies a fault and repairs afterwards what it broke."""
        at = len(self._recorded)
        began = time.time()
        self.last = f"{fault.kind} {fault.target}"
        self._recorded.append(Disturbance(fault.kind, fault.target, began, float("inf")))
        pid = await self._acts[fault.kind](fault)
        self._recorded[at] = Disturbance(fault.kind, fault.target, began, time.time(), pid)

    # Workers

    async def _kill_worker(self, fault: PlannedFault) -> int:
        return await self._kill(self._worker(fault), fault.for_s)

    async def _kill_fleet(self, fault: PlannedFault) -> int:
        await asyncio.gather(*(self._kill(worker, fault.for_s) for worker in self._site.workers))
        return 0

    async def _kill(self, worker: Worker, down_s: float) -> int:
        async with worker.lock:
            pid = worker.pid
            worker.signal(signal.SIGKILL)
            await worker.wait_for_exit()
            await asyncio.sleep(down_s)
            await worker.start()
        return pid

    async def _hang_worker(self, fault: PlannedFault) -> int:
        worker = self._worker(fault)
        async with worker.lock:
            pid = worker.pid
            worker.signal(signal.SIGSTOP)
            await asyncio.sleep(fault.for_s)
            worker.signal(signal.SIGCONT)
        return pid

    async def _drain_worker(self, fault: PlannedFault) -> int:
        return await self._drain(self._worker(fault), hurry=False)

    async def _hurry_worker(self, fault: PlannedFault) -> int:
        return await self._drain(self._worker(fault), hurry=True)

    async def _drain(self, worker: Worker, *, hurry: bool) -> int:
        async with worker.lock:
            pid = worker.pid
            worker.signal(signal.SIGTERM)
            if hurry:
                await asyncio.sleep(HURRY_S)
                worker.signal(signal.SIGTERM)
            await worker.wait_for_exit()
            await worker.start()
        return pid

    # The server

    async def _kill_server(self, fault: PlannedFault) -> int:
        return await self._restart(self._site.valkey.kill, fault.for_s)

    async def _stop_server(self, fault: PlannedFault) -> int:
        return await self._restart(self._site.valkey.stop, fault.for_s)

    async def _restart(self, end: Callable[[], None], down_s: float) -> int:
        async with self._site.server_lock:
            await asyncio.to_thread(end)
            await asyncio.sleep(down_s)
            await asyncio.to_thread(self._site.valkey.start)
        return 0

    async def _hang_server(self, fault: PlannedFault) -> int:
        async with self._site.server_lock:
            pid = self._site.valkey.pid
            os.kill(pid, signal.SIGSTOP)
            try:
                await asyncio.sleep(fault.for_s)
            finally:
                os.kill(pid, signal.SIGCONT)
        return pid

    # The network

    async def _cut(self, fault: PlannedFault) -> int:
        self._proxy(fault).cut()
        return 0

    async def _delay(self, fault: PlannedFault) -> int:
        proxy = self._proxy(fault)
        proxy.delay_s = DELAY_S
        await asyncio.sleep(fault.for_s)
        proxy.delay_s = 0.0
        return 0

    async def _blackhole(self, fault: PlannedFault) -> int:
        proxy = self._proxy(fault)
        proxy.stall()
        await asyncio.sleep(fault.for_s)
        proxy.resume()
        return 0

    async def _lose_reply(self, fault: PlannedFault) -> int:
        self._proxy(fault).lose_reply(_sha(fault.script))
        return 0

    async def _halve_request(self, fault: PlannedFault) -> int:
        self._proxy(fault).halve_request(_sha(fault.script))
        return 0

    def _worker(self, fault: PlannedFault) -> Worker:
        return self._site.workers[fault.target]

    def _proxy(self, fault: PlannedFault) -> Proxy:
        return self._site.clients_proxy if fault.target == CLIENTS else self._site.workers[fault.target].proxy


def _sha(script: str) -> bytes:
    return _SCRIPTS[script].sha.encode()
