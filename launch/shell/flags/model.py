"""Model."""

from absl import flags


def define() -> None:
    flags.DEFINE_string(
        "model",
        None,
        "small, mlp (2 hidden layers; mlp1 and mlp4: 1 and 4), cnn, resnet18, resnet18_narrow, "
        "vit_tiny, vit_small or vit_base. Default: small for digits and synthetic, mlp1 or mlp for "
        "tables of numbers, cnn elsewhere. "
        "Or a network of your own, path/to/file.py:Net or package.module:Net, a Linen, NNX or "
        "Equinox module or a function that makes one. The file is run.",
    )
    flags.DEFINE_enum(
        "norm", None, ["group", "batch", "none"], "Normalisation layers, if the model has them."
    )
    flags.DEFINE_enum(
        "precision",
        None,
        ["float32", "tf32", "bf16"],
        "Precision of products inside the model. Parameters stay float32. Default: the device's, "
        "which is TF32 on NVIDIA GPUs and float32 on CPUs.",
    )
    flags.DEFINE_string(
        "init_params",
        None,
        "A model trained elsewhere (.safetensors or .msgpack). It replaces training: the request "
        "is answered on this model.",
    )
