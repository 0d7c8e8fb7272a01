"""The merge of the steps' mixtures."""

import pytest
import torch
from torch import nn
from torch.nn.functional import softplus

from networks.mixture_heads import JointHead, RawMixture, SeparateHeads
from networks.time_merge import GAUSSIANS, LOGITS, TimeMerge, mixture_of

B, T, K, L, H = 4, 5, 3, 2, 6
SCALES = ("variance", "std", "legacy_std")
PAIRS = [(g, r) for g in GAUSSIANS for r in LOGITS if (g, r) != ("net", "per_step_argmax")]


def build(gaussians="poe", logits="sum"):
    torch.manual_seed(0)
    merge, head = TimeMerge(T, H, gaussians=gaussians, logits=logits), SeparateHeads(H, K, L)
    for p in (*merge.parameters(), *head.parameters()):
        nn.init.normal_(p, std=0.7)
    return merge.double(), head.double()


def steps():
    torch.manual_seed(1)
    features = torch.randn(B, T, H).double()
    mask = torch.arange(T) >= T - torch.tensor([0, 1, 3, T]).unsqueeze(1)
    return features, mask


def net(module, x):
    for layer in module.linears()[:-1]:
        x = (layer.weight @ x + layer.bias).clamp(min=0)
    last = module.linears()[-1]
    return last.weight @ x + last.bias


def by_loop(merge, head, features, mask, scale):
    """Mean, variance and weights of one window [T, H]."""
    p, mean, spread, kept = [], [], [], mask.nonzero().flatten().tolist()
    raw = head(features)
    logits = [raw.logits[t] for t in range(T)]
    p = {t: logits[t].softmax(-1) for t in kept}
    zero, one = torch.zeros(K).double(), torch.ones(K).double()
    if merge.logits == "net":
        columns = [[logits[t][k] * mask[t] for t in range(T)] for k in range(K)]
        merged = torch.cat([net(merge.logit_net, torch.stack(column)) for column in columns])
    elif merge.logits in ("linear", "mlp"):
        whole = torch.cat([features[t] * mask[t] for t in range(T)])
        h = net(merge.feature_net, whole)
        merged = head.classes.weight @ h + head.classes.bias
    elif merge.logits == "mean_prob":
        merged = (sum(p.values()) / len(p)).log() if p else zero
    elif merge.logits == "softmax_sum_prob":
        merged = sum(p.values(), zero)
    elif merge.logits == "softmax_prod_prob":
        merged = one
        for q in p.values():
            merged = merged * q
    else:
        merged = sum((q.log() for q in p.values()), zero)
    for k in range(K):
        if merge.gaussians == "net":
            raws = [[x[t, k] * mask[t] for t in range(T)] for x in (raw.mean, raw.spread)]
            m, s = (
                torch.stack([net(merge.gaussian_net, torch.stack(x)[:, d])[0] for d in range(L)])
                for x in raws
            )
            v = softplus(s) if scale == "variance" else softplus(s) ** 2
        else:
            precision, weighted = torch.zeros(L).double(), torch.zeros(L).double()
            for t in kept:
                j = int(logits[t].argmax()) if merge.logits == "per_step_argmax" else k
                s = softplus(raw.spread[t, j])
                s = s**2 if scale == "std" else s
                precision, weighted = precision + 1 / s, weighted + raw.mean[t, j] / s
            v = 1 / precision if kept else torch.ones(L).double()
            m = v * weighted
            v = v**2 if scale == "legacy_std" else v
        mean.append(m)
        spread.append(v + 1e-8)
    return torch.stack(mean), torch.stack(spread), merged


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize(("gaussians", "logits"), PAIRS)
def test_every_rule_by_a_loop(gaussians, logits, scale):
    (fast, fast_head), (slow, slow_head) = build(gaussians, logits), build(gaussians, logits)
    features, mask = steps()
    for given in (mask, None):
        for module in (fast, fast_head, slow, slow_head):
            module.zero_grad()
        seen = fast(fast_head(features), features, fast_head, given, scale)
        weight = torch.randn(B, K, 2 * L + 1).double()
        numbers = torch.cat((seen.mean, seen.variance, seen.weights().unsqueeze(-1)), -1)
        (numbers * weight).sum().backward()
        used = torch.ones(B, T).bool() if given is None else given
        for b in range(B):
            mean, variance, merged = by_loop(slow, slow_head, features[b], used[b], scale)
            expected = torch.cat((mean, variance, merged.softmax(-1).unsqueeze(-1)), -1)
            torch.testing.assert_close(numbers[b], expected, atol=1e-10, rtol=1e-10)
            if expected.requires_grad:
                (expected * weight[b]).sum().backward()
        pairs = zip(
            (*fast.parameters(), *fast_head.parameters()),
            (*slow.parameters(), *slow_head.parameters()),
            strict=True,
        )
        for one, two in pairs:
            a, b = (torch.zeros_like(p) if p.grad is None else p.grad for p in (one, two))
            torch.testing.assert_close(a, b, atol=1e-10, rtol=1e-9)


def test_invariant_4_merged_weights_sum_to_one():
    features, mask = steps()
    for gaussians, logits in PAIRS:
        merge, head = build(gaussians, logits)
        seen = merge(head(features), features, head, mask, "variance")
        torch.testing.assert_close(seen.weights().sum(-1), torch.ones(B).double())


@pytest.mark.parametrize("logits", ["sum", "mean_prob", "softmax_sum_prob", "per_step_argmax"])
def test_without_a_step_it_is_the_prior(logits):
    merge, head = build(logits=logits)
    features, _ = steps()
    seen = merge(head(features), features, head, torch.zeros(B, T).bool(), "variance")
    assert (seen.mean == 0).all() and (seen.variance == 1 + 1e-8).all()
    torch.testing.assert_close(seen.weights(), torch.full((B, K), 1 / K).double())
    sum(x.sum() for x in seen).backward()
    assert all(p.grad.isfinite().all() for p in head.parameters())


def test_probabilities_of_zero_are_finite():
    merge, head = build(logits="mean_prob")
    features, mask = steps()
    raw = head(features)
    sure = torch.tensor([500.0, 0.0, -500.0]).double().expand(B, T, K).requires_grad_()
    seen = merge(raw._replace(logits=sure), features, head, mask, "variance")
    torch.testing.assert_close(seen.logits[1:], sure[1:, 0] - 500.0)
    seen.weights()[:, 0].sum().backward()
    assert sure.grad.isfinite().all()


def test_the_published_product_of_probabilities_is_nearly_uniform_and_the_sum_is_not():
    raw = RawMixture(torch.zeros(1, 10, 2, 1), torch.zeros(1, 10, 2, 1), torch.zeros(1, 10, 2))
    raw.logits[..., 0] = 2.0
    features, head = torch.zeros(1, 10, H), SeparateHeads(H, 2, 1)
    made = {}
    for logits in ("sum", "softmax_prod_prob"):
        merge = TimeMerge(10, H, logits=logits)
        made[logits] = merge(raw, features, head, None, "variance").weights()[0, 0].item()
    assert made["sum"] > 0.999999 and 0.5 < made["softmax_prod_prob"] < 0.6


def test_a_mixture_that_needs_no_merge():
    raw = RawMixture(torch.randn(B, K, L), torch.randn(B, K, L), torch.randn(B, K))
    assert torch.equal(mixture_of(raw, "variance").variance, softplus(raw.spread) + 1e-8)
    for scale in ("std", "legacy_std"):
        assert torch.equal(mixture_of(raw, scale).variance, softplus(raw.spread) ** 2 + 1e-8)
    assert mixture_of(raw, "std").mean is raw.mean


def test_parameter_counts():
    def count(**options):
        return sum(p.numel() for p in TimeMerge(64, 235, **options).parameters())

    assert count() == 0
    assert count(gaussians="net") == count(logits="net") == 64 * 64 + 64 + 64 + 1
    assert count(gaussians="net", logits="net") == 2 * 65**2
    assert count(logits="linear") == 64 * 235 * 235 + 235
    assert count(logits="mlp") == 64 * 235 * 235 + 235 + 235 * 235 + 235


def test_errors_name_the_argument():
    with pytest.raises(ValueError, match="gaussians.*'sum'"):
        TimeMerge(T, H, gaussians="sum")
    with pytest.raises(ValueError, match="logits.*'poe'"):
        TimeMerge(T, H, logits="poe")
    with pytest.raises(ValueError, match="per_step_argmax.*'net'"):
        TimeMerge(T, H, gaussians="net", logits="per_step_argmax")
    with pytest.raises(ValueError, match="length.*0"):
        TimeMerge(0, H)
    with pytest.raises(ValueError, match="'mlp'.*JointHead"):
        TimeMerge(T, H, logits="mlp").check(JointHead(H, K, L))
