"""Runs a plan on a site: requests, readers, cancels and faults at their times, then the repair and the end.

Returns the history. Checks nothing.
"""

import asyncio
import time
from collections.abc import Callable, Collection
from pathlib import Path

from redis.asyncio import Redis
from redis.exceptions import RedisError

from tests.fault.campaign import final
from tests.fault.campaign.clients import Clients, Reader, cancel, connected, poison, submit
from tests.fault.campaign.faults import Faults
from tests.fault.campaign.history import CancelCall, Disturbance, Final, History, SubmitAnswer
from tests.fault.campaign.plan import Plan, PlannedFault, PlannedPoison, PlannedRequest
from tests.fault.campaign.site import Site
from tests.until import until

Show = Callable[[str], None]

END_STATUSES = frozenset({"completed", "incomplete", "failed", "cancelled"})
PROGRESS_S = 1.0
REPLY_S = 5.0


class Campaign:
    """One run of a plan.

    Args:
        plan: what happens when.
        site: the running parts.
        clients: connected clients.
        redis: a client without a proxy.
        show: called with a line of progress every second.
    """

    def __init__(self, plan: Plan, site: Site, clients: Clients, redis: Redis, show: Show) -> None:
        self._plan, self._site, self._clients, self._redis, self._show = plan, site, clients, redis, show
        self._submits: list[SubmitAnswer] = []
        self._cancels: list[CancelCall] = []
        self._readers: list[Reader] = []
        self._disturbances: list[Disturbance] = []
        self._faults = Faults(site, self._disturbances)
        self._began = time.time()
        self._begun = asyncio.get_running_loop().time()
        self._reading: set[asyncio.Task[None]] = set()
        self._phase = "faults"

    async def run(self) -> History:
        """Runs from the first request to the final state."""
        progress = asyncio.create_task(self._show_progress())
        requests = [asyncio.create_task(self._request(planned)) for planned in self._plan.requests]
        requests += [asyncio.create_task(self._poison(planned)) for planned in self._plan.poison]
        faults = [asyncio.create_task(self._fault(fault)) for fault in self._plan.faults]
        try:
            await asyncio.gather(*faults)
            await self._until_s(self._plan.form.active_s)
            await self._site.repair()
            repaired, self._phase = time.time(), "repaired"
            await self._all_ended(requests)
            self._phase = "ended"
            return await self._history(repaired)
        finally:
            under_way = (*faults, *requests, *self._reading, progress)
            for task in under_way:
                task.cancel()
            await asyncio.gather(*under_way, return_exceptions=True)

    async def _until_s(self, at_s: float) -> None:
        await asyncio.sleep(max(0.0, self._begun + at_s - asyncio.get_running_loop().time()))

    async def _fault(self, fault: PlannedFault) -> None:
        await self._until_s(fault.at_s)
        await self._faults.apply(fault)

    async def _request(self, planned: PlannedRequest) -> None:
        await self._until_s(planned.at_s)
        self._submits.append(await submit(self._clients, planned, first=True))
        for number in range(len(planned.readers)):
            reader = Reader(self._clients, planned, number)
            self._readers.append(reader)
            task = asyncio.create_task(self._read(reader, planned.readers[number].begins_s))
            self._reading.add(task)
        async with asyncio.TaskGroup() as tasks:
            for late_s in planned.again_s:
                tasks.create_task(self._again(planned, late_s, conflicting=False))
            if planned.conflicts:
                tasks.create_task(self._again(planned, 0.0, conflicting=True))
            for number, late_s in enumerate(planned.cancel_s):
                tasks.create_task(self._cancel(planned, late_s, late=number > 0))

    async def _poison(self, planned: PlannedPoison) -> None:
        await self._until_s(planned.at_s)
        await poison(self._clients, planned)

    async def _read(self, reader: Reader, begins_s: float) -> None:
        await asyncio.sleep(begins_s)
        await reader.read()

    async def _again(self, planned: PlannedRequest, late_s: float, *, conflicting: bool) -> None:
        await asyncio.sleep(late_s)
        self._submits.append(await submit(self._clients, planned, first=False, conflicting=conflicting))

    async def _cancel(self, planned: PlannedRequest, late_s: float, *, late: bool) -> None:
        await asyncio.sleep(late_s)
        self._cancels.append(await cancel(self._clients, planned, late=late))

    async def _all_ended(self, requests: list[asyncio.Task[None]]) -> None:
        """Waits for requests and readers, the queue and the upstream; the checker finds what did not end in time."""
        end = asyncio.get_running_loop().time() + self._plan.form.settle_s

        def left_s() -> float:
            return max(1.0, end - asyncio.get_running_loop().time())

        await _ended_by_now(requests, left_s())
        ids = [planned.id for planned in self._plan.requests]

        async def ended() -> bool:
            await asyncio.sleep(0.1)
            return END_STATUSES.issuperset((await final.statuses(self._redis, ids)).values())

        async def idle() -> bool:
            await asyncio.sleep(0.05)
            return not await final.queue(self._redis) and not (await self._site.ledger())["running"]

        for condition in (ended, idle):
            try:
                await until(condition, left_s())
            except TimeoutError:
                self._show(f"not {condition.__name__} within {self._plan.form.settle_s:g} s")
        await _ended_by_now(self._reading, left_s())

    async def _history(self, repaired: float) -> History:
        site, redis, plan = self._site, self._redis, self._plan
        idle_queue = await final.queue(redis)
        idle_running = [str(entry["key"]) for entry in (await site.ledger())["requests"] if entry["ended"] == "open"]
        processes = await site.drain()
        ledger = await site.ledger()
        return History(
            plan=plan,
            submits=self._submits,
            cancels=self._cancels,
            readings=[reader.reading for reader in self._readers],
            disturbances=self._disturbances,
            exits=[end for worker in site.workers for end in worker.exits],
            began=self._began,
            repaired=repaired,
            ended=time.time(),
            final=Final(
                idle_queue=idle_queue,
                idle_running=idle_running,
                records=await final.records(redis, plan),
                logs=await final.logs(redis, plan),
                keys=await final.keys_left(redis),
                dead=await final.dead(redis),
                calls=final.calls(ledger),
                open_connections=ledger["open_connections"] - 1,
                processes=processes,
            ),
        )

    async def _show_progress(self) -> None:
        while True:
            await asyncio.sleep(PROGRESS_S)
            ids = [answer.id for answer in self._submits if answer.first]
            try:
                async with asyncio.timeout(PROGRESS_S):
                    found = list((await final.statuses(self._redis, ids)).values()) if ids else []
                ended = f"{sum(status in END_STATUSES for status in found)} ended, {found.count('running')} running"
            except (RedisError, OSError, TimeoutError):
                ended = "server down"
            reading = sum(not task.done() for task in self._reading)
            workers = sum(bool(worker.pid) for worker in self._site.workers)
            self._show(
                f"{time.time() - self._began:4.0f} s  {self._phase}: {len(ids)} accepted, {ended}, {reading} readers, "
                f"{workers} workers, {len(self._disturbances)} faults, last fault: {self._faults.last}"
            )


async def _ended_by_now(tasks: Collection[asyncio.Task[None]], limit_s: float) -> None:
    """Waits for tasks and cancels those that do not end in time. Raises what a task raised."""
    if not tasks:
        return
    _, late = await asyncio.wait(tasks, timeout=limit_s)
    for task in late:
        task.cancel()
    await asyncio.wait(tasks)
    for task in tasks:
        if not task.cancelled():
            task.result()


async def run(plan: Plan, folder: Path, show: Show) -> History:
    """Starts the parts and runs a plan on them.

    Args:
        plan: what happens when.
        folder: an empty folder for logs and the server's data.
        show: called with a line of progress every second.
    """
    async with (
        Site(plan.form, folder) as site,
        connected(site.valkey.url, site.clients_proxy.url) as clients,
        Redis.from_url(site.valkey.url, socket_timeout=REPLY_S, socket_connect_timeout=REPLY_S) as redis,
    ):
        return await Campaign(plan, site, clients, redis, show).run()
