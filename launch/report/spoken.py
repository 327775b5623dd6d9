"""An audit's words in those of its task: "accuracy" may be explained variance, "images" texts."""

import re

from jfu.tasks import TASKS

# Not in the names of files, of flags, or of properties of a style.
WORDS = re.compile(r"(?<![-\w./])(accuracy|images?)(?![-\w:=/])")


def text(said: str, task: str) -> str:
    """A text, or a page, with the words of a task.

    >>> text("accuracy on test images", "regress"), text("test accuracy, %", "tokens")
    ('explained variance on test examples', 'test token accuracy, %')
    """
    words = TASKS[task].words
    known = dict(accuracy=words.score, images=words.examples)
    known["image"] = words.examples.removesuffix("s")
    return WORDS.sub(lambda found: known[found[1]], said)
