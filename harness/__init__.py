"""specdrift: simulate online-adaptive speculative decoding, run the same policy live, compare.

Start with three files:

1. `contract.py`: the one language of all parts: what arrives, what a policy sees and answers.
2. `sim/world.py`: one simulated run: SimPy owns the events, `sim/kernel.py` the engine steps between.
3. `policy/bandit.py`: the default adaptive policy, the same object in simulation and live.

Then `speculator/learner.py`: the drafter's own learner, which the simulator runs under `--acceptance model` and live
mode on a real server's traces; `live/controller.py`: the loop of `sim/world.py` around a vLLM server.

Around it: `sweep/` runs a grid of simulations, `sim/environment.py` is one as a Gymnasium environment in which
`specdrift train-policy` learns.

To extend: a policy (`policy/base.py`), a latency model (`latency/model.py`), a workload
(`workloads/scenario.py`). Data flows one way: workloads -> sim or live -> run log -> compare ->
report and gate.
"""

__version__ = "0.1.0"
