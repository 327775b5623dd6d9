"""What an audit would have said with fewer seeds: does a verdict hinge on their number?

A verdict uses all seeds. Whoever adds seeds until an audit says yes tests more than once. So the
verdicts with the first seeds alone are shown beside it.
"""

from collections.abc import Collection, Iterable, Sequence

from jfu.audit.estimates import estimate
from jfu.audit.measures import RETRAINED, TABLE, Evidence, kind_of
from jfu.audit.rules import FEWEST, NEEDED
from jfu.audit.verdicts import judge


def by_seeds(
    evidence: Evidence,
    *,
    poison_named: bool = False,
    coupled: Collection[str] = (),
    needed: Sequence[str] = NEEDED,
) -> dict[int, dict[str, str]]:
    """Verdicts on the first question with the first seeds alone, by their number, then by model.

    From the fewest seeds that can decide to all of them. Shadow federations are the same
    throughout, since they share the split of one seed.

    Args:
      evidence, poison_named, coupled, needed: as for ``estimate`` and ``judge``.

    >>> right = lambda share: (np.arange(200) < round(200 * share),)  # on forgotten data
    >>> models = dict(original=0.9, retrain=0.5, retrain_again=0.52, mine=0.9)
    >>> evidence = {
    ...     name: {"forget": {seed: right(share + seed / 100) for seed in range(6)}}
    ...     for name, share in models.items()
    ... }
    >>> {many: verdicts["mine"] for many, verdicts in by_seeds(evidence).items()}
    {5: 'no', 6: 'no'}
    """
    seeds = sorted(
        {
            seed
            for samples in evidence.values()
            for key, groups in samples.items()
            if not TABLE[kind_of(key)].pooled
            for seed in groups
        }
    )
    out = {}
    for many in range(FEWEST, len(seeds) + 1):
        found = estimate(first(evidence, seeds[:many]), coupled=coupled)
        judged = judge(found, poison_named=poison_named, needed=needed).verdicts
        out[many] = {n: v["forgotten"][0] for n, v in judged.items() if n not in RETRAINED}
    return out


def first(evidence: Evidence, seeds: Iterable[int]) -> Evidence:
    """The samples of some seeds, and all samples of shadow federations."""
    some = set(seeds)
    return {
        name: {
            key: groups
            if TABLE[kind_of(key)].pooled
            else {seed: arrays for seed, arrays in groups.items() if seed in some}
            for key, groups in samples.items()
            if TABLE[kind_of(key)].pooled or some & groups.keys()
        }
        for name, samples in evidence.items()
    }
