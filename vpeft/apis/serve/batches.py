"""Questions that come one by one, answered in batches."""

from __future__ import annotations

import queue
import threading
import time
from concurrent.futures import Future

from vpeft.apis.predict.results import Prediction
from vpeft.apis.serve.served import Asked, Served


class Busy(Exception):
    """More questions wait than are kept."""


class Batches:
    """One thread that asks the model: what comes within a moment goes through it together.

    Args:
        served: The adapters.
        size: Images of a batch at most.
        wait: Seconds that the first of a batch waits for others.
        waiting: Images that wait at most; more are refused (:class:`Busy`).
    """

    def __init__(self, served: Served, size: int = 16, wait: float = 0.005, waiting: int = 256) -> None:
        self.served, self.size, self.wait = served, size, wait
        self._queue: queue.Queue[tuple[Asked, Future[Prediction]] | None] = queue.Queue(waiting)
        self._thread = threading.Thread(target=self._run, name="vpeft-serve", daemon=True)
        self._thread.start()

    def ask(self, asked: Asked) -> Future[Prediction]:
        """Put a question; its answer comes.

        Raises:
            Busy: Too many wait.
        """
        answer: Future[Prediction] = Future()
        try:
            self._queue.put_nowait((asked, answer))
        except queue.Full as error:
            raise Busy from error
        return answer

    def close(self) -> None:
        """Answer what waits, and end."""
        self._queue.put(None)
        self._thread.join()

    @property
    def alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread.is_alive()

    def _run(self) -> None:
        going = True
        while going:
            first = self._queue.get()
            batch, until = [first], time.monotonic() + self.wait
            while batch[-1] is not None and len(batch) < self.size:
                try:
                    batch.append(self._queue.get(timeout=max(0.0, until - time.monotonic())))
                except queue.Empty:
                    break
            going = batch[-1] is not None
            self._answer([one for one in batch if one is not None and one[1].set_running_or_notify_cancel()])

    def _answer(self, batch: list[tuple[Asked, Future[Prediction]]]) -> None:
        if not batch:
            return
        try:
            answers = self.served.answer([asked for asked, _ in batch])
        except Exception as error:
            if len(batch) == 1:
                batch[0][1].set_exception(error)
                return
            for one in batch:  # one of them was the reason: the others get their answers
                self._answer([one])
            return
        for (_, future), answer in zip(batch, answers, strict=True):
            future.set_result(answer)
