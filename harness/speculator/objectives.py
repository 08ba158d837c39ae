"""What a drafter can be trained on: per-row losses over a flat batch of (position, depth) rows.

Notation: p = the target's distribution, q = softmax(student), both over the draft vocabulary. Aurora is
arXiv 2602.06932, Leviathan is arXiv 2211.17192 (ICML 2023), LK losses are arXiv 2602.23881. A row to which
an objective does not apply has a loss of exactly 0 and takes no part in its gradient.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import torch
from torch import Tensor

from harness.errors import InputError, UnknownName


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows = draft positions at one or more depths. N rows, V = draft vocabulary."""

    student: Tensor
    """float[N, V]: the drafter's logits, with gradient."""
    teacher: Tensor
    """float[N, V]: the target's logits over the draft vocabulary, without gradient."""
    teacher_lse: Tensor
    """float[N]: log-sum-exp of the target's logits over its full vocabulary, so that exp(teacher - teacher_lse)
    are its true probabilities; they sum to less than 1 on a pruned vocabulary."""
    token: Tensor
    """int64[N]: draft index of the text's own next token, -1 where the draft vocabulary lacks it."""
    drafted: Tensor
    """int64[N]: draft index that the serving drafter proposed here, -1 unknown."""
    old_logq: Tensor
    """float[N]: log-probability with which it was drafted, by whichever version served."""
    offered: Tensor
    """bool[N]: this draft was put to the target: all before it in its verify step were accepted."""
    taken: Tensor
    """bool[N]: and was accepted."""
    counterfactual: Tensor
    """bool[N]: the row's context is a rejected branch, which the text never took."""
    return_: Tensor
    """float[N]: drafts accepted from this one on in its verify step (reward to go), 0 where not offered."""
    depth: Tensor
    """int64[N], from 0."""
    step: Tensor
    """int64[N]: which verify step the row belongs to; any ids. Only `policy_gradient` reads it."""


def forward_kl(rows: Rows) -> Tensor:
    """KL(p || q) = sum p (log p - log q) [nats], p renormalised over the draft vocabulary.

    d/d logits = q - p. On the text's own rows; the loss on accepted data in Aurora's released trainer.
    """
    return _kl(rows, applies("forward_kl", rows), reverse=False)


def discard(rows: Rows) -> Tensor:
    """KL(p || q) [nats] where a draft was refused, and in the branches behind refused drafts.

    Aurora's discard term, its lambda being the objective's weight: what to have said instead.
    """
    return _kl(rows, applies("discard", rows), reverse=False)


def reverse_kl(rows: Rows) -> Tensor:
    """KL(q || p) = sum q (log q - log p) [nats], p renormalised over the draft vocabulary.

    d/d logits = q (log q - log p - KL). On the text's own rows. Mode seeking (MiniLLM, arXiv 2306.08543).
    """
    return _kl(rows, applies("reverse_kl", rows), reverse=True)


def next_token(rows: Rows) -> Tensor:
    """-log q(token) [nats]: cross-entropy with the text itself, d/d logits = q - onehot(token)."""
    mask = applies("next_token", rows)
    return _spread(rows, mask, -_chosen(_log_q(rows, mask), rows.token[mask]))


def total_variation(rows: Rows) -> Tensor:
    """1 - sum min(p, q) [probability]: that speculative sampling refuses a draft sampled from q.

    Leviathan, theorem 3.5: acceptance beta = sum min(p, q). p is *not* renormalised: mass that the draft
    vocabulary lacks cannot be accepted. Its gradient vanishes where q is tiny; `log_acceptance` mends that.
    Both have a kink at p = q: exact ties give no gradient, but rounding may pick any subgradient there.
    """
    mask = applies("total_variation", rows)
    return _spread(rows, mask, 1.0 - torch.minimum(_log_p(rows, mask), _log_q(rows, mask)).exp().sum(-1))


def log_acceptance(rows: Rows) -> Tensor:
    """-log sum min(p, q) [nats], p not renormalised: the likelihood form of the LK losses.

    Taken in log space, so it stays finite, and keeps its gradient, where p and q hardly overlap.
    """
    mask = applies("log_acceptance", rows)
    return _spread(rows, mask, -torch.minimum(_log_p(rows, mask), _log_q(rows, mask)).logsumexp(-1))


def policy_gradient(rows: Rows, clip: float | None = 2.0, baseline: bool = True) -> Tensor:
    """REINFORCE on accepted drafts: -(R - W b) log q(drafted) [drafts x nats], its weight detached.

    W_j = prod_{i<=j} q_new(i) / q_old(i) over the step's drafts (clipped to at most `clip`; None: not),
    R_j = sum_{i>=j} W_i r_i with r_i = 1 for a draft accepted (per-decision importance sampling, Precup et
    al. 2000), b = mean return of the *other* rows at that depth, 0 when there are none. With one version,
    W = 1: -(return - b) log q. Unclipped, the gradient's expectation is that of -(accepted drafts per step)
    if the drafts were *sampled* from q_old, the acceptance rule does not itself depend on q, steps are
    independent, and the batch has all offered rows of a step (a missing row's ratio counts as 1). Greedy
    drafts break the first condition, speculative sampling (which accepts by p/q) the second: then it is a
    heuristic. Clipping biases towards the old version's outcomes.
    """
    mask = applies("policy_gradient", rows)
    log_q = _chosen(_log_q(rows, mask), rows.drafted[mask])
    return _spread(rows, mask, -_advantage(rows, mask, log_q.detach(), clip, baseline) * log_q)


def _advantage(rows: Rows, mask: Tensor, log_q: Tensor, clip: float | None, baseline: bool) -> Tensor:
    """R - W b of the rows under the mask, on a grid [steps, depths] of them."""
    if not len(log_q):
        return log_q
    steps, at = rows.step[mask].unique(return_inverse=True)
    cell = (at, rows.depth[mask])
    shape = (len(steps), int(cell[1].max()) + 1)
    present = log_q.new_zeros(shape).index_put(cell, torch.ones_like(log_q), accumulate=True)
    if bool((present > 1).any()):
        raise InputError("a verify step has two rows at one depth; `step` must tell steps apart")
    returns = log_q.new_zeros(shape).index_put(cell, rows.return_[mask].to(log_q))
    ratio = log_q.new_zeros(shape).index_put(cell, log_q - rows.old_logq[mask].to(log_q)).cumsum(1).exp()
    ratio = ratio if clip is None else ratio.clamp(max=clip)
    # A draft's own reward is its return less the next row's; a missing row has the return of the one after.
    filled = returns.flip(1).cummax(1).values.flip(1)
    reward = filled - torch.nn.functional.pad(filled[:, 1:], (0, 1))
    value = (ratio * reward).flip(1).cumsum(1).flip(1)
    if baseline:
        value = value - ratio * (returns.sum(0) - returns) / (present.sum(0) - present).clamp(min=1)
    return value[cell]


def _kl(rows: Rows, mask: Tensor, reverse: bool) -> Tensor:
    log_q, log_p = _log_q(rows, mask), _wide(rows.teacher[mask]).log_softmax(-1)
    a, b = (log_q, log_p) if reverse else (log_p, log_q)
    return _spread(rows, mask, (a.exp() * (a - b)).sum(-1))


def _log_q(rows: Rows, mask: Tensor) -> Tensor:
    return _wide(rows.student[mask]).log_softmax(-1)


def _log_p(rows: Rows, mask: Tensor) -> Tensor:
    """Not renormalised."""
    return _wide(rows.teacher[mask]) - _wide(rows.teacher_lse[mask])[:, None]


def _chosen(log_q: Tensor, index: Tensor) -> Tensor:
    return log_q.gather(-1, index[:, None])[:, 0]


def _wide(x: Tensor) -> Tensor:
    """At least float32."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _spread(rows: Rows, mask: Tensor, values: Tensor) -> Tensor:
    """float[N]: the values at the rows under the mask, exact zeros elsewhere."""
    return values.new_zeros(rows.student.shape[0]).index_put((mask,), values)


OBJECTIVES: Mapping[str, Callable[[Rows], Tensor]] = MappingProxyType(
    {
        "forward_kl": forward_kl,
        "discard": discard,
        "reverse_kl": reverse_kl,
        "next_token": next_token,
        "total_variation": total_variation,
        "log_acceptance": log_acceptance,
        "policy_gradient": policy_gradient,
    }
)


def objective(name: str) -> Callable[[Rows], Tensor]:
    """The objective of that name; UnknownName if there is none."""
    if name not in OBJECTIVES:
        raise UnknownName("objective", name, OBJECTIVES)
    return OBJECTIVES[name]


def applies(name: str, rows: Rows) -> Tensor:
    """bool[N]: the rows that the objective learns from."""
    objective(name)
    if name == "discard":
        return (rows.offered & ~rows.taken) | rows.counterfactual
    if name == "policy_gradient":
        return rows.offered & (rows.drafted >= 0)
    if name == "next_token":
        return ~rows.counterfactual & (rows.token >= 0)
    return ~rows.counterfactual


def check_weights(weights: Mapping[str, float]) -> None:
    """UnknownName for a name, InputError for a weight that is negative or not finite, or if none is positive."""
    for name, weight in weights.items():
        objective(name)
        if not math.isfinite(weight) or weight < 0:
            raise InputError(f"objective {name!r} has weight {weight}; it must be finite and at least 0")
    if not any(weight > 0 for weight in weights.values()):
        raise InputError(f"objective weights {dict(weights)} must have at least one that is positive")


def combine(
    rows: Rows, weights: Mapping[str, float], decay: float = 0.8, normalise: bool = True
) -> tuple[Tensor, dict[str, float]]:
    """The scalar to minimise, and each objective's share of it before its weight (0 if it has no rows).

    loss = sum_o weight_o * sum_n decay^depth_n loss_o(n) / Z_o; 0.8^depth is Aurora's and EAGLE-3's. Z_o sums
    decay^depth over the rows to which o applies, so that a few refused drafts weigh as much as many
    accepted ones: the weights alone set the balance. Without `normalise`, Z sums over all rows, and an
    objective counts as often as it applies. Both rescale `policy_gradient` by a number that depends on the
    batch, and a decay below 1 tilts it to early drafts; only decay = 1 keeps its direction exact.
    """
    check_weights(weights)
    if not 0 < decay <= 1:
        raise InputError(f"decay is {decay}; it must be above 0 and at most 1")
    weight_of = decay ** rows.depth.to(torch.promote_types(rows.student.dtype, torch.float32))
    used = [name for name, weight in weights.items() if weight > 0]
    terms = []
    for name in used:
        over = (weight_of * applies(name, rows)).sum() if normalise else weight_of.sum()
        # No row: 0 / 1.
        terms.append((weight_of * objective(name)(rows)).sum() / torch.where(over > 0, over, 1.0))
    stacked = torch.stack(terms)
    loss = (stacked * stacked.new_tensor([weights[name] for name in used])).sum()
    return loss, dict(zip(used, stacked.detach().tolist(), strict=True))
