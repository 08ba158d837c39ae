"""Scenario files: the shipped ones are sound, broken ones say what is wrong."""

from collections import Counter

import numpy as np
import pytest

from harness.contract import Slo
from harness.errors import InputError, UnknownName
from workloads.generate import generate
from workloads.scenario import FOLDER, load_scenario, parse_scenario, scenario_from, scenario_names

NINE = {
    "steady",
    "domain-shift",
    "gradual",
    "recurring",
    "load-swing",
    "verifier-update",
    "mixed-tenants",
    "day-zero",
    "adversarial",
}
BASE = """
name = "mine"
question = "Does it work?"
requests = 100
[arrivals]
process = "poisson"
rate = 5.0
[mixture]
kind = "constant"
domains = { chat = 1 }
"""


def test_the_nine_and_the_calibration_scenario_are_there():
    assert set(scenario_names()) == NINE | {"aurora"}


@pytest.mark.parametrize("name", scenario_names())
def test_every_scenario_says_its_question_and_loads(name):
    scenario = load_scenario(name)
    assert scenario.name == name
    assert scenario.question.endswith("?")
    assert (FOLDER / f"{name}.toml").read_text().startswith("# Question: ")
    assert scenario_from(scenario.model_dump(mode="json"), "its own record") == scenario


def mean_batch(rate, prompt, output):
    """Decoding sequences without speculation by Little's law, on the published H100 Llama-3-8B step cost."""
    busy = rate * prompt * 0.021e-3
    batch = 1.0
    for _ in range(500):
        step = (5.886 + 1.207 + (0.021 + 3.93e-5 * (prompt + output / 2)) * batch) * 1e-3 / (1 - busy)
        batch = min(rate * output * step, 1e6)
    return batch if busy < 1 else np.inf


@pytest.mark.parametrize("name", scenario_names())
def test_the_server_without_a_drafter_holds_every_load_but_the_swing(name):
    requests = list(generate(load_scenario(name), seed=0))
    loads = []
    for part in np.array_split(np.arange(len(requests)), 10):
        rows = [requests[i] for i in part]
        rate = len(rows) / (rows[-1].arrival - rows[0].arrival)
        loads.append(
            mean_batch(
                rate, *(np.mean([getattr(r, f"{w}_tokens") for r in rows]) for w in ("prompt", "output"))
            )
        )
    if name == "load-swing":
        assert min(loads) < 16
        assert max(loads) > 256
    else:
        assert 4 < np.mean(loads) < 48
        assert max(loads) < 64


def test_domain_shift_has_five_domains_in_auroras_order():
    scenario = load_scenario("domain-shift")
    assert [s.at for s in scenario.shifts()] == pytest.approx([0.2, 0.4, 0.6, 0.8])
    assert [s.after for s in scenario.shifts()] == ["spider-sql", "codesearchnet", "finance-alpaca", "chat"]
    seen = [r.domain for r in generate(scenario, 0)]
    assert seen[1999:2001] == ["gsm8k", "spider-sql"]
    assert set(Counter(seen).values()) == {scenario.requests // 5}


def test_aurora_has_its_published_boundaries():
    scenario = load_scenario("aurora")
    assert [s.at * scenario.requests for s in scenario.shifts()] == pytest.approx([7500, 14500, 24500])


def test_a_scenario_of_ones_own_has_sound_defaults(tmp_path):
    file = tmp_path / "mine.toml"
    file.write_text(BASE)
    scenario = load_scenario(file)
    assert scenario.domains() == ("chat",)
    assert scenario.tenant("default").slo == Slo()
    assert scenario.engine.overrides() == {}
    assert "bandit" in scenario.arms


def test_tenants_carry_their_promise_and_engine_its_overrides():
    text = BASE + '[[tenants]]\nname = "a"\nttft = 0.5\n[engine]\nmax_num_seqs = 8\nprefix_caching = false\n'
    scenario = parse_scenario(text, "mine")
    assert scenario.tenant("a").slo == Slo(ttft=0.5)
    assert scenario.engine.overrides() == {"max_num_seqs": 8, "prefix_caching": False}
    with pytest.raises(UnknownName, match="unknown tenant 'b'"):
        scenario.tenant("b")


def swap(old, new):
    assert old in BASE
    return BASE.replace(old, new)


TENANT = '[[tenants]]\nname = "a"\n'
BAD = [
    (swap("requests = 100", "reqests = 100"), "unknown key 'reqests'; did you mean 'requests'?"),
    (swap("requests = 100\n", ""), "requests is missing"),
    (swap("requests = 100", "requests = 0"), "requests is 0: input should be greater than or equal to 1"),
    (swap("rate = 5.0", "rate = -5.0"), "arrivals.rate is -5.0: input should be greater than 0"),
    (swap("rate = 5.0", "rate = nan"), "rate is nan"),
    (swap("rate = 5.0", "rate = 5.0\nratte = 1"), "unknown key 'ratte'; did you mean 'rate'?"),
    (swap('"poisson"', '"poison"'), "arrivals: unknown process 'poison'; did you mean 'poisson'?"),
    (swap('process = "poisson"\n', ""), "arrivals.process is missing"),
    (swap("chat = 1", "chatt = 1"), "unknown domain 'chatt'; did you mean 'chat'?"),
    (swap("chat = 1", "chat = 0"), "the weights of the mixture are all 0"),
    (swap('"constant"', '"constant"\nby = "time"'), "by = 'time' needs a period"),
    (
        swap('"poisson"\nrate = 5.0', '"piecewise"\npieces = [{ seconds = 1, rate = 0 }]'),
        "rates of all pieces are 0",
    ),
    (
        swap(
            '"poisson"\nrate = 5.0',
            '"piecewise"\nrepeat = false\npieces = [{ seconds = 1, rate = 5, to = 0 }]',
        ),
        "no request would arrive after it",
    ),
    (
        swap('"poisson"\nrate = 5.0', '"sinusoidal"\nrate = 1\namplitude = 0.5\nperiod = 9\ncv = 2.0'),
        "needs law = 'gamma' or 'weibull'",
    ),
    (
        swap(
            '"constant"\ndomains = { chat = 1 }',
            '"gradual"\nfade = 0.6\nstages = [{domains={chat=1}}, {domains={code=1}}]',
        ),
        "fade is 0.6; it must not exceed",
    ),
    (
        swap(
            '"constant"\ndomains = { chat = 1 }',
            '"recurring"\ncycles = 1.3\nstages = [{domains={chat=1}}, {domains={code=1}}]',
        ),
        "cycles is 1.3",
    ),
    (BASE + TENANT + TENANT, "tenant 'a' is given more than once"),
    (BASE + TENANT + "ttft = 0\n", "ttft is 0"),
    (BASE + TENANT + "domains = { sqll = 1 }\n", "unknown domain 'sqll'; did you mean 'sql'?"),
    (BASE + "[trainer]\ninterference = 1.5\n", "interference is 1.5 but the trainer has its own accelerator"),
    (BASE + "[[verifier_updates]]\nat = 1.5\nstall = 1\nretained = 1\n", "verifier_updates.0.at is 1.5"),
    (
        BASE + '[[faults]]\nkind = "swap_fails"\nat = 0.5\n[[faults]]\nkind = "trainer_dies"\nat = 0.2\n',
        "faults are at [0.5, 0.2]; put them in order",
    ),
    (BASE + '[[faults]]\nkind = "fire"\nat = 0.5\n', "faults.0.kind is 'fire'"),
    (BASE + "[engine\n", "is not valid TOML"),
]


@pytest.mark.parametrize(("text", "message"), BAD)
def test_a_broken_scenario_says_so_in_one_sentence(text, message):
    with pytest.raises(InputError) as caught:
        parse_scenario(text, "mine.toml")
    assert message in str(caught.value)
    assert str(caught.value).startswith("scenario mine.toml")
    assert "\n" not in str(caught.value)


def test_names_and_files_that_do_not_exist(tmp_path):
    with pytest.raises(UnknownName, match="unknown scenario 'stedy'; did you mean 'steady'"):
        load_scenario("stedy")
    with pytest.raises(InputError, match=r"cannot read scenario file .*none\.toml: No such file"):
        load_scenario(tmp_path / "none.toml")


def test_every_field_of_a_scenario_is_described():
    schema = type(load_scenario("steady")).model_json_schema()
    tables = {"Scenario": schema, **schema["$defs"]}
    for table, entry in tables.items():
        for name, value in entry.get("properties", {}).items():
            assert "description" in value or "const" in value, f"{table}.{name} has no description"
