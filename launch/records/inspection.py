"""Prints and verifies a work directory's ledger, changes its key, and proves what was erased.

It also writes into the ledger what happens to a request beside the scripts: its receipt, a later
due date, a refusal.
"""

import pathlib
from typing import Any

from absl import flags

import jfu.ledger
from jfu import live
from jfu.files import shown
from launch.records import erasure, folder, ledgers, life, records, signing, verification
from launch.shell.printing import show
from launch.shell.say import complain, say
from launch.workdir import locks, places, runs

FLAGS = flags.FLAGS
SHORT = 12  # letters of a digest, enough to distinguish models


def ledger() -> None:
    """Does what the flags of ``launch.ledger`` request."""
    path = pathlib.Path(FLAGS.workdir)
    if not path.is_dir():
        raise FileNotFoundError(f"there is no work directory {path}")
    if FLAGS.prove_erased is not None and not FLAGS.prove_erased.strip():
        raise ValueError("--prove_erased names no request; give one, such as client:0")
    if FLAGS.gone and not FLAGS.prove_erased:
        raise ValueError("--gone does nothing without --prove_erased; add it, or leave --gone out")
    if not (path / ledgers.LEDGER).is_file():
        absent(path)
    if FLAGS.new_key_file:
        return rekey(path)
    if FLAGS.receive or FLAGS.refuse or FLAGS.due:
        return tell(path)
    lines = verified(path)
    show_lives(path, lines)
    if FLAGS.prove_erased:
        prove(path, FLAGS.prove_erased, lines)
    if FLAGS.export:
        hand_over(path)


def hand_over(path: pathlib.Path) -> None:
    """Writes the folder of evidence."""
    if not FLAGS.sign_key:
        raise ValueError(
            "--export signs what it writes: give --sign_key, a private key that this makes: "
            "openssl genpkey -algorithm ed25519 -out sign.pem"
        )
    key, target = signing.signing_key(FLAGS.sign_key), pathlib.Path(FLAGS.export)
    more = dict(name=FLAGS.request_id, gone=FLAGS.gone, stamp_url=FLAGS.timestamp_url)
    more |= dict(audit=FLAGS.audit and pathlib.Path(FLAGS.audit))
    names = folder.export(path, target, key, **more)
    head = ledgers.lines_of(path, None, None)[-1]["hash"]
    show(f"\n{folder.summary(target, names, key, head)}")


def tell(path: pathlib.Path) -> None:
    """Writes what happened to a request: it arrived, was refused, or is due later."""
    other = FLAGS.head or FLAGS.prove_erased or FLAGS.export
    if other or (FLAGS.receive and FLAGS.refuse):
        raise ValueError("--receive, --refuse and --due each write one line; give one alone")
    if FLAGS.refuse and FLAGS.due:
        raise ValueError("a refused request is not due; leave --due out")
    lines, now = ledgers.check(path), jfu.ledger.now()
    found = life.lives(life.everywhere(path, lines))
    if FLAGS.receive:
        if not FLAGS.requester or FLAGS.reason:
            raise ValueError(
                "--receive needs --requester, a pseudonym of who asked; --reason belongs to a "
                "refusal or to a later --due"
            )
        days = dict(submitted=FLAGS.submitted, due=FLAGS.due)
        content = life.received(FLAGS.receive, FLAGS.requester, now=now, **days)
    else:
        name = FLAGS.refuse or FLAGS.request_id
        if not (name and FLAGS.reason):
            raise ValueError(
                "--due moves the day of a request that was received; give --request_id and "
                "--reason, too; or give the day with --receive"
                if FLAGS.due
                else "--refuse needs --reason"
            )
        one = life.chosen(found, name)
        due = lambda: life.extended(one, FLAGS.due, FLAGS.reason)
        content = life.refused(one, FLAGS.reason) if FLAGS.refuse else due()
        if FLAGS.due and FLAGS.due > life.month_after(one.submitted[:10], 3):
            say("note: GDPR Article 12(3) allows two months more than the first one")
    event = content.pop("event")
    with locks.take(path) as lock:
        records.write(places.WorkDir(path, None, lock=lock), event, **content)
    lines = ledgers.lines_of(path, None, None)
    show(f"{in_words(lines[-1])}\nhead: {lines[-1]['hash']}")


def show_lives(path: pathlib.Path, lines: list[dict[str, Any]]) -> None:
    """Prints the requests that were received, those that are late first."""
    now = jfu.ledger.now()
    found = life.lives(life.everywhere(path, lines))
    if found:
        late = [one for one in found if life.is_late(one, now)]
        show(f"\n{len(found)} requests were received, and {len(late)} are or were late:")
        for one in [*late, *(one for one in found if one not in late)]:
            show(shown(life.in_words(one, now)))


def verified(path: pathlib.Path) -> list[dict[str, Any]]:
    """The ledger's lines, each printed, with a summary of the checks."""
    secret = ledgers.key()
    try:
        lines = verification.read(path, FLAGS.head)
    except ValueError as error:
        complain(str(error), status=1)
    for line in lines:
        try:
            show(in_words(line))
        except (KeyError, TypeError, ValueError, AttributeError):
            where = f"line {line['number']} of {path / ledgers.LEDGER}"
            complain(f"{where} is not one that jfu's scripts write", status=1)
    for number in jfu.ledger.backwards(lines):
        show(
            f"note: line {number} has an earlier time than the line before it: a clock was put "
            "back, or two clocks disagree"
        )
    against = ["its files"]
    against += [f"the head {FLAGS.head[:SHORT]}"] if FLAGS.head else []
    against += ["the key"] if secret else []
    show(f"\n{len(lines)} lines are valid, checked against {' and '.join(against)}.")
    if len(against) == 1:
        show("Someone who may write these files could rewrite all: see --head and --key_file.")
    elif not FLAGS.head:
        show("A key does not show whether lines at the end were removed; --head does.")
    show(f"head: {lines[-1]['hash']}")
    return lines


def rekey(path: pathlib.Path) -> None:
    """Gives the ledger another key, or its first."""
    if FLAGS.head or FLAGS.prove_erased:
        raise ValueError("--new_key_file only changes the key; leave --head and --prove_erased out")
    if FLAGS.receive or FLAGS.refuse or FLAGS.due or FLAGS.export:
        raise ValueError("--new_key_file only changes the key; give it alone")
    old, new = ledgers.key(), ledgers.key("new_key_file")
    try:
        verification.read(path)
    except ValueError as error:
        complain(str(error), status=1)
    with locks.take(path):
        content = dict(event="key", config=ledgers.settings(path))
        line = jfu.ledger.rekey(path / ledgers.LEDGER, content, new=new, key=old)
    show(f"{in_words(line)}\nhead: {line['hash']}")


def absent(path: pathlib.Path) -> None:
    """Prints that there is no ledger; exit status 1 if other files show that there must be one."""
    try:
        script = runs.read_run(str(path)).script
    except (ValueError, OSError):
        script = None
    results = [places.RESULTS] if script in ("train", "unlearn", "compare") else []
    if found := [n for n in (places.MODEL, *results) if (path / n).exists()]:
        complain(
            f"{path} has {' and '.join(found)} but no ledger: it was removed, or the run has not "
            "finished; start the same command again to continue the run",
            status=1,
        )
    raise FileNotFoundError(f"{path} has no ledger; launch.train, unlearn and compare write it")


def in_words(line: dict[str, Any]) -> str:
    """One line of a ledger in words."""
    short = lambda digest: digest[:SHORT]
    points = lambda row: ", ".join(f"{name} {value:.1f}" for name, value in row.items())
    match line["event"]:
        case "trained":
            start = f" from {short(line['from'])}" if "from" in line else ""
            text = f"trained {short(line['model'])}{start}: {line['dataset']}, "
            text += f"{line['clients']} clients, {line['rounds']} rounds"
            if line["past"] and line["past"][-1][1:]:
                text += f", {line['past'][-1][1:]} back"
        case "asked":
            text = f"request to forget {line['request']}, to {short(line['from'])}"
        case "answered":
            text = f"answered {line['request']} by {line['method']}: {short(line['from'])} -> "
            text += f"{short(line['model'])}, {line['rounds']} rounds; before: "
            text += f"{points(line['before'])}; after: {points(line['after'])}"
        case "compared":
            text = f"compared {', '.join(line['methods'])} on {line['request']}, "
            text += f"{len(line['seeds'])} seeds"
        case "erased":
            text = f"erased {len(line['files'])} files that depended on {line['request']}"
        case "received":
            text = f"received {line['subject_request_id']}: {line['requester']} asks to forget "
            text += f"{line['request']}, due {line['expected_completion_time'][:10]}"
        case "due":
            text = f"{line['subject_request_id']}, {line['request']}: due "
            text += f"{line['expected_completion_time'][:10]}, because: {line['reason']}"
        case "refused" if "why" not in line:  # which a live federation gives
            text = f"refused {line['subject_request_id']}, {line['request']}: {line['reason']}"
        case "audited":
            given = {name: found.get("forgotten") for name, found in line["verdicts"].items()}
            told = ", ".join(f"{name} {verdict}" for name, verdict in given.items() if verdict)
            of = f" ({line['of']})" if "of" in line else ""
            text = f"audited {line['request']}{of}, {len(line['seeds'])} seeds; forgotten: {told}"
        case "exported":
            text = f"exported evidence on {line['request']}, with {len(line['lines'])} lines"
        case "begun":
            text = f"{line['path']} was begun from {short(line['from'])}"
        case "wrote":
            text = f"wrote {', '.join(line['wrote'])}"
        case "key":
            text = "from here on with another key" if "mac" in line else "from here on with a key"
        case "missing":
            text = f"{len(line['missing'])} checkpoints were missing, and are made again"
        case "negated" | "refused" | "returned":
            text = live.in_words(line)
        case other:
            text = other
    return f"{line['number']:3d}  {line['time']}  {shown(text)}"


def prove(path: pathlib.Path, wanted: str, lines: list[dict[str, Any]]) -> None:
    """Lists every file with what it depends on; exit status 1 if one may depend on the data."""
    if not erasure.requested(wanted, lines):
        complain(f"no request in {path} forgets {wanted}", status=1)
    try:
        found, unused = erasure.holdings(path, wanted, FLAGS.gone)
    except ValueError as error:
        complain(str(error), status=1)
    if unused:
        raise ValueError(
            f"--gone={','.join(unused)} names nothing that is missing; leave it out, or give the "
            "path from the message about a missing source"
        )
    show("")
    for file in found:
        # On one line, whatever the file's name.
        show(f"{'DEPENDS' if file.depends else 'free':8}  {shown(file.path)}: {shown(file.what)}")
    if lost := [file for file in found if file.lost]:
        complain(f"{lost[0].path}: {lost[0].what}", status=1)
    if left := [str(file.path) for file in found if file.depends]:
        complain(
            f"{len(left)} of {len(found)} files depend or may depend on {wanted}: "
            f"{', '.join(left[:5])}",
            status=1,
        )
    show(
        f"\nNone of {len(found)} files depends on {wanted}, except through unlearning by a method. "
        "Copies in file systems and backups are not known here."
    )
    if FLAGS.gone:
        show(f"You said that {', '.join(FLAGS.gone)} was removed; this was not checked.")
