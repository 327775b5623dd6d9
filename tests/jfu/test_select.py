"""Selections: whole paths, positions in call order, and what is said about them."""

import jax
import jax.numpy as jnp
import pytest

import jfu
from helpers.federation import network
from jfu.models import MODELS, build
from jfu.select import paths

pytestmark = pytest.mark.conformance

PARAMS = {
    "Dense_2": {"kernel": jnp.zeros((3, 4)), "bias": jnp.zeros(4)},
    "Dense_10": {"kernel": jnp.zeros((4, 5)), "bias": jnp.zeros(5)},
    "block": {
        "conv": {"kernel": jnp.zeros((2, 2, 1, 3))},
        "norm": {"scale": jnp.zeros(3), "bias": jnp.zeros(3)},
    },
}
LAYERS = ("Dense_2", "block/conv", "Dense_10")  # in call order; a dictionary sorts otherwise
ALL = {
    "Dense_10/bias", "Dense_10/kernel", "Dense_2/bias", "Dense_2/kernel",
    "block/conv/kernel", "block/norm/bias", "block/norm/scale",
}  # fmt: skip


def _picked(selector, params=PARAMS):
    """The paths that are selected."""
    mask, found = jfu.select(params, selector), set()

    def walk(tree, prefix):
        for name, inside in tree.items():
            if isinstance(inside, dict):
                walk(inside, f"{prefix}{name}/")
            else:
                assert type(inside) is bool
                found.update([f"{prefix}{name}"] if inside else [])

    walk(mask, "")
    return found


def test_paths_of_every_leaf():
    assert _picked(lambda path, leaf: True) == ALL
    assert paths({"a": [0, {"b": 0}]}) == {"a": ["a/0", {"b": "a/1/b"}]}


@pytest.mark.parametrize(
    ("patterns", "picked"),
    [
        (["Dense_2/.*"], {"Dense_2/bias", "Dense_2/kernel"}),
        ([".*bias"], {"Dense_10/bias", "Dense_2/bias", "block/norm/bias"}),
        (["Dense_.*/kernel", "block/norm/scale"],
         {"Dense_10/kernel", "Dense_2/kernel", "block/norm/scale"}),
        (["(?!block).*/kernel"], {"Dense_10/kernel", "Dense_2/kernel"}),
        ([".*"], ALL),
    ],
)  # fmt: skip
def test_patterns_match_whole_paths(patterns, picked):
    assert _picked(jfu.by_path(*patterns)) == picked


@pytest.mark.parametrize("pattern", ["Dense_2", "kernel", "ense_2/.*", "Dense_2/kerne", ""])
def test_partial_matches_are_none_and_the_message_lists_every_path(pattern):
    with pytest.raises(ValueError, match="picks no parameter") as caught:
        jfu.select(PARAMS, jfu.by_path(pattern))
    assert all(path in str(caught.value) for path in ALL)


def test_a_bad_pattern_is_named():
    with pytest.raises(ValueError, match=r"'stem\(' is not a regular expression"):
        jfu.by_path("fine", "stem(")


@pytest.mark.parametrize(
    ("positions", "picked"),
    [
        (0, {"Dense_2/bias", "Dense_2/kernel"}),
        (1, {"block/conv/kernel"}),
        (2, {"Dense_10/bias", "Dense_10/kernel"}),
        (-1, {"Dense_10/bias", "Dense_10/kernel"}),
        ([0, -2], {"Dense_2/bias", "Dense_2/kernel", "block/conv/kernel"}),
        ((1,), {"block/conv/kernel"}),
        (slice(1), {"Dense_2/bias", "Dense_2/kernel"}),
        (slice(None), ALL - {"block/norm/bias", "block/norm/scale"}),
    ],
)
def test_positions_count_calls_and_norms_are_no_layers(positions, picked):
    assert _picked(jfu.by_layer(LAYERS, positions)) == picked


def test_weights_only_leaves_biases_out():
    picked = {"Dense_10/kernel", "Dense_2/kernel", "block/conv/kernel"}
    assert _picked(jfu.by_layer(LAYERS, slice(None), weights_only=True)) == picked


def test_the_first_weight_is_without_its_bias_and_with_learned_positions():
    assert _picked(jfu.first_weight(LAYERS)) == {"Dense_2/kernel"}
    vit = PARAMS | {"position": jnp.zeros((1, 3, 4)), "in": {"pos_embedding": jnp.zeros((1, 3, 4))}}
    picked = {"Dense_2/kernel", "position", "in/pos_embedding"}
    assert _picked(jfu.first_weight(LAYERS), vit) == picked
    assert _picked(jfu.first_weight(LAYERS, also=()), vit) == {"Dense_2/kernel"}
    assert _picked(jfu.first_weight(LAYERS, also=["scale"])) == {
        "Dense_2/kernel",
        "block/norm/scale",
    }
    with pytest.raises(ValueError, match="also is the text 'position'; pass a list of names"):
        jfu.first_weight(LAYERS, also="position")
    with pytest.raises(ValueError, match="names no layers"):
        jfu.first_weight([])


FIRST = {name: {"stem/kernel"} for name in MODELS} | {
    name: {"stem/kernel", "position"} for name in ("vit_tiny", "vit_small", "vit_base")
}
FIRST["lm_tiny"] = {"embed/embedding", "position"}


@pytest.mark.parametrize("name", MODELS)
def test_the_first_weight_of_every_model(name):
    """Of the numbers that the paper's first author gives: a ViT's class token is not among them."""
    model = build(name, classes=3, image_shape=(16,) if name == "lm_tiny" else (16, 16, 3))
    params = jax.eval_shape(model.init, jax.random.key(0))["params"]
    assert _picked(jfu.first_weight(model), params) == FIRST[name]


def test_a_model_brings_its_order(variables):
    model = network()
    assert _picked(jfu.by_layer(model), variables["params"]) == {"stem/kernel", "stem/bias"}
    assert _picked(jfu.by_layer(model, -1), variables["params"]) == {"head/kernel", "head/bias"}


@pytest.mark.parametrize("positions", [3, -4, [0, 7]])
def test_positions_beyond_the_layers_are_refused(positions):
    with pytest.raises(ValueError, match="is beyond the 3 layers") as caught:
        jfu.by_layer(LAYERS, positions)
    assert str(positions) in str(caught.value)
    assert all(layer in str(caught.value) for layer in LAYERS)


def test_a_model_without_layers_says_how_else_to_choose():
    model = jfu.Model(lambda key: {}, lambda variables, x: (x, {}))
    for layers in (model, []):
        with pytest.raises(ValueError, match=r"names no layers .*choose by paths .*jfu.by_path"):
            jfu.by_layer(layers, 0)


def test_a_selector_sees_leaves_too():
    assert _picked(lambda path, leaf: leaf.ndim == 4) == {"block/conv/kernel"}


def test_describe_counts_parameters():
    mask = jfu.select(PARAMS, jfu.by_layer(LAYERS, 0))
    said = jfu.describe(PARAMS, mask)  # 4 + 12 of 16 + 25 + 12 + 6
    assert said == "Dense_2/bias [4], Dense_2/kernel [3, 4]: 16 of 59 parameters (27.1 %)"


@pytest.mark.parametrize("patterns", [(["stem/.*"],), (("a", "b"),), (3,), ("a", None)])
def test_patterns_that_are_no_text_are_refused(patterns):
    with pytest.raises(ValueError, match="a pattern is text; pass patterns one by one"):
        jfu.by_path(*patterns)


def test_layers_as_text_are_refused():
    with pytest.raises(ValueError, match="the layers are the text 'stem'; pass a Model, or a list"):
        jfu.by_layer("stem")
