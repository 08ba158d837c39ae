"""Short texts in six domains: determinism, shape, how far the domains lie apart, and the two styles."""

from __future__ import annotations

import itertools
import re
from collections import Counter
from functools import cache

import numpy as np
import pytest

from harness.errors import UnknownName
from workloads.domains import load_domains
from workloads.text import (
    COMPLETION_CHARS,
    PROMPT_CHARS,
    STYLES,
    TEXT_DOMAINS,
    Sample,
    corpus,
    sample,
    text_domain,
)
from workloads.text.sample import expand

MANY = 300
every_domain = pytest.mark.parametrize("domain", TEXT_DOMAINS)
every_style = pytest.mark.parametrize("style", STYLES)


@cache
def many(domain: str, style: str = "plain", seed: int = 7) -> tuple[Sample, ...]:
    return tuple(corpus(domain, MANY, np.random.default_rng(seed), style))


def vocabulary(samples: tuple[Sample, ...]) -> set[str]:
    return set(re.findall(r"[a-z_]{3,}", " ".join(s.prompt + s.completion for s in samples).lower()))


@every_domain
@every_style
def test_a_seed_gives_one_corpus(domain: str, style: str) -> None:
    assert tuple(corpus(domain, MANY, np.random.default_rng(7), style)) == many(domain, style)
    assert tuple(corpus(domain, MANY, np.random.default_rng(8), style)) != many(domain, style)


@every_domain
@every_style
def test_texts_are_ascii_of_the_promised_lengths(domain: str, style: str) -> None:
    for s in many(domain, style):
        assert (s.prompt + s.completion).isascii()
        assert PROMPT_CHARS[0] <= len(s.prompt) <= PROMPT_CHARS[1], s
        assert COMPLETION_CHARS[0] <= len(s.completion) <= COMPLETION_CHARS[1], s
        assert s.domain == domain


@every_domain
@every_style
def test_no_template_mark_is_left_over(domain: str, style: str) -> None:
    for s in many(domain, style):
        assert not re.search(
            r"<[^<>\n]*\|[^<>\n]*>|\{[a-z]\w*\}(?! attempts| entries)", s.prompt + s.completion
        ), s


@every_domain
def test_hardly_any_sample_comes_twice(domain: str) -> None:
    assert len({s.prompt + s.completion for s in many(domain)}) > 0.97 * MANY


@pytest.mark.parametrize(("one", "other"), list(itertools.combinations(TEXT_DOMAINS, 2)))
@every_style
def test_domains_share_few_words(one: str, other: str, style: str) -> None:
    a, b = vocabulary(many(one, style)), vocabulary(many(other, style))
    assert len(a & b) / len(a | b) < 0.15


@every_domain
def test_two_samples_of_a_domain_share_more_than_two_domains_do(domain: str) -> None:
    a, b = vocabulary(many(domain)), vocabulary(many(domain, seed=8))
    assert len(a & b) / len(a | b) > 0.5


@every_domain
@every_style
def test_completions_copy_from_their_own_prompt(domain: str, style: str) -> None:
    """Words rare in the domain's completions: far more of them stand in the own prompt than in another one."""
    samples = many(domain, style)
    words = [set(re.findall(r"\w+", s.completion)) for s in samples]
    common = Counter(itertools.chain.from_iterable(words))
    rare = [{w for w in ws if common[w] < 0.15 * MANY} for ws in words]
    prompts = [set(re.findall(r"\w+", s.prompt)) for s in samples]
    own = sum(len(r & p) for r, p in zip(rare, prompts, strict=True))
    others = sum(len(r & p) for r, p in zip(rare, prompts[1:] + prompts[:1], strict=True))
    assert own > 4 * others
    assert own > 2 * MANY


@every_domain
def test_styles_share_prompts_and_word_answers_otherwise(domain: str) -> None:
    plain, formal = many(domain, "plain"), many(domain, "formal")
    assert [s.prompt for s in plain] == [s.prompt for s in formal]
    openers = [{s.completion.strip()[:6] for s in samples} for samples in (plain, formal)]
    assert all(p.completion != f.completion for p, f in zip(plain, formal, strict=True))
    assert len(openers[0] & openers[1]) < 0.2 * len(openers[0] | openers[1])


def test_answers_of_word_problems_are_right() -> None:
    """Every `x op y = z` of a working holds."""
    operations = {"+": int.__add__, "-": int.__sub__, "*": int.__mul__, "x": int.__mul__}
    seen = Counter[str]()
    for s in (*many("math"), *many("math", "formal")):
        for x, op, y, z in re.findall(r"(?<![-+*x/\d] )(?<![/\d])(\d+) ([-+*x]) (\d+) = (\d+)", s.completion):
            assert operations[op](int(x), int(y)) == int(z), s.completion
            seen[op] += 1
    assert min(seen[op] for op in operations) > 20


@every_style
def test_bodies_of_functions_compile(style: str) -> None:
    for s in many("code", style):
        compile(s.prompt + s.completion, "<sample>", "exec")


def test_every_scenario_domain_has_a_text() -> None:
    assert {text_domain(name) for name in load_domains()} <= set(TEXT_DOMAINS)
    assert [text_domain(f"aurora-{i}") for i in (1, 2, 3, 4)] == ["math", "sql", "code", "finance"]
    assert text_domain("gsm8k") == "math"
    assert text_domain("roleplay") == "chat"


def test_a_scenario_domain_stands_for_its_text_domain() -> None:
    by_scenario, by_text = (sample(n, np.random.default_rng(3)) for n in ("spider-sql", "sql"))
    assert by_scenario == by_text
    assert by_scenario.domain == "sql"


def test_unknown_names_offer_the_nearest() -> None:
    rng = np.random.default_rng(0)
    with pytest.raises(UnknownName, match="did you mean 'finance'"):
        text_domain("finanse")
    with pytest.raises(UnknownName, match="'poetry'"):
        sample("poetry", rng)
    with pytest.raises(UnknownName, match="did you mean 'formal'"):
        sample("sql", rng, style="formel")


def test_a_sample_takes_one_draw_whatever_it_is() -> None:
    states = set()
    for domain, style in itertools.product(TEXT_DOMAINS, STYLES):
        rng = np.random.default_rng(4)
        sample(domain, rng, style)
        states.add(int(rng.integers(1 << 62)))
    assert len(states) == 1


def test_choice_points_nest_and_leave_other_signs_alone() -> None:
    rng = np.random.default_rng(0)
    drawn = {expand(rng, "a < 3 <x|y<1|2>> {who} -> b", {"who": "me"}) for _ in range(100)}
    assert drawn == {"a < 3 x me -> b", "a < 3 y1 me -> b", "a < 3 y2 me -> b"}
