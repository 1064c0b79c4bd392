"""Run the cells of docs/tutorial.ipynb and store what they show, in the form of a notebook.

    python docs/run_tutorial.py

No Jupyter is needed. A cell shows what it prints and the value of its last line: as HTML or as a
picture where the value has them, and as text. `tests/presentation/test_notebook.py` runs the cells
again and compares.
"""

from __future__ import annotations

import ast
import base64
import contextlib
import io
import json
import pprint
from pathlib import Path
from typing import Any

NOTEBOOK = Path(__file__).with_name("tutorial.ipynb")


def executed(notebook: dict[str, Any]) -> dict[str, Any]:
    """The notebook with the outputs of its cells, run in order in one name space."""
    names: dict[str, Any] = {}
    cells: list[dict[str, Any]] = []
    count = 0
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            count += 1
            printed = io.StringIO()
            with contextlib.redirect_stdout(printed):
                value = run_cell("".join(cell["source"]), names)
            outputs = []
            if printed.getvalue():
                text = printed.getvalue().splitlines(keepends=True)
                outputs.append({"name": "stdout", "output_type": "stream", "text": text})
            if value is not None:
                outputs.append({
                    "data": shown(value), "execution_count": count, "metadata": {},
                    "output_type": "execute_result",
                })  # fmt: skip
            cell = {**cell, "execution_count": count, "outputs": outputs}
        cells.append(cell)
    return {**notebook, "cells": cells}


def run_cell(source: str, names: dict[str, Any]) -> Any:
    """Run a cell; the value of its last line if that is an expression."""
    tree = ast.parse(source)
    last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, "tutorial", "exec"), names)
    return None if last is None else eval(compile(ast.Expression(last.value), "tutorial", "eval"),
                                          names)  # fmt: skip


def shown(value: Any) -> dict[str, Any]:
    """What a notebook shows of a value, by type of content."""
    data: dict[str, Any] = {}
    if hasattr(value, "_repr_html_"):
        data["text/html"] = value._repr_html_().splitlines(keepends=True)
    if hasattr(value, "_repr_png_"):
        data["image/png"] = base64.b64encode(value._repr_png_()).decode() + "\n"
    text = pprint.pformat(value, sort_dicts=False) if isinstance(value, dict) else repr(value)
    data["text/plain"] = text.splitlines(keepends=True)
    return data


def main() -> None:
    """Renew the outputs in the file."""
    notebook = executed(json.loads(NOTEBOOK.read_text(encoding="utf-8")))
    text = json.dumps(notebook, ensure_ascii=False, indent=1, sort_keys=True)
    NOTEBOOK.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
