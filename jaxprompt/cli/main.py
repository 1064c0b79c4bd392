"""The command line: ``jaxprompt`` and ``python -m jaxprompt``.

Exit codes of ``check``: 0 every claim confirmed · 1 something refuted · 2 wrong usage or bad
input · 3 something inconclusive or failed, nothing refuted. With ``--falsify`` 1 also when a
falsifier is not refuted. ``sweep``: 0 every cell was computed · 2 bad input · 3 some cell failed;
with ``--strict`` the codes of ``check``. Any command: 4 a defect of jaxprompt, with one line that
says where the traceback was saved · 130 interrupted · 141 the reader of the output has gone.
"""

from __future__ import annotations

import _thread
import argparse
import contextlib
import json
import os
import re
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from typing import Any, NoReturn

from jaxprompt.cli import audit, commands, curve, explore, new_claim, paper, terminal
from jaxprompt.compute import cache_folder, compiler_flags
from jaxprompt.errors import JaxpromptError, UsageError, short, suggest

__all__ = ["main", "make_parser"]

_BAD_INPUT, _DEFECT, _READER_GONE = 2, 4, 141
_EVERY = "default: every claim of jaxprompt's own"


class _Parser(argparse.ArgumentParser):
    """Errors in one line that name the nearest word, exit code 2; help that keeps its lines."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, formatter_class=argparse.RawDescriptionHelpFormatter, **options)

    def error(self, message: str) -> NoReturn:
        wrong = re.search(r"invalid choice: '([^']*)' \(choose from (.*)\)", message)
        if wrong:
            message = message[: wrong.start(2) - 14] + suggest(
                wrong[1], re.findall(r"[\w-]+", wrong[2]), most=1
            )
        raise UsageError(f"{message}; see `{self.prog} --help`".replace("?;", "?"))

    @property
    def flags(self) -> list[str]:
        """Every option this parser knows, in its long form."""
        return [n for a in self._actions for n in a.option_strings if n.startswith("--")]


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code."""
    # XLA runs factorisations of a batch side by side; threads inside each would only compete.
    # It has to be said before NumPy and SciPy load, and what the user set stays.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    terminal.open_missing_streams()
    terminal.write_any_letter(sys.stdout, sys.stderr)
    output: Any = terminal.CheckedStream(sys.stdout)
    messages: Any = terminal.CheckedStream(sys.stderr, forgiving=True)
    with (
        contextlib.redirect_stdout(output),
        contextlib.redirect_stderr(messages),
        _interrupts_repeated(),
    ):
        return _run_to_code(argv)


@contextlib.contextmanager
def _interrupts_repeated() -> Generator[None]:
    """Send Ctrl-C again where it struck a callback, such as JAX's on garbage collection.

    An exception cannot leave a callback: Python would print its traceback and go on.
    """
    usual = sys.unraisablehook

    def interrupt_soon() -> None:
        time.sleep(0.01)  # by then the callback has returned
        os.kill(os.getpid(), signal.SIGINT)

    def repeat(unraisable: Any) -> None:
        if not issubclass(unraisable.exc_type, KeyboardInterrupt):
            usual(unraisable)
            return
        with contextlib.suppress(KeyboardInterrupt):  # another one, which the first stands for
            # Of `threading` one would wait until the thread runs, which the next Ctrl-C strikes.
            _thread.start_new_thread(interrupt_soon, ())

    sys.unraisablehook = repeat
    try:
        yield
    finally:
        sys.unraisablehook = usual


def _run_to_code(argv: Sequence[str] | None) -> int:
    try:
        code = _run(argv)
        sys.stdout.flush()  # here, where a reader that has gone can still be seen
        return code
    except BrokenPipeError:
        return _READER_GONE
    except JaxpromptError as error:
        return _print_error(str(error), _BAD_INPUT)
    except KeyboardInterrupt:
        return _print_error("interrupted", commands.INTERRUPTED)
    except Exception as error:
        return _print_error(_describe_defect(error), _DEFECT)


def _print_error(text: str, code: int) -> int:
    """Print one line to standard error; returns `code`."""
    print(f"jaxprompt: {terminal.one_line(text)}", file=sys.stderr, flush=True)
    return code


def _describe_defect(error: Exception) -> str:
    """One line about an error that is ours, after saving its traceback."""
    what = f"a defect of jaxprompt, {type(error).__name__}: {short(error, 200)}"
    for folder in filter(None, (cache_folder.cache_folder(), Path(tempfile.gettempdir()))):
        try:
            folder.mkdir(parents=True, exist_ok=True)
            file = folder / f"jaxprompt-traceback-{os.getpid()}.txt"
            file.write_text(traceback.format_exc(), "utf-8", errors="backslashreplace")
        except OSError:
            continue
        return f"{what}; the traceback is saved in '{file}', please report it"
    (last,) = traceback.extract_tb(error.__traceback__)[-1:]
    return f"{what} in {last.filename} line {last.lineno}; the traceback could not be saved"


def _run(argv: Sequence[str] | None) -> int:
    options = _parse(argv)
    if hasattr(options, "no_cache"):  # a command that compiles
        _refuse_small_limit()
        if options.no_cache:
            os.environ[cache_folder.CACHE_FOLDER_VARIABLE] = ""
        cache_folder.enable_compilation_cache()
        compiler_flags.compile_quickly()
    commands.refuse_files_without_device(options)
    commands.load_claim_files(getattr(options, "claims", ()))
    return options.run(options)


_ADDRESSES_TO_START, _ADDRESSES_PER_CORE = 2**31, 2**26
"""Bytes of addresses that JAX takes as it starts, and those that each of its threads reserves."""


def _refuse_small_limit() -> None:
    """Refuse a limit of addresses (ulimit -v) under which JAX ends the process as it starts."""
    try:
        import resource
    except ImportError:  # a system without limits of processes
        return
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    needed = _ADDRESSES_TO_START + _ADDRESSES_PER_CORE * (os.cpu_count() or 1)
    if resource.RLIM_INFINITY != limit < needed:
        raise UsageError(
            f"the limit of this process (ulimit -v) is {limit >> 20} MiB, and JAX needs "
            f"{needed >> 20} MiB of addresses to start: raise it"
        )


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    options, unknown = make_parser().parse_known_args(argv)
    if unknown:
        word, parser = unknown[0], options.parser
        near = suggest(word, parser.flags, most=1) if word.startswith("-") else ""
        raise UsageError(f"unknown argument '{word}'{near or ';'} see `{parser.prog} --help`")
    return options


_EXAMPLES = {
    "list": """\
  jaxprompt list                             every claim of jaxprompt's own
  jaxprompt list --family prefix             one family
  jaxprompt list my_claims.py                the claims in a file of yours""",
    "show": """\
  jaxprompt show contextual.prompt_error     statement, derivation, parameters, falsifiers
  jaxprompt show my_claims.py                the same for a file of yours""",
    "check": """\
  jaxprompt check                            every claim: the main job
  jaxprompt check --out out                  and leave a report, figures and data in out/
  jaxprompt check universal.sphere_limit prefix
                                             one claim and one family
  jaxprompt check contextual --falsify       also judge the wrong variants: each must be refuted
  jaxprompt check my_claims.py --profile full --seed 1

exit code: 0 all confirmed · 1 something refuted · 2 wrong usage or bad input ·
3 something inconclusive or failed; with --falsify 1 also when a falsifier is not refuted""",
    "sweep": """\
  jaxprompt sweep examples/ratio.toml        into the folder ratio/
  jaxprompt sweep examples/ratio.toml --resume
                                             go on where it stopped
  jaxprompt sweep examples/ratio.toml --out big --workers 4
  jaxprompt sweep mine.toml --claims my_claims.py

exit code: 0 every cell was computed · 2 wrong usage or bad input · 3 some cell failed;
with --strict those of `check`""",
    "export": """\
  jaxprompt export ratio --to csv            ratio/cells.csv, a row for each cell
  jaxprompt export ratio --to netcdf         ratio/dataset.nc, for xarray and others""",
    "figure": """\
  jaxprompt figure contextual.prompt_error --out pictures
  jaxprompt figure --from out --out pictures redraw what a check stored in out/
  jaxprompt figure --from out --format pdf --width 3.4    for a column of a paper
  jaxprompt figure ratio/                    a sweep: curves, or a map over two parameters""",
    "report": """\
  jaxprompt report out                       rebuild out/report.html from what out/ holds""",
    "table": """\
  jaxprompt table contextual.prompt_error --format latex    needs booktabs, nothing else
  jaxprompt table prefix.token_selection --format csv --from out
                                             the rows that a check stored in out/""",
    "cite": """\
  jaxprompt cite prefix.bias_identity        BibTeX of the paper and of this software""",
    "curve": curve.CURVE_EXAMPLES,
    "audit": audit.AUDIT_EXAMPLES,
    "explore": """\
  jaxprompt explore contextual.prompt_error
                                             contextual.prompt_error.html: open it in a browser
  jaxprompt explore contextual.prompt_error --from out --slider ridge --slider noise
                                             with the points and the verdict stored in out/""",
    "new": """\
  jaxprompt new my_claim.py --kind limit     a file that can be checked, and changed to yours
  jaxprompt new my_claim.py                  kind mean""",
    "doctor": """\
  jaxprompt doctor                           is everything here that jaxprompt needs?
  jaxprompt doctor --json""",
    "completion": """\
  jaxprompt completion bash > ~/.local/share/bash-completion/completions/jaxprompt
  jaxprompt completion zsh > ~/.zfunc/_jaxprompt    a folder that ~/.zshrc adds to fpath
  jaxprompt completion fish > ~/.config/fish/completions/jaxprompt.fish""",
}


def make_parser() -> _Parser:
    parser = _Parser(
        prog="jaxprompt",
        description="Check the theory of prompts, soft prompts and prefixes by numbers.",
        epilog="""\
examples:
  jaxprompt list                             what can be checked
  jaxprompt show contextual.prompt_error     what one claim says
  jaxprompt check universal.sphere_limit     check it (seconds)
  jaxprompt check --out out                  check everything (minutes); open out/report.html
  jaxprompt check my_claims.py               check a theory of yours

`jaxprompt COMMAND --help` has examples for each command.""",
    )
    group = parser.add_subparsers(required=True, metavar="COMMAND", parser_class=_Parser)

    def command(name: str, run: Callable[[Any], int], help: str) -> _Parser:
        epilog = f"examples:\n{_EXAMPLES[name]}"
        sub = group.add_parser(name, help=help, description=help, epilog=epilog)
        sub.set_defaults(run=run, parser=sub)
        return sub

    def add_claims_option(sub: argparse.ArgumentParser) -> None:
        sub.add_argument(
            "--claims",
            action="append",
            default=[],
            metavar="FILE.py",
            help="run this file and make its claims known, beside jaxprompt's own",
        )

    def add_json_option(sub: argparse.ArgumentParser) -> None:
        sub.add_argument("--json", action="store_true", help="print the result as JSON")

    listing = command("list", commands.list_claims, "List the claims.")
    listing.add_argument("names", nargs="*", metavar="ID|FAMILY|FILE.py|DIR", help="only these")
    listing.add_argument("--family", help="only this family")

    show = command(
        "show",
        commands.show_claims,
        "Show one claim: statement, parameters, quantities, falsifiers.",
    )
    show.add_argument("id", metavar="ID|FILE.py")

    check = command(
        "check", commands.check_claims, "Check claims: simulate, compare with theory, judge."
    )
    check.add_argument("names", nargs="*", metavar="ID|FAMILY|FILE.py|DIR", help=_EVERY)
    check.add_argument("--profile", default="quick", help="quick (default) or full")
    check.add_argument("--seed", type=_seed, default=0, metavar="N", help="default: 0")
    check.add_argument("--out", type=_folder, metavar="DIR", help="write report, figures and data")
    check.add_argument("--falsify", action="store_true", help="run the falsifiers too")
    check.add_argument("--trials", type=_trials, metavar="N", help="in place of the design's")
    check.add_argument(
        "--point", nargs="+", type=_setting, metavar="NAME=VALUE", help="only these runs of it"
    )
    check.add_argument(
        "--dry-run", action="store_true", help="predictions, shapes and memory; simulate nothing"
    )

    sweep = command("sweep", commands.run_sweep, "Run a claim over a grid of parameters.")
    sweep.add_argument("file", type=Path, metavar="FILE.toml")
    sweep.add_argument("--out", type=_folder, metavar="DIR", help="default: the file's name")
    sweep.add_argument("--resume", action="store_true", help="go on with what DIR holds")
    sweep.add_argument("--strict", action="store_true", help="exit codes of check")
    where = sweep.add_mutually_exclusive_group()
    where.add_argument("--workers", type=_positive, metavar="N", help="worker processes")
    where.add_argument("--scheduler", metavar="ADDRESS", help="a dask scheduler")

    export = command("export", commands.export_sweep, "Write a sweep in another format.")
    export.add_argument("folder", type=_folder, metavar="DIR")
    export.add_argument(
        "--to",
        required=True,
        choices=("zarr", "netcdf", "csv", "parquet", "sqlite"),
        help="sqlite converts a sweep that version 0.1 stored",
    )

    figure = command("figure", commands.draw_figures, "Draw the claims' figures.")
    figure.add_argument("names", nargs="*", metavar="ID|FAMILY|FILE.py|DIR", help=_EVERY)
    figure.add_argument(
        "--out", type=_folder, default=Path("figures"), metavar="DIR", help="default: figures"
    )
    figure.add_argument(
        "--from", type=_folder, dest="source", metavar="DIR", help="redraw from a run"
    )

    figure.add_argument(
        "--format",
        action="append",
        choices=("png", "svg", "pdf", "pgf"),
        help="may be given several times; default: png and svg",
    )
    figure.add_argument(
        "--width", type=_width, metavar="INCHES", help="of a column, say 3.4; default: a page"
    )

    report = command(
        "report", commands.rebuild_report, "Rebuild a run's report from what it stored."
    )
    report.add_argument("folder", type=_folder, metavar="DIR")

    table = command("table", paper.print_table, "Print a claim's rows as a table for a paper.")
    table.add_argument("id", metavar="ID|FILE.py")
    table.add_argument("--format", default="markdown", choices=("latex", "markdown", "csv"))
    table.add_argument("--profile", default="quick", help="quick (default) or full")
    table.add_argument("--seed", type=_seed, default=0, metavar="N", help="default: 0")
    table.add_argument(
        "--from", type=_folder, dest="source", metavar="DIR", help="rows that a check stored"
    )

    cite = command("cite", paper.print_citation, "Print BibTeX of a claim's source.")
    cite.add_argument("id", metavar="ID|FILE.py")

    explorer = command(
        "explore", explore.write_explorer, "Write a page with sliders for a claim's formula."
    )
    explorer.add_argument("id", metavar="ID|FILE.py")
    explorer.add_argument("--out", type=Path, metavar="FILE.html", help="default: ID.html")
    explorer.add_argument(
        "--from", type=_folder, dest="source", metavar="DIR", help="points and verdict of a check"
    )
    explorer.add_argument("--x", default="", metavar="NAME", help="parameter along the axis")
    explorer.add_argument("--y", default="", metavar="NAME", help="quantity that is drawn")
    explorer.add_argument(
        "--slider", action="append", metavar="NAME", help="a parameter; may be given several times"
    )

    learning = command(
        "curve", curve.print_curve, "Predict and measure the learning curve of your own data."
    )
    curve.add_curve_arguments(learning)

    auditing = command(
        "audit", audit.print_audit, "Say what a prefix does to the layers of your own model."
    )
    audit.add_audit_arguments(auditing)

    new = command("new", new_claim.write_claim_file, "Write a file with a claim to start from.")
    new.add_argument("file", metavar="FILE.py")
    new.add_argument(
        "--kind",
        default="mean",
        choices=tuple(new_claim.KINDS),
        help="of theorem; default: mean",
    )

    doctor = command(
        "doctor",
        commands.print_diagnosis,
        "Say what is installed, what works, and what is missing.",
    )
    for sub in (listing, show, check, sweep, figure, table, cite, explorer):
        add_claims_option(sub)
    for sub in (check, sweep, figure, table, explorer, auditing):
        _cache_option(sub)
    for sub in (listing, show, check, sweep, figure, report, learning, auditing, doctor):
        add_json_option(sub)

    completion = command(
        "completion",
        lambda options: commands.print_completion(options, make_parser()),
        "Print a script that completes commands.",
    )
    completion.add_argument("shell", choices=("bash", "zsh", "fish"))
    return parser


def _cache_option(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--no-cache",
        action="store_true",
        help="keep no compiled programs and trained models "
        f"(as {cache_folder.CACHE_FOLDER_VARIABLE}= does)",
    )


def _width(text: str) -> float:
    try:
        inches = float(text)
    except ValueError:
        inches = 0.0
    if not 2 <= inches <= 20:
        raise argparse.ArgumentTypeError(f"{short(text)} must be a number of inches from 2 to 20")
    return inches


def _seed(text: str) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > 10 or int(text) >= 2**32:
        raise argparse.ArgumentTypeError(f"{short(text)} must be an integer from 0 to 2^32 - 1")
    return int(text)


def _trials(text: str) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > 8 or not 2 <= int(text) <= 10**7:
        raise argparse.ArgumentTypeError(f"{short(text)} must be an integer ≥ 2 and ≤ 10000000")
    return int(text)


def _setting(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not name.isidentifier() or not equals or not value:
        raise argparse.ArgumentTypeError(f"{short(text)} must be NAME=VALUE, such as dim=16")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value


def _positive(text: str) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > 4 or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{short(text)} must be an integer ≥ 1 and ≤ 9999")
    return int(text)


def _folder(text: str) -> Path:
    if not text:
        raise argparse.ArgumentTypeError("'' must name a folder; `.` is the one you are in")
    return Path(text)
