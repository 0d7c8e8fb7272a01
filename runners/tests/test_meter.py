import torch
from tensordict import TensorDict

from runners.meter import Meter


def test_means_and_reset():
    meter = Meter()
    value = torch.tensor(1.0)
    meter.add({"a": value, "b": torch.tensor([1.0, 3.0]), "c": 7})
    value.fill_(9.0)  # what was added stays what it was
    meter.add(TensorDict({"a": torch.tensor(3.0), "b": torch.tensor([3.0, 5.0])}))
    means = meter.means()
    assert means["a"] == 2.0 and means["c"] == 7.0
    assert means["b"].tolist() == [2.0, 4.0]
    assert meter.means() == {}


def test_integers_and_half_precision_are_summed_in_float():
    meter = Meter()
    for _ in range(1000):
        meter.add({"flag": torch.tensor(True), "half": torch.tensor(0.1, dtype=torch.bfloat16)})
    means = meter.means()
    assert means["flag"] == 1.0
    assert abs(means["half"] - torch.tensor(0.1, dtype=torch.bfloat16).float()) < 1e-4


def test_state_is_exact():
    torch.manual_seed(0)
    values = torch.rand(20, 3)
    whole, first, second = Meter(), Meter(), Meter()
    for row in values:
        whole.add({"x": row, "y": row[0]})
    for row in values[:11]:
        first.add({"x": row, "y": row[0]})
    second.load_state_dict(first.state_dict())
    first.add({"x": values[0], "y": values[0, 0]})  # does not reach the copy
    for row in values[11:]:
        second.add({"x": row, "y": row[0]})
    a, b = whole.means(), second.means()
    assert all(torch.equal(a[key], b[key]) for key in a)
