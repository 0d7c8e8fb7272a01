"""The heads that make the numbers of a mixture."""

import pytest
import torch

from networks.mixture_heads import JointHead, SeparateHeads

T, H, B = 6, 7, 4


def test_parameter_counts():
    def count(head):
        return sum(p.numel() for p in head.parameters())

    assert count(JointHead(235, 8, 8)) == 87_556
    assert count(SeparateHeads(470, 2, 1)) == 942 + 2 * 942


@pytest.mark.parametrize("kind", [JointHead, SeparateHeads])
def test_heads_by_hand(kind):
    torch.manual_seed(0)
    head = kind(H, 3, 2).double()
    features = torch.randn(B, T, H).double()
    raw = head(features)
    assert raw.mean.shape == raw.spread.shape == (B, T, 3, 2) and raw.logits.shape == (B, T, 3)
    for b in range(B):
        for t in range(T):
            h = features[b, t]
            if kind is JointHead:
                h = (head.hidden.weight @ h + head.hidden.bias).clamp(min=0)
                numbers = (head.last.weight @ h + head.last.bias).view(3, 5)
                logits = numbers[:, 4]
            else:
                numbers = (head.gaussians.weight @ h + head.gaussians.bias).view(3, 4)
                logits = head.classes.weight @ h + head.classes.bias
            torch.testing.assert_close(raw.mean[b, t], numbers[:, :2], atol=1e-12, rtol=0)
            torch.testing.assert_close(raw.spread[b, t], numbers[:, 2:4], atol=1e-12, rtol=0)
            torch.testing.assert_close(raw.logits[b, t], logits, atol=1e-12, rtol=0)
    sum(x.square().sum() for x in raw).backward()
    assert all(p.grad.abs().sum() > 0 for p in head.parameters())


@pytest.mark.parametrize("kind", [JointHead, SeparateHeads])
def test_errors_name_the_argument(kind):
    with pytest.raises(ValueError, match="latent_dim.*0"):
        kind(H, 3, 0)
