"""The theorems behind NoT, tried on small networks: four experiments that can fail.

For identity, tanh, ReLU and GELU, chains of matrices without biases learn a few hundred of
scikit-learn's digits (centred, a fifth of the labels drawn at random), of which some are to be
forgotten. Then, seed by seed:

  1  the time in which fine-tuning changes the gap between retained and forgotten loss, against
     the bound, from the trained weights and from those with the first layer negated;
  2  the distance of activations after negating a layer, against other weights of one norm,
     drawn and searched for;
  3  how far the law of later layers' Jacobians moves, over widths, against a new first layer
     and against noise;
  4  what any other layer alone can repair, after negating an antichain, comparable layers, or
     the output layer.

Every line says whether it is consistent with its theorem as jfu.theory reconstructs it; that is
neither the paper's wording nor its proof, and what is not consistent is a result. Writes
theory.jsonl (a line for each number), theory.md and theory.png into the work directory.

  python -m launch.theory --workdir=runs/theory --seeds=3
"""

from absl import flags

from launch.shell import entry


def define() -> None:
    flags.DEFINE_string("workdir", "runs/theory", "Where the results go.")
    flags.DEFINE_integer("seeds", 3, "How many times: images, labels, weights.", 1, 1000)
    flags.DEFINE_integer("processes", 2, "Activations tried at once.", 1, 64)
    flags.DEFINE_bool("debug", False, "Show the traceback of an error.")


def try_theorems() -> None:
    from launch.studies import theory

    theory.try_theorems()


if __name__ == "__main__":
    define()
    entry.run(try_theorems, private=False)
