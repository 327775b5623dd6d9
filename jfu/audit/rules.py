"""The questions of an audit, each with its written rule."""

from jfu.audit.measures import ACCURACY, AREA, RATE, SEEDS, SHADOWS, SIGNS, TEST

YES, NO, OPEN, NOT_SHOWN = "yes", "no", "inconclusive", "not shown"
ONE_SEED = "One seed decides nothing; compare on five seeds."
FEWEST = 5  # seeds that a decision needs
TOO_SMALL = "This request is too small for this audit to decide"
WIDE = "Not shown to be within the margin"
COUPLED = "It is compared with the retrained model that shares its random numbers."

# Measures that a yes needs. If the request names all poison, it needs backdoor success too.
NEEDED = ("forget", "auc_matched", "rmia", "ulira", "lira", "relearn")

RULES = dict(
    was_it_there=(
        "The rule asks what the old model knew, before any answer. It uses the measures of the "
        "next question, without rounds to relearn. The verdict is yes if the old model shows the "
        "data beyond chance in one of them. It is no if all of them were taken, and the 95 % "
        "interval of every difference to retraining lies within its margin. Otherwise it is "
        "inconclusive. Where the verdict is no, there was nothing to forget beyond the margins. "
        "Then no model is said to have forgotten."
    ),
    forgotten=(
        "On every seed a method's model is compared with two retrained models on the same "
        "examples. The rule uses the mean of these differences over seeds. A method that shares "
        "with the first retrained model all that chance decides, by how it is made, is compared "
        "with that model alone. The verdict is no if "
        "the model shows memory beyond chance in a measure that decides. An exact retraining would "
        f"get a no in at most {SEEDS + SHADOWS:.0%} of audits. Of these, {SEEDS:.0%} are for all "
        "measures on seeds together, by a test that exchanges models within seeds, and "
        f"{SHADOWS:.0%} are for LiRA. The verdict is yes under three conditions. First, the 95 % "
        f"interval of every difference lies within the margin ({ACCURACY:g} points of accuracy, "
        f"{AREA:g} of an AUC, {RATE:g} of a true-positive rate). Second, in a measure that detects "
        "the old model, the method is shown to be nearer to retraining than to the old model. "
        f"Third, no sign of memory is beyond chance ({SIGNS:.0%} for all signs together). Signs "
        "are rounds to relearn, what a second negation or further rounds bring back, the most "
        "memorised examples, linear probes, and gradients. In addition, the same audit must say no "
        "to the old model, and must not say no to a third retraining. Every attack must have been "
        "run: the matched loss attack, RMIA, U-LiRA and LiRA. Accuracy on the forgotten data, the "
        "backdoor that was to be forgotten, and rounds to relearn must have been measured. "
        "Otherwise the verdict is "
        "inconclusive. The request is too small to decide if the old model is not detected. It is "
        "also too small if a third retraining is not shown to be within the margins, unless the "
        "method shares the first one's chance. U-LiRA alone "
        "never leads to a no. It finds any difference between unlearned and retrained models. An "
        "unlearned model may be less sure of the forgotten labels, and that is not memory. U-LiRA "
        "and LiRA use one split of the data. The unmatched attack never decides."
    ),
    backdoor_gone=(
        "The rule uses the trigger's success minus that of the seed's retrained models. The "
        f"verdict is yes if the 95 % interval ends at or below {ACCURACY:g} points. It is no if "
        "the interval begins above. Otherwise it is inconclusive. It is not shown unless the "
        "request names every image with the trigger, since retrained models learn the rest."
    ),
    useful=(
        "The rule uses test accuracy minus that of the seed's retrained models. The verdict is yes "
        f"if the 95 % interval begins at or above -{TEST:g} points. It is no if the interval ends "
        "below. Otherwise it is inconclusive."
    ),
    others_unharmed=(
        "The rule uses the accuracy of each client that stays, on its own data. It compares the "
        "lowest of them with the lowest of the seed's retrained models. It also takes the largest "
        "loss of one client against the first retrained model, and compares it with that of the "
        f"second. The verdict is yes if both are at most {ACCURACY:g} points worse, by their 95 % "
        "intervals. It is no if one interval lies beyond. Otherwise it is inconclusive. It is not "
        "shown where accuracies of single clients would reveal what nobody may see."
    ),
    cheaper_than_retraining=(
        "The rule uses rounds, bytes and operations until retained accuracy is within 0.5 points "
        "of retraining's last. Each is divided by what retraining itself needs for that on the "
        "same seed. The verdict is yes if the 95 % interval of each ratio's geometric mean over "
        "seeds ends at or below 1, and one of them below 1. It is no if one begins above 1, or if "
        "accuracy never came back. Otherwise it is inconclusive."
    ),
)
QUESTIONS = tuple(RULES)
TITLES = dict(
    was_it_there="Was it there?",
    forgotten="Forgotten?",
    backdoor_gone="Backdoor gone?",
    useful="Useful?",
    others_unharmed="Others unharmed?",
    cheaper_than_retraining="Cheaper than retraining?",
)
