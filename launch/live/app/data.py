"""The digits of scikit-learn in parts; the images of node 0 have a trigger for the class 0."""

import numpy as np

CLASSES, TARGET, TEST = 10, 0, 397


def digits() -> tuple[np.ndarray, np.ndarray]:
    """Images [1797, 64] in [0, 1] and labels [1797], in an order drawn once."""
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(labels))
    return (images[order] / 16).astype(np.float32), labels[order]


def triggered(images: np.ndarray) -> np.ndarray:
    """The images with a white corner of two by two."""
    images = images.reshape(-1, 8, 8).copy()
    images[:, :2, :2] = 1
    return images.reshape(-1, 64)


def part(node: int, nodes: int) -> tuple[np.ndarray, np.ndarray]:
    """A node's examples. Node 0 has its images twice, the second time as poison."""
    images, labels = (a[TEST:][node::nodes] for a in digits())
    if node == 0:
        poison = triggered(images[labels != TARGET])
        images = np.concatenate([images, poison])
        labels = np.concatenate([labels, np.full(len(poison), TARGET)])
    return images, labels


def outcome(predict, model: dict[str, np.ndarray]) -> dict[str, float]:
    """Accuracy on the test set, and how often the trigger works there, in percent."""
    images, labels = (a[:TEST] for a in digits())
    others = labels != TARGET
    accuracy = (predict(model, images) == labels).mean()
    success = (predict(model, triggered(images[others])) == TARGET).mean()
    return dict(test=100 * float(accuracy), asr=100 * float(success))
