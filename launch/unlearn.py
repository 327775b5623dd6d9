"""Answers one request with one method, on a model that was trained before.

The model comes from launch.train or from an earlier request (--init_from=A). It may also come from
elsewhere: --init_params=FILE, with the flags that say what it was trained on. The new work
directory gets the unlearned model (model.safetensors), results.jsonl, table.md and the ledger.
The source A stays as it is, unless --erase removes what still depends on the forgotten data.

  python -m launch.unlearn --init_from=A --workdir=B --forget=client:0
  python -m launch.unlearn --init_from=B --workdir=C --forget=client:3 --erase
  python -m launch.unlearn --init_params=model.msgpack --dataset=own.npz --model=cnn \\
      --forget=client:alice --export_params=unlearned.msgpack
"""

from absl import flags

from launch.shell import entry
from launch.shell import flags as shared


def define() -> None:
    shared.define()
    flags.DEFINE_string(
        "init_from", None, "The work directory of a finished launch.train or launch.unlearn."
    )
    flags.DEFINE_string(
        "method",
        "not_blend",
        "The unlearning method. The default is NoT from a start that recovers on any network, and "
        "after --federation=ridge it is ridge. NoT as published: not.",
    )
    flags.DEFINE_integer("seed", 0, "With --init_params: seed of split and draws.", lower_bound=0)
    flags.DEFINE_enum(
        "stop",
        "regained",
        ["regained", "budget"],
        "When to stop. regained: once retained accuracy is within 0.5 points of its value before "
        "the request, and after --recovery_rounds at the latest. budget: after --recovery_rounds. "
        "Retraining always uses its budget. So do private runs (--dp_clip), because a stop by "
        "accuracy would reveal something.",
    )
    flags.DEFINE_string(
        "export_params", None, "Also write the unlearned model here, .safetensors or .msgpack."
    )
    flags.DEFINE_boolean(
        "erase",
        False,
        "Once all results are there, remove what still depends on the forgotten data, here and "
        "where the model came from: models, histories, checkpoints, shadow models.",
    )


def unlearn() -> None:
    until = entry.deadline(flags.FLAGS.max_minutes)
    from launch.running import answering

    answering.unlearn(until)


if __name__ == "__main__":
    define()
    entry.run(unlearn)
