"""Worker processes that share what is to be done."""

from __future__ import annotations

import queue
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from srft.verify.grade import Request
from srft.verify.process import Limits, NoReply, Worker


class WorkerPool:
    """Workers that share what is to be done.

    Args:
        workers: processes; each starts when it is first needed.
        limits: of each of them.
    """

    def __init__(self, workers: int, limits: Limits) -> None:
        self._pool = [Worker(limits) for _ in range(workers)]
        self._idle: queue.LifoQueue[Worker] = queue.LifoQueue()  # a running worker before one not yet started
        for worker in self._pool:
            self._idle.put(worker)
        self._threads = ThreadPoolExecutor(workers, thread_name_prefix="srft-verify")

    @property
    def replaced(self) -> int:
        """Workers killed at the deadline so far."""
        return sum(worker.replaced for worker in self._pool)

    @property
    def batched(self) -> bool:
        """Whether the user's function takes many responses in one call; starts a worker.

        Raises:
            SrftError: it cannot be loaded.
        """
        worker = self._idle.get()
        try:
            worker.start()
        finally:
            self._idle.put(worker)
        return worker.batched

    def submit(self, requests: Sequence[Request], timeout: float) -> Future[list[Any] | NoReply]:
        """`Worker.call` in the first worker that is free."""
        return self._threads.submit(self._call, requests, timeout)

    def close(self) -> None:
        """End the workers at once; a call that is not done yet raises or is cancelled."""
        for worker in self._pool:
            worker.stop()
        self._threads.shutdown(cancel_futures=True)
        while not self._idle.empty():
            self._idle.get().kill()

    def _call(self, requests: Sequence[Request], timeout: float) -> list[Any] | NoReply:
        worker = self._idle.get()
        try:
            return worker.call(requests, timeout)
        finally:
            self._idle.put(worker)
