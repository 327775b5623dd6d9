"""Communication rounds as a benchmark: what each method needs to reach the targets.

Runs what launch.compare would run with the same flags, unless that is done already. Then gives for
each method the rounds, bytes and operations until

  test    test accuracy is up at a target, after the rounds that are the method's own,
  forget  accuracy on the forgotten data is down at a target, and stays there,
  asr     the backdoor's success is down at a target, and stays there.

The default targets come from retraining's last values on the same seed. They are 1 point below for
test, 2 points above for forget, and 5 points above for asr. Writes rounds.jsonl (a line for each
method, seed and target), rounds.md and rounds.png into the work directory.

  python -m launch.rounds --methods=all
  python -m launch.rounds --target_test=95 --target_asr=5
"""

from absl import flags

from launch.shell import entry
from launch.shell import flags as shared


def define() -> None:
    shared.define_comparison()
    shared.define()
    for measure in ("test", "forget", "asr"):
        words = f"The target of {measure}, percent."
        flags.DEFINE_float(f"target_{measure}", None, words, 0.0, 100.0)


def rounds() -> None:
    from launch.running import targets

    targets.rounds()


if __name__ == "__main__":
    define()
    entry.run(rounds)
