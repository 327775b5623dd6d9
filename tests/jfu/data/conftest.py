"""Sets that tensorflow-datasets prepared by itself."""

import io

import numpy as np
import pytest

from helpers.datasets import odd_files


@pytest.fixture(scope="module")
def odd(tmp_path_factory):
    """A folder with sets that tensorflow-datasets itself prepared, without TensorFlow."""
    import tensorflow_datasets as tfds

    folder = str(tmp_path_factory.mktemp("tfds"))

    def prepare(name, splits, features, keys):
        def generate(labels):
            for i, label in enumerate(labels):
                image = odd_files()[i % 6 if len(labels) > 4 else 0]
                yield i, {"image": io.BytesIO(image), "label": label}

        class Set(tfds.core.GeneratorBasedBuilder):
            VERSION = tfds.core.Version("1.0.0")

            def _info(self):
                features_ = tfds.features.FeaturesDict(features)
                return tfds.core.DatasetInfo(builder=self, features=features_, supervised_keys=keys)

            def _split_generators(self, _):
                return {split: generate(labels) for split, labels in splits.items()}

            def _generate_examples(self):
                raise NotImplementedError

        Set.name = name
        Set(data_dir=folder, file_format="array_record").download_and_prepare()

    image = tfds.features.Image(shape=(None, None, 3))
    label = tfds.features.ClassLabel(names=["ant", "bee"])
    both = {"image": image, "label": label}
    with tfds.core.registered.skip_registration():
        six, four = [0, 1] * 3, [1, 0, 1, 0]
        splits = {"train": six, "validation": four, "test": [-1] * 4}
        prepare("jfu_odd", splits, both, ("image", "label"))
        prepare("jfu_even", {"train": four, "test": four}, both, None)
        prepare("jfu_whole", {"train": four}, both, None)
        prepare("jfu_numbers", {"train": four}, {"image": image, "label": np.int64}, None)
    return folder
