"""Downloads a data set of tensorflow-datasets and writes it in the format that jfu reads.

    python -m launch.prepare --dataset=cifar10 --data_dir=~/tensorflow_datasets

The one script that needs TensorFlow: pip install 'jfu[prepare]'. It runs on CPU.
"""

from absl import flags

from jfu.data import tfds as reader
from launch.shell import entry
from launch.shell.printing import show

FLAGS = flags.FLAGS


def define() -> None:
    flags.DEFINE_string(
        "dataset",
        None,
        "A name of the tensorflow-datasets catalogue, such as cifar10, caltech101 or "
        "emnist/byclass.",
        required=True,
    )
    flags.DEFINE_string(
        "data_dir",
        None,
        "The folder to write to. Default: $TFDS_DATA_DIR, or else ~/tensorflow_datasets.",
    )
    flags.DEFINE_boolean("debug", False, "Show the traceback of an error.")


def prepare(name: str, data_dir: str | None = None) -> str:
    """Prepares one set as array_record and says in a sentence what was done.

    Raises:
      ValueError: an unknown set, a folder that holds it in another format, no TensorFlow.
    """
    where = reader.folder(data_dir)
    builder = reader.open_builder(name, where)
    if builder.is_prepared():
        kind = builder.info.file_format.value
        if kind != "array_record":  # tfds would reuse it, and jfu could not read it
            raise ValueError(
                f"{name} is already prepared in {where} as {kind}; remove {builder.data_dir} or "
                "choose another folder with --data_dir"
            )
        return f"{name} is already prepared in {builder.data_dir}; nothing to do."
    try:
        import tensorflow as tf
    except ImportError:
        raise ValueError(
            f"preparing {name} needs TensorFlow, which is not installed; run: "
            "pip install 'jfu[prepare]'"
        ) from None
    import tensorflow_datasets as tfds

    tf.config.set_visible_devices([], "GPU")  # it would take the memory and not use it
    builder = reader.open_builder(name, where, file_format="array_record")
    # Ready-made copies on Google's storage are in another format.
    config = tfds.download.DownloadConfig(try_download_gcs=False)
    try:
        builder.download_and_prepare(download_config=config)
    except Exception as error:  # of the network, of a set that wants manual downloads, of the disk
        first = str(error).strip().split("\n")[0]
        raise ValueError(f"{name} could not be prepared in {where}: {first}") from error
    return f"{name} is prepared in {builder.data_dir}."


if __name__ == "__main__":
    define()
    entry.run(lambda: show(prepare(FLAGS.dataset, FLAGS.data_dir)))
