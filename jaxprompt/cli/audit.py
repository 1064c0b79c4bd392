"""The command `audit`: what a prefix does to the attention layers of a user's own model."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jaxprompt.cli import terminal
from jaxprompt.errors import UsageError, short

if TYPE_CHECKING:
    from jaxprompt.prefix.audit_results import Audit

__all__ = ["AUDIT_EXAMPLES", "add_audit_arguments", "print_audit"]

AUDIT_EXAMPLES = """\
  jaxprompt audit llama/ --adapter my_prefix/ --text text.txt --out audit
                                             a table, and audit/audit.html and audit.json
  jaxprompt audit llama/ --prefix 16         the model with a random prefix, on random tokens
  jaxprompt audit llama/ --prefix 16 --dtype float32 --json

The first folder holds config.json and safetensors (and a tokenizer, for --text), the adapter's
what PEFT's save_pretrained wrote. Without --text 48 token ids are drawn evenly, with seed 0.
Nothing is fetched.

exit code: 0 every layer confirmed · 1 something refuted · 2 wrong usage or bad input ·
3 something inconclusive or failed, nothing refuted"""

LARGEST_TEXT = 2**22
"""Bytes of a text file: 256 tokens are used of it."""


def add_audit_arguments(parser: argparse.ArgumentParser) -> None:
    """What the command takes."""
    parser.add_argument("model", type=Path, metavar="MODEL_DIR")
    vectors = parser.add_mutually_exclusive_group(required=True)
    vectors.add_argument(
        "--adapter", type=Path, metavar="DIR",
        help="prefix tuning (P-tuning v2), P-tuning or prompt tuning, saved by PEFT",
    )  # fmt: skip
    vectors.add_argument("--prefix", type=_count, metavar="N", help="a random prefix of N vectors")
    parser.add_argument("--text", type=Path, metavar="FILE", help="its first 256 tokens are used")
    parser.add_argument(
        "--dtype", default="auto", metavar="TYPE",
        help="float64, float32, bfloat16 or float16; default: that of the weights",
    )  # fmt: skip
    parser.add_argument(
        "--seed", type=_seed, default=0, metavar="N", help="of --prefix; default: 0"
    )
    parser.add_argument("--out", type=Path, metavar="DIR", help="write audit.html and audit.json")


def _count(text: str) -> int:
    if not text.isascii() or not text.isdigit() or not 1 <= int(text[:8]) <= 1024:
        raise argparse.ArgumentTypeError(f"{short(text)} must be an integer from 1 to 1024")
    return int(text)


def _seed(text: str) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > 10 or int(text) >= 2**32:
        raise argparse.ArgumentTypeError(f"{short(text)} must be an integer from 0 to 2^32 - 1")
    return int(text)


def print_audit(options: argparse.Namespace) -> int:
    """Audit the model, and show a row for each layer and what it says."""
    from jaxprompt.prefix.audit_models import audit_model
    from jaxprompt.sweep.store import writable

    # Everything is read from the folders given; a library that asked a host would find none.
    os.environ["HF_HUB_OFFLINE"] = "1"
    text = None if options.text is None else _read_text(options.text)
    if options.out:
        writable(options.out)
    with terminal.show_progress("audited", "layers") as progress:
        audit = audit_model(
            options.model, adapter=options.adapter, prefix=options.prefix, text=text,
            dtype=options.dtype, seed=options.seed, progress=progress,
        )  # fmt: skip
    report = _report(audit, options.seed)
    if options.out:
        _write(options.out, report)
    if options.json:
        terminal.print_json(report)
    else:
        _print_table(report)
    return audit.exit_code


def _read_text(path: Path) -> str:
    try:
        if path.stat().st_size > LARGEST_TEXT:
            raise UsageError(
                f"--text '{path}' is larger than 4 MiB: give a shorter one, 256 tokens are used"
            )
        return path.read_text("utf-8")
    except OSError as error:
        raise UsageError(
            f"--text '{short(str(path))[1:-1]}' cannot be read ({error.strerror}): give a file"
        ) from None
    except UnicodeDecodeError:
        raise UsageError(f"--text '{path}' is not UTF-8: save it so") from None


def _report(audit: Audit, seed: int) -> dict[str, Any]:
    from jaxprompt.compute.environment import environment

    return {**audit.to_dict(), "environment": environment(seed)}


def _print_table(report: Mapping[str, Any]) -> None:
    from jaxprompt.presentation.audit_page import COLUMNS, describe_model, table_rows

    print(describe_model(report["model"]))
    terminal.print_table(COLUMNS, table_rows(report))
    for finding in report["findings"]:
        print(f"· {finding}")
    print(f"verdict: {report['status']}")


def _write(folder: Path, report: Mapping[str, Any]) -> None:
    from jaxprompt.presentation.audit_page import audit_page
    from jaxprompt.presentation.files import write_atomically

    try:
        folder.mkdir(parents=True, exist_ok=True)
        text = json.dumps(report, indent=1, ensure_ascii=False)
        write_atomically(folder / "audit.json", text.encode())
        write_atomically(folder / "audit.html", audit_page(report).encode())
    except OSError as error:
        raise UsageError(
            f"--out '{folder}' cannot be written ({error.strerror}): give another folder"
        ) from None
    print(folder / "audit.html", file=sys.stderr)
