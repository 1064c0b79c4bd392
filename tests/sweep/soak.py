"""Soak: random sweeps under kills, full disks, damage and edits, until each is complete.

    python tests/sweep/soak.py --count 200 [--seed N] [--only CASE]

Every case is a random sweep, run by the command line in a process of its own, to which faults
happen between its start and its end. After each fault, and at the end, three things are asked:

* nothing finished is lost: cells that the store held before stay in it, unless it was damaged;
* nothing wrong is kept: what the store gives has the bits of the sweep that was never disturbed;
* nothing is said badly: the exit code is one of the contract's, no output holds a traceback, and
  no worker outlives the process that started it.

The seed is printed first, and a defect with the case that shows it; `--only CASE` repeats one.
The process forks its children, which therefore start at once: it starts no thread and no JAX
device of its own.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import xarray  # noqa: F401 (loaded here, so that no child needs to)

import jaxprompt
from jaxprompt.cli.main import main as run_command
from jaxprompt.errors import UsageError
from jaxprompt.sweep.store import FILE, SweepStore

OWN_CLAIM = '''"""A claim of the soak; the words in capitals are what its edits change."""
import os
import time

import jax
import numpy as np

from jaxprompt import Claim, Design, Falsifier, Parameter, Quantity, Relation
from jaxprompt.stats import mean_estimate

{COMMENT}
def closed_form(*, level, slope):
    return {{"value": {FACTOR} * level + slope}}


def simulation(*, key, trials, level, slope, size):
    time.sleep({PAUSE})
    if log := os.environ.get("JAXPROMPT_SOAK_LOG"):
        with open(log, "a") as file:
            file.write(f"{{level!r}} {{slope!r}} {{size}}\\n")
    if size == {BROKEN_SIZE}:
        raise ArithmeticError("a size that this version of the file cannot do")
    seed = [int(word) for word in jax.random.key_data(key)]
    noise = np.random.default_rng(seed).normal(size=(trials, size)).mean(axis=1)
    return {{"value": mean_estimate(level + slope + {SPREAD} * noise)}}


DESIGN = Design.product({{"level": 1.0, "slope": 0.0}}, {{"size": [8, 16]}}, trials=100)
CLAIM = Claim(
    id="soak.level", title="A level", statement="The mean is the level.", derivation="Linear.",
    relation=Relation.MEAN, source="made up",
    parameters=(
        Parameter("size", "integer", "numbers drawn", low=1, simulate_only=True),
        Parameter("level", "real", "the mean", low=0),
        Parameter("slope", "real", "what is added", low=0),
    ),
    quantities=(Quantity("value", "the mean", {TOLERANCE}),),
    falsifiers=(
        Falsifier("shifted", "adds 0.3", lambda level, slope: {{"value": level + slope + 0.3}}),
        Falsifier("doubled", "twice", lambda level, slope: {{"value": 2 * (level + slope)}}),
    ),
    closed_form=closed_form, simulation=simulation,
    designs={{"quick": DESIGN, "full": DESIGN}},
)
'''

FIRST_VERSION = {
    "COMMENT": "",
    "FACTOR": "1.0",
    "PAUSE": "0.004",
    "BROKEN_SIZE": "0",
    "SPREAD": "0.5",
    "TOLERANCE": "0.2",
}

PROMPT_ERROR = {"tokens": 6, "relevant": 2, "signal": 1.0, "context": 1.5, "noise": 1.0}
PROMPT_ERROR |= {"gain": 1.0}


class Defect(AssertionError):
    """A promise that did not hold."""


def require(holds: object, what: str) -> None:
    """Raise a :class:`Defect` unless a promise holds."""
    if not holds:
        raise Defect(what)


@dataclass
class Answer:
    """What a command left: its exit code (negative: the signal that ended it) and its errors."""

    code: int
    errors: str
    seconds: float


@dataclass
class Case:
    """One random sweep, the folder it is disturbed in, and the folder where it is left in peace."""

    chance: random.Random
    folder: Path
    disk: Path
    claim: str
    fixed: dict[str, object]
    grid: dict[str, list[object]]
    trials: int
    workers: int
    version: dict[str, str] = field(default_factory=lambda: dict(FIRST_VERSION))
    happened: list[str] = field(default_factory=list)
    broken: bool = False

    @property
    def own(self) -> bool:
        """Whether the claim is one of a file, which can be edited and logs what it computes."""
        return self.claim == "soak.level"

    @property
    def out(self) -> Path:
        return self.disk / "out"

    @property
    def log(self) -> Path:
        return self.folder / "log"

    def write(self) -> None:
        """Write the sweep's file and the claim's, as they are now."""
        tables = [f"claim = '{self.claim}'", f"trials = {self.trials}", "seed = 5"]
        for name, table in (("fixed", self.fixed), ("grid", self.grid)):
            tables += [f"[{name}]", *(f"{n} = {value!r}" for n, value in table.items())]
        (self.folder / "sweep.toml").write_text("\n".join(tables) + "\n", encoding="utf-8")
        text = OWN_CLAIM.format(**self.version)
        (self.folder / "own.py").write_text(text, encoding="utf-8")

    def words(self, out: Path, workers: int) -> list[str]:
        """The command that goes on with the sweep."""
        words = ["sweep", str(self.folder / "sweep.toml"), "--out", str(out), "--resume"]
        words += ["--no-cache"]
        if self.own:
            words += ["--claims", str(self.folder / "own.py")]
        return [*words, "--workers", str(workers)] if workers > 1 else words


# --- commands in processes of their own ---


def start(case: Case, out: Path, *, workers: int = 1, largest_file: int | None = None) -> int:
    """Fork a process, with a group of its own, that runs the sweep's command; returns its id."""
    child = os.fork()
    if child:
        return child
    try:
        os.setpgid(0, 0)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        os.environ["JAXPROMPT_SOAK_LOG"] = str(case.log)
        for name, stream in (("output", 1), ("errors", 2)):
            file = os.open(case.folder / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(file, stream)
        if largest_file is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, largest_file))
        code = run_command(case.words(out, workers))
        with contextlib.suppress(OSError):
            sys.stdout.flush()
        os._exit(code)
    except BaseException as error:
        with contextlib.suppress(OSError):
            print(f"Traceback of the soak's child: {error!r}", file=sys.stderr, flush=True)
        os._exit(99)


def finish(case: Case, child: int, started: float) -> Answer:
    """Wait for a process and for the workers it started."""
    status = os.waitpid(child, 0)[1]
    seconds = time.monotonic() - started
    deadline = time.monotonic() + 120
    while members := group_members(child):
        if time.monotonic() > deadline:
            for member in members:
                os.kill(member, signal.SIGKILL)
            raise Defect(f"{len(members)} workers outlive the process that started them")
        time.sleep(0.01)
    errors = (case.folder / "errors").read_text(encoding="utf-8", errors="replace")
    require("Traceback" not in errors, f"a traceback: {errors[-2000:]}")
    return Answer(os.waitstatus_to_exitcode(status), errors, seconds)


def group_members(group: int) -> list[int]:
    """Processes of a group that are at work; those that only wait for a parent do not count."""
    members = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            with contextlib.suppress(OSError):
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
                if int(fields[2]) == group and fields[0] not in "ZX":
                    members.append(int(entry.name))
    return members


def run_whole(case: Case, out: Path, *, workers: int = 1, codes: tuple[int, ...]) -> Answer:
    """Run the sweep's command to its end."""
    started = time.monotonic()
    answer = finish(case, start(case, out, workers=workers), started)
    require(
        answer.code in codes, f"exit code {answer.code}, not one of {codes}: {answer.errors[-500:]}"
    )
    return answer


# --- what the store holds ---


def held_cells(out: Path) -> dict[tuple[object, ...], bytes]:
    """The finished cells of a store by their grid values: the bits of all their numbers."""
    if not SweepStore.exists(out):
        return {}
    store = SweepStore.open(out)
    done = store.done & ~store.damaged
    names = [name for name in store._columns if "\0" not in name]
    values = list(store.grid.values())
    return {
        tuple(axis[i] for axis, i in zip(values, index, strict=True)): b"".join(
            np.float64(store.numbers(name)[index]).tobytes() for name in names
        )
        for index in map(tuple, np.argwhere(done).tolist())
    }


def require_right(held: dict[tuple[object, ...], bytes], references: list[Path]) -> None:
    """Each finished cell has the bits of one of the undisturbed sweeps, all of the same one."""
    wrong = []
    for reference in references:
        right = held_cells(reference)
        wrong = [cell for cell, numbers in held.items() if numbers != right.get(cell)]
        if not wrong:
            return
    raise Defect(f"{len(wrong)} of {len(held)} cells have other bits, the first {wrong[0]}")


def read_held(out: Path, *, damaged: bool) -> dict[tuple[object, ...], bytes] | None:
    """What a store holds; None where it is refused in one line, as it may be after damage."""
    try:
        return held_cells(out)
    except UsageError as error:
        require("\n" not in str(error), f"a refusal of several lines: {error}")
        require(damaged, f"a store that nothing damaged is refused: {error}")
        return None


# --- faults ---


def kill(case: Case, span: float) -> str:
    """End the process by a signal that it cannot answer, at a random moment."""
    return interrupt_by(case, span, signal.SIGKILL)


def press_ctrl_c(case: Case, span: float) -> str:
    """Send what Ctrl-C sends, at a random moment after the command has begun."""
    return interrupt_by(case, span, signal.SIGINT)


def interrupt_by(case: Case, span: float, sign: signal.Signals) -> str:
    before = read_held(case.out, damaged=case.broken) or {}
    started = time.monotonic()
    child = start(case, case.out, workers=case.workers)
    time.sleep(case.chance.uniform(0.05, 0.9 * span + 0.05))
    with contextlib.suppress(ProcessLookupError):
        if sign == signal.SIGINT:
            os.killpg(child, sign)  # a terminal sends it to the workers too
        else:
            os.kill(child, sign)
    answer = finish(case, child, started)
    allowed = (-sign, 0, 3, *((130,) if sign == signal.SIGINT else ()), *refusals(case, answer))
    require(answer.code in allowed, f"exit code {answer.code}: {answer.errors[-500:]}")
    if answer.code == 130:
        require("interrupted" in answer.errors, answer.errors)
        amid = "cells are stored" in answer.errors
        require(not amid or "go on with: jaxprompt sweep" in answer.errors, answer.errors)
    held = read_held(case.out, damaged=case.broken) or {}
    require(before.keys() <= held.keys(), f"{len(before.keys() - held.keys())} cells were lost")
    if answer.code not in (-sign, 130):
        return f"{sign.name} after the end"
    return f"{sign.name} amid" if held else f"{sign.name} before a cell"


def refusals(case: Case, answer: Answer) -> tuple[int, ...]:
    """The code of a refusal, where a damaged store may be refused for good."""
    return (2,) if case.broken and "damaged" in answer.errors else ()


def fill_disk(case: Case, span: float) -> str:
    """Leave a random small room on the disk (or in every file), and run."""
    before = read_held(case.out, damaged=case.broken) or {}
    room = case.chance.randrange(0, 60_000)
    filler = case.disk / "filler"
    started = time.monotonic()
    if case.disk.is_mount():
        free = os.statvfs(case.disk)
        wanted = max(0, free.f_bavail * free.f_frsize - room)
        with filler.open("wb") as file, contextlib.suppress(OSError):
            file.write(bytes(wanted))
        child = start(case, case.out, workers=case.workers)
    else:
        size = (case.out / FILE).stat().st_size if SweepStore.exists(case.out) else 0
        child = start(case, case.out, workers=case.workers, largest_file=size + room)
    answer = finish(case, child, started)
    filler.unlink(missing_ok=True)
    require(answer.code in (0, 2, 3), f"exit code {answer.code}: {answer.errors[-500:]}")
    if answer.code in refusals(case, answer):
        return "disk full beside damage"
    if answer.code == 2:
        lines = [line for line in answer.errors.splitlines() if line.startswith("jaxprompt: ")]
        require(any("cannot be written" in line for line in lines), answer.errors[-800:])
    held = read_held(case.out, damaged=case.broken) or {}
    require(before.keys() <= held.keys(), f"{len(before.keys() - held.keys())} cells were lost")
    return "disk full" if answer.code == 2 else "disk nearly full"


def damage(case: Case, span: float) -> str:
    """Change, cut or zero a piece of the store, or leave what a crash leaves beside it."""
    path, chance = case.out / FILE, case.chance
    if not path.is_file():
        return "damage before a store"
    data = bytearray(path.read_bytes())
    at = chance.randrange(len(data))
    kind = chance.choice(("a bit", "a block", "a cut", "noise", "a journal", "a rest"))
    if kind == "a bit":
        data[at] ^= 1 << chance.randrange(8)
    elif kind == "a block":
        data[at : at + 512] = bytes(len(data[at : at + 512]))
    elif kind == "a cut":
        data = data[:at]
    elif kind == "noise":
        data[at : at + 64] = chance.randbytes(len(data[at : at + 64]))
    elif kind == "a journal":
        path.with_name(FILE + "-journal").write_bytes(chance.randbytes(4096))
    else:
        path.with_name(FILE + ".part").write_bytes(chance.randbytes(4096))
    path.write_bytes(bytes(data))
    case.broken = True
    held = read_held(case.out, damaged=True)
    return f"damage by {kind}" + (", refused" if held is None else "")


def edit(case: Case, span: float) -> str:
    """Edit the claim's file: a comment, the formula, the tolerance, or what failed before."""
    kind = case.chance.choice(("COMMENT", "FACTOR", "TOLERANCE", "BROKEN_SIZE"))
    value = {
        "COMMENT": f"# note {case.chance.randrange(1000)}\n",
        "FACTOR": f"{case.chance.choice((1.0, 1.01, 1.02))}",
        "TOLERANCE": f"{case.chance.choice((0.1, 0.2, 0.3))}",
        "BROKEN_SIZE": "0",
    }[kind]
    case.version[kind] = value
    return f"edit of {kind}"


def edit_simulation(case: Case, span: float) -> str:
    """Edit what is measured: the store refuses it, and the edit is taken back."""
    held = read_held(case.out, damaged=case.broken)
    kept = case.version["SPREAD"]
    case.version["SPREAD"] = "0.7"
    case.write()
    if not held:  # with nothing stored it is simply another sweep
        case.version["SPREAD"] = kept
        return "edit of the simulation before a cell"
    started = time.monotonic()
    answer = finish(case, start(case, case.out, workers=case.workers), started)
    require(answer.code == 2, f"cells of two simulations: exit code {answer.code}: {answer.errors}")
    require(
        "another simulation" in answer.errors or "damaged" in answer.errors, answer.errors[-500:]
    )
    case.version["SPREAD"] = kept
    after = read_held(case.out, damaged=case.broken)
    if not case.broken:
        require(after == held, "a refused resume changed the store")
    return "edit of the simulation, refused"


def grow(case: Case, span: float) -> str:
    """Ask for more grid values along one dimension, or for more trials."""
    if case.own and case.chance.random() < 0.3:
        case.trials += case.chance.randrange(2, 20)
        return "more trials"
    name = case.chance.choice(
        [n for n in case.grid if n in ("level", "slope", "size", "dim", "degree")]
    )
    values = case.grid[name]
    new = max(values) + (4 if name == "dim" else 1)
    case.grid[name] = [*values, new] if case.chance.random() < 0.5 else [new, *values]
    return f"more values of {name}"


FAULTS = {
    kill: 6,
    press_ctrl_c: 2,
    fill_disk: 4,
    damage: 4,
    edit: 4,
    edit_simulation: 2,
    grow: 2,
}


# --- a case ---


def make_case(seed: int, number: int, folder: Path, disk: Path) -> Case:
    """The sweep of a case: claim, grid, trials and workers, from the seed alone."""
    chance = random.Random(f"{seed} {number}")
    workers = 2 if chance.random() < 0.06 else 1  # starting workers takes seconds
    kind = chance.choices(("own", "prompt_error", "sphere"), (16, 1, 3))[0]
    if kind == "own":
        grid = {
            "level": [float(v) for v in range(1, 1 + chance.randrange(1, 9))],
            "size": chance.sample([2, 3, 4, 6, 8], chance.randrange(1, 5)),
            "slope": [0.5 * v for v in range(chance.randrange(1, 4))],
        }
        names = chance.sample(list(grid), chance.randrange(2, 4))
        fixed = {n: {"level": 1.0, "size": 4, "slope": 0.5}[n] for n in grid if n not in names}
        made = ("soak.level", fixed, {n: grid[n] for n in names}, chance.randrange(2, 30))
    elif kind == "prompt_error":
        grid = {"dim": chance.sample([8, 12, 16], chance.randrange(1, 4)), "ratio": [0.5, 2.0]}
        grid |= {"ridge": [0.05, 0.5]} if chance.random() < 0.5 else {}
        fixed = {**PROMPT_ERROR, **({} if "ridge" in grid else {"ridge": 0.1})}
        made = ("contextual.prompt_error", fixed, grid, chance.randrange(2, 8))
    else:
        grid = {"degree": list(range(chance.randrange(2, 12))), "concentration": [1.0, 5.0]}
        made = ("universal.sphere_limit", {"sphere_dim": chance.randrange(1, 5)}, grid, 2)
    case = Case(chance, folder, disk, *made, workers)
    if chance.random() < 0.2 and case.own:  # cells of one size fail until an edit mends them
        case.version["BROKEN_SIZE"] = str(chance.choice(case.grid.get("size", [4])))
    return case


def run_case(case: Case) -> None:
    """Disturb a sweep several times, then let it come to its end, and compare.

    Raises:
        Defect: a promise did not hold.
    """
    case.write()
    whole = case.folder / "whole"
    span = run_whole(case, whole, codes=(0, 3)).seconds
    faults = [f for f in FAULTS if case.own or f not in (edit, edit_simulation)]
    # What the disturbed sweep may hold: the undisturbed one as it was since that last came to its
    # end. A fault may strike before the disturbed one follows an edit, and several may.
    earlier: list[Path] = []
    for step in range(case.chance.randrange(2, 7)):
        fault = case.chance.choices(faults, [FAULTS[f] for f in faults])[0]
        if fault in (grow, edit) and not case.broken and case.chance.random() < 0.5:
            run_whole(case, case.out, workers=case.workers, codes=(0, 3))
            earlier.clear()
        if fault in (grow, edit):
            earlier.append(shutil.copytree(whole, case.folder / f"before {step}"))
        case.happened.append(fault(case, span))
        case.write()
        if fault in (grow, edit):
            # The undisturbed sweep follows, so that it is what the disturbed one must become.
            run_whole(case, whole, codes=(0, 3))
        held = read_held(case.out, damaged=case.broken)
        if held is not None and case.happened[-1] != "more trials":
            require_right(held, [whole, *earlier])
    finished = read_held(case.out, damaged=case.broken)
    if finished and json.loads(SweepStore.open(case.out).config)["trials"] != case.trials:
        finished = None  # those cells lack the trials that are now asked for
    case.log.unlink(missing_ok=True)
    codes = (0, 2, 3) if case.broken else (0, 3)
    answer = run_whole(case, case.out, workers=case.workers, codes=codes)
    if answer.code == 2:  # damage beyond repair is said, and the sweep begins anew elsewhere
        require("damaged" in answer.errors, answer.errors[-500:])
        case.happened.append("refused for good")
        shutil.rmtree(case.out)
        run_whole(case, case.out, workers=case.workers, codes=(0, 3))
        finished = None
    require_same_dataset(case.out, whole)
    if finished is not None and case.own and not case.broken:
        require_not_again(case, finished)


def require_same_dataset(out: Path, whole: Path) -> None:
    """Both folders hold the same variables, statuses and failures, to the bit."""
    found, right = jaxprompt.load(out), jaxprompt.load(whole)
    require(list(found.data_vars) == list(right.data_vars), "other variables")
    for name in right.data_vars:
        exact = right[name].dtype.kind == "f"
        same = np.array_equal(found[name].values, right[name].values, equal_nan=exact)
        require(same, f"`{name}` differs from that of the undisturbed sweep")
    require(found.attrs["errors"] == right.attrs["errors"], "other failures")
    left = sorted(path.name for path in out.iterdir())
    require(left == [FILE], f"the folder holds {left}")


def require_not_again(case: Case, finished: dict[tuple[object, ...], bytes]) -> None:
    """What was finished is computed again once at most, to compare an edited simulation with."""
    lines = case.log.read_text().splitlines() if case.log.exists() else []
    names = list(case.grid)
    cells = collections.Counter(
        " ".join(map(repr, (values["level"], values["slope"], values["size"])))
        for cell in finished
        for values in [{**case.fixed, **dict(zip(names, cell, strict=True))}]
    )
    again = sum(line in cells for line in lines)
    allowed = any("BROKEN_SIZE" in word for word in case.happened)
    require(again <= allowed, f"{again} finished cells were computed again")


@contextlib.contextmanager
def small_disk(folder: Path) -> Iterator[Path]:
    """A file system of 4 MiB where this system lets one be made, else a plain folder."""
    folder.mkdir()
    made = False
    if os.geteuid() == 0 and shutil.which("mount"):
        command = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(folder)]
        made = subprocess.run(command, capture_output=True, check=False).returncode == 0
    try:
        yield folder
    finally:
        if made:
            subprocess.run(["umount", "-l", str(folder)], check=False)


def soak(count: int, seed: int, first: int = 0) -> collections.Counter[str]:
    """Run `count` cases; returns how often each kind of fault happened.

    Raises:
        Defect: a promise did not hold; the message says the seed and the case.
    """
    happened: collections.Counter[str] = collections.Counter()
    jaxprompt.claims()  # their modules are loaded once, not by every child
    with tempfile.TemporaryDirectory() as scratch, small_disk(Path(scratch) / "disk") as disk:
        for number in range(first, first + count):
            folder = Path(scratch) / f"case{number}"
            folder.mkdir()
            case = make_case(seed, number, folder, disk)
            try:
                run_case(case)
            except Exception as error:
                happenings = "; ".join(case.happened)
                raise Defect(f"--seed {seed} --only {number} ({happenings}): {error}") from error
            happened["sweeps"] += 1
            happened[f"{case.workers} process{'es' * (case.workers > 1)}"] += 1
            happened[case.claim] += 1
            happened.update(case.happened)
            shutil.rmtree(folder)
            for path in disk.iterdir():
                shutil.rmtree(path) if path.is_dir() else path.unlink()
            print(f"{number}: {'; '.join(case.happened)}", flush=True)
    return happened


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--seed", type=int, default=random.randrange(2**31))
    parser.add_argument("--only", type=int, help="run this case alone")
    options = parser.parse_args()
    print(f"seed {options.seed}", flush=True)
    try:
        alone = options.only is not None
        happened = soak(1 if alone else options.count, options.seed, options.only or 0)
    except Defect as defect:
        print(f"defect: {defect}", flush=True)
        return 1
    for what, times in happened.most_common():
        print(f"{times:5d} {what}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
