"""When does negation pay? NoT, fine-tuning, a new first layer and retraining, side by side.

One choice at a time is changed in the federation that the flags describe, the quickstart's by
default: optimizer, rate, length of training, depth, normalisation, local work, poison. All seeds
of a setting are one compiled program, in which each federation trains, and every method then has
as many rounds as training had. For each setting and seed a line of pays.jsonl tells

  recover   rounds until retained accuracy is within 0.5 points of retraining's last,
  gap       distance to retraining (retain, forget, test, MIA) after half of the rounds, and for a
            second retraining, whose gap is the noise floor, after all of them,

and what is known before any of it: the original model's measures, how many rounds its own training
took to come within 0.5 points of where it ended, and the model's measures right after negation.
Settings that pays.jsonl holds already are not run again, and --max_minutes stops between two.

  python -m launch.pays
  python -m launch.pays --settings="base,rate x 2" --seeds=2
"""

from absl import flags

from launch.shell import entry
from launch.shell import flags as shared


def define() -> None:
    shared.define()
    flags.DEFINE_integer(
        "seeds", 8, "Federations of each setting.", lower_bound=1, upper_bound=10_000
    )
    flags.DEFINE_integer("first_seed", 0, "The first seed.", lower_bound=0)
    flags.DEFINE_list("settings", [], "Only these.")


def pays() -> None:
    from launch.studies import pays

    pays.pays()


if __name__ == "__main__":
    define()
    entry.run(pays, private=False)
