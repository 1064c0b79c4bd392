r"""Claim ``contextual.image_context``: digits among irrelevant tiles, what adapts to them, and what
the theory of token laws says of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import jax
import numpy as np
from jaxtyping import Float, Key

from jaxprompt.contextual.extensions.own_data import best_prompt, predict_curve
from jaxprompt.contextual.pictures import bars_of_rows
from jaxprompt.contextual.simulation import (
    digit_scenes,
    fixed_prompt_heads,
    image_experiment,
    token_models,
)
from jaxprompt.contextual.simulation.image_experiment import ARMS, TESTED, Evaluation, Task
from jaxprompt.core.claim import (
    AtLeast,
    AtMost,
    Claim,
    Compared,
    Design,
    Falsifier,
    Panels,
    Quantity,
    Relation,
    Run,
)
from jaxprompt.core.extras import EXTRAS
from jaxprompt.core.parameters import Parameter
from jaxprompt.errors import ParameterError
from jaxprompt.stats import Estimate, Row, exact_estimate, mean_estimate

__all__ = ["CLAIM", "SMALL_MODELS", "closed_form", "simulate"]

STATEMENT = r"""
A small vision transformer is pretrained on images tiled with one handwritten digit. It then meets
one such tile among three of noise, or inside a photograph, with $n$ of these to learn from.

1. *The theory's models on real features.* On what the transformer's last layer reads, frozen, two
digits are told apart by the models of `contextual.training`. With $n\le24$ images prompt-attention
is ahead of fine-tuning all of a self-attention layer by at least 0.01 of accuracy, and at every $n$
it puts at least 0.02 more of its attention on the relevant patches than uniform attention does.
2. *The whole network, ten digits.* Tuning the prompt that the class token holds in each layer, 64
of 18314 parameters, makes the class token look more at the relevant patches, by at least 0.02 of
its attention, and raises the accuracy by at least 0.05, for $n\ge300$. Fine-tuning everything is
ahead of it by at least 0.02 for $n\ge40$.
3. *The theory of token laws.* On the frozen embeddings a ridge head ($\lambda=0.05$) over a fixed
prompt tells two digits apart. With $h$ the difference of the mean relevant and irrelevant token and
$\Sigma$ the covariance of irrelevant ones, prompts are uniform attention, the best gain along $h$,
and the best of all, $\frac12\Sigma^{-1}h$. For $n\ge64$ its error on new scenes of these digits and
photographs is, under each of the three, what the semi-empirical curve of a pool of scenes says, to
within 10 %. The best prompt saves at least 0.05 of the error along $h$. Under it the isotropic
theory says at least 0.2 more than is measured on scikit-learn's digits; and in photographs the
error on other digits and photographs is off the curve by at least 0.1, either way.
4. *Controls.* Tuning the linear head leaves all attention as it was, exactly. Tuning prompt tokens
beside the patches leaves the class token's relative attention in the first layer as it was.

So the paper's expectation, prompt-tuning ahead with few samples, is met by the theory's models on
real features, and is not by a whole network that is adapted.
"""

DERIVATION = r"""
There is no closed form: these are measurements, on digits and photographs that training never saw,
and in the third statement on scenes that the theory never saw. What is exact: a change of the head
alone leaves every layer before it; and prompt tokens change neither the class token's query nor the
patches' keys in the first layer, so they multiply its attention on all patches by one factor
(`prefix.pattern_invariance`).

*Protocol.* The first statement is that of `contextual.training`, with its models, optimiser and
steps, on embeddings scaled to a mean square norm of 4, about that of its tokens. In the network all
arms train for the same number of steps of Adam on the same images. Each has one rate for fewer than
30 samples and one for more, the best of a grid on validation images, which share no digit with the
test images; the second statement was written down after those, and the check measures on test
digits and photographs with fresh draws. Trials draw training and test images anew; the pretrained
models are given, a few that the trials take in turn.

*The theory of token laws* (`contextual.token_law_error`, docs/own_data.md). The semi-empirical
curve takes attention weights, tails and labels from the pool; of the theory it has the law of the
learned head, from the mean and covariance of pooled features. A trial draws a pool of 2000 scenes,
chooses prompts and predicts from it alone; 40 heads are trained and tested on scenes drawn anew. A
ratio is that of means over the trials. The third statement is of means over the pretrained models
of a check: what the isotropic theory, and that of all moments of Gaussian tokens, say is off by
another factor for each of them, so the statement leaves the second open. The digits and
photographs of a pool are few, and nothing in it tells how others differ.

Fine-tuning's best rate for many samples is ten times too large for ten of them: with it,
fine-tuning ends below the pretrained model. With rates chosen for ten samples nothing gains more
than 0.1, and the statement says nothing of which is ahead there.

*Tolerances.* 0.1 of accuracy, a quarter of what separates the pretrained model from the best, and
0.1 of attention, where relevant patches make up a quarter of all. 0.1 of an error for what is
within 10 %, and 0.25 for what is off by more: a check is to tell what holds from what does not.
Moved attention: rounding of
float32 in sums of 16 weights, 1e-5.
"""

LEVELS = ("network", "embeddings", "fixed_prompts")
"""What is adapted: the whole network, the theory's models on its embeddings, or ridge heads over
fixed prompts on these."""

RICH, FEWEST, FEW_LABELS = 300, 40, 24
"""Samples from which the statement speaks of a prompt's gains, and of the lead in the network; and
up to which of the lead on embeddings."""

LEAD, SMALL_LEAD, ATTENTION, GAIN = 0.02, 0.01, 0.02, 0.05
"""Least leads (in the network, on embeddings), gain of attention, and gain of accuracy in the
statement."""

WITHIN, ENOUGH, BEST_GAIN, ISOTROPIC, OTHERS = 0.1, 64, 0.05, 0.2, 0.1
"""By how much the semi-empirical curve may be off, and from how many samples on; least gain of the
best prompt; least excess of the isotropic theory; and by how much the curve is off at least on
other photographs."""

PROMPTS = ("uniform", "along", "best")
"""The fixed prompts."""

Ahead = Literal["prompt", "fine-tuning"]


# --- the closed form ---


def closed_form(
    *, samples: int, level: str, kind: str, source: str, ahead_with_few: Ahead = "fine-tuning",
    ahead_with_many: Ahead = "fine-tuning", ahead_on_embeddings: Ahead = "prompt",
    attention: Literal["rises", "falls"] = "rises", head_moves: float = 0.0,
    tokens_move: float = 0.0, curve_holds: bool = True, isotropic_holds: bool = False,
    best_prompt_gains: bool = True, curve_knows_others: bool = False,
) -> dict[str, Any]:  # fmt: skip
    """What the statement says of leads and gains, as limits; controls are numbers to equal.

    Of accuracies it says nothing, and of a lead or a gain only from some number of samples on.
    Falsifiers change the last ten arguments, which the statement has at their defaults.
    """
    if level == "fixed_prompts":
        if samples < ENOUGH:
            return {}
        stated: dict[str, float] = {
            f"{name}_off": AtMost(WITHIN) if curve_holds else AtLeast(2.5 * WITHIN)
            for name in PROMPTS
        }
        if source == "digits":
            stated["isotropic_excess"] = AtMost(WITHIN) if isotropic_holds else AtLeast(ISOTROPIC)
        stated["best_gain"] = AtLeast(BEST_GAIN) if best_prompt_gains else AtMost(0.0)
        if kind == "embedded":
            stated["others_off"] = AtMost(WITHIN) if curve_knows_others else AtLeast(OTHERS)
        return stated
    gain = AtLeast(ATTENTION) if attention == "rises" else AtMost(-ATTENTION)
    if level == "embeddings":
        stated = {"attention_gain": gain}
        if samples <= FEW_LABELS:
            stated["lead"] = _limit_of_lead(ahead_on_embeddings, SMALL_LEAD)
        return stated
    stated = {"head_attention": head_moves, "first_layer_attention": tokens_move}
    if samples >= FEWEST:
        ahead = ahead_with_many if samples >= RICH else ahead_with_few
        stated["lead"] = _limit_of_lead(ahead, LEAD)
    if samples >= RICH:
        stated |= {"prompt_gain": AtLeast(GAIN), "attention_gain": gain}
    return stated


def _limit_of_lead(ahead: Ahead, size: float) -> float:
    """The prompt's accuracy less that of fine-tuning, by which of them is ahead."""
    return AtLeast(size) if ahead == "prompt" else AtMost(-size)


FALSIFIERS = (
    Falsifier("published_pattern", "in the network too prompts are ahead with few samples",
              ahead_with_few="prompt"),
    Falsifier("prompt_ahead", "in the network prompts are ahead with many samples",
              ahead_with_few="prompt", ahead_with_many="prompt"),
    Falsifier("tuning_ahead", "on embeddings fine-tuning is ahead with few samples",
              ahead_on_embeddings="fine-tuning"),
    Falsifier("attention_leaves", "attention on relevant patches falls by 0.02", attention="falls"),
    Falsifier("curve_off", "the semi-empirical curve is a quarter of the error off",
              curve_holds=False),
    Falsifier("isotropic_holds", "the isotropic theory too is right to within 10 %",
              isotropic_holds=True),
    Falsifier("prompts_alike", "the best prompt is no better than the best gain along h",
              best_prompt_gains=False),
    Falsifier("pool_knows_others", "the curve holds for other digits and photographs too",
              curve_knows_others=True),
    Falsifier("head_moves", "tuning the head moves attention by 0.01", head_moves=0.01),
    Falsifier("tokens_move", "prompt tokens move the first layer's attention by 0.01",
              tokens_move=0.01),
)  # fmt: skip


# --- the simulation ---

SMALL_MODELS = tuple(token_models.MODELS)
"""The theory's models, by name."""

MAIN = ("prompt", "fine_tuning")
"""The arms that the statement compares."""

CONTROLS = ("head", "tokens")
"""Arms whose attention must stay as it was, in all layers or in the first."""

CONTROLLED = 2
"""Trials in which a check trains the controls, which are identities."""


# No function of one trial: networks train on the host, all trials of an arm in one call.
def simulate(
    *, key: Key[jax.Array, ""], trials: int, samples: int, kind: str, source: str = "digits",
    level: str = "network", noise: float = 1.0, relevant: int = 1, pretraining: int = 400,
    steps: int = 150, models: int = 2, arms: str = "main", digit: int = 3, other: int = 8,
) -> dict[str, Estimate]:  # fmt: skip
    """Adapt a pretrained model to `trials` sets of scenes in several ways; float32.

    Trial t starts from model t modulo `models`, and draws its training and test scenes anew.

    In the ``network`` attention is that of the class token, as the share of what goes to patches
    that goes to relevant ones, averaged over heads and layers. With `arms` "main" the two arms of
    the statement are trained in every trial and the controls in two.

    On ``embeddings`` the models are those of `contextual.training`, trained on what the last layer
    of the pretrained model reads, to tell `digit` from `other`; `steps` is theirs. Attention is the
    prompt's on relevant patches, less their share.

    With `fixed_prompts` ridge heads tell these two apart (:func:`_fixed_prompt_numbers`).
    """
    task = Task(kind, source, noise, relevant)
    bases = image_experiment.pretrain(source, pretraining, models)
    starts = [bases[trial % models] for trial in range(trials)]
    keys = [jax.random.fold_in(jax.random.fold_in(key, 1), trial) for trial in range(trials)]
    if level == "fixed_prompts":
        rows = image_experiment.map_on_host(
            lambda trial: _fixed_prompt_numbers(
                task, starts[trial], keys[trial], samples, (digit, other)
            ),
            trials,
        )
        return _fixed_prompt_estimates(rows, models)
    if level == "embeddings":
        names = SMALL_MODELS if arms == "all" else MAIN
        numbers = image_experiment.small_model_numbers(
            task, starts, keys, samples, (digit, other), names
        )
        lead = mean_estimate(numbers["prompt"] - numbers["fine_tuning"])
        return {**{name: mean_estimate(x) for name, x in numbers.items()}, "lead": lead}
    sets = [task.scenes("adaptation", samples, jax.random.fold_in(k, 0)) for k in keys]
    tests = [task.scenes("test", TESTED, jax.random.fold_in(k, 1)) for k in keys]
    before = [
        image_experiment.evaluate(task, None, flat, test)
        for flat, test in zip(starts, tests, strict=True)
    ]
    after = {}
    for name in ARMS if arms == "all" else (*MAIN, *CONTROLS):
        count = trials if arms == "all" or name in MAIN else min(CONTROLLED, trials)
        adapted = image_experiment.adapt(task, ARMS[name], starts[:count], sets[:count], steps)
        after[name] = [
            image_experiment.evaluate(task, ARMS[name], flat, test)
            for flat, test in zip(adapted, tests, strict=False)
        ]
    return _network_estimates(before, after)


def _fixed_prompt_numbers(
    task: Task, flat: np.ndarray, key: Key[jax.Array, ""], samples: int, pair: tuple[int, int]
) -> dict[str, float]:
    """One trial: errors under each prompt, as the pool predicts them and as they are measured.

    NAME_error is measured on new scenes and NAME_curve the semi-empirical prediction; under the
    best prompt there are the two of Gaussian tokens, and the error on other digits and photographs.
    """
    sets = fixed_prompt_heads.draw_scene_sets(task, flat, samples, pair, key=key)
    pool = sets.pool
    h = fixed_prompt_heads.prompt_along_means(pool)
    prompts = {"uniform": 0 * h, "along": h, "best": best_prompt(pool.tokens, pool.relevant)}
    rng = np.random.default_rng(np.asarray(jax.random.key_data(jax.random.fold_in(key, len(sets)))))
    numbers: dict[str, float] = {}
    for name in PROMPTS:
        marks = pool.relevant if name == "best" else None
        curve = predict_curve(
            pool.tokens, pool.labels, prompts[name], samples, fixed_prompt_heads.RIDGE,
            relevant=marks,
        )  # fmt: skip
        numbers[f"{name}_curve"] = float(curve.semi_empirical[0])
        same, others = fixed_prompt_heads.head_errors(sets, prompts[name], samples, rng)
        numbers[f"{name}_error"] = same
        if name == "best":
            numbers["others_error"] = others
            numbers["moments_curve"] = float(curve.all_moments[0])
            numbers["isotropic_curve"] = float(curve.isotropic[0])
    return numbers


def _fixed_prompt_estimates(
    numbers: Mapping[str, Float[np.ndarray, " trials"]], models: int
) -> dict[str, Estimate]:
    """Errors, and how far predictions are off as shares of an error; paired by trial."""
    best = numbers["best_error"]
    excess = {
        "isotropic_excess": _excess(numbers["isotropic_curve"], best, models),
        "moments_excess": _excess(numbers["moments_curve"], best, models),
        "others_off": _size(_excess(numbers["others_error"], numbers["best_curve"], models)),
        "best_gain": _negative(_excess(best, numbers["along_error"], models)),
    }
    for name in PROMPTS:
        off = _excess(numbers[f"{name}_curve"], numbers[f"{name}_error"], models)
        excess[f"{name}_off"] = _size(off)
    errors = [name for name in numbers if name.endswith("_error")]
    return {**{name: mean_estimate(numbers[name]) for name in errors}, **excess}


def _excess(
    above: Float[np.ndarray, " trials"], below: Float[np.ndarray, " trials"], models: int
) -> Estimate:
    """Mean of `above` as a multiple of that of `below`, less 1; standard error by the delta method.

    The models are given and taken in turn, so trials scatter about the mean of their own model.
    """
    ratio, trials = above.mean() / below.mean(), len(above)
    values = (above - ratio * below) / below.mean()
    model = np.arange(trials) % models
    counts = np.bincount(model, minlength=models)
    if trials < 2 * models:  # too few to know a model's mean by: all scatter about one
        model, counts = np.zeros(trials, int), np.array([trials])
    deviations = values - (np.bincount(model, values) / counts)[model]
    dof = trials - len(counts)
    stderr = np.sqrt(np.square(deviations).sum() / dof / trials)
    return Estimate(float(ratio - 1), float(stderr), trials, kind="sampled", dof=dof)


def _size(estimate: Estimate) -> Estimate:
    """Without its sign, which is too large on average only within a few standard errors of 0."""
    return estimate if estimate.mean >= 0 else _negative(estimate)


def _negative(estimate: Estimate) -> Estimate:
    mean, stderr, trials = estimate
    return Estimate(-mean, stderr, trials, kind=estimate.kind, dof=estimate.dof)


def _network_estimates(
    before: Sequence[Evaluation], after: Mapping[str, Sequence[Evaluation]]
) -> dict[str, Estimate]:
    """Accuracies of every arm, and what it changes of accuracy and attention, paired by trial."""
    accuracy_before, attention_before = _accuracy_by_trial(before), _attention_by_trial(before)
    accuracy = {name: _accuracy_by_trial(evaluations) for name, evaluations in after.items()}
    estimates = {
        "before": mean_estimate(accuracy_before),
        **{name: mean_estimate(values) for name, values in accuracy.items()},
        "lead": mean_estimate(accuracy["prompt"] - accuracy["fine_tuning"]),
        "prompt_gain": mean_estimate(accuracy["prompt"] - accuracy_before),
        "attention": mean_estimate(attention_before),
    }
    for name, evaluations in after.items():
        if name != "head":
            gain = _attention_by_trial(evaluations) - attention_before[: len(evaluations)]
            estimates[_attention_gain_of(name)] = mean_estimate(gain)
    estimates["head_attention"] = _largest_move(before, after["head"], slice(None))
    estimates["first_layer_attention"] = _largest_move(before, after["tokens"], slice(0, 1))
    return estimates


def _accuracy_by_trial(evaluations: Sequence[Evaluation]) -> Float[np.ndarray, " trials"]:
    return np.array([evaluation.accuracy for evaluation in evaluations])


def _attention_by_trial(evaluations: Sequence[Evaluation]) -> Float[np.ndarray, " trials"]:
    return np.array([evaluation.layer_shares.mean() for evaluation in evaluations])


def _largest_move(
    before: Sequence[Evaluation], after: Sequence[Evaluation], layers: slice
) -> Estimate:
    """The most that any attention of these layers moves: every trial must keep it."""
    pairs = zip(before, after, strict=False)
    moves = [float(np.abs(b.shares[layers] - a.shares[layers]).max()) for b, a in pairs]
    return exact_estimate(max(moves), len(after))


def _attention_gain_of(arm: str) -> str:
    return "attention_gain" if arm == "prompt" else f"{arm}_attention_gain"


# --- the quantities ---

_ACCURACIES = {
    "before": "of the pretrained model",
    "prompt": "after tuning the prompt: what the class token holds in every layer",
    "input_prompt": "after tuning the class token of the first layer alone",
    "token": "after tuning one token beside the patches",
    "tokens": "after tuning four tokens beside the patches",
    "deep_tokens": "after tuning four tokens in every layer",
    "head": "after tuning the linear head",
    "fine_tuning": "after tuning everything",
    "linear": "of a linear head on the mean embedding",
    "linear_prompt": "of linear prompt-attention on embeddings",
    "self_attention": "of a head over frozen self-attention on embeddings",
}
_FIXED = {
    "uniform": "under uniform attention",
    "along": "under the best gain along h",
    "best": "under the best prompt",
}
# Accuracies and the other arms' attention are measured for tables and pictures: the statement says
# nothing of them, so they have no row.
QUANTITIES = (
    *(Quantity(name, f"accuracy {what}", unmeasured=True) for name, what in _ACCURACIES.items()),
    Quantity("lead", "accuracy of the tuned prompt less that of fine-tuning", tolerance=0.1,
             side="predicted"),
    Quantity("prompt_gain", "accuracy of the tuned prompt less that before", tolerance=0.1,
             side="predicted"),
    Quantity("attention", "attention on relevant patches before", unmeasured=True),
    Quantity("attention_gain", "what tuning the prompt adds to it", tolerance=0.1,
             side="predicted"),
    *(
        Quantity(_attention_gain_of(name), f"the same {_ACCURACIES[name]}", unmeasured=True)
        for name in ARMS
        if name not in ("prompt", "head")
    ),
    *(Quantity(f"{name}_error", f"error of a ridge head {what}", unmeasured=True)
      for name, what in _FIXED.items()),
    Quantity("others_error", "error under the best prompt on other digits and photographs",
             unmeasured=True),
    *(Quantity(f"{name}_off", f"share of the error that the semi-empirical curve is off {what}",
               tolerance=0.1, side="predicted") for name, what in _FIXED.items()),
    Quantity("best_gain", "share of the error along h that the best prompt saves", tolerance=0.1,
             side="predicted"),
    Quantity("isotropic_excess", "what the isotropic theory says under the best prompt over what "
             "is measured, less 1", tolerance=0.25, side="predicted"),
    Quantity("moments_excess", "the same of all moments of Gaussian tokens", unmeasured=True),
    Quantity("others_off", "share of the curve by which the error under the best prompt is another "
             "on other digits and photographs", tolerance=0.25, side="predicted"),
    Quantity("head_attention", "most that tuning the head moves any attention", tolerance=0.0,
             side="two"),
    Quantity("first_layer_attention", "most that tokens move the first layer's", tolerance=1e-5,
             side="two"),
)  # fmt: skip


# --- the design ---


FEWEST_FIXED = 16
"""Least samples for heads over fixed prompts, so that both digits are among them."""


def _check_point(values: dict[str, Any], where: str) -> dict[str, Any]:
    """Refuse arrays, as a limit is stated for one number of samples; and what tells nothing apart.

    Raises:
        ParameterError: as said, naming the parameter.
    """
    samples, level = values["samples"], values["level"]
    if np.ndim(samples):
        raise ParameterError(
            "samples", samples, "one number", "predict its values one by one", where
        )
    if level != "network" and values["digit"] == values["other"]:
        raise ParameterError("other", values["other"], "another digit", "name two digits", where)
    if level == "fixed_prompts":
        if samples < FEWEST_FIXED:
            allowed = f"at least {FEWEST_FIXED} at level fixed_prompts"
            raise ParameterError("samples", samples, allowed, "raise it", where)
        if values["kind"] == "tiled":
            remedy = "a prompt needs irrelevant patches to tell the relevant ones from"
            raise ParameterError("kind", "tiled", "partial or embedded", remedy, where)
        if values["relevant"] == image_experiment.TILES**2:
            allowed = f"below {image_experiment.TILES**2} at level fixed_prompts"
            raise ParameterError(
                "relevant", values["relevant"], allowed, "leave irrelevant tiles", where
            )
    return values


def _full_design() -> Design:
    runs: list[Run] = []
    sources = (("digits", 8, 400, (10, 40, 300, 5000)), ("mnist", 4, 800, (40, 300)))
    for source, models, pretraining, sizes in sources:
        for kind in ("partial", "embedded"):
            scenes = {"kind": kind, "source": source, "models": models, "pretraining": pretraining}
            # A pass over many images takes more steps.
            runs += [
                Run(scenes, steps=600 if n > 1000 else 150, samples=n, trials=32) for n in sizes
            ]
            runs += [
                Run(scenes, level="embeddings", digit=digit, other=other, samples=n)
                for digit, other in ((3, 8), (4, 9))
                for n in (24, 192)
            ]
            runs += [
                Run(scenes, level="fixed_prompts", digit=digit, other=other, samples=n, trials=48)
                for digit, other in ((3, 8), (4, 9))
                for n in (64, 512)
            ]
    return Design(*runs, trials=128)


_SURROUNDINGS = {"tiled": "tiles", "partial": "noise", "embedded": "photograph"}
_PANELS = {
    "lead": ("prompt against fine-tuning", "difference in accuracy"),
    "prompt_gain": ("tuned prompt against none", "gain in accuracy"),
    "attention_gain": ("attention on the digit", "what tuning adds"),
    "best_off": ("theory under the best prompt", "share of the error it is off"),
    "isotropic_excess": ("theory under the best prompt", "share of the error it is off"),
}
_THEORIES = {"best_off": "curve, ", "isotropic_excess": "isotropic, "}


def _bar_of_row(row: Row) -> tuple[str, str, str] | None:
    """A panel for each kind of number; bars named by what surrounds the digit, and the images."""
    if row.quantity not in _PANELS:
        return None
    around = _SURROUNDINGS[row.parameters["kind"]]
    theory = _THEORIES.get(row.quantity, "")
    return (*_PANELS[row.quantity], f"{theory}{around} {row.parameters['samples']}")


_FIGURE = Panels(
    bars_of_rows(_bar_of_row, {"upper": "stated: at most", "lower": "stated: at least"}),
    "Digits in context: what a tuned prompt gains, and what it does not",
    "by what surrounds the digit and the number of images; bars: means with 95 % intervals",
)

CLAIM = Claim(
    id="contextual.image_context",
    title="Digits in context: what a tuned prompt gains, and what it does not",
    statement=STATEMENT,
    derivation=DERIVATION,
    relation=Relation.EXISTENCE,
    source="setting: Oymak et al., ICML 2023; data and model: here",
    parameters=(
        Parameter("kind", "choice", "what surrounds the digit: itself, noise, a photograph",
                  choices=digit_scenes.KINDS),
        Parameter("samples", "integer", "images to adapt to", "n", low=1,
                  high=image_experiment.LARGEST_SET),
        Parameter("source", "choice", "the digits: scikit-learn's 8 × 8 or MNIST's 28 × 28",
                  choices=tuple(digit_scenes.SOURCES), default="digits"),
        Parameter("level", "choice", "what is adapted: the network, models on its embeddings, or "
                  "heads over fixed prompts on these", choices=LEVELS, default="network"),
        Parameter("noise", "real", "size of the irrelevant pixels", "σ", low=0, default=1.0),
        Parameter("relevant", "integer", "tiles that hold the digit", "k", low=1,
                  high=image_experiment.TILES**2, default=1),
        Parameter("pretraining", "integer", "steps of pretraining", low=1, default=400),
        Parameter("steps", "integer", "steps of every adaptation", low=1, default=150),
        Parameter("models", "integer", "pretrained models that the trials take in turn", low=1,
                  default=2),
        Parameter("arms", "choice", "main: prompt and fine-tuning, controls in two trials; or all",
                  choices=("main", "all"), default="main"),
        Parameter("digit", "integer", "on embeddings, the digit labelled 1", low=0, high=9,
                  default=3),
        Parameter("other", "integer", "on embeddings, the digit labelled −1", low=0, high=9,
                  default=8),
    ),
    check_parameters=_check_point,
    quantities=QUANTITIES,
    compared=Compared(
        elsewhere="no formula: limits of what training finds on these images, which stand for the "
        "sizes and budgets of the check alone"
    ),
    closed_form=closed_form,
    falsifiers=FALSIFIERS,
    simulation=simulate,
    designs={
        "quick": Design(
            Run(kind="partial", level="embeddings", samples=24),
            Run(kind="partial", samples=40, trials=28),
            Run(kind="partial", samples=300, trials=16),
            Run(kind="embedded", samples=300, trials=16),
            Run(kind="partial", level="fixed_prompts", samples=64, trials=20),
            Run(kind="embedded", level="fixed_prompts", samples=128, trials=20),
            trials=128,
        ),
        "full": _full_design(),
    },
    cost="trained",
    figure=_FIGURE,
    extra=EXTRAS["data"],
)  # fmt: skip
