"""Ways to run tasks: one after another here, or in worker processes that are replaced if they die.

A worker process may be killed at any moment: by a person, by a scheduler, by a system that runs
out of memory. What it was doing is tried again a bounded number of times (:func:`run_tasks`), so
that one killed process costs a little time, and one task that kills every process that tries it
costs that task.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import itertools
import multiprocessing
import os
import signal
import sys
import threading
import traceback
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

from jaxprompt.compute.devices import THREADS_VARIABLE, cores
from jaxprompt.compute.memory import share_memory
from jaxprompt.errors import UsageError

__all__ = ["MAX_ATTEMPTS", "SerialExecutor", "WorkerPool", "process_pool", "run_tasks"]

MAX_ATTEMPTS = 4
"""Attempts before a task is blamed for its workers' deaths: two beside other tasks, then two
alone."""

_ATTEMPTS_BESIDE_OTHERS = 2
Work = TypeVar("Work")


class SerialExecutor(Executor):
    """Runs each task at once, in this process."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Run the task now; the future is complete when it is returned."""
        future: Future[Any] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:
            future.set_exception(error)
        return future


class WorkerPool(Executor):
    """Worker processes that share this machine's cores, and can be replaced by new ones."""

    def __init__(self, workers: int, prepare: Callable[[], None] | None = None) -> None:
        self.workers = workers
        self._prepare = prepare
        self._pool = self._started()

    def _started(self) -> ProcessPoolExecutor:
        # Forking a process that runs JAX's threads hangs, so workers start afresh.
        context = multiprocessing.get_context("spawn")
        threads = max(1, cores() // self.workers)
        given = (threads, self.workers, self._prepare)
        return ProcessPoolExecutor(self.workers, context, _start_worker, given)

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Hand a task to a worker."""
        with _interrupts_held_back():  # here workers are started
            return self._pool.submit(fn, *args, **kwargs)

    def renew(self) -> None:
        """Start new workers in place of those that died.

        Raises:
            UsageError: the new ones die before they are given anything to do.
        """
        for _ in range(_ATTEMPTS_BESIDE_OTHERS):
            self._pool.shutdown(wait=False, cancel_futures=True)
            self._pool = self._started()
            with contextlib.suppress(BrokenProcessPool):
                self.submit(os.getpid).result()
                return
        raise UsageError(
            "worker processes die as they start: lower --workers, or mend what --claims names, "
            "then resume with --resume"
        )

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """End the workers, after what they are doing."""
        self._pool.shutdown(wait=wait, cancel_futures=cancel_futures)


@contextlib.contextmanager
def process_pool(workers: int, prepare: Callable[[], None] | None = None) -> Generator[WorkerPool]:
    """Worker processes that share this machine's cores; they end with this process, however it
    ends, and drop what they compute when the context is left by an exception. Each calls
    `prepare`, which must pickle, before its first task. A sweep replaces those that die."""
    pool = WorkerPool(workers, prepare)
    before = set(multiprocessing.active_children())
    try:
        yield pool
    except BaseException:
        for process in set(multiprocessing.active_children()) - before:
            process.terminate()
        raise
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


@contextlib.contextmanager
def _interrupts_held_back() -> Generator[None]:
    """Keep Ctrl-C waiting, also in processes that start meanwhile: they inherit what is blocked.

    A terminal sends it to them too, and before they ignore it they would print a traceback.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _start_worker(threads: int, workers: int, prepare: Callable[[], None] | None) -> None:
    os.environ[THREADS_VARIABLE] = str(threads)
    share_memory(workers)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that stores
    parent = multiprocessing.parent_process()

    def follow() -> None:
        if parent is not None:
            parent.join()
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()
    if prepare is not None:
        try:
            prepare()
        except Exception as error:
            print(f"jaxprompt: a worker cannot start: {last_line(error)}", file=sys.stderr)
            os._exit(1)


def last_line(error: BaseException) -> str:
    """An exception as one text: its type and its message."""
    return "".join(traceback.format_exception_only(error)).strip()


def run_tasks(
    executor: Any, function: Callable[[Work], Any], tasks: Iterable[Work], at_once: int
) -> Generator[tuple[Work, Any], None, None]:
    """Run ``function(task)`` for every task, `at_once` at a time; yields each with its result, or
    with the exception that took its place, as they arrive.

    Tasks are taken from `tasks` when there is room for them, so their number need not be bounded
    by memory, and an iterator may still add some after it ended once, while others are at work.

    Where `executor` can replace workers that died, what these were given is tried again up to
    :data:`MAX_ATTEMPTS` times in all; a task whose worker dies every time yields an exception like
    any other. Leaving the iterator drops what is in flight.

    Raises:
        UsageError: a worker died that cannot be replaced, no worker can start, or the executor
            dropped its tasks.
    """
    source, queue = iter(tasks), deque[tuple[Work, int]]()
    waiting: dict[Future[Any], tuple[Work, int, int]] = {}
    generation = 0

    def renew() -> None:
        nonlocal generation
        _renew(executor)
        generation += 1

    def submit(task: Work, deaths: int) -> None:
        while True:
            try:
                future = executor.submit(function, task)
            except BrokenProcessPool:  # a worker died while it had nothing to do
                renew()
            else:
                waiting[future] = (task, deaths, generation)
                return

    try:
        while True:
            # A few tasks in flight keep any executor busy, and an interrupt loses only those.
            while len(waiting) < at_once:
                if not queue:
                    queue.extend((task, 0) for task in itertools.islice(source, 1))
                if not queue or len(waiting) >= _allowed_in_flight(
                    queue[0][1], waiting.values(), at_once
                ):
                    break
                submit(*queue.popleft())
            if not waiting:
                return
            ready, _ = concurrent.futures.wait(
                waiting, return_when=concurrent.futures.FIRST_COMPLETED
            )
            for future in ready:
                task, deaths, born = waiting.pop(future)
                try:
                    result = future.result()
                except BrokenProcessPool as error:
                    if born == generation:
                        renew()
                    if deaths + 1 < MAX_ATTEMPTS:
                        queue.appendleft((task, deaths + 1))
                        continue
                    result = error
                except concurrent.futures.CancelledError:
                    raise UsageError(
                        "the tasks were dropped, as when a scheduler ends: what is finished is "
                        "kept; start it again, then resume with --resume"
                    ) from None
                except Exception as error:  # the worker could not give even a message
                    result = error
                yield task, result
    finally:
        for future in waiting:
            future.cancel()


def _allowed_in_flight(deaths: int, waiting: Iterable[tuple[Any, int, int]], at_once: int) -> int:
    """Tasks allowed in flight: one while any task is being retried alone, else `at_once`."""
    alone = any(
        d >= _ATTEMPTS_BESIDE_OTHERS for d in itertools.chain([deaths], (w[1] for w in waiting))
    )
    return 1 if alone else at_once


def _renew(executor: Any) -> None:
    if not isinstance(executor, WorkerPool):
        raise UsageError(
            "a worker process died: use `process_pool`, which replaces it, or fewer workers; "
            "then resume with --resume"
        ) from None
    executor.renew()
