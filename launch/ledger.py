"""Prints and verifies the ledger of a work directory; shows what was erased.

The ledger lists the requests that were answered: when, by which method, from which model to which,
and with what evidence. Its lines are chained by hashes. The chain shows that no line was altered,
removed or inserted, as far as the files alone can show it. Someone who may write the files could
rewrite the whole chain. Two flags find that too: --head, a hash that you wrote down elsewhere, and
--key_file, the key that the lines were written with. The output says what was checked. The exit
status is 1 if a check fails, and 2 if there is nothing to check.

  python -m launch.ledger --workdir=B
  python -m launch.ledger --workdir=B --head=5c0f...
  python -m launch.ledger --workdir=B --prove_erased=client:0
  python -m launch.ledger --workdir=B --prove_erased=client:0 --gone=/data/A
  python -m launch.ledger --workdir=B --key_file=OLD --new_key_file=NEW

The last command gives the ledger another key; without --key_file, its first key.

A request begins when it arrives. These commands write its receipt, a later due date, or a refusal.
launch.unlearn then says which received requests it answers: those with the same text.

  python -m launch.ledger --workdir=A --receive=client:0 --requester=p-17
  python -m launch.ledger --workdir=A --request_id=3f2a --due=2027-02-28 --reason='many requests'
  python -m launch.ledger --workdir=A --refuse=3f2a --reason='not a client of this federation'

Evidence about one request can be handed over. --export writes a new folder with the answer, the
audit, the ledger without other requests, a page in plain words, and a program that checks all of it
without jfu. Everything is signed (Ed25519, needs the package cryptography).

  openssl genpkey -algorithm ed25519 -out sign.pem
  python -m launch.ledger --workdir=B --export=evidence --sign_key=sign.pem --audit=W
  python -I evidence/verify.py
"""

from absl import flags

from launch.shell import entry


def define() -> None:
    flags.DEFINE_string("workdir", None, "The work directory.", required=True)
    flags.DEFINE_string("head", None, "The hash of a line that you wrote down elsewhere.")
    flags.DEFINE_string("key_file", None, "The key that the lines were written with.")
    flags.DEFINE_string(
        "new_key_file", None, "The key from now on. Adds a line that both keys sign."
    )
    flags.DEFINE_string(
        "prove_erased",
        None,
        "A request, such as client:0. Lists every file with the data that it depends on. Fails if "
        "a file still depends on the data of this request.",
    )
    flags.DEFINE_list(
        "gone",
        [],
        "Sources of the model that you removed yourself: work directories, or models from "
        "elsewhere. All that these came from must be removed too. The output says that this is "
        "your statement, and was not checked.",
    )
    flags.DEFINE_string(
        "receive", None, "A request that has arrived, such as client:0. Its id is printed."
    )
    flags.DEFINE_string(
        "requester", None, "A pseudonym of who asked. The ledger keeps it, so give no name."
    )
    flags.DEFINE_string(
        "submitted", None, "The day when the request was made, if earlier, such as 2026-11-30."
    )
    flags.DEFINE_string(
        "due",
        None,
        "The day by which the request must be answered. Default: one month after it was made. "
        "With --request_id, a later day for a request that was received before.",
    )
    flags.DEFINE_string("refuse", None, "The id of a request that is refused, or its beginning.")
    flags.DEFINE_string("reason", None, "Why it is refused, or due later. Give no names.")
    flags.DEFINE_string(
        "request_id", None, "The id of a request that was received, or its beginning."
    )
    flags.DEFINE_string(
        "export", None, "A new folder for evidence about the request, to be handed over."
    )
    flags.DEFINE_string(
        "audit",
        None,
        "A work directory of launch.compare with the same settings, whose audit supports the "
        "answer. One model alone decides nothing.",
    )
    flags.DEFINE_string(
        "sign_key", None, "The private key that signs the evidence: Ed25519, a PEM file."
    )
    flags.DEFINE_string(
        "timestamp_url",
        None,
        "A time-stamping service (RFC 3161) that signs the ledger's head with its own time.",
    )
    flags.DEFINE_boolean("debug", False, "Show the traceback of an error.")


def ledger() -> None:
    from launch.records import inspection

    inspection.ledger()


if __name__ == "__main__":
    define()
    entry.run(ledger)
