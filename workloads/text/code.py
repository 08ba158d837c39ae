"""Code: the signature and docstring of a Python function, answered by its body."""

from __future__ import annotations

import numpy as np

from workloads.text.sample import Facts, Recipe, Sample, pick, words

_THINGS = words(
    "node nodes depth|token tokens offset|packet packets ttl|sprite sprites width|event events "
    "priority|row rows width|job jobs retries|pixel pixels alpha|edge edges weight|widget widgets "
    "margin|frame frames index|cell cells value|chunk chunks size|thread threads ident|module modules "
    "version|symbol symbols arity|layer layers dim|file files mtime|socket sockets port|shape shapes "
    "radius|record records rank|leaf leaves height|tensor tensors stride|branch branches age|handler "
    "handlers level|session sessions timeout|plugin plugins score|vertex vertices degree"
)
_VERBS = words("collect|gather|build|make|compute|derive|scan|fetch|resolve|prepare")
_TAILS = words("map|index|table|cache|view|list|batch|pool|state|result")
_ERRORS = words("ValueError|KeyError|TypeError|IndexError|RuntimeError|LookupError")
_ACCUMULATORS = words("out|res|found|acc|ret|tmp|got")


def _facts(rng: np.random.Generator) -> Facts:
    one, many, field = pick(rng, _THINGS).split()
    other = pick(rng, _THINGS).split()[2]
    return {
        "one": one, "many": many, "f": field, "g": other if other != field else "key", "verb": pick(rng, _VERBS),
        "tail": pick(rng, _TAILS), "error": pick(rng, _ERRORS), "acc": pick(rng, _ACCUMULATORS),
        "n": int(rng.integers(2, 64)), "cls": one.capitalize(),
    }  # fmt: skip


def _asks(signature: str, *docs: str) -> tuple[str, ...]:
    return tuple("def " + signature + ':\n    """' + doc + '"""\n' for doc in docs)


_REMARK = (
    "    # <naive loop|simple version|could be faster|single pass|keeps order|{g} is unused|see "
    "{cls}|TODO cache {f}>\n"
)

_RECIPES = (
    Recipe(
        _facts,
        _asks(
            "{verb}_{many}({many}, limit={n})",
            "Return the {many} whose {f} is <below|under> limit, sorted by {g}.",
            "<Filter|Select> {many} with {f} less than limit; order them by {g}.",
        ),
        (
            _REMARK + "    {acc} = []\n    for {one} in {many}:\n        if {one}.{f} < limit:\n"
            "            {acc}.append({one})\n    {acc}.sort(key=lambda x: x.{g})\n    <if not {acc}:\n"
            "        print('no {many}')\n    |>return {acc}\n",
        ),
        (
            "    from operator import attrgetter\n\n"
            "    selected = ({one} for {one} in {many} if {one}.{f} < limit)\n"
            '    return sorted(selected, key=attrgetter("{g}"))\n\n\nassert callable({verb}_{many})\n',
        ),
    ),
    Recipe(
        _facts,
        _asks(
            "{verb}_{one}_{tail}({many})",
            "Group {many} by {f} into a dict of lists, <skipping|ignoring> those without {g}.",
            "Map each {f} to the {many} that have it; {g} must be set.",
        ),
        (
            _REMARK + "    {acc} = {{}}\n    for {one} in {many}:\n        if {one}.{g} is None:\n"
            "            continue\n        if {one}.{f} not in {acc}:\n"
            "            {acc}[{one}.{f}] = []\n        {acc}[{one}.{f}].append({one})\n"
            "    return {acc}\n",
        ),
        (
            "    from collections import defaultdict\n\n"
            "    grouped: defaultdict[int, list[{cls}]] = defaultdict(list)\n"
            "    for {one} in filter(lambda item: item.{g} is not None, {many}):\n"
            "        grouped[{one}.{f}].append({one})\n    return dict(grouped)\n",
        ),
    ),
    Recipe(
        _facts,
        _asks(
            "{verb}_max_{f}({many}, default={n})",
            "Return the {one} with the <largest|highest> {f}, or default if {many} is empty.",
            "Find the {one} whose {f} is maximal; {g} breaks ties.",
        ),
        (
            "    if len({many}) == 0:\n        return default\n    best = {many}[0]\n"
            "    for {one} in {many}[1:]:\n        if {one}.{f} > best.{f}:\n            best = {one}\n"
            "        elif {one}.{f} == best.{f} and {one}.{g} > best.{g}:\n            best = {one}\n"
            "    return best\n",
        ),
        (
            "    if not {many}:\n        return default\n\n"
            "    def ranking(item: {cls}) -> tuple[int, int]:\n        return item.{f}, item.{g}\n\n"
            "    maximum = max({many}, key=ranking, default=default)\n    return maximum\n",
        ),
    ),
    Recipe(
        _facts,
        _asks(
            "load_{many}(path, {f}={n})",
            "Read {many} from a JSON file at path; raise {error} if {f} is missing.",
            "Parse path as JSON lines into {many}, each with its {f} <checked|validated>.",
        ),
        (
            "    {many} = []\n    with open(path) as fh:\n        for line in fh:\n"
            "            {one} = json.loads(line)\n            if '{f}' not in {one}:\n"
            "                raise {error}('missing {f}')\n            {many}.append({one})\n"
            "    <print(len({many}), '{many} loaded')\n    |>return {many}\n",
        ),
        (
            '    content = Path(path).read_text(encoding="utf-8")\n'
            "    parsed = [json.loads(line) for line in content.splitlines()]\n"
            '    invalid = [entry for entry in parsed if "{f}" not in entry]\n    if invalid:\n'
            '        raise {error}(f"{{len(invalid)}} entries lack {f}")\n    return parsed\n',
        ),
    ),
    Recipe(
        _facts,
        _asks(
            "count_{many}_by_{f}({many}, skip=None)",
            "Count how often each {f} <occurs|appears> among the {many}, <except|apart from> skip.",
            "Histogram of {f} over {many}; skip is <left out|ignored>.",
        ),
        (
            _REMARK + "    {acc} = {{}}\n    for {one} in {many}:\n        k = {one}['{f}']\n"
            "        if k == skip:\n            continue\n        {acc}[k] = {acc}.get(k, 0) + 1\n"
            "    return {acc}\n",
        ),
        (
            "    from collections import Counter\n\n"
            '    histogram = Counter({one}["{f}"] for {one} in {many})\n'
            "    if skip is not None:\n        histogram.pop(skip, None)\n"
            "    return dict(histogram.most_common())\n",
        ),
    ),
    Recipe(
        _facts,
        _asks(
            "walk_{many}(root, visit, {f}={n})",
            "Visit every {one} below root depth first, at most {f} levels <deep|down>.",
            "Call visit on each {one} of the tree; <stop|give up> after {f} levels.",
        ),
        (
            "    stack = [(root, 0)]\n    while stack:\n        {one}, level = stack.pop()\n"
            "        visit({one})\n        if level >= {f}:\n            continue\n"
            "        for child in {one}.{many}:\n            stack.append((child, level + 1))\n"
            "    <return None|return>\n",
        ),
        (
            "    if {f} < 0:\n        return\n    visit(root)\n"
            "    for descendant in reversed(root.{many}):\n"
            "        walk_{many}(descendant, visit, {f}={f} - 1)\n\n\n"
            "# recursion terminates because {f} strictly decreases\n",
        ),
    ),
    Recipe(
        _facts,
        _asks(
            "merge_{many}(left, right)",
            "Merge two lists of {many} sorted by {f} into one <sorted|ordered> list.",
            "Interleave left and right so that {f} <never decreases|keeps growing>.",
        ),
        (
            "    i = j = 0\n    {acc} = []\n    while i < len(left) and j < len(right):\n"
            "        if left[i].{f} <= right[j].{f}:\n            {acc}.append(left[i])\n"
            "            i += 1\n        else:\n            {acc}.append(right[j])\n            j += 1\n"
            "    <# one side is left\n    |>return {acc} + left[i:] + right[j:]\n",
        ),
        (
            "    import heapq\n    from operator import attrgetter\n\n"
            '    merged = heapq.merge(left, right, key=attrgetter("{f}"))\n'
            "    return list(merged)\n\n\nassert merge_{many}([], []) == []\n",
        ),
    ),
    Recipe(
        _facts,
        _asks(
            "retry_{one}(fn, attempts={n})",
            "Call fn until it works; after attempts tries re-raise the {error}.",
            "Run fn for a {one}, <sleeping|waiting> between tries; {error} is <retried|caught>.",
        ),
        (
            "    delay = 0.1\n    for i in range(attempts):\n        try:\n            return fn()\n"
            "        except {error} as e:\n            <print('retry', i, e)|log.warning('{one} failed: "
            "%s', e)>\n            if i == attempts - 1:\n                raise\n"
            "            time.sleep(delay)\n            delay *= 2\n",
        ),
        (
            "    last: {error} | None = None\n    for attempt in range(1, attempts + 1):\n"
            "        with suppress({error}):\n            return fn()\n"
            "        sleep(min(2.0**attempt, 30.0))\n"
            '    raise {error}(f"{one}: all {{attempts}} attempts were exhausted") from last\n',
        ),
    ),
    Recipe(
        _facts,
        _asks(
            "split_{many}({many}, size={n})",
            "Yield {many} in <chunks|batches> of size; the last one may be <shorter|smaller>.",
            "Cut {many} into runs of at most size by their {f}.",
        ),
        (
            "    buf = []\n    for {one} in {many}:\n        buf.append({one})\n"
            "        if len(buf) == size:\n            yield buf\n            buf = []\n    if buf:\n"
            "        yield buf\n    <# leftover {many}|# last chunk>\n",
        ),
        (
            '    if size < 1:\n        raise {error}("size must be positive")\n'
            "    iterator = iter({many})\n    while batch := list(itertools.islice(iterator, size)):\n"
            "        yield batch\n\n\nassert not list(split_{many}([]))\n",
        ),
    ),
    Recipe(
        _facts,
        _asks(
            "update_{one}({one}, **changes)",
            "Return a copy of the {one} with changes; unknown fields raise {error}.",
            "Apply changes to {one}, <clamping|capping> {f} to {n}.",
        ),
        (
            "    new = copy.copy({one})\n    for k, v in changes.items():\n"
            "        if not hasattr(new, k):\n            raise {error}(k)\n        setattr(new, k, v)\n"
            "    if new.{f} > {n}:\n        new.{f} = {n}\n    <new.{g} = None\n    |>return new\n",
        ),
        (
            "    permitted = {{entry.name for entry in dataclasses.fields({one})}}\n"
            "    unknown = changes.keys() - permitted\n    if unknown:\n"
            "        raise {error}(sorted(unknown))\n"
            '    changes["{f}"] = min(changes.get("{f}", {n}), {n})\n'
            "    return dataclasses.replace({one}, **changes)\n",
        ),
    ),
)


def sample(rng: np.random.Generator, style: str = "plain") -> Sample:
    """A function to write and its body."""
    return pick(rng, _RECIPES).sample(rng, "code", style)
