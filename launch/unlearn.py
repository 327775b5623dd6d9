"""Answers one request with one method, on a model that was trained before.

The model comes from launch.train or from an earlier request (--init_from=A), or from elsewhere
(--init_params=FILE, with the flags that say what it was trained on). The new work directory then
holds the unlearned model (model.safetensors), results.jsonl, table.md and the ledger; A is left
as it is, unless --erase removes what still holds the forgotten data.

  python -m launch.unlearn --init_from=A --workdir=B --method=not --forget=client:0
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
    flags.DEFINE_string("method", "not", "The unlearning method.")
    flags.DEFINE_integer("seed", 0, "Fixes split and draws, with --init_params.", lower_bound=0)
    flags.DEFINE_enum(
        "stop",
        "regained",
        ["regained", "budget"],
        "When to stop: regained, once retained accuracy is within 0.5 points of what it was before "
        "the request, at --recovery_rounds at the latest; or budget, only then. Retraining always "
        "uses its budget, and so do private runs (--dp_clip), whose accuracy is not to choose.",
    )
    flags.DEFINE_string(
        "export_params", None, "Also write the unlearned model here, .safetensors or .msgpack."
    )
    flags.DEFINE_boolean(
        "erase",
        False,
        "Once all results are there, remove what still holds the forgotten data, here and where "
        "the model came from: models, histories, checkpoints, shadow models.",
    )


def unlearn() -> None:
    until = entry.deadline(flags.FLAGS.max_minutes)
    from launch.running import answering

    answering.unlearn(until)


if __name__ == "__main__":
    define()
    entry.run(unlearn)
