"""Claims as tests: ``pytest --jaxprompt my_claims.py``, one test a claim and one a falsifier.

pytest loads this file in every run (entry point ``pytest11``), so nothing of JAX is imported until
a file of claims is collected, which only happens with ``--jaxprompt``. Claims are taken from files
that the command names, and from those in its folders that match the setting ``jaxprompt_files``.
A claim is measured once; its falsifiers are judged on the same measurements.
"""

from __future__ import annotations

import fnmatch
import functools
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from jaxprompt.core.claim import Claim, Verdict

__all__ = ["ClaimFile", "ClaimTest", "FalsifierTest"]


def pytest_addoption(parser: pytest.Parser) -> None:
    """The options, and the setting that says which files of a folder hold claims."""
    group = parser.getgroup("jaxprompt", "claims of theorems (jaxprompt)")
    group.addoption(
        "--jaxprompt", action="store_true", help="check the claims of the files that are named"
    )
    group.addoption(
        "--jaxprompt-profile",
        default="quick",
        choices=("quick", "full"),
        help="amount of work of a check (default: quick)",
    )
    group.addoption(
        "--jaxprompt-seed", default=0, type=int, metavar="N", help="seed of the checks (default: 0)"
    )
    parser.addini(
        "jaxprompt_files",
        "patterns of the names of files of claims in folders that are named",
        type="args",
        default=["*_claims.py", "claims.py"],
    )


@pytest.hookimpl(tryfirst=True)
def pytest_pycollect_makemodule(module_path: Path, parent: pytest.Collector) -> ClaimFile | None:
    """Take over from pytest's own collector where a file that was named holds claims."""
    return _claim_file(module_path, parent)


def pytest_collect_file(file_path: Path, parent: pytest.Collector) -> ClaimFile | None:
    """Collect files of claims; those that pytest itself offers as modules are taken over there."""
    named = parent.session.isinitpath(file_path)
    return None if named or _is_test_module(file_path, parent) else _claim_file(file_path, parent)


def _claim_file(path: Path, parent: pytest.Collector) -> ClaimFile | None:
    config = parent.config
    if not config.getoption("--jaxprompt") or path.suffix != ".py":
        return None
    matches = any(fnmatch.fnmatch(path.name, p) for p in config.getini("jaxprompt_files"))
    named = parent.session.isinitpath(path) and not _is_test_module(path, parent)
    if not (matches or named):
        return None
    made: ClaimFile = ClaimFile.from_parent(parent, path=path)
    return made


def _is_test_module(path: Path, parent: pytest.Collector) -> bool:
    patterns = parent.config.getini("python_files")
    return any(fnmatch.fnmatch(path.name, pattern) for pattern in patterns)


class ClaimFile(pytest.File):
    """A file of claims, of which each gives a test for itself and one for each falsifier."""

    def collect(self) -> Iterator[pytest.Item]:
        """Run the file; a refused claim is an error of one line."""
        from jaxprompt.core.registry import load_claims
        from jaxprompt.errors import JaxpromptError

        try:
            claims = load_claims(self.path)
        except JaxpromptError as error:
            raise self.CollectError(str(error)) from error
        for claim in claims:
            measured = _Measured(
                claim,
                str(self.config.getoption("--jaxprompt-profile")),
                int(self.config.getoption("--jaxprompt-seed") or 0),
            )
            yield ClaimTest.from_parent(self, name=claim.id, measured=measured)
            for falsifier in claim.falsifiers:
                name = f"{claim.id}[{falsifier.name}]"
                yield FalsifierTest.from_parent(
                    self, name=name, measured=measured, falsifier=falsifier.name
                )


class _Measured:
    """What the tests of one claim share: its verdict, and those of its falsifiers."""

    def __init__(self, claim: Claim, profile: str, seed: int) -> None:
        self.claim, self._profile, self._seed = claim, profile, seed

    @functools.cached_property
    def verdict(self) -> Verdict:
        """The check, done by the first test that asks for it."""
        return self.claim.check(self._profile, self._seed)

    @functools.cached_property
    def falsified(self) -> dict[str, Verdict]:
        """The falsifiers, on the same measurements."""
        return self.claim.falsify_cells(self.verdict)


class _Unexpected(Exception):
    """A claim or a falsifier that did not turn out as it should; told without a traceback."""


class _Test(pytest.Item):
    """A test of a claim that shares its measurements with others."""

    def __init__(self, *, measured: _Measured, **options: Any) -> None:
        super().__init__(**options)
        self.measured = measured
        self.add_marker(pytest.mark.jaxprompt)

    def setup(self) -> None:
        """Skip a claim whose optional packages are missing."""
        extra = self.measured.claim.extra
        if extra is not None and extra.missing():
            pytest.skip(f"{self.measured.claim.id} needs jaxprompt[{extra.name}]")

    def reportinfo(self) -> tuple[Path, int | None, str]:
        """Where it stands, and its name."""
        return self.path, None, self.name

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> Any:
        """The numbers that decided, or one line of a refusal; else a traceback."""
        from jaxprompt.errors import JaxpromptError

        if isinstance(excinfo.value, _Unexpected | JaxpromptError):
            return str(excinfo.value)
        return super().repr_failure(excinfo, style)


class ClaimTest(_Test):
    """Passes where the claim is confirmed."""

    def runtest(self) -> None:
        """Check the claim."""
        verdict = self.measured.verdict
        if verdict.status != "confirmed":
            raise _Unexpected(_describe(self.measured.claim, verdict))


class FalsifierTest(_Test):
    """Passes where the check refutes a wrong variant."""

    def __init__(self, *, falsifier: str, **options: Any) -> None:
        super().__init__(**options)
        self._falsifier = falsifier

    def runtest(self) -> None:
        """Judge the variant on what was measured for the claim."""
        claim = self.measured.claim
        if self.measured.verdict.error:
            raise _Unexpected(_describe(claim, self.measured.verdict))
        verdict = self.measured.falsified[self._falsifier]
        if verdict.status != "refuted":
            wrong = claim.falsifier(self._falsifier)
            raise _Unexpected(
                f"{claim.id}: the check does not refute {self._falsifier!r} "
                f"({wrong.description}), so it proves little: {verdict.status.value}"
            )


def _describe(claim: Claim, verdict: Verdict) -> str:
    from jaxprompt.presentation.wording import describe_verdict, describe_worst_row

    lines = [f"{claim.id} is {verdict.status.value}: {claim.title}"]
    if verdict.rows:
        lines.append(describe_worst_row(describe_verdict(verdict)))
    lines += [text for text in (verdict.error, verdict.advice) if text]
    return "\n".join(lines)


def pytest_configure(config: pytest.Config) -> None:
    """Declare the mark by which these tests can be chosen: ``-m jaxprompt``."""
    config.addinivalue_line("markers", "jaxprompt: a claim, or one of its falsifiers")
