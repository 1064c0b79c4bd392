"""The command line: ``jaxprompt`` and ``python -m jaxprompt``.

Exit codes of ``check``: 0 every claim confirmed · 1 something refuted · 2 wrong usage or bad
input · 3 something inconclusive or failed, nothing refuted. With ``--falsify``: 0 when every
falsifier is refuted, else 1 (or 3 where a computation failed).
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import functools
import logging
import os
import re
import shlex
import sys
import time
from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from jaxprompt.cli import terminal
from jaxprompt.compute import cache_folder
from jaxprompt.errors import JaxpromptError, UsageError, short

if TYPE_CHECKING:
    from jaxprompt.core.claim import Claim, Verdict

__all__ = ["main"]

_INTERRUPTED = 130
_EVERY = "default: every claim of jaxprompt's own"


class _Parser(argparse.ArgumentParser):
    """Errors in one line that name the nearest word, exit code 2; help that keeps its lines."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, formatter_class=argparse.RawDescriptionHelpFormatter, **options)

    def error(self, message: str) -> NoReturn:
        from jaxprompt.errors import suggest

        found = re.search(r"invalid choice: '([^']*)' \(choose from (.*)\)", message)
        if found:
            message = message[: found.start(2) - 14] + suggest(
                found[1], re.findall(r"[\w-]+", found[2]), most=1
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
    terminal.make_legible(sys.stdout, sys.stderr)
    try:
        code = _run(argv)
        sys.stdout.flush()  # here, where a reader that has gone can still be seen
        return code
    except JaxpromptError as error:
        print(f"jaxprompt: {terminal.one_line(str(error))}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # the reader of a pipe has gone
        terminal.discard(sys.stdout)
        return 1


def _run(argv: Sequence[str] | None) -> int:
    options = _parse(argv)
    if hasattr(options, "no_cache"):  # a command that compiles
        if options.no_cache:
            os.environ[cache_folder.VARIABLE] = ""
        cache_folder.keep_compiled()
    _load_claims(getattr(options, "claims", ()))
    return options.run(options)


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    from jaxprompt.errors import suggest

    options, unknown = _parser().parse_known_args(argv)
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
3 something inconclusive or failed; with --falsify: 0 when every falsifier is refuted""",
    "sweep": """\
  jaxprompt sweep examples/ratio.toml        into the folder ratio/
  jaxprompt sweep examples/ratio.toml --resume
                                             go on where it stopped
  jaxprompt sweep examples/ratio.toml --out big --workers 4
  jaxprompt sweep mine.toml --claims my_claims.py""",
    "figure": """\
  jaxprompt figure contextual.prompt_error --out pictures
  jaxprompt figure --from out --out pictures redraw what a check stored in out/""",
    "report": """\
  jaxprompt report out                       rebuild out/report.html from what out/ holds""",
    "doctor": """\
  jaxprompt doctor                           is everything here that jaxprompt needs?
  jaxprompt doctor --json""",
    "completion": """\
  jaxprompt completion bash > ~/.local/share/bash-completion/completions/jaxprompt
  jaxprompt completion zsh > ~/.jaxprompt.zsh    and in ~/.zshrc: source ~/.jaxprompt.zsh
  jaxprompt completion fish > ~/.config/fish/completions/jaxprompt.fish""",
}


def _parser() -> _Parser:
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
    commands = parser.add_subparsers(required=True, metavar="COMMAND", parser_class=_Parser)

    def command(name: str, run: Callable[[Any], int], help: str) -> _Parser:
        epilog = f"examples:\n{_EXAMPLES[name]}"
        sub = commands.add_parser(name, help=help, description=help, epilog=epilog)
        sub.set_defaults(run=run, parser=sub)
        return sub

    def own(sub: argparse.ArgumentParser) -> None:
        sub.add_argument(
            "--claims",
            action="append",
            default=[],
            metavar="FILE.py",
            help="run this file and make its claims known, beside jaxprompt's own",
        )

    def as_json(sub: argparse.ArgumentParser) -> None:
        sub.add_argument("--json", action="store_true", help="print the result as JSON")

    listing = command("list", _list, "List the claims.")
    listing.add_argument("names", nargs="*", metavar="ID|FAMILY|FILE.py", help="only these")
    listing.add_argument("--family", help="only this family")

    show = command("show", _show, "Show one claim: statement, parameters, quantities, falsifiers.")
    show.add_argument("id", metavar="ID|FILE.py")

    check = command("check", _check, "Check claims: simulate, compare with theory, judge.")
    check.add_argument("names", nargs="*", metavar="ID|FAMILY|FILE.py", help=_EVERY)
    check.add_argument("--profile", default="quick", help="quick (default) or full")
    check.add_argument("--seed", type=_seed, default=0, metavar="N", help="default: 0")
    check.add_argument("--out", type=Path, metavar="DIR", help="write report, figures and data")
    check.add_argument("--falsify", action="store_true", help="run the falsifiers too")

    sweep = command("sweep", _sweep, "Run a claim over a grid of parameters.")
    sweep.add_argument("file", type=Path, metavar="FILE.toml")
    sweep.add_argument("--out", type=Path, metavar="DIR", help="default: the file's name")
    sweep.add_argument("--resume", action="store_true", help="go on with what DIR holds")
    where = sweep.add_mutually_exclusive_group()
    where.add_argument("--workers", type=_positive, metavar="N", help="worker processes")
    where.add_argument("--scheduler", metavar="ADDRESS", help="a dask scheduler")

    figure = command("figure", _figure, "Draw the claims' figures.")
    figure.add_argument("names", nargs="*", metavar="ID|FAMILY|FILE.py", help=_EVERY)
    figure.add_argument(
        "--out", type=Path, default=Path("figures"), metavar="DIR", help="default: figures"
    )
    figure.add_argument("--from", type=Path, dest="source", metavar="DIR", help="redraw from a run")

    report = command("report", _report, "Rebuild a run's report from what it stored.")
    report.add_argument("folder", type=Path, metavar="DIR")

    doctor = command("doctor", _doctor, "Say what is installed, what works, and what is missing.")
    for sub in (listing, show, check, sweep, figure):
        own(sub)
    for sub in (check, sweep, figure):
        _cache_option(sub)
    for sub in (listing, show, check, sweep, figure, report, doctor):
        as_json(sub)

    completion = command("completion", _completion, "Print a script that completes commands.")
    completion.add_argument("shell", choices=("bash", "zsh", "fish"))
    return parser


def _cache_option(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--no-cache",
        action="store_true",
        help=f"keep no compiled programs and trained models (as {cache_folder.VARIABLE}= does)",
    )


def _seed(text: str) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > 10 or int(text) >= 2**32:
        raise argparse.ArgumentTypeError(f"{short(text)} must be an integer from 0 to 2^32 - 1")
    return int(text)


def _positive(text: str) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > 4 or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{short(text)} must be an integer ≥ 1 and ≤ 9999")
    return int(text)


def _load_claims(files: Sequence[str]) -> None:
    """Run the user's files of claims; also the first thing a worker process does."""
    if files:
        from jaxprompt.core.registry import load_claims

        for file in files:
            load_claims(file)


# --- list and show ---


def _list(options: argparse.Namespace) -> int:
    from jaxprompt.core.registry import claims, installed, select

    if options.family and options.names:
        raise UsageError(f"--family '{options.family}': give it or names, not both; drop one")
    names = [*options.names, *(() if options.family else options.claims)]
    found = select(names) if names else claims(options.family)
    if options.json:
        terminal.print_json([{"id": c.id, "relation": c.relation, "title": c.title} for c in found])
        return 0
    rows = [(entry.id, entry.relation.value, entry.title) for entry in found]
    _print_table(("claim", "relation", "title"), rows, spare=("relation",))
    if not names and not options.family and installed():
        families = ", ".join(installed())
        print(f"brought by installed packages: {families}; `jaxprompt list --family` shows one")
    return 0


def _show(options: argparse.Namespace) -> int:
    from jaxprompt.core.registry import claim, load_claims

    file = options.id.endswith(".py")
    entries = load_claims(options.id) if file else (claim(options.id),)
    if options.json:
        cards = [entry.describe() for entry in entries]
        terminal.print_json(cards if file else cards[0])
        return 0
    for place, entry in enumerate(entries):
        if place:
            print()
        _show_one(entry)
    return 0


def _show_one(entry: Claim) -> None:
    console = _console()
    console.print(f"{entry.id}: {entry.title}", style="bold", highlight=False, soft_wrap=True)
    console.print(f"relation: {entry.relation.value} · source: {entry.source}", highlight=False)
    if entry.extra:
        console.print(
            f"to measure it: {entry.extra.adds}; `{entry.extra.command}`", highlight=False
        )
    console.print(entry.statement.strip(), markup=False, highlight=False, soft_wrap=True)
    if entry.derivation:
        console.print("\nDerivation", style="bold")
        console.print(entry.derivation.strip(), markup=False, highlight=False, soft_wrap=True)
    described = entry.describe()
    for title, columns in (
        ("parameters", ("name", "meaning", "allowed", "default")),
        ("quantities", ("name", "meaning", "tolerance")),
        ("falsifiers", ("name", "what")),
    ):
        console.print(f"\n{title}", style="bold")
        rows = [tuple(str(item[column]) for column in columns) for item in described[title]]
        _print_table(columns, rows)
    if entry.broadcasts:
        console.print(f"predict takes arrays for: {entry.broadcasts}", highlight=False)


# --- check ---


def _check(options: argparse.Namespace) -> int:
    from jaxprompt.compute.environment import environment
    from jaxprompt.core.claim import PROFILES
    from jaxprompt.core.keys import as_key
    from jaxprompt.core.registry import measurable
    from jaxprompt.errors import suggest
    from jaxprompt.presentation import report
    from jaxprompt.presentation.figure_tables import figure_tables
    from jaxprompt.sweep.store import writable

    if options.profile not in PROFILES:
        raise UsageError(
            f"--profile '{options.profile}': must be quick or full; choose one of the two"
            f"{suggest(options.profile, PROFILES)}"
        )
    chosen, left_out = measurable(options.names or options.claims)
    _say_left_out(left_out)
    if options.out:
        writable(options.out)
    verdicts: list[Verdict] = []
    falsified: dict[str, dict[str, Verdict]] = {}
    known = {"environment": environment(options.seed)}
    try:
        for place, entry in enumerate(chosen):
            with _progress(f"{place + 1}/{len(chosen)} {entry.id}") as progress:
                verdict = entry.check(options.profile, options.seed, progress=progress)
                if options.falsify:
                    falsified[entry.id] = entry.falsify_cells(verdict)
                verdicts.append(verdict)
                if options.out and not verdict.error:
                    tables = figure_tables(entry, verdict, as_key(options.seed), progress)
                    if tables:
                        report.write_data(options.out, entry, tables)
            _print_verdict(verdict, falsified.get(entry.id), options.json)
            if options.out:
                report.write_json(options.out, known["environment"], verdicts, falsified, left_out)
    except KeyboardInterrupt:
        names = " ".join(c.id for c in chosen[len(verdicts) :])
        print(
            f"\ninterrupted: {len(verdicts)} of {len(chosen)} claims are done"
            + (f" and stored in {options.out}" if options.out else "")
            + f"; the rest: jaxprompt check {names} --profile {options.profile}",
            file=sys.stderr,
        )
        return _INTERRUPTED
    if options.out:
        report.draw_figures(options.out, chosen, options.out / "figures")
        page = report.write_html(options.out)
        print(f"report: {page}", file=sys.stderr)
    if options.json:
        entries = [
            {**v.to_dict(), "falsifiers": report.describe_falsifiers(falsified.get(v.id, {}))}
            for v in verdicts
        ]
        terminal.print_json({"schema": report.SCHEMA, **known, "claims": entries})
    else:
        _print_summary(verdicts)
        _say_left_out(left_out)
    return _falsify_code(verdicts, falsified) if options.falsify else _check_code(verdicts)


def _say_left_out(claims: Sequence[Claim]) -> None:
    """A line for each claim that cannot be measured here, so that none is missed unseen."""
    for entry in claims:
        assert entry.extra is not None
        print(
            f"left out: {entry.id} needs {', '.join(entry.extra.missing())}: "
            f"`{entry.extra.command}` in a clone installs the extra `{entry.extra.name}`",
            file=sys.stderr,
        )


def _check_code(verdicts: Sequence[Verdict]) -> int:
    found = {verdict.status.value for verdict in verdicts}
    return 1 if "refuted" in found else 3 if found - {"confirmed"} else 0


def _falsify_code(verdicts: Sequence[Verdict], falsified: dict[str, dict[str, Verdict]]) -> int:
    found = {wrong.status.value for wrongs in falsified.values() for wrong in wrongs.values()}
    return 0 if found <= {"refuted"} else 3 if "failed" in found else 1


def _print_verdict(verdict: Verdict, falsified: dict[str, Verdict] | None, quiet: bool) -> None:
    stream = sys.stderr if quiet else sys.stdout
    console = _console(stream)
    row = f"worst {_told(verdict)}" if verdict.rows else "no row"
    console.print(
        f"{verdict.status.value:<12} {verdict.id:<32} {row}, {verdict.seconds:.1f} s",
        style=_COLOURS[verdict.status.value],
        highlight=False,
        soft_wrap=True,
    )
    if verdict.error:
        print(verdict.error, file=sys.stderr)
    for name, wrong in (falsified or {}).items():
        count = sum(r.verdict == "refuted" for r in wrong.rows)
        console.print(
            f"  falsifier {name:<24} {wrong.status.value} by {count} of {len(wrong.rows)} rows"
            + (f", {_told(wrong)}" if count else ""),
            style="" if wrong.status.value == "refuted" else "bold",
            highlight=False,
            soft_wrap=True,
        )


def _told(verdict: Verdict) -> str:
    """The row that decided, and how far it lies from the prediction."""
    from jaxprompt.core.json_values import to_json_values
    from jaxprompt.presentation.report import deviation

    worst = verdict.worst
    return (
        f"{worst.quantity}: {deviation(to_json_values(dataclasses.asdict(worst)))}" if worst else ""
    )


_COLOURS = {
    "confirmed": "green",
    "refuted": "bold red",
    "inconclusive": "yellow",
    "failed": "bold magenta",
}


def _print_summary(verdicts: Sequence[Verdict]) -> None:
    columns = ("claim", "relation", "status", "rows", "false alarm", "detectable", "time")
    rows = [
        (
            v.id,
            v.relation.value,
            v.status.value,
            str(len(v.rows)),
            f"{v.false_alarm:g}",
            f"{v.detectable:.2g}",
            f"{v.seconds:.1f} s",
        )
        for v in verdicts
    ]
    _print_table(columns, rows, spare=("false alarm", "relation", "rows", "detectable"))


# --- sweep, figure, report ---


def _sweep(options: argparse.Namespace) -> int:
    from jaxprompt.sweep import run as sweeps
    from jaxprompt.sweep.store import SweepStore

    job = sweeps.Sweep.from_toml(options.file)
    out = options.out or Path(options.file.stem)
    begun = SweepStore.exists(out)
    try:
        with (
            _progress(f"sweep {job.claim}", "cells", job.trials) as progress,
            _executor(options) as executor,
        ):
            result = sweeps.run(
                job, out, resume=options.resume, executor=executor, progress=progress
            )
    except KeyboardInterrupt:
        if SweepStore.exists(out) and (options.resume or not begun):
            done = SweepStore.open(out).done
            print(
                f"\ninterrupted: {done.sum()} of {done.size} cells are stored in {out}, those in "
                f"flight are dropped; go on with: {_resume(options, out)}",
                file=sys.stderr,
            )
        else:
            print("\ninterrupted: nothing was stored", file=sys.stderr)
        return _INTERRUPTED
    for note in result.notes:
        print(f"jaxprompt: note: {note}", file=sys.stderr)
    counts: dict[str, int] = {}
    for status in result.dataset["status"].values.ravel():
        counts[str(status)] = counts.get(str(status), 0) + 1
    found = ", ".join(f"{count} {name}" for name, count in sorted(counts.items()))
    if options.json:
        summary = {"out": str(out), "cells": sum(counts.values()), "status": counts}
        terminal.print_json({**summary, "errors": result.errors})
    else:
        print(f"{sum(counts.values())} cells: {found}; open with jaxprompt.load({str(out)!r})")
    if result.errors:
        print(f"jaxprompt: {sweeps.report_failures(result)}", file=sys.stderr)
    return 1 if "refuted" in counts else 3 if set(counts) - {"confirmed"} else 0


def _resume(options: argparse.Namespace, out: Path) -> str:
    command = ["jaxprompt", "sweep", str(options.file), "--out", str(out), "--resume"]
    for file in options.claims:
        command += ["--claims", str(file)]
    for name in ("workers", "scheduler"):
        if getattr(options, name):
            command += [f"--{name}", str(getattr(options, name))]
    return shlex.join([*command, *(["--no-cache"] if options.no_cache else [])])


@contextlib.contextmanager
def _executor(options: argparse.Namespace) -> Generator[Any]:
    if options.workers:
        from jaxprompt.sweep.run import process_pool

        prepare = functools.partial(_load_claims, options.claims)
        with process_pool(options.workers, prepare) as pool:
            yield pool
    elif options.scheduler:
        try:
            from distributed import Client  # pyright: ignore[reportMissingImports]
        except ImportError:
            raise UsageError(
                "--scheduler needs the package `distributed`: install jaxprompt[cluster]"
            ) from None
        # Of a scheduler that ends, dask's client logs its own traceback; here it is one line.
        logging.getLogger("distributed.client").setLevel(logging.CRITICAL)
        try:
            client = Client(options.scheduler, timeout=10)
        except (OSError, ValueError) as error:
            raise UsageError(
                f"--scheduler '{options.scheduler}': no dask scheduler answers ({error}); start one"
            ) from None
        if options.claims:  # on the workers of now and of later, at the same path
            files = [str(Path(file).resolve()) for file in options.claims]
            client.register_worker_callbacks(functools.partial(_load_claims, files))
        with client:
            yield client
    else:
        yield None


def _figure(options: argparse.Namespace) -> int:
    from jaxprompt.core.keys import as_key
    from jaxprompt.core.registry import measurable, select
    from jaxprompt.presentation import report
    from jaxprompt.presentation.figure_tables import figure_tables, shows_check
    from jaxprompt.sweep.store import writable

    if options.source is None:
        chosen, left_out = measurable(options.names or options.claims)
        _say_left_out(left_out)
    else:
        chosen = select(options.names or options.claims)
    chosen = [c for c in chosen if c.figure is not None]
    if options.source is not None and not options.source.is_dir():
        raise UsageError(f"--from '{options.source}': no such folder; give one a check wrote")
    if options.source is not None:
        chosen = [c for c in chosen if report.has_data(options.source, c)]
    if not chosen:
        raise UsageError("nothing to draw: the claims named have no figure, or the folder no data")
    writable(options.out)
    if options.source is None:
        for entry in chosen:
            with _progress(entry.id) as progress:
                shown = shows_check(entry)
                verdict = entry.check("quick", 0, progress=progress) if shown else None
                tables = figure_tables(entry, verdict, as_key(0), progress)
                assert tables is not None  # claims without a figure are not chosen
                report.write_data(options.out, entry, tables)
    paths = report.draw_figures(options.source or options.out, chosen, options.out)
    _print_paths(paths, options.json)
    return 0


def _print_paths(paths: Sequence[Path], as_json: bool) -> None:
    names = [str(path) for path in paths]
    if as_json:
        terminal.print_json({"files": names})
    else:
        print("\n".join(names))


def _report(options: argparse.Namespace) -> int:
    from jaxprompt.core.registry import claims
    from jaxprompt.presentation import report

    report.read_report(options.folder)
    report.draw_figures(options.folder, claims(), options.folder / "figures")
    _print_paths([report.write_html(options.folder)], options.json)
    return 0


# --- doctor and completion ---


def _doctor(options: argparse.Namespace) -> int:
    from jaxprompt.cli.doctor import examine

    findings = examine()
    if options.json:
        terminal.print_json([finding._asdict() for finding in findings])
    else:
        rows = [(f.what, f.state, f.found, f.remedy) for f in findings]
        _print_table(("what", "state", "found", "what to do"), rows)
    return 3 if any(finding.state == "problem" for finding in findings) else 0


def _completion(options: argparse.Namespace) -> int:
    from jaxprompt.cli.completion import script
    from jaxprompt.core.registry import FAMILIES, claims

    print(script(options.shell, _parser(), (*FAMILIES, *(c.id for c in claims()))))
    return 0


# --- the terminal ---


def _console(stream: Any = None) -> Any:
    from rich.console import Console

    stream = stream or sys.stdout
    # A pipe or a file has no width: give tables room rather than fold them at 80 columns.
    known = stream.isatty() or os.environ.get("COLUMNS")
    return Console(file=stream, width=None if known else 140)


def _print_table(
    columns: Sequence[str], rows: Sequence[Sequence[str]], *, spare: Sequence[str] = ()
) -> None:
    """Print a table that fits: columns in `spare` go, in that order, before any cell is folded."""
    console = _console()
    shown, left = list(columns), list(spare)
    table = _table(columns, rows, shown)
    while left and console.measure(table).maximum > console.width:
        shown.remove(left.pop(0))
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


@contextlib.contextmanager
def _progress(
    title: str, unit: str = "runs", trials: int = 0
) -> Generator[Callable[[int, int], None]]:
    """A bar with the time left on a terminal; a plain line every few seconds otherwise.

    Where a unit stands for a number of `trials`, trials a second are shown too.
    """
    started, before = time.monotonic(), None

    def speed(done: int) -> str:
        """Of what was done since the first call: the rest was there before."""
        nonlocal before
        before = done if before is None else before
        rate = (done - before) * trials / max(time.monotonic() - started, 1e-9)
        return f"{rate:.3g} trials/s" if trials and rate else ""

    if sys.stderr.isatty():
        from rich import progress as bars
        from rich.console import Console

        columns = (
            bars.TextColumn("{task.description}"),
            bars.BarColumn(),
            bars.MofNCompleteColumn(),
            bars.TextColumn("{task.fields[speed]}"),
            bars.TimeElapsedColumn(),
            bars.TextColumn("left"),
            bars.TimeRemainingColumn(),
        )
        with bars.Progress(*columns, console=Console(stderr=True), transient=True) as bar:
            task = bar.add_task(title, total=None, speed="")
            yield lambda done, total: bar.update(
                task, completed=done, total=total, speed=speed(done)
            )
        return
    last = started

    def print_line(done: int, total: int) -> None:
        nonlocal last
        now, rate = time.monotonic(), speed(done)
        if now - last >= 5:
            last, new = now, done - (before or 0)
            left = f", about {(now - started) / new * (total - done):.0f} s left" if new else ""
            rate = f", {rate}" if rate else ""
            print(f"{title}: {done}/{total} {unit}{rate}{left}", file=sys.stderr, flush=True)

    yield print_line
