"""Audits the models in a work directory: did they forget, and what is the evidence?

Reads the models that launch.compare (or launch.unlearn) wrote. Attacks every model and measures
its distance to the retrained ones. Then gives each of six questions a verdict by a fixed rule.
Writes audit.html, one page that needs no network, and audit.json with the same content.

  python -m launch.compare --workdir=W --seeds=5
  python -m launch.audit --workdir=W
  python -m launch.audit --workdir=W --shadows=64
  python -m launch.audit --workdir=W --shadows=64 --shadows_part=2/4
"""

from absl import flags

from launch.shell import entry


def define() -> None:
    flags.DEFINE_string("workdir", None, "The work directory to audit; the report goes there too.")
    flags.DEFINE_integer(
        "shadows",
        0,
        "Number of shadow federations for the attacks on single examples (U-LiRA, LiRA). It must "
        "be even, for example 64. 0 skips these attacks.",
        lower_bound=0,
        upper_bound=100_000,
    )
    flags.DEFINE_integer(
        "shadows_chunk",
        None,
        "Shadow federations that run at once on a device. Default: the rule for clients, which is "
        "1 on CPU and elsewhere as many as the size of the model allows.",
        lower_bound=1,
    )
    flags.DEFINE_string(
        "shadows_part",
        None,
        "Run only one part of the shadow federations, such as 2/4, and give no verdict. The other "
        "parts may run on other machines, in copies of the work directory.",
    )
    flags.DEFINE_integer(
        "relearn_rounds",
        20,
        "Rounds in which each model may relearn the forgotten data. 0 skips this test.",
        lower_bound=0,
        upper_bound=100_000,
    )
    flags.DEFINE_integer(
        "resurfacing_rounds",
        10,
        "Further rounds on retained data only, after which each model is tested again for what "
        "has come back. 0 skips this test.",
        lower_bound=0,
        upper_bound=100_000,
    )
    flags.DEFINE_boolean(
        "control",
        None,
        "Retrain once more on every seed, as a control with a known answer. Without this control "
        "no model gets the verdict that it forgot. Default: on with --shadows, else off.",
    )
    flags.DEFINE_integer(
        "draws", 1000, "Bootstrap draws for the intervals over one seed's examples.", 100, 1_000_000
    )
    flags.DEFINE_string(
        "model", None, "The run's own network, such as net.py:Net, to say that its file may run."
    )
    flags.DEFINE_string("data_dir", None, "The folder of the prepared data, if it has moved.")
    flags.DEFINE_string("dataset", None, "Your own data file (.npz), if it has moved.")
    flags.DEFINE_string("key_file", None, "The key of the ledger, if it has one.")
    flags.DEFINE_string("compilation_cache", None, "A folder that keeps compiled programs.")
    flags.DEFINE_boolean("debug", False, "Show the traceback of an error.")


def audit() -> None:
    from launch.running import auditing

    auditing.audit()


if __name__ == "__main__":
    define()
    entry.run(audit)
