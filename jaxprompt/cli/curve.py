"""The command `curve`: predicted and measured learning curves of a user's own data."""

from __future__ import annotations

import argparse
import json
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jaxprompt.cli import terminal
from jaxprompt.errors import UsageError, short, suggest

if TYPE_CHECKING:
    import numpy as np

    from jaxprompt.contextual.extensions.own_data import PredictedCurve

__all__ = ["CURVE_EXAMPLES", "add_curve_arguments", "print_curve"]

CURVE_EXAMPLES = """\
  jaxprompt curve mine.npz --samples 32,128,512
                                             predicted and measured error, as a table
  jaxprompt curve mine.npz --samples 32,128,512 --ridge 0.1 --out curve
                                             and a figure and the numbers in curve/
  jaxprompt curve mine.npz --samples 128 --intercept --class-shares 0.9,0.1 --label-noise 0.05
                                             heads with an intercept, rare classes, wrong labels

mine.npz holds `tokens` (sequences, T, d) and `labels` (sequences), and may hold `relevant` (marks
of tokens) and `prompt` (d numbers, or rows of d): numpy.savez("mine.npz", tokens=…, labels=…)

exit code: 0 done · 2 wrong usage or bad input"""

_ARRAYS = ("tokens", "labels", "relevant", "prompt")
_LEVELS = ("isotropic", "all_moments", "semi_empirical")
SCHEMA = 1


def add_curve_arguments(parser: argparse.ArgumentParser) -> None:
    """What the command takes."""
    parser.add_argument("file", type=Path, metavar="DATA.npz")
    parser.add_argument("--samples", type=_counts, required=True, metavar="N,N,...")
    parser.add_argument("--ridge", type=_number, default=0.05, metavar="λ", help="default: 0.05")
    parser.add_argument("--intercept", action="store_true", help="give the head one")
    parser.add_argument(
        "--class-shares", type=_numbers, metavar="P,P,...",
        help="shares of the classes, by sorted label; default: those of the file",
    )  # fmt: skip
    parser.add_argument(
        "--label-noise", type=_number, default=0.0, metavar="P",
        help="share of wrong training labels; default: 0",
    )  # fmt: skip
    parser.add_argument(
        "--trials", type=_trials, default=40, metavar="N", help="of the measured curve; default: 40"
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="default: 0")
    parser.add_argument("--out", type=Path, metavar="DIR", help="write curve.json and figures")


def _counts(text: str) -> list[int]:
    words = text.split(",")
    if not all(word.isascii() and word.isdigit() and len(word) < 10 for word in words):
        raise argparse.ArgumentTypeError(
            f"{short(text)} must be integers with commas, as 32,128,512"
        )
    return [int(word) for word in words]


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{short(text)} must be a number ≥ 0") from None


def _numbers(text: str) -> list[float]:
    try:
        return [float(word) for word in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{short(text)} must be numbers with commas, as 0.9,0.1"
        ) from None


def _trials(text: str) -> int:
    if not text.isascii() or not text.isdigit() or not 2 <= int(text[:8]) <= 10**6:
        raise argparse.ArgumentTypeError(f"{short(text)} must be an integer ≥ 2 and ≤ 1000000")
    return int(text)


def print_curve(options: argparse.Namespace) -> int:
    """Predict the curve, measure it by cross-fitting, and show both."""
    from jaxprompt.contextual.extensions.own_data import measure_curve, predict_curve
    from jaxprompt.sweep.store import writable

    arrays = _load(options.file)
    if options.out:
        writable(options.out)
    prompt, chosen = _prompt_of(arrays)
    given = (arrays["tokens"], arrays["labels"], prompt, options.samples, options.ridge)
    training: dict[str, Any] = {
        "intercept": options.intercept, "class_shares": options.class_shares,
        "label_noise": options.label_noise,
    }  # fmt: skip
    with terminal.show_progress("predicted", "steps") as progress:
        curve = predict_curve(
            *given,
            **training,
            relevant=arrays.get("relevant"),
            seed=options.seed,
            progress=progress,
        )
    with terminal.show_progress("measured", "trials") as progress:
        measured, stderr = measure_curve(
            *given, **training, trials=options.trials, seed=options.seed + 1, progress=progress
        )
    report = _report(options, curve, measured, stderr, chosen)
    if options.out:
        _write(options.out, report)
    if options.json:
        terminal.print_json(report)
    else:
        _print_table(report)
    return 0


def _load(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a file; nothing in it is run."""
    import numpy as np

    if not path.is_file():
        raise UsageError(f"'{short(str(path))[1:-1]}': no such file; give an .npz file")
    try:
        with np.load(path, allow_pickle=False) as stored:
            if not hasattr(stored, "files"):
                raise UsageError(
                    f"'{path}' holds one array: must be an .npz file with `tokens` and `labels`; "
                    'write it by numpy.savez("mine.npz", tokens=…, labels=…)'
                )
            names = list(stored.files)
            for name in ("tokens", "labels"):
                if name not in names:
                    near = suggest(name, names, most=1)
                    raise UsageError(
                        f"'{path}' has no array `{name}`, only {', '.join(names) or 'none'}{near}; "
                        f"name it so in numpy.savez"
                    )
            return {name: stored[name] for name in _ARRAYS if name in names}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise UsageError(
            f"'{path}' cannot be read ({short(error)}): must be an .npz file of plain arrays; "
            'write it by numpy.savez("mine.npz", tokens=…, labels=…)'
        ) from None
    except MemoryError:
        raise UsageError(f"'{path}' does not fit in memory: give fewer sequences") from None


def _prompt_of(arrays: dict[str, np.ndarray]) -> tuple[Any, str]:
    """The prompt, and where it comes from."""
    import numpy as np

    from jaxprompt.contextual.extensions.own_data import best_prompt

    if "prompt" in arrays:
        return arrays["prompt"], "the file's prompt"
    if "relevant" in arrays:
        return best_prompt(arrays["tokens"], arrays["relevant"]), "the theory's best prompt"
    shape = arrays["tokens"].shape
    return np.zeros(shape[-1] if shape else 1), "uniform attention: no prompt, no marks"


def _report(
    options: argparse.Namespace, curve: PredictedCurve, measured: np.ndarray, stderr: np.ndarray,
    chosen: str,
) -> dict[str, Any]:  # fmt: skip
    from jaxprompt.compute.environment import environment

    def numbers(values: np.ndarray) -> list[float | None]:
        return [None if value != value else float(value) for value in values]

    return {
        "schema": SCHEMA,
        "environment": environment(options.seed),
        "file": str(options.file),
        "prompt": chosen,
        "ridge": options.ridge,
        "intercept": options.intercept,
        "class_shares": options.class_shares,
        "label_noise": options.label_noise,
        "samples": list(curve.samples),
        **{level: numbers(getattr(curve, level)) for level in _LEVELS},
        "semi_empirical_stderr": numbers(curve.stderr),
        "measured": numbers(measured),
        "measured_stderr": numbers(stderr),
        "trials": options.trials,
        "assumed": list(curve.assumed),
    }


def _print_table(report: dict[str, Any]) -> None:
    def shown(value: float | None) -> str:
        return "–" if value is None else f"{value:.4f}"

    def with_error(name: str, place: int) -> str:
        return f"{shown(report[name][place])} ± {shown(report[f'{name}_stderr'][place])}"

    rows = [
        (
            str(n), shown(report["isotropic"][i]), shown(report["all_moments"][i]),
            with_error("semi_empirical", i), with_error("measured", i),
        )
        for i, n in enumerate(report["samples"])
    ]  # fmt: skip
    columns = ("n", "isotropic", "all moments", "semi-empirical", "measured")
    head = "a ridge head with an intercept" if report["intercept"] else "a ridge head"
    print(f"test error of {head}, λ = {report['ridge']:g}; {report['prompt']}")
    terminal.print_table(columns, rows)
    _print_lines(report["assumed"])


def _print_lines(lines: Sequence[str]) -> None:
    print("assumed:")
    for line in lines:
        print(f"  {line}")


def _write(folder: Path, report: dict[str, Any]) -> None:
    from jaxprompt.presentation.files import write_atomically
    from jaxprompt.presentation.own_curve import draw_own_curve

    try:
        text = json.dumps(report, indent=1, ensure_ascii=False)
        write_atomically(folder / "curve.json", text.encode())
    except OSError as error:
        raise UsageError(
            f"--out '{folder}' cannot be written ({error.strerror}): give another folder"
        ) from None
    for path in draw_own_curve(report, folder / "figures"):
        print(path, file=sys.stderr)
