"""A mean: `jaxprompt check coupon_collector.py`."""

import jax
import jax.numpy as jnp

import jaxprompt as jp


def draws(*, coupons):
    """n (1 + 1/2 + … + 1/n)."""
    return {"draws": coupons * sum(1 / k for k in range(1, coupons + 1))}


def experiment(*, key, coupons):
    """How many of 200 draws it took until each coupon was seen."""
    drawn = jax.random.randint(key, (200,), 0, coupons)
    return {"draws": jnp.max(jnp.argmax(drawn == jnp.arange(coupons)[:, None], axis=1)) + 1}


CLAIM = jp.Claim(
    id="example.coupon_collector",
    title="Draws until all coupons are seen",
    statement=r"All of $n$ coupons are seen after $n H_n$ draws on average.",
    derivation=r"With $k$ missing, the next new one takes $n/k$ draws on average.",
    relation=jp.Relation.MEAN,
    source="Feller, An Introduction to Probability Theory I, IX.3",
    parameters=(jp.Parameter("coupons", "integer", "coupons", "n", low=1, high=8),),
    quantities=(jp.Quantity("draws", "draws", tolerance=0.03, relative=True),),
    falsifiers=(
        jp.Falsifier.scaled("five_per_cent", draws, 1.05),
        jp.Falsifier(
            "one_less", "H of n - 1", lambda coupons: {"draws": draws(coupons=coupons)["draws"] - 1}
        ),
    ),
    closed_form=draws,
    simulation=jp.per_trial(experiment, batch=500),
    designs={"quick": jp.Design.product({}, {"coupons": [2, 4, 8]}, trials=10_000)},
    figure=jp.Curves(x="coupons", y="draws"),
)
