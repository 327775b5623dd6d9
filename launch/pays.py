"""When does negation pay? NoT, fine-tuning, a new first layer and retraining, side by side.

The flags describe a federation, by default the quickstart's. Each setting changes one choice in
it: optimizer, rate, length of training, depth, normalisation, local work or poison. All seeds of a
setting are one compiled program. In it each federation trains, and then every method gets as many
rounds as training had. pays.jsonl gets a line for each setting and seed, with

  recover   rounds until retained accuracy is within 0.5 points of retraining's last,
  gap       distance to retraining (retain, forget, test, MIA) after half of the rounds. A second
            retraining gives the noise floor, which is its gap after all rounds.

The line also has what is known before any recovery: the measures of the original model and those
right after negation. It has the rounds in which training reached 0.5 points below its last value.
Settings that are already in pays.jsonl are not run again. --max_minutes stops between two settings.

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
    flags.DEFINE_list("settings", [], "Run only these settings.")


def pays() -> None:
    from launch.studies import pays

    pays.pays()


if __name__ == "__main__":
    define()
    entry.run(pays, private=False)
