"""What each command does: it prints its result and returns its exit code."""

from __future__ import annotations

import argparse
import collections
import contextlib
import functools
import json
import multiprocessing
import shlex
import sys
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jaxprompt.cli import terminal
from jaxprompt.errors import UsageError, suggest

if TYPE_CHECKING:
    from jaxprompt.core.claim import Claim, Verdict
    from jaxprompt.core.dry_run import DryRun, PlannedLine

__all__ = [
    "INTERRUPTED",
    "check_claims",
    "draw_figures",
    "export_sweep",
    "list_claims",
    "load_claim_files",
    "print_completion",
    "print_diagnosis",
    "rebuild_report",
    "refuse_files_without_device",
    "run_sweep",
    "show_claims",
]

COSTS = ("short", "", "long", "trained")
"""What claims say of their cost, in the order in which they are checked."""

_COSTS_IN_WORDS = {
    "short": "; the claim says about five processor seconds",
    "long": "; the claim says that it is long",
    "trained": "; the claim says that it trains networks",
}
"""What a dry run makes of them where no time can be counted."""

INTERRUPTED = 130
"""Exit code after Ctrl-C, as shells have it."""


def load_claim_files(files: Sequence[str]) -> None:
    """Run the user's files of claims; also the first thing a worker process does."""
    if multiprocessing.parent_process() is not None:
        sys.stdout = sys.stderr  # a worker's standard output is that of the command
    if files:
        from jaxprompt.core.registry import load_claims

        for file in files:
            load_claims(file)


def _require_device() -> None:
    """Refuse to start where JAX cannot compute, as with a platform that is not installed."""
    from jaxprompt.cli.doctor import device_problem

    problem = device_problem()
    if problem:
        raise UsageError(
            f"JAX has no device to compute on ({problem}): unset JAX_PLATFORMS, or set it to cpu"
        )


def refuse_files_without_device(options: argparse.Namespace) -> None:
    """Refuse files of claims where JAX cannot compute: they run, and would fail in their own words.

    Raises:
        UsageError: a file or a folder is named, and JAX has no device.
    """
    named = [*getattr(options, "claims", ()), *getattr(options, "names", ())]
    named.append(getattr(options, "id", ""))
    if any(name.endswith(".py") or Path(name).is_dir() for name in named if name):
        _require_device()


# --- list and show ---


def list_claims(options: argparse.Namespace) -> int:
    """List claims with their relations and titles."""
    from jaxprompt.core.registry import claims, installed, select

    if options.family and options.names:
        raise UsageError(f"--family '{options.family}': give it or names, not both; drop one")
    names = [*options.names, *(() if options.family else options.claims)]
    chosen = select(names) if names else claims(options.family)
    if options.json:
        entries = [{"id": c.id, "relation": c.relation, "title": c.title} for c in chosen]
        terminal.print_json(entries)
        return 0
    rows = [(entry.id, entry.relation.value, entry.title) for entry in chosen]
    terminal.print_table(("claim", "relation", "title"), rows, spare=("relation",))
    if not names and not options.family and installed():
        families = ", ".join(installed())
        print(f"brought by installed packages: {families}; `jaxprompt list --family` shows one")
    return 0


def show_claims(options: argparse.Namespace) -> int:
    """Show one claim, or those of one file, with all that they say."""
    from jaxprompt.core.registry import claim, load_claims

    is_file = options.id.endswith(".py")
    entries = load_claims(options.id) if is_file else (claim(options.id),)
    if options.json:
        cards = [entry.describe() for entry in entries]
        terminal.print_json(cards if is_file else cards[0])
        return 0
    for number, entry in enumerate(entries):
        if number:
            print()
        _print_card(entry)
    return 0


def _print_card(entry: Claim) -> None:
    console = terminal.make_console()
    console.print(f"{entry.id}: {entry.title}", style="bold", soft_wrap=True)
    console.print(f"relation: {entry.relation.value} · source: {entry.source}")
    if entry.extra:
        console.print(f"to measure it: {entry.extra.adds}; `{entry.extra.command}`")
    console.print(entry.statement.strip(), soft_wrap=True)
    if entry.derivation:
        console.print("\nDerivation", style="bold")
        console.print(entry.derivation.strip(), soft_wrap=True)
    described = entry.describe()
    for title, columns in (
        ("parameters", ("name", "meaning", "allowed", "default")),
        ("quantities", ("name", "meaning", "tolerance")),
        ("falsifiers", ("name", "what")),
    ):
        console.print(f"\n{title}", style="bold")
        rows = [tuple(str(item[column]) for column in columns) for item in described[title]]
        terminal.print_table(columns, rows)
    _print_compared(console, described)
    if entry.broadcasts:
        console.print(f"predict takes arrays for: {entry.broadcasts}")


def _print_compared(console: Any, described: Mapping[str, Any]) -> None:
    """Where predictions were set beside something independent, by the check and by tests."""
    columns = ("name", "check", "tests")
    rows = [tuple(row[name] for name in columns) for row in described["compared"]]
    console.print("\nvalues at which predictions were compared", style="bold")
    shown = columns if any(row[2] for row in rows) else columns[:2]
    terminal.print_table(shown, [row[: len(shown)] for row in rows])
    console.print("what is not allowed is refused", end="")
    elsewhere = described["elsewhere"] or "the formula is the same, and nothing was compared"
    console.print(f"; elsewhere: {elsewhere}", soft_wrap=True)


# --- check ---


def check_claims(options: argparse.Namespace) -> int:
    """Check claims; print and store each verdict before its figure is made."""
    from jaxprompt.compute.environment import environment
    from jaxprompt.compute.programs import forget_programs
    from jaxprompt.core.checking import choose_design, refuse_design_that_cannot_fit
    from jaxprompt.core.claim import PROFILES
    from jaxprompt.core.registry import measurable
    from jaxprompt.presentation import report
    from jaxprompt.sweep.store import writable

    if options.profile not in PROFILES:
        raise UsageError(
            f"--profile '{options.profile}': must be quick or full; choose one of the two"
            f"{suggest(options.profile, PROFILES)}"
        )
    chosen, left_out = measurable(options.names or options.claims)
    chosen = sorted(chosen, key=_rank_of_cost)
    _require_device()
    _print_left_out(left_out)
    if options.dry_run:
        return _print_plans(options, chosen)
    for entry in chosen:
        design = choose_design(entry, options.profile, options.trials, dict(options.point or ()))
        refuse_design_that_cannot_fit(entry, design)
    if options.out:
        writable(options.out)
    run = _CheckRun(options, chosen, left_out, environment(options.seed), _earlier_report(options))
    try:
        for number, entry in enumerate(chosen):
            run.check(entry, f"{number + 1}/{len(chosen)} {entry.id}")
            forget_programs()
        if options.out:
            run.draw()
            print(f"report: {report.write_html(options.out)}", file=sys.stderr)
    except KeyboardInterrupt:
        print(f"\n{run.describe_interruption()}", file=sys.stderr)
        return INTERRUPTED
    if options.json:
        terminal.print_json(run.to_json())
    else:
        _print_summary(run.verdicts_by_id())
        _print_left_out(left_out)
    return run.exit_code()


def _rank_of_cost(entry: Claim) -> int:
    """Where a claim stands in the order of cost; an unknown word counts as none."""
    return COSTS.index(entry.cost) if entry.cost in COSTS else COSTS.index("")


def _print_plans(options: argparse.Namespace, chosen: Sequence[Claim]) -> int:
    """What a check of these claims would measure and predict, without measuring anything."""
    from jaxprompt.core.json_values import format_parameters

    point = dict(options.point or ())
    plans = [entry.dry_run(options.profile, options.trials, point) for entry in chosen]
    if options.json:
        terminal.print_json({"claims": [plan.to_dict() for plan in plans]})
        return 0
    for claim, plan in zip(chosen, plans, strict=True):
        shapes = ", ".join(f"{name} {list(s) or 'number'}" for name, s in plan.shapes.items())
        returned = f"; a trial returns {shapes}" if shapes else ""
        print(f"{plan.id}, {len(plan.runs)} runs{returned}")
        for run in plan.runs:
            predicted = run.note or ", ".join(f"{n} = {v}" for n, v in run.predicted.items())
            held = "" if run.memory is None else f", {run.memory / 2**20:.1f} MiB"
            print(f"  {format_parameters(run.parameters)}: {predicted} ({run.trials} trials{held})")
        for line in plan.lines:
            print(f"  {_describe_line(line)}")
        print(f"  {_describe_seconds(plan, claim.cost)}")
    return 0


def _describe_line(line: PlannedLine) -> str:
    """What a line of the figure shows, in one line."""
    from jaxprompt.core.json_values import format_parameters

    numbers = [y for y in line.y if y is not None]
    levels = f"{min(numbers):.4g} to {max(numbers):.4g}" if numbers else "no number"
    where = format_parameters(line.parameters)
    missing = [f"{x:g}" for x, y in zip(line.x, line.y, strict=True) if y is None]
    gaps = f"; none at {', '.join(missing)} ({line.note})" if missing else ""
    return (
        f"figure, {where or 'one line'}: {line.y_name} is {levels} at {len(line.x)} places, "
        f"{line.x_name} {min(line.x):g} to {max(line.x):g}{gaps}"
    )


def _describe_seconds(plan: DryRun, cost: str) -> str:
    """The expected time, in one line; where it cannot be counted, what the claim says itself."""
    if plan.seconds is None:
        said = _COSTS_IN_WORDS.get(cost, "")
        return f"expected time: not counted, as no one trial makes the simulation{said}"
    least = "at least " if any(run.seconds_at_least for run in plan.runs) else "about "
    return f"expected time: {least}{plan.seconds:.2g} processor seconds with compiling"


def _earlier_report(options: argparse.Namespace) -> dict[str, Any] | None:
    """What `--out` holds of earlier runs, so that this one adds to it; None if there is nothing."""
    from jaxprompt.presentation import report

    if not options.out or not report.has_report(options.out):
        return None
    try:
        return report.read_report(options.out)
    except UsageError as error:
        print(f"jaxprompt: note: what was there is replaced: {error}", file=sys.stderr)
        return None


@dataclass
class _CheckRun:
    """One run of the command `check`: what is done, and what is stored of it."""

    options: argparse.Namespace
    chosen: Sequence[Claim]
    left_out: Sequence[Claim]
    environment: Mapping[str, Any]
    earlier: Mapping[str, Any] | None
    verdicts: list[Verdict] = field(default_factory=list["Verdict"])
    falsified: dict[str, dict[str, Verdict]] = field(default_factory=dict[str, Any])
    warnings: dict[str, list[str]] = field(default_factory=dict[str, Any])

    def check(self, entry: Claim, title: str) -> None:
        """Check one claim, tell and store its verdict, then measure its figure."""
        from jaxprompt.core.keys import as_key
        from jaxprompt.presentation import report
        from jaxprompt.presentation.figure_tables import figure_tables

        seed = self.options.seed
        with terminal.show_progress(title) as progress, terminal.print_lines_to_stderr():
            verdict = entry.check(
                self.options.profile,
                seed,
                trials=self.options.trials,
                point=dict(self.options.point or ()),
                progress=progress,
            )
            if self.options.falsify:
                self.falsified[entry.id] = entry.falsify_cells(verdict)
        self.verdicts.append(verdict)
        _print_verdict(verdict, self.falsified.get(entry.id), self.options.json)
        self.store()
        if not self.options.out or verdict.error or entry.figure is None:
            return
        with (
            self._warning_of(entry.id, "has no figure"),
            terminal.show_progress(f"{title}, figure") as progress,
            terminal.print_lines_to_stderr(),
        ):
            tables = figure_tables(entry, verdict, as_key(seed), progress)
            if tables:
                report.write_data(self.options.out, entry, tables)

    def draw(self) -> None:
        """Draw the figures of all claims that were checked, from what was stored."""
        from jaxprompt.presentation import report

        for entry in self.chosen:
            with self._warning_of(entry.id, "has no figure"):
                report.draw_figures(self.options.out, [entry], self.options.out / "figures")

    @contextlib.contextmanager
    def _warning_of(self, id: str, what: str) -> Generator[None]:
        """Turn what goes wrong beside a verdict into a warning, in the terminal and the report."""
        try:
            yield
        except Exception as error:
            text = terminal.one_line(f"{what}: {type(error).__name__}: {error}")
            print(f"jaxprompt: warning: {id} {text}", file=sys.stderr)
            self.warnings.setdefault(id, []).append(text)
            self.store()

    def store(self) -> None:
        """Write what is known so far."""
        from jaxprompt.presentation import report

        if self.options.out:
            report.write_json(
                self.options.out,
                self.environment,
                self.verdicts_by_id(),
                self.falsified,
                self.left_out,
                warnings=self.warnings,
                earlier=self.earlier,
            )

    def verdicts_by_id(self) -> list[Verdict]:
        """The verdicts so far, in the order of all tables and files."""
        return sorted(self.verdicts, key=lambda verdict: verdict.id)

    def to_json(self) -> dict[str, Any]:
        """What ``--json`` prints."""
        from jaxprompt.presentation import report
        from jaxprompt.presentation.wording import describe_verdict

        entries = [
            {
                **describe_verdict(verdict),
                "falsifiers": report.describe_falsifiers(self.falsified.get(verdict.id, {})),
                "warnings": self.warnings.get(verdict.id, []),
            }
            for verdict in self.verdicts_by_id()
        ]
        return {"schema": report.SCHEMA, "environment": self.environment, "claims": entries}

    def exit_code(self) -> int:
        """0 all as it should be, 1 a claim refuted or a falsifier not, 3 something undecided."""
        statuses = {verdict.status.value for verdict in self.verdicts}
        wrong = {v.status.value for each in self.falsified.values() for v in each.values()}
        if "refuted" in statuses or wrong - {"refuted", "failed"}:
            return 1
        return 3 if statuses - {"confirmed"} or "failed" in wrong else 0

    def describe_interruption(self) -> str:
        """What is done, where it is, and the command that does the remaining work."""
        done = f"interrupted: {len(self.verdicts)} of {len(self.chosen)} claims are done"
        if self.options.out and self.verdicts:
            done += f" and stored in {self.options.out}"
        remaining = self.chosen[len(self.verdicts) :]
        if remaining:
            return f"{done}; go on with: {_check_command(self.options, remaining)}"
        command = shlex.join(["jaxprompt", "report", str(self.options.out)])
        return f"{done}; make the page with: {command}"


def _check_command(options: argparse.Namespace, remaining: Sequence[Claim]) -> str:
    """The command that checks `remaining` as these options ask for it."""
    from jaxprompt.core.registry import origin

    files = [file for entry in remaining if (file := origin(entry.id))]
    command = ["jaxprompt", "check", *(entry.id for entry in remaining)]
    for file in dict.fromkeys([*map(str, options.claims), *files]):
        command += ["--claims", file]
    command += ["--profile", options.profile]
    if options.seed:
        command += ["--seed", str(options.seed)]
    if options.trials:
        command += ["--trials", str(options.trials)]
    if options.point:
        command += ["--point", *(f"{name}={json.dumps(value)}" for name, value in options.point)]
    if options.out:
        command += ["--out", str(options.out)]
    for flag in ("falsify", "json", "no_cache"):
        if getattr(options, flag):
            command.append(f"--{flag.replace('_', '-')}")
    return shlex.join(command)


def _print_left_out(claims: Sequence[Claim]) -> None:
    """Print one line for each claim that cannot be checked because an extra is not installed."""
    for entry in claims:
        assert entry.extra is not None
        print(
            f"left out: {entry.id} needs {', '.join(entry.extra.missing())}: "
            f"`{entry.extra.command}` in a clone installs the extra `{entry.extra.name}`",
            file=sys.stderr,
        )


_COLOURS = {
    "confirmed": "green",
    "refuted": "bold red",
    "inconclusive": "yellow",
    "failed": "bold magenta",
}


def _print_verdict(verdict: Verdict, falsified: dict[str, Verdict] | None, quiet: bool) -> None:
    from jaxprompt.presentation.wording import describe_verdict, describe_worst_row

    console = terminal.make_console(sys.stderr if quiet else sys.stdout)
    worst = describe_worst_row(describe_verdict(verdict))
    of = f" (worst of {len(verdict.rows)} rows)" if len(verdict.rows) > 1 else ""
    console.print(
        f"{verdict.status.value:<12} {verdict.id:<32} {worst + of if worst else 'no row'}, "
        f"{verdict.seconds:.1f} s",
        style=_COLOURS[verdict.status.value],
        soft_wrap=True,
    )
    if verdict.error:
        print(verdict.error, file=sys.stderr)
    if verdict.advice:
        console.print(f"  {verdict.advice}", soft_wrap=True)
    for name, wrong in (falsified or {}).items():
        count = sum(row.verdict == "refuted" for row in wrong.rows)
        clearest = describe_worst_row(describe_verdict(wrong)) if count else ""
        console.print(
            f"  falsifier {name:<24} {wrong.status.value} by {count} of {len(wrong.rows)} rows"
            + (f", {clearest}" if clearest else ""),
            style="" if wrong.status.value == "refuted" else "bold",
            soft_wrap=True,
        )
    console.file.flush()


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
    terminal.print_table(columns, rows, spare=("false alarm", "relation", "rows", "detectable"))


# --- sweep ---


def run_sweep(options: argparse.Namespace) -> int:
    """Compute the cells of a sweep that are not stored yet."""
    from jaxprompt import sweep as sweeps
    from jaxprompt.sweep.store import SweepStore

    job = sweeps.Sweep.from_toml(options.file)
    _require_device()
    out = options.out or Path(options.file.stem)
    begun = SweepStore.exists(out)
    try:
        with (
            terminal.show_progress(f"sweep {job.claim}", "cells", job.trials) as progress,
            _executor(options) as executor,
            terminal.print_lines_to_stderr(),
        ):
            result = sweeps.run(
                job, out, resume=options.resume, executor=executor, progress=progress
            )
    except KeyboardInterrupt:
        if SweepStore.exists(out) and (options.resume or not begun):
            done = SweepStore.open(out).done
            print(
                f"\ninterrupted: {done.sum()} of {done.size} cells are stored in {out}, those in "
                f"flight are dropped; go on with: {_resume_command(options, out)}",
                file=sys.stderr,
            )
        else:
            print("\ninterrupted: nothing was stored", file=sys.stderr)
        return INTERRUPTED
    for note in result.notes:
        print(f"jaxprompt: note: {note}", file=sys.stderr)
    counts = collections.Counter(map(str, result.dataset["status"].values.ravel().tolist()))
    summary = ", ".join(f"{count} {name}" for name, count in sorted(counts.items()))
    if options.json:
        summary_json = {"out": str(out), "cells": sum(counts.values()), "status": counts}
        terminal.print_json({**summary_json, "errors": result.errors})
    else:
        print(f"{sum(counts.values())} cells: {summary}; open with jaxprompt.load({str(out)!r})")
    if result.errors:
        print(f"jaxprompt: {sweeps.report_failures(result)}", file=sys.stderr)
    if options.strict:
        return 1 if "refuted" in counts else 3 if set(counts) - {"confirmed"} else 0
    return 3 if result.errors else 0


def export_sweep(options: argparse.Namespace) -> int:
    """Write a stored sweep in the format of another tool."""
    from jaxprompt.sweep.export import export_sweep

    print(export_sweep(options.folder, options.to))
    return 0


def _resume_command(options: argparse.Namespace, out: Path) -> str:
    command = ["jaxprompt", "sweep", str(options.file), "--out", str(out), "--resume"]
    for file in options.claims:
        command += ["--claims", str(file)]
    for name in ("workers", "scheduler"):
        if getattr(options, name):
            command += [f"--{name}", str(getattr(options, name))]
    for flag in ("strict", "json", "no_cache"):
        if getattr(options, flag):
            command.append(f"--{flag.replace('_', '-')}")
    return shlex.join(command)


@contextlib.contextmanager
def _executor(options: argparse.Namespace) -> Generator[Any]:
    if options.workers:
        from jaxprompt.sweep import process_pool

        prepare = functools.partial(load_claim_files, options.claims)
        with process_pool(options.workers, prepare) as pool:
            yield pool
    elif options.scheduler:
        from jaxprompt.sweep.cluster import connected_client

        files = [str(Path(file).resolve()) for file in options.claims]
        with connected_client(options.scheduler, files, load_claim_files) as client:
            yield client
    else:
        yield None


# --- figure and report ---


def draw_figures(options: argparse.Namespace) -> int:
    """Draw figures of claims, measured anew or from a run, and of sweeps."""
    from jaxprompt.core.registry import FAMILIES
    from jaxprompt.sweep.store import writable

    folders = [n for n in options.names if n not in FAMILIES and Path(n).is_dir()]
    if folders and len(folders) < len(options.names):
        raise UsageError("figure: name claims or folders of sweeps, not both; run it twice")
    if folders and options.source is not None:
        raise UsageError("--from holds figures of claims: drop it, or the folders of sweeps")
    if folders:
        paths = _draw_sweeps(folders, options)
    else:
        chosen = _claims_with_figures(options)
        writable(options.out)
        paths = _draw_claims(chosen, options)
    _print_paths(paths, options.json)
    return 0


def _draw_sweeps(folders: Sequence[str], options: argparse.Namespace) -> list[Path]:
    import jaxprompt
    from jaxprompt.presentation.canvas import drawing_width, save_figure
    from jaxprompt.presentation.sweep_figure import draw_sweep, swept_quantities
    from jaxprompt.sweep.store import writable

    with drawing_width(options.width):
        drawn = [
            (f"{Path(folder).resolve().name}.{quantity}", draw_sweep(data, quantity))
            for folder in folders
            for data in [jaxprompt.load(folder)]
            for quantity in swept_quantities(data)
        ]
    out, formats = options.out, options.format or ("png", "svg")
    writable(out)
    return [path for name, figure in drawn for path in save_figure(figure, out, name, formats)]


def _claims_with_figures(options: argparse.Namespace) -> Sequence[Claim]:
    from jaxprompt.core.registry import measurable, select
    from jaxprompt.presentation import report

    names = options.names or options.claims
    if options.source is None:
        chosen, left_out = measurable(names)
        _print_left_out(left_out)
    else:
        if not options.source.is_dir():
            raise UsageError(f"--from '{options.source}': no such folder; give one a check wrote")
        chosen = [claim for claim in select(names) if report.has_data(options.source, claim)]
    chosen = [claim for claim in chosen if claim.figure is not None]
    if not chosen:
        raise UsageError("nothing to draw: the claims named have no figure, or the folder no data")
    return chosen


def _draw_claims(chosen: Sequence[Claim], options: argparse.Namespace) -> list[Path]:
    from jaxprompt.core.keys import as_key
    from jaxprompt.presentation import report
    from jaxprompt.presentation.figure_tables import figure_needs_verdict, figure_tables

    if options.source is None:
        _require_device()
        for entry in chosen:
            with terminal.show_progress(entry.id) as progress, terminal.print_lines_to_stderr():
                needed = figure_needs_verdict(entry)
                verdict = entry.check("quick", 0, progress=progress) if needed else None
                tables = figure_tables(entry, verdict, as_key(0), progress)
                assert tables is not None  # claims without a figure are not chosen
                report.write_data(options.out, entry, tables)
    formats = options.format or ("png", "svg")
    source = options.source or options.out
    return report.draw_figures(source, chosen, options.out, formats, options.width)


def _print_paths(paths: Sequence[Path], as_json: bool) -> None:
    names = [str(path) for path in paths]
    if as_json:
        terminal.print_json({"files": names})
    else:
        print("\n".join(names))


def rebuild_report(options: argparse.Namespace) -> int:
    """Make the page of a run again, from what the run stored."""
    from jaxprompt.core.registry import claims
    from jaxprompt.presentation import report

    report.read_report(options.folder)
    report.draw_figures(options.folder, claims(), options.folder / "figures")
    _print_paths([report.write_html(options.folder)], options.json)
    return 0


# --- doctor and completion ---


def print_diagnosis(options: argparse.Namespace) -> int:
    """Say what is installed, what works, and what is missing."""
    from jaxprompt.cli.doctor import examine

    findings = examine()
    if options.json:
        terminal.print_json([finding._asdict() for finding in findings])
    else:
        rows = [(f.what, f.state, f.found, f.remedy) for f in findings]
        terminal.print_table(("what", "state", "found", "what to do"), rows)
    return 3 if any(finding.state == "problem" for finding in findings) else 0


def print_completion(options: argparse.Namespace, parser: argparse.ArgumentParser) -> int:
    """Print the script by which a shell completes commands, options, claims and files."""
    import shtab

    _mark_words(parser, shtab.FILE, shtab.DIRECTORY)
    print(shtab.complete(parser, options.shell))
    return 0


def _mark_words(parser: argparse.ArgumentParser, files: Any, folders: Any) -> None:
    """Tell shtab which words may stand where.

    Names of claims are written into the script: a shell cannot wait for JAX at every key.
    """
    from jaxprompt.core.claim import PROFILES
    from jaxprompt.core.registry import FAMILIES, claims

    names = _complete_names((*FAMILIES, *(claim.id for claim in claims())))
    actions: Any  # argparse has no public name for what holds the subcommands
    (actions,) = (a for a in parser._actions if a.nargs == argparse.PARSER)
    for action in [action for sub in actions.choices.values() for action in sub._actions]:
        metavar = action.metavar or ""
        if action.dest in ("profile", "family"):
            action.choices = PROFILES if action.dest == "profile" else FAMILIES
        elif "ID" in metavar:
            action.complete = names
        elif "DIR" in metavar:
            action.complete = folders
        elif "FILE" in metavar:
            action.complete = files


def _complete_names(names: Sequence[str]) -> dict[str, Any]:
    """For each shell, what completes one of `names` or a file."""
    words = " ".join(names)
    return {
        "bash": "_jaxprompt_names_or_files",
        "zsh": "_jaxprompt_names_or_files",
        "fish": "(_jaxprompt_names_or_files)",
        "preamble": {
            "bash": "_jaxprompt_names_or_files() {\n"
            f'  compgen -W "{words}" -- "$1"\n  compgen -f -- "$1"\n}}',
            "zsh": f"_jaxprompt_names_or_files() {{\n  compadd -- {words}\n  _files\n}}",
            "fish": "function _jaxprompt_names_or_files\n"
            f"  string split ' ' '{words}'\n  __fish_complete_path (commandline -ct)\nend",
        },
    }
