"""Mathematics: arithmetic word problems, each with its worked answer."""

from __future__ import annotations

import numpy as np

from workloads.text.sample import Facts, Recipe, Sample, pick, words

_NAMES = words(
    "Maria|Tom|Aisha|Leo|Priya|Oscar|Hannah|Diego|Yuki|Samuel|Fatima|Carl|Ingrid|Noah|Lucia|Ben|Zoe|Omar|"
    "Greta|Ivan|Mei|Paul|Nadia|Felix|Rosa|Kofi|Elsa|Hugo|Tara|Miles|Wendy|Jorge|Anya|Theo|Clara|Dmitri|"
    "Ruth|Amir|Josie|Liam"
)
_ITEMS = words(
    "apples|marbles|stickers|pencils|cookies|shells|stamps|balloons|muffins|crayons|beads|peaches|"
    "buttons|acorns|tulips|candles|cupcakes|oranges|ribbons|badges|coins|cherries|seashells|postcards|"
    "lemons|pebbles|walnuts|magnets|feathers|plums|erasers|kites"
)
_BOXES = words("boxes|bags|baskets|jars|crates|trays|cartons|packets|buckets|drawers|envelopes|bins")
_PLACES = words("market|bakery|school fair|orchard|toy shop|harbor|library|farm stand|circus|carnival")
_RIDES = words("train|bus|cyclist|ferry|truck|sailboat|tractor|canoe|scooter|tram")
_PERCENTS = (10, 15, 20, 25, 30, 40, 60, 75)


def _facts(rng: np.random.Generator) -> Facts:
    first, second = rng.choice(len(_NAMES), size=2, replace=False)
    a, c, d = int(rng.integers(13, 96)), int(rng.integers(2, 10)), int(rng.integers(3, 13))
    b, p = int(rng.integers(4, a - 2)), pick(rng, _PERCENTS)
    words = {
        "n": _NAMES[first], "m": _NAMES[second], "i": pick(rng, _ITEMS), "box": pick(rng, _BOXES),
        "place": pick(rng, _PLACES), "ride": pick(rng, _RIDES),
    }  # fmt: skip
    numbers = {
        "a": a, "b": b, "c": c, "d": d, "p": p, "plus": a + b, "minus": a - b, "times": a * c,
        "times_minus": a * c - b, "times_plus": a * c + b, "bd": b * d, "total": a * c + b * d, "cd": c * d,
        "a_more": a + c, "pair": a + a + c, "thrice": a * c + a, "twice": 2 * (a + b), "area": a * b,
        "base": a * 20, "cut": a * p // 5, "rest": a * 20 - a * p // 5, "sum_cd": a * (c + d), "hours": c + d,
        "triple": a + b + d, "mean3": 3 * a, "last": 3 * a - b, "cad": a * c * d,
    }  # fmt: skip
    return {**words, **numbers}


_OPEN = (
    "<Let's work it out|First look at the numbers|Start from the beginning|Step by step|We add it up in "
    "parts>"
)
_END = (
    " <That answers the question about {n}|This is what {n} wanted to know|The answer for {n} is "
    "below|{m} can check the answer|No {i} are forgotten here>.\n#### "
)
_STEP = "<So|Then|That means|Now|After that>"
_GIVEN = (
    "<Solution|Proof|Derivation>. <Let x denote the required quantity|Let x be the unknown|Denote the "
    "answer by x>."
)
_HENCE = "<Hence|Therefore|Consequently|It follows that|Thus>"
_QED = " <Answer|Result>: "
_HOW = "<How many|What number of>"

_RECIPES = (
    Recipe(
        _facts,
        (
            "{n} has {a} {i} and {m} gives {n} {b} more at the {place}. {n} then splits them and loses "
            "{d}. " + _HOW + " {i} did {n} hold before the loss?",
            "At the {place}, {n} picks {a} {i} in the morning and {b} {i} after lunch. "
            + _HOW
            + " {i} does {n} have in all, before giving {m} any?",
        ),
        (
            _OPEN
            + ". {n} <begins|starts out> with {a} {i} and <gets|receives|gains> {b} more. "
            + _STEP
            + " {n} has {a} + {b} = {plus} {i}. <Giving some to {m} later|What happens later> does not "
            "change this count." + _END + "{plus}",
            "<There are|We count> {a} {i} and <another|a further> {b} {i}. Adding them, {a} + {b} = "
            "{plus}. "
            + _STEP
            + " {n} <holds|owns|carries> {plus} {i} <altogether|in total|in all>, <more|no fewer> than {a}."
            + _END
            + "{plus}",
        ),
        (
            _GIVEN
            + " By addition of the two given amounts, x = {a} + {b}, which equals {plus}. "
            + _HENCE
            + " {n} possessed exactly {plus} {i}; the subsequent events are <immaterial|irrelevant>."
            + _QED
            + "x = {plus}.",
        ),
    ),
    Recipe(
        _facts,
        (
            "{n} buys {c} {box} of {i} at the {place}. Each of the {box} holds {a} {i}. {n} gives {b} "
            "{i} to {m}. " + _HOW + " {i} are left?",
            "There are {c} {box} with {a} {i} in each. {m} takes {b} of the {i} away. "
            + _HOW
            + " {i} <remain|still stay> for {n}?",
        ),
        (
            _OPEN
            + ". The {box} hold {c} * {a} = {times} {i} <together|in total>. {m} <takes|gets|is given> {b} "
            "of them. "
            + _STEP
            + " {times} - {b} = {times_minus} {i} are left <for {n}|over|in the {box}>."
            + _END
            + "{times_minus}",
            "{c} {box} times {a} {i} <is|makes|gives> {times} {i}. "
            + _STEP
            + " we <take away|subtract> the {b} that {m} has: {times} - {b} = {times_minus}. {n} "
            "<keeps|still has> {times_minus} {i}." + _END + "{times_minus}",
        ),
        (
            _GIVEN + " The {c} {box} contain {c} x {a} = {times} {i}. Subtracting the {b} transferred to {m} "
            "yields x = {times} - {b} = {times_minus}. "
            + _HENCE
            + " {times_minus} {i} remain."
            + _QED
            + "x = {times_minus}.",
        ),
    ),
    Recipe(
        _facts,
        (
            "A {ride} travels at {a} miles per hour for {c} hours and then rests. {n} then rides {b} "
            "more miles. How far is the trip for {n}?",
            "{n} follows a {ride} that moves {a} miles each hour. After {c} hours {n} goes another {b} "
            "miles alone. What is the <whole|total> distance?",
        ),
        (
            _OPEN
            + ". In {c} hours the {ride} <goes|covers|travels> {a} * {c} = {times} miles. {n} <adds|goes> "
            "another {b} miles. "
            + _STEP
            + " the <trip|whole way|distance> is {times} + {b} = {times_plus} miles."
            + _END
            + "{times_plus}",
            "Distance is speed times time, <so|and> the {ride} makes {a} * {c} = {times} miles. "
            + _STEP
            + " we add the {b} miles <that {n} goes alone|at the end>: {times} + {b} = {times_plus} "
            "<miles|miles in all>." + _END + "{times_plus}",
        ),
        (
            _GIVEN
            + " Since distance equals speed multiplied by time, the {ride} traverses {a} x {c} = {times} "
            "miles. With the additional {b} miles, x = {times} + {b} = {times_plus}."
            + _QED
            + "x = {times_plus} miles.",
        ),
    ),
    Recipe(
        _facts,
        (
            "{n} sells {a} {i} for {c} dollars each and {b} {box} for {d} dollars each at the {place}. "
            "How much money does {n} make?",
            "At the {place} {m} pays {n} {c} dollars for each of {a} {i} and {d} dollars for each of {b} "
            "{box}. What does {m} pay?",
        ),
        (
            _OPEN + ". The {i} <cost|bring|are worth> {a} * {c} = {times} dollars. The {box} <cost|bring|are "
            "worth> {b} * {d} = {bd} dollars. "
            + _STEP
            + " the <sum|total|money> is {times} + {bd} = {total} dollars."
            + _END
            + "{total}",
            "{a} {i} at {c} dollars <make|come to> {times} dollars, <and|while> {b} {box} at {d} dollars "
            "<make|come to> {bd} dollars. "
            + _STEP
            + " {times} + {bd} = {total}, <so|which means> {n} gets {total} dollars."
            + _END
            + "{total}",
        ),
        (
            _GIVEN
            + " Revenue from the {i} amounts to {a} x {c} = {times}; revenue from the {box} amounts to {b} "
            "x {d} = {bd}. " + _HENCE + " x = {times} + {bd} = {total}." + _QED + "{total} dollars.",
        ),
    ),
    Recipe(
        _facts,
        (
            "{n} shares {times} {i} equally among {c} {box} from the {place}. {m} then adds {b} {i} to "
            "the first one. " + _HOW + " {i} are in it?",
            "{times} {i} are packed evenly into {c} {box}. {n} puts {b} extra {i} into one for {m}. "
            + _HOW
            + " {i} does that one hold?",
        ),
        (
            _OPEN
            + ". Each of the {c} {box} <gets|receives|holds> {times} / {c} = {a} {i}. One of them gets {b} "
            "<more|extra>. "
            + _STEP
            + " it <holds|has|contains> {a} + {b} = {plus} {i}, <the most of all|more than the others>."
            + _END
            + "{plus}",
            "Sharing {times} {i} <among|between|over> {c} {box} <leaves|puts> {a} in each, "
            "<because|since> {c} * {a} = {times}. "
            + _STEP
            + " with {b} more there are {a} + {b} = {plus} {i}."
            + _END
            + "{plus}",
        ),
        (
            _GIVEN
            + " Equal division gives {times} / {c} = {a} {i} per container. The augmented container holds "
            "x = {a} + {b} = {plus}. "
            + _HENCE
            + " exactly {plus} {i} are found there."
            + _QED
            + "x = {plus}.",
        ),
    ),
    Recipe(
        _facts,
        (
            "A bicycle at the {place} costs {base} dollars. {n} has a coupon for {p} percent off. How "
            "many dollars does {n} pay after the discount?",
            "{m} wants a {ride} ticket that costs {base} dollars, and {n} finds it {p} percent cheaper "
            "at the {place}. What is the <new|lower> price?",
        ),
        (
            _OPEN
            + ". {p} percent of {base} <is|equals|makes> {base} * {p} / 100 = {cut} dollars. "
            + _STEP
            + " the <price|cost> <drops|falls|goes down> by {cut} dollars to {base} - {cut} = {rest} "
            "dollars." + _END + "{rest}",
            "The discount <is worth|takes off> {cut} dollars, <because|since> {p} / 100 of {base} is "
            "{cut}. "
            + _STEP
            + " {n} <saves|keeps> {cut} dollars and pays {base} - {cut} = {rest} dollars."
            + _END
            + "{rest}",
        ),
        (
            _GIVEN + " The reduction equals {p}/100 x {base} = {cut}. Subtracting it from the original price "
            "yields x = {base} - {cut} = {rest}. "
            + _HENCE
            + " the amount due is {rest} dollars."
            + _QED
            + "x = {rest}.",
        ),
    ),
    Recipe(
        _facts,
        (
            "{n} is {c} years older than {m}. {m} is {a} years old and has {d} {i}. What is the sum of "
            "the ages of {n} and {m}?",
            "{m} collected {a} {i} at the {place}. {n} collected {c} more than {m}. "
            + _HOW
            + " did {n} and {m} collect together?",
        ),
        (
            _OPEN
            + ". {m} has {a} and {n} has {c} more, <which is|that is|so> {a} + {c} = {a_more}. "
            + _STEP
            + " <together|as a pair|in sum> {n} and {m} <come to|make|reach> {a} + {a_more} = {pair}."
            + _END
            + "{pair}",
            "For {m} the number is {a}. For {n} <it is|we get> {a} + {c} = {a_more}. "
            + _STEP
            + " <adding|putting together> both numbers gives {a_more} + {a} = {pair}, <an answer "
            "above|more than> {a}." + _END + "{pair}",
        ),
        (
            _GIVEN
            + " For {m} the given value is {a}; for {n} it is {a} + {c} = {a_more}. The sum of both values "
            "is x = {a} + {a_more} = {pair}. "
            + _HENCE
            + " {n} and {m} jointly attain {pair}."
            + _QED
            + "x = {pair}.",
        ),
    ),
    Recipe(
        _facts,
        (
            "{n} builds a fence around a garden that is {a} feet long and {b} feet wide near the "
            "{place}. How many feet of fence and how many square feet?",
            "The floor of the {place} is {a} feet long and {b} feet wide. {n} and {m} need its perimeter "
            "and its area. What are they?",
        ),
        (
            _OPEN
            + ". The perimeter is twice the length plus the width: 2 * ({a} + {b}) = 2 * {plus} = {twice} "
            "feet. "
            + _STEP
            + " the area is {a} * {b} = {area} square feet <for {n}|in all|of ground>."
            + _END
            + "{twice} and {area}",
            "Two sides are {a} feet and two <sides|others> are {b} feet, <so|and> the way around is "
            "{twice} feet. "
            + _STEP
            + " length times width <gives|makes> {a} * {b} = {area} square feet."
            + _END
            + "{twice} and {area}",
        ),
        (
            _GIVEN
            + " For a rectangle, the perimeter is 2 x ({a} + {b}) = {twice} and the area is {a} x {b} = "
            "{area}. "
            + _HENCE
            + " both quantities are determined by the sides."
            + _QED
            + "{twice} feet; {area} square feet.",
        ),
    ),
    Recipe(
        _facts,
        (
            "{n} reads {a} pages every day for {c} days, then {a} pages every day for {d} more days at "
            "the {place}. How many pages does {n} read?",
            "{m} paints {a} {i} an hour. {m} works {c} hours on Monday and {d} hours on Friday. "
            + _HOW
            + " {i} does {m} paint?",
        ),
        (
            _OPEN + ". The <time|work> adds up to {c} + {d} = {hours}. <Each|Every> one <brings|gives|means> "
            "{a}. "
            + _STEP
            + " the <count|answer|total> is {a} * {hours} = {sum_cd}, <since the rate stays the same|at a "
            "steady pace>." + _END + "{sum_cd}",
            "The first part is {a} * {c} = {times}. The <second|other> part <is|uses> {a} * {d}. "
            + _STEP
            + " both <parts|pieces> together are {a} * {hours} = {sum_cd}, <because|as> {c} + {d} = "
            "{hours}." + _END + "{sum_cd}",
        ),
        (
            _GIVEN
            + " The constant rate is {a} and the total duration is {c} + {d} = {hours}. Multiplication "
            "yields x = {a} x {hours} = {sum_cd}. "
            + _HENCE
            + " the total equals {sum_cd}."
            + _QED
            + "x = {sum_cd}.",
        ),
    ),
    Recipe(
        _facts,
        (
            "{n} fills {c} {box} with {d} {i} each, every day for {a} days, to sell at the {place}. "
            + _HOW
            + " {i} does {n} need for this?",
            "Each of {a} children at the {place} gets {c} {box}, and each one holds {d} {i}. "
            + _HOW
            + " {i} must {n} and {m} prepare?",
        ),
        (
            _OPEN
            + ". {c} {box} of {d} {i} <make|are|give> {c} * {d} = {cd} {i}. This happens {a} times. "
            + _STEP
            + " {n} <needs|must have> {cd} * {a} = {cad} {i} <in total|for all of it|altogether>."
            + _END
            + "{cad}",
            "One <round|turn> <takes|uses> {c} * {d} = {cd} {i}. There are {a} <rounds|turns> <in all|to "
            "serve>. "
            + _STEP
            + " we multiply: {a} * {cd} = {cad}, <and that is|which is> the number of {i}."
            + _END
            + "{cad}",
        ),
        (
            _GIVEN + " A single unit requires {c} x {d} = {cd} {i}. As there are {a} units, x = {a} x {cd} = "
            "{cad}. " + _HENCE + " the requirement is {cad} {i}." + _QED + "x = {cad}.",
        ),
    ),
)


def sample(rng: np.random.Generator, style: str = "plain") -> Sample:
    """A problem of two or three steps and its working."""
    return pick(rng, _RECIPES).sample(rng, "math", style)
