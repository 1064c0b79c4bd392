"""Printing that survives terminals without Unicode, closed streams and closed pipes."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import shutil
import sys
import time
from collections.abc import Callable, Generator, Sequence
from typing import Any

from jaxprompt.errors import UsageError

__all__ = [
    "CheckedStream",
    "make_console",
    "one_line",
    "open_missing_streams",
    "print_json",
    "print_lines_to_stderr",
    "print_table",
    "show_progress",
    "silence_stream",
    "write_any_letter",
]

_WIDTH_OF_A_PIPE = 140
"""Columns for tables that go to a pipe or a file, which have no width of their own."""


# --- streams ---


def open_missing_streams() -> None:
    """Give a process that was started with closed standard streams streams that lead nowhere.

    A file opened later would otherwise get the number of a standard stream, and what other code
    prints would go into it.
    """
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDONLY if number == 0 else os.O_WRONLY)
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            nowhere = io.FileIO(os.open(os.devnull, os.O_WRONLY), "w")
            setattr(sys, name, io.TextIOWrapper(nowhere, encoding="utf-8", write_through=True))


def write_any_letter(*streams: Any) -> None:
    r"""Let streams print letters that their encoding lacks as ``\N`` escapes, not fail."""
    for stream in streams:
        if hasattr(stream, "reconfigure"):  # not a stream that someone put in its place
            stream.reconfigure(errors="backslashreplace")


def silence_stream(stream: Any) -> None:
    """Redirect a stream to /dev/null after its reader has closed the pipe."""
    try:
        number = stream.fileno()
    except (AttributeError, OSError, ValueError):  # not a file
        return
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, number)
    os.close(nowhere)


class CheckedStream:
    """A standard stream that says in one line why it cannot be written, or loses what it cannot.

    Results must not be lost unseen: they raise UsageError where the disk is full, and
    BrokenPipeError where the reader has gone. Messages must not end the work: with `forgiving`
    they are lost.
    """

    def __init__(self, stream: Any, *, forgiving: bool = False) -> None:
        self._stream = stream
        self._forgiving = forgiving

    def write(self, text: str) -> int:
        """Write a text."""
        with self._checked():
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        """Write what waits."""
        with self._checked():
            self._stream.flush()

    @contextlib.contextmanager
    def _checked(self) -> Generator[None]:
        try:
            yield
        except (OSError, ValueError) as error:  # ValueError: the stream has been closed
            silence_stream(self._stream)
            if self._forgiving:
                return
            if isinstance(error, BrokenPipeError):
                raise
            reason = (isinstance(error, OSError) and error.strerror) or str(error)
            raise UsageError(
                f"standard output cannot be written ({reason}): send it to another place"
            ) from None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextlib.contextmanager
def print_lines_to_stderr() -> Generator[None]:
    """Send what a user's code prints to standard error, away from a command's output."""
    with contextlib.redirect_stdout(sys.stderr):
        yield


# --- texts ---


def one_line(text: str) -> str:
    """A text in one line, without characters that a terminal would obey."""
    return re.sub(r"[\x00-\x1f\x7f-\x9f]", lambda m: repr(m[0])[1:-1], " ".join(text.split()))


def print_json(value: Any) -> None:
    """Print a value as JSON, exact in any encoding."""
    encoding = (getattr(sys.stdout, "encoding", None) or "").lower().replace("-", "")
    print(json.dumps(value, ensure_ascii=not encoding.startswith("utf8")))


def make_console(stream: Any = None) -> Any:
    """A console that prints texts as they are: brackets and colons mean nothing in them."""
    from rich.console import Console

    class PlainConsole(Console):
        def on_broken_pipe(self) -> None:
            raise  # the BrokenPipeError being handled; Rich would end the program with code 1

    stream = stream or sys.stdout
    return PlainConsole(
        file=stream, width=_width(stream), markup=False, emoji=False, highlight=False
    )


def _width(stream: Any) -> int:
    """Columns that a stream has: as COLUMNS says, or as its terminal does."""
    named = os.environ.get("COLUMNS", "")
    if named.isascii() and named.isdigit() and int(named) > 0:
        return int(named)
    if not stream.isatty():
        return _WIDTH_OF_A_PIPE
    try:
        columns = os.get_terminal_size(stream.fileno()).columns
    except (AttributeError, OSError, ValueError):
        columns = 0
    return columns or shutil.get_terminal_size().columns


def print_table(
    columns: Sequence[str], rows: Sequence[Sequence[str]], *, spare: Sequence[str] = ()
) -> None:
    """Print a table that fits: columns in `spare` go, in that order, before any cell is folded."""
    console = make_console()
    shown, expendable = list(columns), list(spare)
    table = _table(columns, rows, shown)
    while expendable and console.measure(table).maximum > console.width:
        shown.remove(expendable.pop(0))
        table = _table(columns, rows, shown)
    console.print(table)


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]], shown: Sequence[str]) -> Any:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in shown:
        table.add_column(column, overflow="fold")
    for row in rows:  # as texts: brackets in a cell are no markup
        table.add_row(*(Text(row[columns.index(column)]) for column in shown))
    return table


# --- progress ---


@contextlib.contextmanager
def show_progress(
    title: str, unit: str = "runs", trials: int = 0
) -> Generator[Callable[[int, int], None]]:
    """A bar with the time left on a terminal; a plain line every few seconds otherwise.

    Where a unit stands for a number of `trials`, trials a second are shown too.
    """
    started, before = time.monotonic(), None

    def speed(done: int) -> str:
        """Of what was done since the first call: the units before it were there already."""
        nonlocal before
        before = done if before is None else before
        rate = (done - before) * trials / max(time.monotonic() - started, 1e-9)
        return f"{rate:.3g} trials/s" if trials and rate else ""

    if sys.stderr.isatty():
        with _show_bar(title, speed) as update:
            yield update
        return
    last = started

    def print_line(done: int, total: int) -> None:
        nonlocal last
        now, rate = time.monotonic(), speed(done)
        if now - last >= 5:
            last, new = now, done - (before or 0)
            remaining = (
                f", about {(now - started) / new * (total - done):.0f} s left" if new else ""
            )
            rate = f", {rate}" if rate else ""
            print(f"{title}: {done}/{total} {unit}{rate}{remaining}", file=sys.stderr, flush=True)

    yield print_line


@contextlib.contextmanager
def _show_bar(title: str, speed: Callable[[int], str]) -> Generator[Callable[[int, int], None]]:
    from rich import progress

    columns = (
        progress.TextColumn("{task.description}", markup=False),
        progress.BarColumn(),
        progress.MofNCompleteColumn(),
        progress.TextColumn("{task.fields[speed]}", markup=False),
        progress.TimeElapsedColumn(),
        progress.TextColumn("left"),
        progress.TimeRemainingColumn(),
    )
    with progress.Progress(*columns, console=make_console(sys.stderr), transient=True) as bar:
        task = bar.add_task(title, total=None, speed="")
        yield lambda done, total: bar.update(task, completed=done, total=total, speed=speed(done))
