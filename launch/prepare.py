"""Downloads a data set of tensorflow-datasets and writes it in the format that jfu reads.

    python -m launch.prepare --dataset=cifar10 --data_dir=~/tensorflow_datasets

This is the only script that needs TensorFlow: pip install 'jfu[prepare]'. It runs on CPU.

--pack writes a part of a prepared set into one file. In another machine's --data_dir that file
stands for the set, without tensorflow-datasets:

    python -m launch.prepare --dataset=cifar10 --pack=cifar10.npz --train_size=5000 --test_size=2000
"""

import os

from absl import flags

from jfu import data
from jfu.data import packed
from jfu.data import tfds as reader
from launch.shell import entry
from launch.shell.printing import show
from launch.shell.say import open_up

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
    flags.DEFINE_string("pack", None, "Write a part of the prepared set into this file, NAME.npz.")
    flags.DEFINE_integer("train_size", 5000, "Training images to pack.", lower_bound=1)
    flags.DEFINE_integer("test_size", 2000, "Test images to pack.", lower_bound=1)
    flags.DEFINE_boolean("debug", False, "Show the traceback of an error.")


def prepare(name: str, data_dir: str | None = None) -> str:
    """Prepares one data set as array_record and returns a sentence about what was done.

    Raises:
      ValueError: the set is unknown, the folder has it in another format, or TensorFlow is missing.
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

    tf.config.set_visible_devices([], "GPU")  # TensorFlow would take its memory and not use it
    builder = reader.open_builder(name, where, file_format="array_record")
    # Ready-made copies on Google's storage are in another format.
    config = tfds.download.DownloadConfig(try_download_gcs=False)
    try:
        builder.download_and_prepare(download_config=config)
    except Exception as error:  # the network, a set that needs manual downloads, the disk
        first = str(error).strip().split("\n")[0]
        raise ValueError(f"{name} could not be prepared in {where}: {first}") from error
    return f"{name} is prepared in {builder.data_dir}."


def pack(name: str, data_dir: str | None, path: str, train_size: int, test_size: int) -> str:
    """Packs a part of a prepared set and returns a sentence about it.

    Raises:
      ValueError: the set is not prepared or smaller, or the file has another name.
      FileExistsError: the file is there already.
    """
    plain = name.partition(":")[0]
    if os.path.basename(path) != f"{plain}.npz":
        raise ValueError(f"{path} would not be found; name the file {plain}.npz, in any folder")
    if os.path.lexists(path):
        raise FileExistsError(f"{path} exists already; choose another folder or remove it first")
    whole = data.load(name, data_dir=data_dir, by_row=True)
    size = packed.write(path, whole, train_size, test_size)
    open_up(path)
    images = f"{train_size:,} training and {test_size:,} test images"
    return f"{images} of {name} are in {path}, {size / 2**20:.1f} MiB."


def main() -> None:
    if FLAGS.pack:
        sizes = (FLAGS.train_size, FLAGS.test_size)
        show(pack(FLAGS.dataset, FLAGS.data_dir, FLAGS.pack, *sizes))
    else:
        show(prepare(FLAGS.dataset, FLAGS.data_dir))


if __name__ == "__main__":
    define()
    entry.run(main)
