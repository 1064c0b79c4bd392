"""Fuzzing: hostile sweep files, stores, tables, reports and parameters.

    python tests/fuzz.py --minutes 10 [--seed N] [TARGET ...]

Each target makes one input from a random generator and says in a word what came of it: an answer
that was checked, or a refusal in one line. Anything else (another exception, several lines, a
number that is none, a wrong read) raises, and the seed that did it is printed. The tests run each
target a few hundred times from fixed seeds.
"""

from __future__ import annotations

import argparse
import collections
import functools
import json
import math
import pickle
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

import jaxprompt as jp
from jaxprompt.core.claim import Claim
from jaxprompt.core.parameters import MAX_MAGNITUDE, Parameter
from jaxprompt.errors import JaxpromptError
from jaxprompt.presentation import report
from jaxprompt.presentation.table_files import load_table_rows, save_table
from jaxprompt.sweep import Sweep, store
from jaxprompt.sweep.dataset import make_dataset
from jaxprompt.sweep.store import SweepStore
from jaxprompt.sweep.tasks import make_tasks

MARK = "jaxprompt-was-here"
"""Name of a file that appears if a payload is ever run."""


def refused(error: JaxpromptError) -> str:
    """The kind of a refusal, which is one line of a readable length."""
    text = str(error)
    assert text.strip(), "a refusal without a word"
    assert "\n" not in text, f"a refusal of several lines: {text!r}"
    assert len(text) < 2000, f"a refusal of {len(text)} characters"
    return type(error).__name__


# --- sweep files ---

TOML = """claim = "contextual.prompt_error"
trials = 4
seed = 3
[fixed]
tokens = 6
relevant = 2
signal = 1.0
context = 1.5
noise = 1.0
gain = 1.0
shifts = [[0.0, 0.0], [0.5, 0.3]]
shift_weights = [0.5, 0.5]
[grid]
dim = [8, 12]
ratio = [0.5, 2.0]
ridge = [0.05, 0.0]
"""

VALUES = (
    *("nan", "-nan", "inf", "-inf", "1e400", "-1e308", "5e-324", "-0.0", "0", "-1", "1e31"),
    *("9007199254740993", "18446744073709551616", "1" * 400, "9" * 5000, "0x" + "f" * 4000),
    *("true", '""', '"\\u0000"', "'\\'", '"\\u001b[31m"', '"contextual.prompt_error"'),
    *("1979-05-27", "07:32:00", "1979-05-27T07:32:00Z", "[]", "[[]]", "{}", "{a = 1}", "[nan]"),
    *("[" * 50 + "]" * 50, "[" * 5000 + "]" * 5000, "[1, 'a', true]", "[[0, 0], [1]]", "[true]"),
    *("{a=" * 3000 + "1" + "}" * 3000, str(list(range(1000))), "[1.0, 1, 1.0]", "[0.5, 0.5]"),
    *('"""\n\n"""', "1_0", "+1", "0b1", "[1970-01-01]", "[{}, {}]", "[[[0.0, 0.0]]]"),
)


def sweep_text(chance: random.Random) -> bytes:
    """A sweep file with some things wrong."""
    lines = TOML.splitlines()
    for _ in range(chance.randint(1, 3)):
        place = chance.randrange(len(lines))
        match chance.randrange(7):
            case 0 | 1 | 2 if "=" in lines[place]:
                name = lines[place].partition(" = ")[0]
                lines[place] = f"{name} = {chance.choice(VALUES)}"
            case 3:
                lines.insert(place, chance.choice(lines))
            case 4:
                lines.pop(place)
                lines = lines or [""]
            case 5:
                lines.insert(place, f"{chance.choice(('a', 'ratio', 'x.y', '[a]'))} = 1")
            case _:
                chance.shuffle(lines)
    text = "\n".join(lines)
    if chance.random() < 0.05:  # a grid of more cells than there are atoms
        wide = f"{[i / 7 for i in range(1, 900)]}"
        text += "".join(f"\n{n} = {wide}" for n in ("signal", "noise", "context", "gain"))
    data = text.encode(chance.choice(("utf-8",) * 8 + ("utf-8-sig", "utf-16", "utf-32")))
    for _ in range(chance.choice((0, 0, 1, 4))):
        data = altered(data, chance)
    return data if chance.random() > 0.03 else chance.randbytes(200)


def altered(data: bytes, chance: random.Random) -> bytes:
    """Bytes with one change: some flipped, cut, doubled, added or replaced."""
    at, length = chance.randrange(len(data) + 1), chance.choice((1, 1, 2, 8, 64))
    match chance.randrange(6):
        case 0 if data:
            at = min(at, len(data) - 1)
            return data[:at] + bytes([data[at] ^ (1 << chance.randrange(8))]) + data[at + 1 :]
        case 1:
            return data[:at]
        case 2:
            return data[:at] + data[at + length :]
        case 3:
            return data[:at] + data[max(0, at - length) : at] + data[at:]
        case 4:
            return data[:at] + chance.randbytes(length) + data[at:]
        case _:
            return data[:at] + chance.randbytes(length) + data[at + length :]


def fuzz_sweep_file(chance: random.Random, folder: Path) -> str:
    """Read a hostile sweep file."""
    path = folder / "sweep.toml"
    path.write_bytes(sweep_text(chance))
    try:
        job = Sweep.from_toml(path)
    except JaxpromptError as error:
        return refused(error)
    assert 0 < math.prod(job.shape) <= store.MOST_CELLS
    assert json.loads(job.config)["claim"] == job.claim
    assert next(make_tasks(job, np.ones(job.shape, bool)))
    return "read"


# --- stores and tables ---


class Payload:
    """What runs if it is ever unpickled."""

    def __init__(self, folder: Path) -> None:
        self.place = str(folder / MARK)

    def __reduce__(self) -> Any:
        return (open, (self.place, "w"))


JSON_VALUES: tuple[Any, ...] = (
    *(
        None,
        True,
        False,
        0,
        -1,
        2,
        99,
        2**70,
        1e400,
        float("nan"),
        "",
        "x",
        "../../x",
        "/etc/passwd",
    ),
    *([], {}, [[]], {"a": 1}, "\ud800", "\x00", "<script>alert(1)</script>", [0] * 100, "float32"),
    *("{}", "[]", "null", '{"a": [1]}', '["../x"]', "[" * 2000, 10**12, [10**12], [-1], "object"),
)


def altered_json(data: bytes, chance: random.Random) -> bytes:
    """A JSON text with a value somewhere replaced, removed, or added."""
    try:
        root = json.loads(data)
    except (ValueError, RecursionError):
        return altered(data, chance)
    node = root
    while True:
        places = list(node) if isinstance(node, dict) else list(range(len(node)))
        if not places:
            break
        place = chance.choice(places)
        if isinstance(node[place], dict | list) and node[place] and chance.random() < 0.7:
            node = node[place]
            continue
        if chance.random() < 0.2:
            del node[place]
        elif isinstance(node[place], str) and node[place][:1] in "[{" and chance.random() < 0.6:
            node[place] = altered_json(node[place].encode(), chance).decode(errors="replace")
        else:
            node[place] = chance.choice(JSON_VALUES)
        break
    return json.dumps(root).encode("utf-8", "surrogatepass")


def damage(root: Path, chance: random.Random) -> Callable[[], None]:
    """Change something in a folder; the function returned puts it right again."""
    files = sorted(p for p in root.rglob("*") if p.is_file())
    path = chance.choice(files)
    data = path.read_bytes()
    if path.suffix == ".json" and chance.random() < 0.7:
        new = altered_json(data, chance)
    else:
        match chance.randrange(8):
            case 0:
                new = None
            case 1:
                new = chance.choice(files).read_bytes()
            case 2:
                new = pickle.dumps(Payload(root.parent))
            case 3:
                new = b""
            case _:
                new = altered(data, chance)
    if new is None:
        path.unlink()
    else:
        path.write_bytes(new)

    def undo() -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)

    return undo


@functools.lru_cache(maxsize=4)
def sound_store(folder: Path) -> tuple[Path, Any]:
    """A small finished sweep, and what it holds."""
    home = folder / "sound"
    shutil.rmtree(home, ignore_errors=True)
    grid = {"level": (1.0, 2.0), "loss": ("a", "b")}
    config = json.dumps({"claim": "contextual.toy", "trials": 4, "seed": 0, "fixed": {}})
    made = SweepStore.create(home, grid, ["error"], config, {"jax": "1", "seed": 3})
    for place, index in enumerate(np.ndindex(2, 2)):
        values = {"error": 0.25 + place, "error_stderr": 0.1, "error_predicted": math.pi}
        made.write(index, values, 4)
    made.judge(np.array([[1, 2], [3, 4]]))
    return home, make_dataset(made)


def fuzz_store(chance: random.Random, folder: Path) -> str:
    """Open a damaged sweep: refused, or read as it was."""
    home, whole = sound_store(folder)
    undo = damage(home, chance)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = jp.load(home)
    except JaxpromptError as error:
        return refused(error)
    finally:
        undo()
        assert not (folder / MARK).exists(), "a payload was run"
        assert not (home / MARK).exists(), "a payload was run"
    assert found.identical(whole), f"a wrong read: {found} for {whole}"
    return "read"


ROWS = [
    {"x": 1.5, "label": "a", "count": 3},
    {"x": math.pi, "label": "é<b>", "count": 4, "extra": "only here"},
    {"x": None, "label": "a", "count": 5},
]


@functools.lru_cache(maxsize=4)
def sound_table(folder: Path) -> tuple[Path, str]:
    path = folder / "table" / "points.csv"
    save_table(path, ROWS)
    return path, repr(load_table_rows(path))


def fuzz_table(chance: random.Random, folder: Path) -> str:
    """Open a figure's damaged numbers: refused, or read as they were."""
    path, whole = sound_table(folder)
    undo = damage(path.parent, chance)
    try:
        found = repr(load_table_rows(path))
    except JaxpromptError as error:
        return refused(error)
    finally:
        undo()
        assert not (folder / MARK).exists(), "a payload was run"
    assert found == whole, f"a wrong read: {found}"
    return "read"


# --- reports ---


@functools.lru_cache(maxsize=4)
def sound_report(folder: Path) -> tuple[Path, bytes]:
    claim = jp.claim("universal.prefix_rate")
    row = {
        **dict.fromkeys(("predicted", "predicted_stderr", "simulated", "stderr", "statistic"), 1.0),
        "p_value": 0.5,
        "detectable": 0.1,
        "tolerance": 0.2,
        "quantity": "error",
        "parameters": {"centres": 4, "list": [1.0, [2]]},
        "verdict": "confirmed",
        "note": "",
        "dof": 3.0,
        "goodness": 1.0,
    }
    entry = {
        "id": claim.id,
        "relation": "rate",
        "status": "confirmed",
        "rows": [row, row],
        "false_alarm": 0.001,
        "detectable": None,
        "seconds": 1.5,
        "profile": "quick",
        "seed": 3,
        "error": "",
        "falsifier": "",
        "origin": "mine.py",
        "claim": claim.describe(),
        "falsifiers": [
            {"name": "x", "status": "refuted", "refuting_rows": "1 of 2", "clearest": row}
        ],
    }
    whole = {"schema": 1, "environment": {"jaxprompt": "0", "jax": "1"}, "claims": [entry, entry]}
    home = folder / "report"
    home.mkdir(exist_ok=True)
    data = json.dumps(whole).encode()
    (home / "report.json").write_bytes(data)
    report.write_html(home)
    return home, data


def fuzz_report(chance: random.Random, folder: Path) -> str:
    """Rebuild the page of a damaged report: refused, or a page in which nothing runs."""
    home, data = sound_report(folder)
    new = altered_json(data, chance)
    if chance.random() < 0.3:
        new = altered_json(new, chance)
    (home / "report.json").write_bytes(altered(data, chance) if chance.random() < 0.2 else new)
    try:
        page = report.write_html(home).read_text(encoding="utf-8")
    except JaxpromptError as error:
        return refused(error)
    assert "<script" not in page
    assert "javascript:" not in page
    assert page.rstrip().endswith("</html>")
    return "written"


# --- parameters ---


def extremes(parameter: Parameter, base: Any = None) -> list[Any]:
    """Legal values of a parameter near and at the ends of what is declared."""
    low, high = parameter.low, parameter.high
    if parameter.kind == "choice":
        return list(parameter.choices)
    if parameter.kind == "pairs":
        many = tuple((i / 10, -i / 10) for i in range(8))
        return [((0.0, 0.0),), ((-1.0, -1.0),), ((1e6, -1e6),), ((0.0, 0.0), (0.0, 0.0)), many]
    if parameter.kind == "weights":
        count = 1 if base is None else len(base)
        return [(1.0, *(0.0,) * (count - 1)), (1.0 / count,) * count]
    if parameter.kind == "array":
        array = np.zeros(1) if base is None else np.asarray(base, float)
        scaled = [array * factor for factor in (0.0, 1e-30, -1.0, 1e4, -1e4, 1e29)]
        return [*scaled, np.atleast_1d(array)[..., :1], np.float64(1.0), np.zeros((2, 3, 4))]
    if parameter.kind == "integer":
        first = int(low) if low > -math.inf else -5
        found = [first, first + 1, first + 2, first + 9]
        last = [1000, 10**6, 2**53] if high == math.inf else [int(high), int(high) - 1]
        return [value for value in (*found, *last) if first <= value <= high]
    tiny, huge = 1 / MAX_MAGNITUDE, MAX_MAGNITUDE
    found = [low, low + tiny, low + 1e-12, low + 1e-6] if low > -math.inf else [-huge, -1e6, -1.0]
    found += [high, high - 1e-6, (max(low, -1.0) + high) / 2] if high < math.inf else [1e6, huge]
    found += [0.0, tiny, 1e-9, 0.5, 1.0]
    inside = [v for v in found if low <= v <= high and not (v == low and parameter.open_low)]
    return list(dict.fromkeys(v for v in inside if not (v == high and parameter.open_high)))


def points(claim: Claim) -> list[dict[str, Any]]:
    """The runs of the quick design, at the first value of every list they share."""
    found = []
    for run in claim.designs["quick"].runs:
        lists = [n for n in claim.shared if np.ndim(run.get(n, 0)) == 1]
        found.append({n: v[0] if n in lists else v for n, v in run.items() if n != "trials"})
    return found


def one_at_a_time(claim: Claim) -> Iterator[dict[str, Any]]:
    """The first run with each parameter in turn at each of its extremes."""
    base = points(claim)[0]
    for parameter in claim.parameters:
        for value in extremes(parameter, base.get(parameter.name)):
            yield {**base, parameter.name: value}


def several(claim: Claim, chance: random.Random) -> dict[str, Any]:
    """One of the runs with several parameters at extremes."""
    point = dict(chance.choice(points(claim)))
    for parameter in chance.sample(claim.parameters, min(len(claim.parameters), 3)):
        if chance.random() < 0.7:
            values = extremes(parameter, point.get(parameter.name))
            point[parameter.name] = chance.choice(values)
    return point


def predicted(claim: Claim, point: dict[str, Any]) -> str:
    """Predict: numbers, infinite only where the claim says so, or a refusal in one line."""
    try:
        found = claim.predict(**point)
    except JaxpromptError as error:
        return refused(error)
    infinite = {q.name for q in claim.quantities if q.infinite}
    for name, value in found.items():
        wrong = np.isnan(value) | (np.isinf(value) & (name not in infinite))
        assert not np.any(wrong), f"{claim.id}: {name} = {value} at {point}"
        if name.endswith("_stderr"):
            assert np.all(np.asarray(value) >= 0), f"{claim.id}: {name} = {value} at {point}"
        elif name in ("error", "final_error") and claim.family == "contextual":
            inside = (np.asarray(value) >= 0) & (np.asarray(value) <= 1)
            assert np.all(inside), f"{claim.id}: the probability {name} = {value} at {point}"
    return "predicted"


DEAR = ("contextual.training",)
"""Claims whose prediction is a search of many seconds."""


def fuzz_predict(chance: random.Random, folder: Path) -> str:
    """Predict at extreme but declared parameters."""
    claim = chance.choice([c for c in jp.claims() if c.id not in DEAR])
    return predicted(claim, several(claim, chance))


TARGETS: dict[str, Callable[[random.Random, Path], str]] = {
    "sweep_file": fuzz_sweep_file,
    "store": fuzz_store,
    "table": fuzz_table,
    "report": fuzz_report,
    "predict": fuzz_predict,
}
LIMIT = 120
"""Seconds after which one input counts as a hang."""


def hang(*_: Any) -> None:
    raise AssertionError(f"no answer within {LIMIT} s")


def main() -> int:
    """Fuzz for some minutes; prints how often each target ended in which way."""
    parser = argparse.ArgumentParser(description="Fuzz jaxprompt with hostile input.")
    parser.add_argument("--minutes", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("targets", nargs="*", help=", ".join(TARGETS))
    options = parser.parse_args()
    names = options.targets or list(TARGETS)
    share, failed = 60 * options.minutes / len(names), 0
    signal.signal(signal.SIGALRM, hang)
    for name in names:
        counts: collections.Counter[str] = collections.Counter()
        slowest, end, number = 0.0, time.monotonic() + share, options.seed
        with tempfile.TemporaryDirectory() as folder:
            while time.monotonic() < end:
                number, began = number + 1, time.monotonic()
                signal.alarm(LIMIT)
                try:
                    counts[TARGETS[name](random.Random(number), Path(folder))] += 1
                except Exception:
                    failed += 1
                    if counts["DEFECT"] < 5:
                        told = traceback.format_exc()
                        print(f"{name} --seed {number - 1}:\n{told}", flush=True)
                    counts["DEFECT"] += 1
                finally:
                    signal.alarm(0)
                slowest = max(slowest, time.monotonic() - began)
        told = ", ".join(f"{count} {what}" for what, count in counts.most_common())
        print(f"{name}: {counts.total()} inputs, slowest {slowest:.1f} s: {told}", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
