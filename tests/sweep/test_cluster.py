"""A scheduler with certificates, who may reach one without, and a notebook's claim on a cluster."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from jaxprompt.errors import UsageError
from jaxprompt.sweep import cluster


@pytest.mark.parametrize(
    ("address", "open_to_others"),
    [
        ("tcp://127.0.0.1:8786", False),
        ("127.0.0.1:8786", False),
        ("tcp://[::1]:8786", False),
        ("tls://192.0.2.7:8786", False),
        ("tcp://192.0.2.7:8786", True),
        ("192.0.2.7:8786", True),
        ("ws://192.0.2.7:8786", True),
        ("tcp://no-such-host.invalid:8786", True),
    ],
)
def test_an_address_without_certificates_that_others_reach_is_known(address, open_to_others):
    assert cluster.lets_others_in(address) is open_to_others


def test_certificates_that_are_not_there_are_named(monkeypatch):
    pytest.importorskip("distributed", reason="the extra `cluster` is not installed")
    import dask.config

    with (
        dask.config.set({"distributed.comm.tls.ca-file": "/nowhere/ca.pem"}),
        pytest.raises(UsageError, match=r"COMM__TLS__CA_FILE .*nowhere/ca\.pem"),
        cluster.connected_client("tls://127.0.0.1:1", [], print),
    ):
        pass


def make_certificates(folder, name):
    """An authority, and a certificate that it signed: files ``NAME-ca.pem``, ``NAME.pem``, key."""
    from datetime import UTC, datetime, timedelta

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    def subject(text):
        return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, text)])

    def signed(text, key, issuer, issuer_key, authority):
        now = datetime.now(UTC)
        builder = x509.CertificateBuilder(subject(issuer), subject(text), key.public_key())
        builder = builder.serial_number(x509.random_serial_number())
        builder = builder.not_valid_before(now - timedelta(days=1))
        builder = builder.not_valid_after(now + timedelta(days=1))
        builder = builder.add_extension(x509.BasicConstraints(authority, None), critical=True)
        return builder.sign(issuer_key, hashes.SHA256())

    def write(file, content):
        (folder / file).write_bytes(content.public_bytes(serialization.Encoding.PEM))

    root, leaf = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    write(f"{name}-ca.pem", signed(f"{name} root", root, f"{name} root", root, True))
    write(f"{name}.pem", signed(name, leaf, f"{name} root", root, False))
    (folder / f"{name}-key.pem").write_bytes(
        leaf.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )


SECURED = """
import json, logging, sys
from pathlib import Path
import numpy as np

def main():
    import dask, jax
    from distributed import Client, LocalCluster, Security
    import jaxprompt as jp
    from jaxprompt.cli.main import main as command
    from jaxprompt.sweep import Sweep, run

    folder = Path(sys.argv[1])
    logging.getLogger("distributed").setLevel(logging.CRITICAL)
    found = {}

    def certificates(name):
        tls = "distributed.comm.tls"
        files = {f"{tls}.ca-file": f"{name}-ca.pem"}
        for role in ("scheduler", "worker", "client"):
            files |= {f"{tls}.{role}.cert": f"{name}.pem", f"{tls}.{role}.key": f"{name}-key.pem"}
        return dask.config.set({n: str(folder / file) for n, file in files.items()})

    def same(one, other):
        return all(np.array_equal(one[n], other[n], equal_nan=one[n].dtype.kind == "f")
                   for n in one.data_vars)

    job = folder / "job.toml"
    job.write_text('claim = "universal.sphere_limit"\\n[fixed]\\nsphere_dim = 2\\n'
                   '[grid]\\ndegree = [1, 2]\\nconcentration = [1.0, 5.0]\\n')

    def sweep(out, *words):
        return command(["sweep", str(job), "--out", str(folder / out), "--no-cache", *words])

    found["alone"] = sweep("alone")
    with certificates("ours"):
        cluster = LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address=None,
                               protocol="tls://", security=Security())
    with cluster:
        address = cluster.scheduler_address
        found["address"] = address
        with certificates("ours"):
            found["tls"] = sweep("tls", "--scheduler", address)

            @jp.per_trial
            def trial(*, key, level, count):
                return {"mean": level + jax.random.normal(key, (count,)).mean()}

            def closed_form(*, level):
                return {"mean": level}

            claim = jp.Claim(
                id="notebook.mean", title="A mean", statement="It is the level.",
                derivation="Linear.", relation=jp.Relation.MEAN, source="made up",
                parameters=(jp.Parameter("level", "real", "the mean"),
                            jp.Parameter("count", "integer", "numbers", low=1, simulate_only=True)),
                quantities=(jp.Quantity("mean", "the mean", tolerance=0.1),),
                closed_form=closed_form, simulation=trial,
                falsifiers=(jp.Falsifier("more", "adds 1", lambda level: {"mean": level + 1}),
                            jp.Falsifier("twice", "doubles", lambda level: {"mean": 2 * level})),
                designs={p: jp.Design.product({"level": 1.0}, {"count": [4]}, trials=50)
                         for p in ("quick", "full")},
            )
            notebook = Sweep(claim, {"level": [1.0, 2.0], "count": [2, 4]}, {}, 20, 3)
            here = run(notebook, folder / "here").dataset
            with Client(address) as client:
                there = run(notebook, folder / "there", executor=client)
            found["notebook"] = same(here, there.dataset) and not there.errors
        found["nothing shown"] = sweep("nothing", "--scheduler", address)
        with certificates("theirs"):
            found["another authority"] = sweep("theirs", "--scheduler", address)
        found["plain"] = sweep("plain", "--scheduler", address.replace("tls", "tcp"))
    found["same"] = same(jp.load(folder / "alone"), jp.load(folder / "tls"))
    found["made"] = sorted(p.name for p in folder.iterdir() if p.is_dir())
    print(json.dumps(found), flush=True)

if __name__ == "__main__":
    main()
"""


@pytest.mark.slow
def test_a_scheduler_with_certificates_lets_nobody_else_in(tmp_path):
    """The bits of one process with certificates; one line without them, or with a stranger's."""
    pytest.importorskip("distributed", reason="the extra `cluster` is not installed")
    pytest.importorskip("cryptography", reason="certificates cannot be made without it")
    for name in ("ours", "theirs"):
        make_certificates(tmp_path, name)
    script = tmp_path / "secured.py"
    script.write_text(SECURED, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, str(script), str(tmp_path)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["address"].startswith("tls://127.0.0.1:")
    assert found["alone"] == found["tls"] == 0
    assert found["same"], "certificates change no bit"
    assert found["notebook"], "a notebook's claim is computed by the cluster, to the bit"
    for stranger in ("nothing shown", "another authority", "plain"):
        assert found[stranger] == 2, (stranger, done.stderr[-2000:])
    assert found["made"] == ["alone", "here", "there", "tls"], "a stranger makes no folder"
    assert "Traceback" not in done.stderr, done.stderr[-3000:]
    lines = [line for line in done.stderr.splitlines() if line.startswith("jaxprompt: ")]
    assert sum("needs certificates: set DASK_" in line for line in lines) == 1
    assert sum("no dask scheduler answers" in line for line in lines) == 2
