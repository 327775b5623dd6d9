"""MoDe against its formula."""

from helpers.rivals import FRESH, OTHERS, P, W, X, close, counts, plain_round, run, step_of


def test_mode():
    """One round that degrades and guides, one that only guides, one of recovery."""

    def guided(w, guide):
        says = (X[0] @ guide).argmax(1)
        return w + P[0] * step_of(w, 0, y=says) + P[1] * step_of(w, 1) + P[2] * step_of(w, 2)

    fresh = plain_round(FRESH)
    first = guided(0.8 * W + 0.2 * fresh, fresh)
    second = guided(first, fresh)
    models, facts = run("mode", 3, lam=0.8, degrade=1, guide=2)
    close(models, [W, first, second, plain_round(second)])
    # M_de to and from two clients and to the target; M to and from all three.
    assert counts(facts) == [[2 + 3 + 1, 2 + 3, 2 + 3, 1], [3 + 1, 3, 3, 1], OTHERS]


def test_mode_guides_those_who_stay_at_a_rate_of_their_own():
    fresh = plain_round(FRESH)
    w, says = 0.8 * W + 0.2 * fresh, (X[0] @ fresh).argmax(1)
    mine, theirs = step_of(w, 0, y=says), [step_of(w, k, rate=0.01) for k in (1, 2)]
    first = w + P[0] * mine + P[1] * theirs[0] + P[2] * theirs[1]
    models, _ = run("mode", 2, lam=0.8, degrade=1, guide=1, stay_lr=0.01)
    close(models, [W, first, plain_round(first)])
