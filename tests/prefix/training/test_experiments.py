"""Tasks, the split, the transformer and its training: each against something slower."""

from __future__ import annotations

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jaxprompt as jp
from jaxprompt.errors import ParameterError
from jaxprompt.networks.transformer import Added, Config, LowRank, Prefix
from jaxprompt.prefix.claims import skill_selection, soft_prompt
from jaxprompt.prefix.training import adaptation, experiments, tasks
from jaxprompt.prefix.training.adaptation import Recipe
from jaxprompt.prefix.training.constant_answer import constant_answer, input_of_commonest_answer

SMALL = Config(2, 2, 16, 4, 7, tasks.SYMBOLS)


def plain_solution(task, x):
    answers = {
        "asc": sorted(x), "desc": sorted(x)[::-1], "add1": [v + 1 for v in x],
        "add2": [v + 2 for v in x], "asc_add1": [v + 1 for v in sorted(x)],
        "double_hist": [list(x).count(v) for v in x],
    }  # fmt: skip
    return answers[task]


@pytest.mark.parametrize("task", list(tasks.TASKS))
def test_tasks_against_lists(task):
    digits = np.random.default_rng(0).integers(0, 8, (50, 10))
    for x in digits:
        assert np.asarray(tasks.solve(task, jnp.asarray(x))).tolist() == plain_solution(task, x)
    assert max(plain_solution(task, [7] * 10)) < tasks.SYMBOLS


def test_split_is_disjoint_uniform_and_stable():
    train = np.asarray(tasks.inputs(20_000, 4, key=jax.random.key(0)))
    test = np.asarray(tasks.inputs(20_000, 4, key=jax.random.key(0), test=True))
    assert not tasks.is_test(train).any()
    assert tasks.is_test(test).all()
    every = np.array(list(itertools.product(range(8), repeat=4)))
    chosen = np.asarray(tasks.is_test(every))
    assert chosen.mean() == 0.25  # exactly two of eight first digits
    codes = np.bincount(test @ 8 ** np.arange(4), minlength=8**4)
    found = codes[every[chosen] @ 8 ** np.arange(4)]
    expected = 20_000 / chosen.sum()
    assert ((found - expected) ** 2 / expected).sum() < 1024 + 5 * np.sqrt(2 * 1024)
    # The same inputs on every machine and in every version.
    assert every[chosen][[0, 1, 500, 1023]].tolist() == [
        [0, 0, 1, 0],
        [0, 0, 1, 2],
        [3, 6, 1, 6],
        [7, 7, 6, 6],
    ]


@pytest.mark.parametrize("task", list(tasks.TASKS))
@pytest.mark.parametrize("length", [2, 3, 4])
def test_constant_answer_by_enumeration(task, length):
    every = itertools.product(range(8), repeat=length)
    counts: dict[tuple[int, ...], int] = {}
    for x in every:
        answer = tuple(plain_solution(task, x))
        counts[answer] = counts.get(answer, 0) + 1
    assert constant_answer(task, length) == max(counts.values()) / 8**length
    answer = tuple(plain_solution(task, input_of_commonest_answer(task, length)))
    assert counts[answer] == max(counts.values())


def test_ten_counts_are_commonest_in_pairs():
    # Five pairs: 8·7·6·5·4 digits for the 10! / (2!⁵ 5!) ways to pair the places.
    pairs = 8 * 7 * 6 * 5 * 4 * 945
    assert constant_answer("double_hist", 10) == pairs / 8**10
    assert input_of_commonest_answer("double_hist", 10) == (0, 0, 1, 1, 2, 2, 3, 3, 4, 4)


@pytest.mark.parametrize(("task", "length"), [("desc", 6), ("double_hist", 4)])
def test_constant_answers_are_counted_or_drawn(task, length, monkeypatch):
    key = jax.random.key(3)
    counted = experiments.constant_answer_share(task, length, key=key)
    assert counted.stderr == 0
    assert counted.mean == constant_answer(task, length)
    monkeypatch.setattr(experiments, "MAX_COUNTED_INPUTS", 8**length - 8)
    drawn = experiments.constant_answer_share(task, length, key=key)
    assert drawn.stderr > 0
    assert abs(drawn.mean - counted.mean) < 5 * drawn.stderr


def test_constant_answer_of_six_counts():
    # 8·7·6·5·4·3 / 8⁶: all six digits differ.
    assert constant_answer("double_hist", 6) == 20160 / 8**6


def test_a_mixture_leaves_open_what_the_formula_says(monkeypatch):
    """Entropy and best single answer, by plain lists for two digits and counted for three."""
    names, claim = skill_selection.KNOWN, jp.claim("prefix.skill_selection")
    entropy, share = 0.0, 0.0
    for x in itertools.product(range(8), repeat=2):
        answers = [tuple(plain_solution(task, x)) for task in names]
        alike = [answers.count(answer) / 4 for answer in answers]
        entropy -= sum(np.log(alike)) / 4 / 64 / 2
        share += max(alike) / 64
    for length in (2, 3):
        predicted = claim.predict(tasks=4, length=length)
        found = experiments.task_ambiguity(names, length)
        assert found["entropy"].mean == pytest.approx(predicted["entropy"], rel=1e-13)
        assert found["one_answer"].mean == pytest.approx(predicted["one_answer"], rel=1e-13)
        if length == 2:
            assert entropy == pytest.approx(predicted["mixture_loss"], rel=1e-12)
            assert share == pytest.approx(predicted["unselected"], rel=1e-12)
    monkeypatch.setattr(experiments, "MAX_COUNTED_INPUTS", 8**3 - 1)
    assert experiments.task_ambiguity(names, 3) == {}, "too many inputs to count are not counted"


def test_of_several_starts_the_least_training_loss_counts():
    _, plan = skill_selection.plans(4, 1500, (0, 0))
    assert [own[0] for own in plan.runs] == 4 * list(skill_selection.KNOWN)
    final = np.array([0.3, 0.1, 0.2, 0.4, 0.2, 0.3, 0.1, 0.5, *[0.6] * 4, 0.7, 0.6, 0.5, 0.05])
    losses = np.stack([np.flip(final), final], axis=1)  # what was before does not matter
    assert skill_selection.best_runs(experiments.Trained(plan, None, losses)) == [4, 1, 6, 15]


def test_the_other_content_of_a_soft_prompt_is_other(monkeypatch):
    """Also where all tokens are one: with equal content nothing changes, mask or not."""
    ones = lambda key, shape, low, high: jnp.ones(shape, jnp.int32)  # noqa: E731
    monkeypatch.setattr(jax.random, "randint", ones)
    soft_prompt.deviations.clear_cache()
    with jax.enable_x64(True):
        found = soft_prompt.deviations(2, 1, 3, key=jax.random.key(0))
    soft_prompt.deviations.clear_cache()
    assert (np.asarray(found["unmasked"]) > soft_prompt.CHANGE).all()
    assert (np.asarray(found["soft"]) < 1e-12).all()


def test_greedy_decoding_and_one_pass_agree():
    state = adaptation.initial(SMALL, key=jax.random.key(0))
    state = jax.tree.map(lambda x: 30 * x if x.ndim > 1 else x, state)
    digits = tasks.inputs(200, 4, key=jax.random.key(1))
    written = adaptation.greedy(SMALL, Added(), state, digits)
    for task in ("asc", "add1"):
        solved = jax.vmap(tasks.TASKS[task])(digits)
        right = (written == solved).all(axis=1)
        found = adaptation.exact_match(SMALL, Added(), state, digits, solved)
        np.testing.assert_array_equal(found, right)


def test_causal_and_batched():
    added = Added(prefix=2, soft_prompt=1, suffix=2, rank=1)
    state = adaptation.initial(SMALL, added, key=jax.random.key(0))
    model = jax.jit(
        lambda tokens, last=None: adaptation.model_of(SMALL, added, state)(tokens, last),
        static_argnums=1,
    )
    tokens = jax.random.randint(jax.random.key(1), (5, 7), 0, 8)
    whole = model(tokens)
    assert whole.shape == (5, 10, tasks.SYMBOLS)
    np.testing.assert_allclose(whole[2], model(tokens[2]), atol=1e-6)
    np.testing.assert_allclose(whole[:, -3:], model(tokens, 3), atol=1e-6)
    later = model(tokens.at[:, -1].set(0))
    np.testing.assert_allclose(later[:, :-1], whole[:, :-1], atol=1e-6)


def test_parameter_counts():
    added = Added(prefix=10)
    low = Added(rank=1)
    assert added.size(SMALL) == low.size(SMALL) == 10 * 2 * 16
    for what, kind, parts in ((added, Prefix, 1), (low, LowRank, 8)):
        state = nnx.filter_state(adaptation.initial(SMALL, what, key=jax.random.key(0)), kind)
        leaves = jax.tree.leaves(state)
        assert len(leaves) == parts
        assert sum(x.size for x in leaves) == what.size(SMALL)


def test_low_rank_starts_as_the_base():
    base = adaptation.initial(SMALL, key=jax.random.key(0))
    with_low = adaptation.with_base(
        adaptation.initial(SMALL, Added(rank=1), key=jax.random.key(1)), base
    )
    tokens = jnp.arange(7)
    np.testing.assert_array_equal(
        adaptation.model_of(SMALL, Added(rank=1), with_low)(tokens),
        adaptation.model_of(SMALL, Added(), base)(tokens),
    )


@pytest.fixture(scope="module")
def trained():
    base = experiments.plan_pretraining(SMALL, ["asc"], Recipe(250, 1e-3), 2, (0, 1))
    plan = experiments.Plan(SMALL, "prefix", (("desc",),) * 2, Recipe(250, 1e-2), (0, 1),
                    Added(prefix=2), base, (0, 1))  # fmt: skip
    return experiments.train_or_load(base), experiments.train_or_load(plan)


@pytest.mark.slow  # trains two models for 250 steps
def test_only_the_prefix_moves_and_removal_restores(trained):
    base, prefixed = trained
    own = nnx.filter_state(prefixed.state, nnx.Param)
    for before, after in zip(jax.tree.leaves(base.state), jax.tree.leaves(own), strict=True):
        np.testing.assert_array_equal(before, after)
    assert prefixed.losses.shape == (2, 1)


@pytest.mark.slow  # trains two models for 250 steps
def test_cache_knows_its_plan(trained, tmp_path, monkeypatch):
    base, _ = trained
    monkeypatch.setenv("JAXPROMPT_CACHE", str(tmp_path))
    experiments._store(base)
    (path,) = tmp_path.glob("*.npz")
    again = experiments._load(base.plan, base.state)
    assert again is not None
    for a, b in zip(jax.tree.leaves(again.state), jax.tree.leaves(base.state), strict=True):
        np.testing.assert_array_equal(a, b)
    other = experiments.plan_pretraining(SMALL, ["asc"], Recipe(250, 2e-3), 2, (0, 1))
    assert experiments._load(other, base.state) is None
    # A file under the wrong name is not believed.
    path.rename(tmp_path / f"{other.digest()}.npz")
    assert experiments._load(other, base.state) is None


def test_training_lowers_the_loss_and_repeats_to_the_bit():
    state = adaptation.initial(SMALL, key=jax.random.key(5))
    stacked = jax.tree.map(lambda x: x[None], state)
    outcome = adaptation.train(
        SMALL, Added(), stacked, ["model"], ["asc"], np.ones((1, 1)), Recipe(500, 2e-3),
        key=jax.random.key(1)[None],
    )  # fmt: skip
    assert outcome.losses[0, 1] < 0.8 * outcome.losses[0, 0]
    again = adaptation.train(
        SMALL, Added(), stacked, ["model"], ["asc"], np.ones((1, 1)), Recipe(500, 2e-3),
        key=jax.random.key(1)[None],
    )  # fmt: skip
    np.testing.assert_array_equal(outcome.losses, again.losses)


@pytest.mark.parametrize(("make", "name"), [
    (lambda: Recipe(300, 1e-3), "steps"),
    (lambda: Config(1, 3, 16, 4, 7, 11), "width"),
    (lambda: tasks.inputs(3, 11, key=jax.random.key(0)), "length"),
    (lambda: tasks.solve("sort", jnp.arange(3)), "task"),
])  # fmt: skip
def test_bad_settings_are_named(make, name):
    with pytest.raises(ParameterError, match=f"`{name}`"):
        make()


@pytest.mark.parametrize("claim", ["prefix.skill_selection", "prefix.skill_combination"])
def test_another_number_of_tasks_is_not_simulated(claim):
    with pytest.raises(ParameterError, match="`tasks` = 3: must be 4 in a simulation"):
        jp.claim(claim).simulate(key=0, trials=2, tasks=3, length=4)
