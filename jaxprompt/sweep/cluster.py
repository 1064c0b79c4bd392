"""A dask scheduler as the executor of a sweep, and who may reach it.

Whoever reaches a scheduler runs code on its workers, and a scheduler in wrong hands runs code here:
dask sends functions. A plain tcp address lets everybody in who can reach the port. With ``tls://``
scheduler, workers and client show each other certificates of one authority, which dask takes from
its own configuration (``distributed.comm.tls``).
"""

from __future__ import annotations

import contextlib
import functools
import ipaddress
import logging
import os
import socket
import sys
from collections.abc import Callable, Generator, Sequence
from typing import Any

from jaxprompt.errors import UsageError

__all__ = ["connected_client", "lets_others_in"]

_CERTIFICATES = {
    "distributed.comm.tls.ca-file": "DASK_DISTRIBUTED__COMM__TLS__CA_FILE",
    "distributed.comm.tls.client.cert": "DASK_DISTRIBUTED__COMM__TLS__CLIENT__CERT",
    "distributed.comm.tls.client.key": "DASK_DISTRIBUTED__COMM__TLS__CLIENT__KEY",
}
"""What dask's client needs for an address of ``tls://``, and the variable that gives it."""


@contextlib.contextmanager
def connected_client(
    address: str, claim_files: Sequence[str], load: Callable[[Sequence[str]], None]
) -> Generator[Any]:
    """A ``dask.distributed.Client`` of the scheduler at `address`.

    Its workers, those of now and of later, run `load` on `claim_files` first.

    Raises:
        UsageError: dask is not installed, certificates are missing, or no scheduler answers.
    """
    try:
        from distributed import Client  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise UsageError(
            "--scheduler needs the package `distributed`: install jaxprompt[cluster]"
        ) from None
    _require_certificates(address)
    if lets_others_in(address):
        print(
            f"jaxprompt: warning: whoever reaches the scheduler '{address}' runs code on its "
            "workers: close its port, or use tls:// with certificates",
            file=sys.stderr,
        )
    # Of a scheduler that ends, dask's client logs its own traceback; here it is one line.
    logging.getLogger("distributed.client").setLevel(logging.CRITICAL)
    try:
        client = Client(address, timeout=10)
    except (OSError, ValueError) as error:
        raise UsageError(
            f"--scheduler '{address}': no dask scheduler answers ({error}); start one"
        ) from None
    if claim_files:  # at the same path there
        client.register_worker_callbacks(functools.partial(load, claim_files))
    with client:
        yield client


def lets_others_in(address: str) -> bool:
    """Whether an address asks for no certificate and is one that other machines may reach."""
    scheme, separator, where = address.rpartition("://")
    if separator and scheme in ("tls", "wss", "inproc"):
        return False
    host = where.rpartition(":")[0].strip("[]") if ":" in where else where
    try:
        found = {entry[4][0] for entry in socket.getaddrinfo(host, None)}
    except (OSError, UnicodeError):
        return True  # nobody here knows where it is
    return not all(ipaddress.ip_address(str(ip)).is_loopback for ip in found)


def _require_certificates(address: str) -> None:
    """Refuse an address of ``tls://`` without the files that dask needs for it."""
    if not address.startswith(("tls://", "wss://")):
        return
    import dask.config  # pyright: ignore[reportMissingImports]

    for name, variable in _CERTIFICATES.items():
        file = dask.config.get(name, None)
        if not file or not os.path.isfile(file):
            raise UsageError(
                f"--scheduler '{address}' needs certificates: set {variable} "
                f"(dask's {name}) to a file that exists, not to {file!r}"
            )
