"""Which claims can be measured here: some need an extra part of the installation."""

from __future__ import annotations

from collections.abc import Iterable

import jaxprompt as jp

__all__ = ["measurable"]


def measurable(ids: Iterable[str]) -> list[str]:
    """Those claims whose extras are installed; a line on standard output for each other one."""
    found = []
    for id in ids:
        extra = jp.claim(id).extra
        if extra is None or not extra.missing():
            found.append(id)
        else:
            print(f"left out: {id} needs {', '.join(extra.missing())}: `{extra.command}`")
    return found
