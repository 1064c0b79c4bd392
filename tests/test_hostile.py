"""Hostile input: an answer that is right, or a refusal in one line; never a traceback or a guess.

`python tests/fuzz.py --minutes N` searches further than the fixed seeds here.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import math
import random
import sqlite3
import sys
import warnings
from collections import Counter
from pathlib import Path

import jax
import jaxtyping
import mpmath
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import jaxprompt as jp
from jaxprompt import attention, stats, sweep
from jaxprompt.cli import terminal
from jaxprompt.core.json_values import canonical
from jaxprompt.core.parameters import MAX_EXACT_INTEGER, MAX_MAGNITUDE, Parameter
from jaxprompt.errors import JaxpromptError, NumericalError, ParameterError, UsageError, short
from jaxprompt.presentation import report
from jaxprompt.presentation.statement_html import markup
from jaxprompt.presentation.table_files import save_table
from jaxprompt.stats import Comparison, Estimate, Status
from jaxprompt.sweep import Sweep, store
from jaxprompt.sweep.config import MOST_BYTES
from jaxprompt.sweep.tasks import make_tasks


def load_fuzz():
    path = Path(__file__).with_name("fuzz.py")
    spec = importlib.util.spec_from_file_location("jaxprompt_fuzz", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


fuzz = load_fuzz()
CLAIMS = jp.claims()

bounded = settings(
    max_examples=40,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
)


# --- parameters at the ends of what is declared ---

DEAR = {
    *("contextual.best_ridge", "contextual.conditional_error", "contextual.convex_head"),
    *("contextual.prompt_error", "contextual.sample_complexity", "contextual.three_steps"),
    *("contextual.training", "universal.circle_error", "universal.optimal_values"),
    *("contextual.context_gain", "contextual.separation", "universal.random_centres"),
    *("universal.sphere_limit", "universal.kernel_head", "contextual.sgd_flow"),
    *("contextual.sgd_spread", "contextual.prompt_tuning", "contextual.giant_steps"),
    *("contextual.score_universality", "contextual.token_law_error"),
}
"""Claims whose prediction takes a quadrature, a search or seconds to compile; their ends are tried
in the slow tests."""

each_claim = pytest.mark.parametrize("claim", CLAIMS, ids=lambda c: c.id)


@each_claim
def test_every_declared_end_is_accepted_or_refused_in_one_line(claim):
    told = Counter()
    for point in fuzz.one_at_a_time(claim):
        try:
            told[bool(claim.validated(point))] += 1
        except JaxpromptError as error:
            told[fuzz.refused(error)] += 1
    assert told[True], f"every end is refused: {told}"


@pytest.mark.parametrize("claim", [c for c in CLAIMS if c.id not in DEAR], ids=lambda c: c.id)
def test_predictions_at_extremes_are_numbers_or_refusals(claim):
    chance = random.Random(claim.id)
    ends = list(fuzz.one_at_a_time(claim))
    some = [*chance.sample(ends, min(2, len(ends))), fuzz.several(claim, chance)]
    assert all(fuzz.predicted(claim, point) for point in some)


@pytest.mark.slow
@each_claim
def test_predictions_at_every_end(claim):
    if claim.id == "contextual.training":  # seconds each, and twelve parameters
        ends = random.Random(0).sample(list(fuzz.one_at_a_time(claim)), 6)
    else:
        ends = list(fuzz.one_at_a_time(claim))
    told = Counter(fuzz.predicted(claim, point) for point in ends)
    assert told["predicted"], f"nothing is predicted at any end: {told}"


@pytest.mark.slow
@pytest.mark.parametrize(
    "claim",
    [c for c in CLAIMS if c.family == "contextual" and c.id != "contextual.training"],
    ids=lambda c: c.id,
)
def test_simulations_at_extremes_are_numbers_or_refusals(claim):
    chance = random.Random(claim.id)
    for _ in range(3):
        point = fuzz.several(claim, chance)
        # What a simulation holds in memory, and how long it trains.
        for name in ("dim", "samples", "tokens", "pretraining", "steps"):
            if isinstance(point.get(name), int | float):
                point[name] = int(min(point[name], 64))
        try:
            found = claim.simulate(key=0, trials=2, **point)
        except JaxpromptError as error:
            fuzz.refused(error)
            continue
        for name, estimate in found.items():
            assert np.isfinite(estimate.mean).all(), f"{name} at {point}"
            assert np.isfinite(estimate.stderr).all(), f"{name} at {point}"


def test_what_float64_cannot_hold_is_refused():
    whole = Parameter("count", "integer", "how many", low=1)
    real = Parameter("scale", "real", "scale")
    for parameter, value, said in (
        (whole, MAX_EXACT_INTEGER + 1, r"at most 2\^53"),
        (whole, [1, 2**60], r"at most 2\^53"),
        (whole, 10**5000, "thousands of digits"),
        (real, 10 * MAX_MAGNITUDE, "at most 1e"),
        (real, -1e300, "at most 1e"),
        (real, 5e-324, "0 or at least 1e-30"),
        (Parameter("a", "array", "numbers"), [1.0, 1e200], "at most 1e"),
        (Parameter("a", "pairs", "pairs"), [[0.0, 1e200]], "at most 1e"),
        (Parameter("a", "pairs", "pairs"), [[10**400, 0]], "must be a list of pairs"),
        (Parameter("a", "choice", "one", choices=("x",)), np.array([1, 2]), "one of"),
    ):
        with pytest.raises(ParameterError, match=said) as caught:
            parameter.convert(value)
        fuzz.refused(caught.value)
    assert whole.convert(MAX_EXACT_INTEGER) == 2**53
    assert real.convert(MAX_MAGNITUDE) == MAX_MAGNITUDE


def test_a_prediction_or_simulation_without_a_number_says_so(toy_claim):
    def claim(value, **changes):
        return toy_claim(closed_form=lambda **_: {"value": value}, **changes)

    for value, said in (
        (math.nan, "not a number"),
        (math.inf, "infinite"),
        (-math.inf, "infinite"),
    ):
        with pytest.raises(NumericalError, match=f"`value` at level = 1.0 is {said}"):
            claim(value).predict(level=1.0)
        assert claim(value).check().status == Status.FAILED, "a status, and no exception"
    noted = toy_claim().quantities[0]
    noted = type(noted)("value", "the mean", 0.2, infinite="at the pole")
    assert claim(math.inf, quantities=(noted,)).predict(level=1.0) == {"value": math.inf}
    assert "infinite at the pole" in json.dumps(claim(1.0, quantities=(noted,)).describe())
    with pytest.raises(NumericalError, match="infinite"):
        claim(-math.inf, quantities=(noted,)).predict(level=1.0)

    def fails(**_):
        raise ZeroDivisionError("by zero")

    with pytest.raises(NumericalError, match=r"no prediction at level = 1.0 .ZeroDivisionError"):
        toy_claim(closed_form=fails).predict(level=1.0)
    silent = toy_claim(
        simulation=lambda *, key, trials, **_: {"value": Estimate(math.nan, 0.1, trials)}
    )
    with pytest.raises(NumericalError, match=r"simulating `value` .* gave not a number"):
        silent.simulate(key=0, trials=4, level=1.0, size=4)
    assert silent.check().status == Status.FAILED


# --- any object where a function of the package takes one ---

scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers(min_value=10**400, max_value=10**401),
    st.floats(),
    st.complex_numbers(),
    st.text(max_size=8),
    st.binary(max_size=4),
    st.dates(),
)
anything = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=2)
    ),
    max_leaves=6,
)
kinds = st.sampled_from(
    [
        Parameter("p", "integer", "p", low=1, high=9),
        Parameter("p", "real", "p", low=0, open_low=True),
        Parameter("p", "choice", "p", choices=("a", "b")),
        Parameter("p", "pairs", "p"),
        Parameter("p", "weights", "p"),
        Parameter("p", "array", "p"),
    ]
)


@bounded
@given(kinds, anything)
def test_any_object_for_a_parameter(parameter, value):
    try:
        found = parameter.convert(value, "where")
    except ParameterError as error:
        fuzz.refused(error)
        return
    assert parameter.convert(found) == found if np.ndim(found) == 0 else np.all(found is not None)
    canonical({"p": found})


@bounded
@given(st.text(max_size=40) | st.sampled_from(["prefix", "a.b", "contextual.", ".", "../x.y"]))
def test_any_text_for_a_claim(text):
    for find in (jp.claim, jp.claims):
        try:
            find(text)
        except JaxpromptError as error:
            fuzz.refused(error)


@bounded
@given(
    st.dictionaries(st.sampled_from(["level", "size", "x", "a\nb"]), anything, max_size=3),
    st.dictionaries(st.sampled_from(["level", "size", "y"]), anything, max_size=2),
)
def test_any_tables_for_a_sweep(toy, grid, fixed):
    try:
        job = Sweep("contextual.toy", grid, fixed, 20, 1)
    except JaxpromptError as error:
        fuzz.refused(error)
    except jaxtyping.TypeCheckError:  # the types in signatures are checked under test only
        return
    else:
        assert next(make_tasks(job, np.ones(job.shape, bool)))


@bounded
@given(st.text(alphabet=st.sampled_from("$`*|\n\\{}<>&\"'_^ab-12"), max_size=60))
def test_any_text_becomes_well_formed_markup(text):
    from xml.etree import ElementTree

    page = str(markup(text))
    root = ElementTree.fromstring(f"<div>{page}</div>")
    known = {"div", "p", "code", "em", "table", "thead", "tbody", "tr", "th", "td"}
    for part in root.iter():
        tag = str(part.tag)
        assert tag in known or tag.startswith("{http://www.w3.org/1998/Math/MathML}")
        assert not {"href", "style", "class", "onclick", "src"} & set(part.attrib)


@bounded
@given(st.text(max_size=30), st.integers(20, 80))
def test_any_text_is_told_in_one_line(text, limit):
    assert len(short(text, limit)) <= limit
    line = terminal.one_line(text)
    assert not any(ord(c) < 32 or 127 <= ord(c) < 160 for c in line)
    line.encode("ascii", "backslashreplace").decode("ascii")


finite = st.floats(-1e12, 1e12)


@bounded
@given(
    st.lists(st.tuples(finite, st.floats(0, 1e12), st.floats()), min_size=1, max_size=5),
    st.sampled_from(["two", "upper", "lower"]),
)
def test_any_numbers_in_a_comparison(rows, side):
    comparisons = [
        Comparison("q", {}, predicted, simulated, tolerance=abs(tolerance), stderr=stderr,
                   dof=7, side=side)
        for (predicted, stderr, tolerance), simulated in zip(rows, [1.0] * len(rows), strict=True)
    ]  # fmt: skip
    with np.errstate(all="ignore"):
        for judge in (stats.decide, stats.decide_equivalence):
            for row, one in zip(judge(comparisons, 1e-3), comparisons, strict=True):
                if math.isnan(one.tolerance):
                    assert row.verdict == Status.FAILED, "without a tolerance nothing is confirmed"
                elif row.verdict == Status.CONFIRMED and judge is stats.decide_equivalence:
                    assert one.excess <= one.tolerance
                if row.verdict in (Status.CONFIRMED, Status.REFUTED):
                    assert not math.isnan(row.p_value)
                    assert not math.isnan(row.statistic)


def test_no_verdict_without_a_tolerance_and_none_is_no_difference():
    (row,) = stats.decide([Comparison("q", {}, 1.0, 7.0, math.nan)], 1e-3)
    assert row.verdict == Status.FAILED
    (row,) = stats.decide([Comparison("q", {}, 1.0, 1.0, 0.0)], 1e-3)
    assert (row.verdict, row.statistic) == (Status.CONFIRMED, 0.0)


@pytest.mark.parametrize(
    "call",
    [
        lambda: stats.combine([]),
        lambda: stats.interval(Estimate(0.0, 1.0, 5), 1.0),
        lambda: stats.interval(Estimate(0.0, 1.0, 5), math.nan),
        lambda: stats.binomial_interval(3, 2),
        lambda: stats.binomial_interval(0, 0),
        lambda: stats.holm([0.5], 0.0),
        lambda: stats.detectable(1.0, 5.0, 2.0),
        lambda: stats.mean_estimate(np.ones(1)),
        lambda: stats.extrapolate([0.0, 1.0, 2.0], [1.0] * 3, [1.0] * 3),
        lambda: stats.extrapolate([1.0, 2.0, math.inf], [1.0] * 3, [1.0] * 3),
        lambda: stats.extrapolate([1.0, 2.0, 3.0], [1.0] * 3, [1.0, 0.0, 1.0]),
        lambda: stats.slope([1.0, 1.0, 1.0], [1.0] * 3, [1.0] * 3),
    ],
)
def test_statistics_refuse_in_one_line(call):
    with pytest.raises(ValueError, match=r".") as caught:
        call()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("size", [1e4, -1e4])
def test_heads_at_extreme_scores(x64, dtype, size):
    chance = np.random.default_rng(3)
    queries, keys = np.array([[size]], dtype), chance.normal(size=(4, 1)).astype(dtype)
    prefix, values = chance.normal(size=(3, 1)).astype(dtype), chance.normal(size=(7, 2))
    values = values.astype(dtype)
    # Outside of jit each operation would be a program to compile.
    head = jax.jit(attention.prefixed_head)
    found = head(queries, keys, values[3:], prefix, values[:3])
    with mpmath.workdps(60):
        scores = [
            mpmath.mpf(float(size)) * mpmath.mpf(float(k)) for k in (*prefix[:, 0], *keys[:, 0])
        ]
        peak = max(scores)
        weights = [mpmath.exp(s - peak) for s in scores]
        mass = sum(weights[:3]) / sum(weights)
        exact = [
            float(
                mpmath.fsum(w * float(v) for w, v in zip(weights, column, strict=True))
                / sum(weights)
            )
            for column in values.T
        ]
    # A score of size 1e4 is rounded to 1e4 ulps, which moves each weight by as large a share.
    ulps = 8 * (1 + abs(size)) * np.finfo(dtype).eps
    np.testing.assert_allclose(found.output[0], exact, atol=ulps * np.abs(values).max())
    np.testing.assert_allclose(found.mass[0], float(mass), atol=ulps)
    assert found.output.dtype == dtype


def test_a_query_that_sees_no_content_reads_the_prefix():
    chance = np.random.default_rng(0)
    queries, keys, prefix = (chance.normal(size=(n, 3)) for n in (2, 4, 2))
    values, own = chance.normal(size=(4, 2)), chance.normal(size=(2, 2))
    mask = np.array([[True, True, False, False], [False] * 4])
    found = jax.jit(attention.prefixed_head)(queries, keys, values, prefix, own, mask)
    seen = np.concatenate([np.ones((2, 2), bool), mask], axis=1)
    joined = np.concatenate([prefix, keys]), np.concatenate([own, values])
    whole = jax.jit(attention.attention_head)(queries, *joined, seen)
    np.testing.assert_allclose(found.output, whole, atol=1e-6)
    assert found.mass[1] == 1


# --- files ---


@pytest.mark.parametrize(
    ("target", "count"), [("sweep_file", 200), ("store", 40), ("table", 80), ("report", 60)]
)
def test_fuzzed_files_are_refused_or_read_right(target, count, tmp_path):
    told = Counter(fuzz.TARGETS[target](random.Random(seed), tmp_path) for seed in range(count))
    assert told["UsageError"] > count / 4, told
    assert told["read"] + told["written"], f"nothing was read: {told}"


@pytest.mark.slow
@pytest.mark.parametrize("target", list(fuzz.TARGETS))
def test_fuzzing_further(target, tmp_path):
    for seed in range(10_000, 10_000 + (150 if target == "predict" else 1500)):
        fuzz.TARGETS[target](random.Random(seed), tmp_path)


ID = b'claim = "contextual.prompt_error"\n'


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"\xff\xfe\x00", "not UTF-8"),
        (b"a = " + b"[" * 5000, "nested too deep"),
        (b"a = " + b"9" * 5000, "write numbers with fewer digits"),
        (b"claim = 'x'\nclaim = 'y'", "is not TOML"),
        (b"#" * (MOST_BYTES + 1), "more than 1048576 bytes"),
        (
            b'claim = "contextual.prompt_error"\n[grid]\ndim = [1979-05-27]',
            "must be a number, a text",
        ),
        (
            b'claim = "contextual.prompt_error"\n[fixed]\ngain = {a = 1}\n[grid]\ndim = [8]',
            "`gain`",
        ),
        (b'"\\u001b[31m" = 1', r"unknown key `\\x1b\[31m`"),
        (b"\x00", "is not TOML"),
        (b"", "`claim` is missing"),
    ],
)
def test_hostile_sweep_files(tmp_path, data, said):
    path = tmp_path / "sweep.toml"
    path.write_bytes(data)
    with pytest.raises(UsageError, match=said) as caught:
        Sweep.from_toml(path)
    fuzz.refused(caught.value)


def test_a_file_that_does_not_end_and_a_path_that_cannot_be():
    with pytest.raises(UsageError, match="more than"):
        Sweep.from_toml("/dev/zero")
    with pytest.raises(UsageError, match="cannot be read"):
        Sweep.from_toml("a\0b")
    with pytest.raises(UsageError, match="cannot be written"):
        store.writable(Path("a\0b"))
    with pytest.raises(UsageError, match="no sweep"):
        jp.load("a\0b")


def test_a_mark_of_byte_order_is_no_matter(tmp_path):
    path = tmp_path / "sweep.toml"
    path.write_bytes(b"\xef\xbb\xbf" + fuzz.TOML.encode())
    assert Sweep.from_toml(path).shape == (2, 2, 2)


def test_a_grid_of_too_many_cells_is_refused_at_once(toy):
    wide = tuple(float(i) for i in range(1, 10_001))
    sizes = tuple(range(1, 10_001))
    with pytest.raises(UsageError, match="has 100000000 cells: must be at most 10000000"):
        Sweep("contextual.toy", {"level": wide, "size": sizes})


# --- stores from elsewhere ---


@pytest.fixture
def sound(tmp_path):
    home, whole = fuzz.sound_store(tmp_path)
    return home, whole


def rewrite(home, seal=True, **changes):
    """Change entries of a store's description, with its checksum or without."""
    with contextlib.closing(sqlite3.connect(home / store.FILE)) as connection:
        query = "SELECT value, checksum FROM meta WHERE name = 'description'"
        value, checksum = connection.execute(query).fetchone()
        value = json.dumps({**json.loads(value), **changes}).encode()
        checksum = store._meta_sum("description", value) if seal else checksum
        query = "UPDATE meta SET value = ?, checksum = ? WHERE name = 'description'"
        connection.execute(query, (value, checksum))
        connection.commit()


def execute(home, *statements):
    with contextlib.closing(sqlite3.connect(home / store.FILE)) as connection:
        for statement in statements:
            connection.execute(statement)
        connection.commit()


@pytest.mark.parametrize("schema", [1, 99, None, "3", [3]])
def test_other_schemas_are_refused(sound, schema):
    rewrite(sound[0], schema=schema)
    with pytest.raises(UsageError, match=r"has schema .*run the sweep again") as caught:
        jp.load(sound[0])
    fuzz.refused(caught.value)


def test_a_store_of_version_0_1_is_refused_with_the_way_to_convert_it(tmp_path, toy):
    (tmp_path / "out" / "sweep.zarr").mkdir(parents=True)
    job = Sweep("contextual.toy", {"level": (1.0,), "size": (4,)}, {}, 20, 1)
    for act in (lambda: jp.load(tmp_path / "out"), lambda: sweep.run(job, tmp_path / "out")):
        with pytest.raises(UsageError, match=r"was stored by jaxprompt 0\.1: convert") as caught:
            act()
        fuzz.refused(caught.value)


@pytest.mark.parametrize(
    "changes",
    [
        {"grid": {"level": [1.0]}},
        {"grid": []},
        {"grid": {}},
        {"grid": {"level": [float("inf"), 1], "loss": ["a", "b"]}},
        {"grid": {"level": [1.0, 1.0], "loss": ["a", "b"]}},
        {"grid": {"level": list(range(10**4)), "loss": list(range(10**4))}},
        {"quantities": ["level"]},
        {"quantities": ["error", "error"]},
        {"quantities": ["error", "error_stderr"]},
        {"environment": 3},
        {"sessions": [3]},
        {"fingerprint": "x"},
        {"config": "x"},
    ],
    ids=lambda changes: str(changes)[:60],
)
def test_wrong_descriptions_are_refused_even_with_their_checksum(sound, changes):
    rewrite(sound[0], **changes)
    with pytest.raises(UsageError, match="is damaged") as caught:
        jp.load(sound[0])
    fuzz.refused(caught.value)


def test_a_description_without_its_checksum_is_refused(sound):
    rewrite(sound[0], seal=False, quantities=["failure"])
    with pytest.raises(UsageError, match=r"is damaged .*not the one that was written"):
        jp.load(sound[0])


@pytest.mark.parametrize(
    "statement",
    [
        "CREATE TRIGGER t AFTER INSERT ON cells BEGIN DELETE FROM cells; END",
        "CREATE VIEW v AS SELECT * FROM cells",
        "CREATE TABLE more (a)",
        "ALTER TABLE cells ADD COLUMN more",
        "DROP TABLE failures",
    ],
)
def test_files_laid_out_otherwise_are_refused(sound, statement):
    execute(sound[0], statement)
    with pytest.raises(UsageError, match="its tables are not those of a sweep") as caught:
        jp.load(sound[0])
    fuzz.refused(caught.value)


@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM cells WHERE cell = 1",
        "UPDATE cells SET record = 'text' WHERE cell = 1",
        "UPDATE cells SET record = (SELECT record FROM cells WHERE cell = 2) WHERE cell = 1",
        "UPDATE cells SET checksum = checksum + 1 WHERE cell = 1",
        "INSERT INTO cells SELECT 99, record, checksum FROM cells WHERE cell = 1",
        "INSERT INTO failures VALUES (1, 'boo', 3)",
        "DELETE FROM meta WHERE name = 'counts'",
    ],
)
def test_cells_that_changed_are_refused(sound, statement):
    home, _ = sound
    execute(home, statement)
    with pytest.raises(UsageError, match=r"damaged.*--resume") as caught:
        jp.load(home)
    fuzz.refused(caught.value)


@pytest.mark.parametrize("codes", [b"", b"\x01\x02\x03", b"\x01\x02\x03\x09", b"\x01\x02\x03\xff"])
def test_a_status_that_was_changed_is_no_status(sound, codes):
    home, _ = sound
    rows = [(codes, store._meta_sum("statuses", codes)), (b"\x01\x02\x03\x03", 0)]
    for row in rows:
        with contextlib.closing(sqlite3.connect(home / store.FILE)) as connection:
            text = "UPDATE meta SET value = ?, checksum = ? WHERE name = 'statuses'"
            connection.execute(text, row)
            connection.commit()
        with pytest.raises(UsageError, match="the statuses of the sweep are damaged"):
            jp.load(home)


def test_a_table_whose_numbers_changed_is_refused(tmp_path):
    path, _ = fuzz.sound_table(tmp_path)
    path.write_bytes(path.read_bytes().replace(b"1.5", b"2.5"))
    with pytest.raises(UsageError, match="holds other numbers than were written"):
        jp.load(path)


def test_numbers_that_no_figure_can_show_are_one_line(tmp_path):
    claim = jp.claim("universal.sphere_limit")
    home = tmp_path / "data" / claim.id
    save_table(home / "points.csv", [{"x": "none", "panel": 3}])
    with pytest.raises(UsageError, match=r"cannot be drawn from .*run the check again"):
        report.draw_figures(tmp_path, [claim], tmp_path / "figures")
    assert not list(tmp_path.rglob("*.part"))


def test_warnings_are_not_hidden():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        jp.claim("universal.prefix_rate").predict(sphere_dim=2, smoothness="smooth", centres=100)
