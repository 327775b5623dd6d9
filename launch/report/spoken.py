"""Words for pictures in those of a task: "accuracy" may be explained variance, "images" texts.

Messages, pages and titles of figures are written for classes of images. Whoever shows them passes
them through ``text`` or ``report`` with the words of the task (``jfu.tasks.words_of``).
"""

import re
from typing import Any

from jfu.tasks import Words

# Not in the names of files, of flags, or of properties of a style. An attack's accuracy is one in
# every task.
KNOWN = r"(?<![-\w./])(?<!matched: )(accuracy|accuracies|images?)(?![-\w:=/])"
KNOWN += r"|naming one class|of the same class, trigger and label"
FREE = ("notes", "questions", "controls", "not_shown", "reasons")  # fields of audit.json with prose


def text(said: str, words: Words) -> str:
    """A text, or a page, with the words of a task; what has them already stays as it is.

    >>> from jfu.tasks import TASKS
    >>> tokens = TASKS["tokens"].words
    >>> text("Accuracy on test images, in token accuracy", tokens)
    'Token accuracy on test texts, in token accuracy'
    >>> text("loss attack, matched: accuracy", tokens)
    'loss attack, matched: accuracy'
    """
    score, examples = words.score, words.examples
    known = {
        "accuracy": score,
        "accuracies": f"{score[:-1]}ies" if score.endswith("y") else f"{score}s",
        "images": examples,
        "image": examples.removesuffix("s"),
        "naming one class": words.trivial,
        "of the same class, trigger and label": words.alike,
    }

    def one(found: re.Match) -> str:
        given = found[0]
        new = known.get(given.lower(), given)
        return new[:1].upper() + new[1:] if given[:1].isupper() else new

    return re.sub(f"{re.escape(score)}|{KNOWN}", one, said, flags=re.I)


def report(found: Any, words: Words, free: bool = False) -> Any:
    """The content of audit.json, whose prose has the words of a task; all else stays.

    Args:
      free: whether ``found`` is prose.

    >>> from jfu.tasks import TASKS
    >>> report({"a": "accuracy", "notes": ["accuracy"]}, TASKS["regress"].words)
    {'a': 'accuracy', 'notes': ['explained variance']}
    """
    if isinstance(found, dict):
        return {key: report(value, words, free or key in FREE) for key, value in found.items()}
    if isinstance(found, list | tuple):
        return [report(value, words, free) for value in found]
    return text(found, words) if free and isinstance(found, str) else found
