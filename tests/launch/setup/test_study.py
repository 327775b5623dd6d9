"""What a study is made of."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jfu
import jfu.data
from helpers.workdirs import LAYOUT, PLAIN, changed
from jfu.augment import AUGMENTS
from launch.setup.study import check_sizes, prepare_study, set_aside


def test_what_is_set_aside_is_not_evaluated_on(dataset):
    rest, proxy = set_aside(dataset, 0.2)
    assert len(proxy) == 6 and len(rest.x_test) == len(rest.y_test) == 24
    rows = lambda x: {a.tobytes() for a in x}
    assert rows(proxy) | rows(rest.x_test) == rows(dataset.x_test)
    assert not rows(proxy) & rows(rest.x_test)
    assert set_aside(dataset, 0.0) == (dataset, None)


def test_sizes_that_no_machine_has_are_refused_before_they_are_made():
    with pytest.raises(ValueError, match=r"200 images of 100000 x 100000 x 1 are 2e\+03 GB, and"):
        jfu.data.load("synthetic", train_size=200, image_size=100_000)
    data = jfu.data.load("synthetic", train_size=200)
    with pytest.raises(ValueError, match="--batch_size=1025 is more than all 200 training images"):
        check_sizes(changed(PLAIN, batch_size=1025), data)
    flat = data._replace(x_train=data.x_train.reshape(200, -1))
    with pytest.raises(ValueError, match=r"--augment=crop .* of synthetic have the shape \[64\]"):
        check_sizes(changed(PLAIN, dataset="synthetic", augment="crop"), flat)
    check_sizes(changed(PLAIN, batch_size=1024, augment="crop"), data)


@pytest.mark.parametrize("name", AUGMENTS)
def test_methods_get_the_augmentation_of_training(name, dataset, monkeypatch):
    monkeypatch.setattr("jfu.data.load", lambda *args, **options: dataset)
    monkeypatch.setattr(jfu, "step_flops", lambda *args, **options: 0.0)
    study = prepare_study(changed(PLAIN, dataset="own.npz", augment=name), LAYOUT, [0])
    assert study.setting.augment is AUGMENTS[name]


def test_an_eased_recovery_warms_up_and_reports_the_loss_before_its_steps(dataset, monkeypatch):
    """Its first of two rounds trains at half the rate; one local step of SGD shows it."""
    monkeypatch.setattr("jfu.data.load", lambda *args, **options: dataset)
    monkeypatch.setattr(jfu, "step_flops", lambda *args, **options: 0.0)
    config = changed(PLAIN, dataset="own.npz", batch_size=64, momentum=0.0)
    study = prepare_study(config, LAYOUT, [0])
    clients = jax.tree.map(jnp.asarray, study.drawn[0].clients)
    variables = study.model.init(jax.random.key(0))

    def first_step(fed):
        new, info = fed.round(fed.init(variables), clients, jax.random.key(1))
        moved = jax.tree.map(jnp.subtract, new.params, variables["params"])
        return jax.tree.leaves(moved), info

    (whole, plain), (half, eased) = map(first_step, (study.setting.fed, study.setting.eased(2)))
    for one, other in zip(whole, half, strict=True):
        np.testing.assert_allclose(one / 2, other, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(plain.metrics["loss"], eased.metrics["loss"], rtol=1e-5)
    assert float(plain.metrics["forwards"]) == 0 < float(eased.metrics["forwards"])
