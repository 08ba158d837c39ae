"""The worker in the server: vLLM's own, with the trace tap, a drafter that rests, and a socket for new weights.

`--worker-cls harness.live.worker.LiveWorker`. A worker class, not a worker extension, because an extension is only
reached through `collective_rpc`, whose endpoint exists in developer mode alone and lets any client call any method.
"""

from __future__ import annotations

from typing import Any

import torch
from vllm.distributed.parallel_state import get_tp_group
from vllm.platforms import current_platform

from harness.live.expand import mend_expand
from harness.live.link import FLIP, Link
from harness.live.orphan import end_with_parent
from harness.live.peers import Ranks
from harness.live.plain import keep_plain
from harness.live.resting import RestingDrafter, rests
from harness.live.swapping import SwapServer
from harness.live.tap import Tap

if current_platform.is_cpu():
    from vllm.v1.worker.cpu_worker import CPUWorker as Base
else:
    from vllm.v1.worker.gpu_worker import Worker as Base


class LiveWorker(Base):
    """Without a link in the configuration it is vLLM's worker, unchanged."""

    _swaps: SwapServer | None = None
    _tap: Tap | None = None

    def load_model(self, *args: Any, **kwargs: Any) -> None:
        super().load_model(*args, **kwargs)
        link = Link.of_config(self.vllm_config.additional_config)
        if link is None:
            return
        _check(self.vllm_config.parallel_config)
        end_with_parent(link.folder)
        runner, ranks = self.model_runner, _ranks()
        drafter = getattr(getattr(runner, "drafter", None), "model", None)
        resting: RestingDrafter | None = None
        if drafter is not None and hasattr(runner, "propose_draft_token_ids"):
            if current_platform.is_cpu():
                mend_expand()
            if rests(runner, self.vllm_config):
                keep_plain(runner)
                resting = RestingDrafter(runner)
            if ranks.rank == 0:
                # Around the drafter that rests: what that one puts off is tapped all the same. All workers have
                # the same hidden states.
                self._tap = Tap(runner, link)
        self._swaps = SwapServer(link, runner.get_model(), drafter, self._tap, resting, ranks)

    def execute_model(self, scheduler_output: Any, *args: Any, **kwargs: Any) -> Any:
        """One step begins: the only moment at which weights change hands while requests run."""
        if self._swaps is None:
            return super().execute_model(scheduler_output, *args, **kwargs)
        if self._tap is not None and scheduler_output.finished_req_ids:
            self._tap.ended(scheduler_output.finished_req_ids)
        self._swaps.enter_step(getattr(scheduler_output, FLIP, 0))
        output = None
        try:
            output = super().execute_model(scheduler_output, *args, **kwargs)
        finally:
            if output is not None or not scheduler_output.total_num_scheduled_tokens:
                self._swaps.leave_step()
        return output

    def sample_tokens(self, *args: Any, **kwargs: Any) -> Any:
        try:
            return super().sample_tokens(*args, **kwargs)
        finally:
            if self._swaps is not None:
                self._swaps.leave_step()


def _check(parallel: Any) -> None:
    """All workers of the server swap together, so they must hold the same layers."""
    for name in ("pipeline_parallel_size", "data_parallel_size"):
        if (size := getattr(parallel, name, 1)) > 1:
            raise RuntimeError(
                f"{name} is {size}; weights are swapped in one replica of one stage only: leave it at 1 and spread "
                "the model by --tensor-parallel-size, or start a server for each replica"
            )


def _ranks() -> Ranks:
    """This worker among those that hold the model together."""
    group = get_tp_group()

    def worst(values: list[float]) -> list[float]:
        tensor = torch.tensor(values)
        torch.distributed.all_reduce(tensor, torch.distributed.ReduceOp.MAX, group.cpu_group)
        return [float(value) for value in tensor]

    return Ranks(group.rank_in_group, group.world_size, worst) if group.world_size > 1 else Ranks()
