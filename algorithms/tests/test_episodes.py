"""Experience made ready for losses."""

import torch
from tensordict import TensorDict

from algorithms import episodes
from algorithms.baseline import features


def experience(rubbish: float) -> TensorDict:
    torch.manual_seed(0)
    mask = torch.arange(6) < torch.tensor([[6, 2], [1, 4]])[..., None]

    def steps(*width):
        values = torch.randn(2, 2, 6, *width, dtype=torch.float64)
        return values.where(mask.reshape(2, 2, 6, *[1] * len(width)), rubbish)

    reward = TensorDict({"reward": steps(1)}, [2, 2, 6])
    fields = {"observation": steps(3), "action": steps(2), "next": reward, "mask": mask}
    return TensorDict(fields, [2, 2, 6])


def test_what_stands_on_the_padding_does_not_matter():
    clean, dirty = experience(0.0), experience(torch.nan)
    weights = [episodes.fit(each, 0.9) for each in (clean, dirty)]
    assert torch.equal(*weights)
    pairs = zip(
        *(episodes.prepare(each, weights[0], 0.9, 0.8) for each in (clean, dirty)), strict=True
    )
    assert all(torch.equal(*pair) for pair in pairs)


def test_advantages_by_hand():
    data = experience(0.0)
    weights = episodes.fit(data, 0.9)
    seen = episodes.prepare(data, weights, 0.9, 1.0)
    for task in range(2):
        raw = []
        for episode in range(2):
            length = int(data["mask"][task, episode].sum())
            reward = data["next", "reward"][task, episode, :length, 0]
            x = features(data["observation"][task, episode, :length], torch.ones(length).bool())
            total = torch.tensor(
                [sum(reward[u] * 0.9 ** (u - t) for u in range(t, length)) for t in range(length)]
            )
            raw.append(total - x @ weights[task])
        flat = torch.cat(raw)
        expected = (flat - flat.mean()) / (flat.std(correction=0) + 1e-8)
        torch.testing.assert_close(seen.advantage[task][seen.mask[task]], expected)
