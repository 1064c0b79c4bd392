"""A stored sweep as a labelled dataset."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxprompt.errors import UsageError
from jaxprompt.sweep.store import FILE, STATUS_CODES, SweepStore, cell_name, variables

if TYPE_CHECKING:
    import xarray

__all__ = ["load_sweep", "make_dataset"]


def load_sweep(folder: str | Path) -> xarray.Dataset:
    """Open a sweep, finished or not, as a labelled ``xarray.Dataset``.

    `folder` is the one given to ``--out``, or the store in it. See :func:`make_dataset`.

    Raises:
        UsageError: there is no sweep, or it is damaged.
    """
    folder = Path(folder)
    return make_dataset(SweepStore.open(folder.parent if folder.name == FILE else folder))


def make_dataset(store: SweepStore) -> xarray.Dataset:
    """The sweep as a dataset whose dimensions are the grid's parameters in file order.

    Variables (float64, NaN where a cell is not done): ``<quantity>_predicted`` and
    ``<quantity>_predicted_stderr``, ``<quantity>`` and ``<quantity>_stderr``; `trials` (int64)
    and `status` (text, "" where not judged). Attributes hold configuration, seed, versions,
    device, dtype, failures and later sessions.

    Raises:
        UsageError: a cell holds other numbers than were written.
    """
    import xarray

    wrong = int(store.damaged.sum())
    if wrong or store.vanished:
        places = np.argwhere(store.damaged).tolist()
        first = f" (first: cell {cell_name(places[0])})" if places else ""
        raise UsageError(
            f"{wrong + max(0, store.vanished)} cells of the sweep are damaged{first}: run it "
            "again with --resume, which computes them anew"
        )
    if store.statuses_damaged:
        raise UsageError(
            "the statuses of the sweep are damaged: run it again with --resume, which judges its "
            "cells anew"
        )
    dims = tuple(store.grid)
    data = {name: (dims, store.values(name)) for name in variables(store.quantities)}
    labels = np.asarray(STATUS_CODES)[store.codes]
    return xarray.Dataset(
        {**data, "trials": (dims, store.values("trials")), "status": (dims, labels)},
        coords={name: _coordinate(values) for name, values in store.grid.items()},
        attrs={
            **{f"config_{k}": _plain(v) for k, v in json.loads(store.config).items()},
            **store.environment,
            "errors": json.dumps(store.errors),
            "sessions": json.dumps(store.sessions),
        },
    )


def _coordinate(values: Sequence[Any]) -> np.ndarray:
    if all(isinstance(v, int | float) and not isinstance(v, bool) for v in values):
        return np.asarray(values)
    return np.asarray([v if isinstance(v, str) else json.dumps(v) for v in values])


def _plain(value: Any) -> Any:
    return value if isinstance(value, str | int | float) else json.dumps(value)
