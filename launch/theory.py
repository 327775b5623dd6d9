"""The theorems behind NoT, tested on small networks: four experiments that can fail.

Chains of matrices without biases learn a few hundred of scikit-learn's digits. The images are
centred, and a fifth of the labels are random. Some of the images are to be forgotten. Activations
are identity, tanh, ReLU and GELU. Then each seed measures:

  1  The time in which fine-tuning changes the gap between retained and forgotten loss, against
     the bound. It starts from the trained weights, and from those with the first layer negated.
  2  How far activations move if a layer is negated, against other weights of the same norm. These
     are random, or searched for.
  3  How far the law of later layers' Jacobians moves, over widths, against a new first layer and
     against noise.
  4  What any other layer alone can repair after the negation of an antichain, of comparable
     layers, or of the output layer.

Every line says whether it is consistent with its theorem as jfu.theory reconstructs it. The
reconstruction is neither the paper's wording nor its proof. An inconsistent line is a result too.
Writes theory.jsonl (a line for each number), theory.md and theory.png into the work directory.

  python -m launch.theory --workdir=runs/theory --seeds=3
"""

from absl import flags

from launch.shell import entry


def define() -> None:
    flags.DEFINE_string("workdir", "runs/theory", "The folder for the results.")
    flags.DEFINE_integer(
        "seeds", 3, "Repetitions, each with its own images, labels and weights.", 1, 1000
    )
    flags.DEFINE_integer("processes", 2, "Activations that run at once.", 1, 64)
    flags.DEFINE_bool("debug", False, "Show the traceback of an error.")


def try_theorems() -> None:
    from launch.studies import theory

    theory.try_theorems()


if __name__ == "__main__":
    define()
    entry.run(try_theorems, private=False)
