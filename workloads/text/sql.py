"""SQL: a schema of two tables and a question, answered by queries with a comment."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np

from workloads.text.sample import Facts, Recipe, Sample, pick


@dataclass(frozen=True, slots=True)
class _Schema:
    """A parent table `t` and a child `u` that refers to it by `k`."""

    t: str
    k: str
    label: str
    kind: str
    size: str
    u: str
    amount: str
    when: str
    values: str


_SCHEMAS = tuple(
    _Schema(*row.split("|"))
    for row in (
        "singer|singer_id|stage_name|country|age|concert|attendance|year|France Japan Peru",
        "employee|emp_id|surname|dept|salary|timesheet|hours|week|HR Legal Design",
        "airport|iata|city|region|runways|flight|delay_min|dep_date|Nordic Gulf Andes",
        "student|stu_id|full_name|major|gpa|enrollment|grade|term|Biology Law Music",
        "product|sku|title|category|stock|order_line|qty|ordered_on|Toys Garden Audio",
        "hospital|hosp_id|hosp_name|state|beds|admission|cost|admit_date|Ohio Texas Maine",
        "vessel|imo|vessel_name|flag|tonnage|voyage|cargo_tons|sailed|Malta Panama Liberia",
        "museum|museum_id|museum_name|borough|num_staff|visit|tickets|visit_day|Bronx Queens Harlem",
        "driver|driver_id|surname|team|points|lap_time|millis|race_id|Apex Falcon Orion",
        "book|isbn|book_title|genre|pages|loan|days_late|due|Crime Poetry Fantasy",
        "restaurant|rest_id|rest_name|cuisine|seats|review|stars|posted|Thai Greek Cuban",
        "warehouse|wh_id|wh_code|zone|capacity|shipment|weight|shipped_at|North Dock Annex",
        "player|player_id|nickname|club|height|match_stat|goals|season|Ajax Porto Lyon",
        "patient|pat_id|last_name|ward|weight_kg|lab_result|reading|taken_at|ICU Burns East",
        "course|course_no|course_title|faculty|credits|section|enrolled|semester|Arts Physics Nursing",
        "satellite|norad_id|sat_name|orbit|mass|telemetry|voltage|epoch|LEO GEO Molniya",
    )
)


_ALIASES = (("T1", "T2"), ("a", "b"), ("x", "y"), ("par", "chd"))


def _facts(rng: np.random.Generator) -> Facts:
    schema = pick(rng, _SCHEMAS)
    numbers = {"x": int(rng.integers(2, 400)), "y": int(rng.integers(2, 90)), "top": int(rng.integers(2, 13))}
    parent, child = pick(rng, _ALIASES)
    return {**asdict(schema), "v": pick(rng, schema.values.split()), "p": parent, "c": child, **numbers}


def _asks(*questions: str) -> tuple[str, ...]:
    schema = "TABLE {t} ({k}, {label}, {kind}, {size}); TABLE {u} ({k}, {amount}, {when});\n"
    return tuple(schema + "-- " + question + "\n" for question in questions)


_JOIN = "{t} AS {p} JOIN {u} AS {c} ON {p}.{k} = {c}.{k}"
_INNER = "{t} p\n  inner join {u} c using ({k})"
_NOTE = "\n-- <note|reads|plan|here|in words>: "

_RECIPES = (
    Recipe(
        _facts,
        _asks(
            "<How many|Count the> {t} rows per {kind} with {size} above {x}?", "{size} > {x}: count by {kind}"
        ),
        (
            "SELECT {kind}, COUNT(*) FROM {t} WHERE {size} > {x} GROUP BY {kind}<| ORDER BY COUNT(*) "
            "DESC>;" + _NOTE + "filters {t} on {size} > {x}, <then|and> groups by {kind}\n"
            "SELECT COUNT(DISTINCT {kind}) FROM {t} WHERE {size} > {x};",
        ),
        (
            "select\n  {kind},\n  count(1) as n_rows\nfrom {t}\nwhere {size} > {x}\ngroup by 1\n"
            "<order by 2 desc|order by 1>;\n"
            "/* one row for each {kind}; the predicate <precedes|is applied before> aggregation */",
        ),
    ),
    Recipe(
        _facts,
        _asks(
            "Top {top} {label} by total {amount}?",
            "Which {top} {label} have the <largest|highest> sum of {amount}?",
        ),
        (
            "SELECT {p}.{label}, SUM({c}.{amount}) FROM "
            + _JOIN
            + " GROUP BY {p}.{label} ORDER BY SUM({c}.{amount}) DESC LIMIT {top};"
            + _NOTE
            + "joins {t} <to|with> {u} on {k}, sums {amount}, keeps {top}",
        ),
        (
            "with totals as (\n  select {k}, sum({amount}) as total\n  from {u}\n  group by {k}\n)\n"
            "select p.{label}, totals.total\nfrom {t} p\n  inner join totals using ({k})\n"
            "order by total desc\nfetch first {top} rows only;",
        ),
    ),
    Recipe(
        _facts,
        _asks(
            "List {label} where {kind} is {v} and {size} <below|under> {x}.",
            "{v} only: {label} with {size} < {x}",
        ),
        (
            "SELECT {label}, {size} FROM {t} WHERE {kind} = '{v}' AND {size} < {x}<| ORDER BY {size}| "
            "ORDER BY {label} ASC>;" + _NOTE + "{v} is a <value|literal> of {kind}\n"
            "SELECT COUNT(*) FROM {t} WHERE {kind} = '{v}' AND {size} < {x};",
        ),
        (
            "select\n  {label},\n  {size}\nfrom {t}\nwhere {kind} in ('{v}')\n  and {size} < {x}\n"
            "order by {label};\n/* the literal '{v}' restricts {kind}; <both predicates must hold|the "
            "conjunction is strict> */",
        ),
    ),
    Recipe(
        _facts,
        _asks(
            "What is the <average|mean> {amount} for {v} {kind}?",
            "Average {amount} of {t} in {v}, and the maximum?",
        ),
        (
            "SELECT AVG({c}.{amount}), MAX({c}.{amount}) FROM "
            + _JOIN
            + " WHERE {p}.{kind} = '{v}';"
            + _NOTE
            + "{amount} <lives|is> in {u}, {kind} in {t}\nSELECT <MIN|SUM>({amount}) FROM {u};",
        ),
        (
            "select\n  avg(c.{amount}) as mean_{amount},\n  max(c.{amount}) as peak_{amount}\nfrom "
            + _INNER
            + "\nwhere p.{kind} = '{v}';\n/* aggregates are computed after the join on {k} */",
        ),
    ),
    Recipe(
        _facts,
        _asks("<Which|Find> {label} without any {u}?", "{label} of each {t} that has no {u} <row|record>"),
        (
            "SELECT {label} FROM {t} WHERE {k} NOT IN (SELECT {k} FROM {u});"
            + _NOTE
            + "<rows of {t} that {u} never names|the inner query lists every {k} of {u}>\n"
            "SELECT COUNT(*) FROM {t} WHERE {k} NOT IN (SELECT {k} FROM {u});",
        ),
        (
            "select p.{label}\nfrom {t} p\nwhere not exists (\n  select 1\n  from {u} c\n"
            "  where c.{k} = p.{k}\n)\norder by p.{label};\n"
            "/* an anti-join: a {t} is kept if no {u} refers to it */",
        ),
    ),
    Recipe(
        _facts,
        _asks(
            "Which {kind} has <more than|over> {top} {t} rows?",
            "{kind} groups with count > {top}, {size} averaged",
        ),
        (
            "SELECT {kind}, AVG({size}) FROM {t} GROUP BY {kind} HAVING COUNT(*) > {top};"
            + _NOTE
            + "HAVING <tests|checks> each group of {kind} after the count\n"
            "SELECT {kind} FROM {t} GROUP BY {kind} HAVING COUNT(*) > {top};",
        ),
        (
            "with sizes as (\n  select {kind}, count(1) as n, avg({size}) as mean_{size}\n  from {t}\n"
            "  group by {kind}\n)\nselect {kind}, mean_{size}\nfrom sizes\nwhere n > {top}\n"
            "order by n desc;\n/* groups first, then the filter */",
        ),
    ),
    Recipe(
        _facts,
        _asks(
            "Show {label} and {when} of {u} where {amount} <exceeds|is over> {x}.",
            "{u}: {amount} > {x}, newest {when} first",
        ),
        (
            "SELECT {p}.{label}, {c}.{when}, {c}.{amount} FROM "
            + _JOIN
            + " WHERE {c}.{amount} > {x} ORDER BY {c}.{when} DESC<| LIMIT {top}>;"
            + _NOTE
            + "<newest|latest> {when} first, {amount} over {x}",
        ),
        (
            "select\n  p.{label},\n  c.{when},\n  c.{amount}\nfrom "
            + _INNER
            + "\nwhere c.{amount} > {x}\norder by c.{when} desc nulls last;\n"
            "/* rows with {amount} of {x} or less are excluded */",
        ),
    ),
    Recipe(
        _facts,
        _asks(
            "Which {label} has the <largest|greatest> {size}?",
            "{label} of the {t} with maximum {size} in {v}",
        ),
        (
            "SELECT {label} FROM {t} WHERE {size} = (SELECT MAX({size}) FROM {t});"
            + _NOTE
            + "<ties|equal rows> all come back\n"
            "SELECT {label} FROM {t} WHERE {kind} = '{v}' ORDER BY {size} DESC LIMIT 1;",
        ),
        (
            "select {label}\nfrom (\n  select {label}, rank() over (order by {size} desc) as r\n"
            "  from {t}\n  where {kind} = '{v}'\n) ranked\nwhere r = 1;\n"
            "/* rank() retains ties in {size}, unlike a row limit */",
        ),
    ),
    Recipe(
        _facts,
        _asks("Set {size} to {x} for every {t} in {v}, and <delete|drop> {u} with {amount} < {y}."),
        (
            "UPDATE {t} SET {size} = {x} WHERE {kind} = '{v}';\nDELETE FROM {u} WHERE {amount} < {y};"
            + _NOTE
            + "<two statements|writes to {t} and {u}>, <run both|in one transaction>\n"
            "SELECT COUNT(*) FROM {u} WHERE {amount} < {y};",
        ),
        (
            "begin;\nupdate {t}\n  set {size} = {x}\n  where {kind} = '{v}';\ndelete from {u}\n"
            "  where {amount} < {y};\ncommit;\n"
            "/* atomic: {t} and {u} change together, <or neither does|or not at all>; verify row counts "
            "before release */",
        ),
    ),
    Recipe(
        _facts,
        _asks(
            "Per {when}, how many {u} and what total {amount} for {v}?",
            "Totals of {amount} by {when} where {kind} = {v}",
        ),
        (
            "SELECT {c}.{when}, COUNT(*), SUM({c}.{amount}) FROM "
            + _JOIN
            + " WHERE {p}.{kind} = '{v}' GROUP BY {c}.{when}<| ORDER BY {c}.{when}>;"
            + _NOTE
            + "one <line|row> per {when} of {u}",
        ),
        (
            "select\n  c.{when},\n  count(1) as n_{u},\n  sum(c.{amount}) as total_{amount}\nfrom "
            + _INNER
            + "\nwhere p.{kind} = '{v}'\ngroup by c.{when}\norder by c.{when};",
        ),
    ),
)


def sample(rng: np.random.Generator, style: str = "plain") -> Sample:
    """A question on one of the schemas and the queries that answer it."""
    return pick(rng, _RECIPES).sample(rng, "sql", style)
