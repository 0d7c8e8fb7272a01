"""Tests of the task encoder; the numbers are those of CARE's list of invariants."""

import copy
import json

import pytest
import torch
from torch.nn.functional import linear, relu

from networks.task_encoder import PACKAGED, TaskEncoder, read_embeddings
from networks.task_text import DESCRIPTIONS

NAMES = list(DESCRIPTIONS)
MT10 = [
    f"{name}-v3"
    for name in (
        "reach push pick-place door-open drawer-open drawer-close button-press-topdown "
        "peg-insert-side window-open window-close"
    ).split()
]
KINDS = ("learned", "pretrained")


def write(path, rows, **meta):
    path.write_text(json.dumps({"meta": {"dim": 3, **meta}, "embeddings": rows}))
    return str(path)


def by_hand(encoder, task):
    """The code of one task, a vector."""
    if encoder.kind == "learned":
        row = encoder.rows.weight[task]
    else:
        one, two = encoder.squeeze.layers
        row = linear(relu(encoder.table[task]), one.weight, one.bias)
        row = linear(relu(row), two.weight, two.bias)
    one, two, three = encoder.layers.layers
    row = relu(linear(relu(row), one.weight, one.bias))
    row = relu(linear(row, two.weight, two.bias))
    return linear(row, three.weight, three.bias)


@pytest.mark.parametrize(
    ("names", "kind", "count"),
    [
        (MT10, "pretrained", 89_600),
        (NAMES, "pretrained", 89_600),
        (MT10, "learned", 8_150),
        (NAMES, "learned", 10_150),
    ],
)
def test_parameter_counts(names, kind, count):
    encoder = TaskEncoder(names, kind=kind)
    assert sum(parameter.numel() for parameter in encoder.parameters()) == count
    frozen = {name: buffer.numel() for name, buffer in encoder.named_buffers()}
    assert frozen == ({"table": 768 * len(names)} if kind == "pretrained" else {})


@pytest.mark.parametrize("kind", KINDS)
def test_codes_equal_a_loop(kind):
    encoder = TaskEncoder(MT10, kind=kind, code_dim=7, hidden=9).double()
    task = torch.randint(10, (4, 6))
    code = encoder(task)
    assert code.shape == (4, 6, 7)
    wanted = torch.stack([by_hand(encoder, t) for t in task.flatten()]).view(4, 6, 7)
    torch.testing.assert_close(code, wanted, atol=1e-10, rtol=0)
    factor = torch.randn_like(code)
    parameters = list(encoder.parameters())
    got = torch.autograd.grad((factor * code).sum(), parameters)
    expected = torch.autograd.grad((factor * wanted).sum(), parameters)
    for one, other in zip(got, expected, strict=True):
        torch.testing.assert_close(one, other, atol=1e-10, rtol=0)
    torch.testing.assert_close(encoder(task[1, 2]), code[1, 2], atol=1e-12, rtol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_invariant_10_only_the_table_stays(kind):
    torch.manual_seed(0)
    encoder = TaskEncoder(MT10, kind=kind)
    assert not any(buffer.requires_grad for buffer in encoder.buffers())
    table = [buffer.clone() for buffer in encoder.buffers()]
    before = [parameter.detach().clone() for parameter in encoder.parameters()]
    optimizer = torch.optim.Adam(encoder.parameters(), lr=1e-2)
    task, wanted = torch.arange(10), torch.randn(10, 50)
    losses = []
    for _ in range(30):
        loss = (encoder(task) - wanted).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.7 * losses[0]  # the codes of all tasks can be told apart
    for old, new in zip(table, encoder.buffers(), strict=True):
        assert torch.equal(old, new)
    for old, new in zip(before, encoder.parameters(), strict=True):
        assert not torch.equal(old, new)


@pytest.mark.parametrize("kind", KINDS)
def test_fresh_codes_are_of_one_size_and_differ(kind):
    spread = []
    for seed in range(5):
        torch.manual_seed(seed)
        spread.append(TaskEncoder(NAMES, kind=kind).codes().detach().std(0).mean())
    assert 0.1 < float(torch.stack(spread).mean()) < 0.5


def test_invariant_4_a_learned_row_moves_with_its_task_alone():
    encoder = TaskEncoder(MT10, kind="learned")
    encoder(torch.tensor([2, 2, 5])).square().sum().backward()
    touched = encoder.rows.weight.grad.abs().sum(1) > 0
    assert touched.nonzero().flatten().tolist() == [2, 5]


def test_rows_follow_the_order_of_the_names(tmp_path):
    path = write(tmp_path / "t.json", {"b": [1, 0, 0.5], "a": [0, 2, 0], "c": [3, 3, 3]})
    encoder = TaskEncoder(["a", "b"], embeddings=path)
    assert torch.equal(encoder.table, torch.tensor([[0.0, 2.0, 0.0], [1.0, 0.0, 0.5]]))
    assert sum(parameter.numel() for parameter in encoder.squeeze.parameters()) == 400 + 5_050
    again = TaskEncoder(["b", "a"], embeddings=path)
    again.load_state_dict({**encoder.state_dict(), "table": encoder.table.flip(0)}, strict=True)
    torch.testing.assert_close(again.codes().flip(0), encoder.codes())


def test_relu_on_pretrained(tmp_path):
    path = write(tmp_path / "t.json", {"a": [-1.0, 2.0, -3.0], "b": [-1.0, -2.0, -0.5]})
    assert TaskEncoder(["a"], embeddings=path).table.tolist() == [[0.0, 2.0, 0.0]]
    signed = TaskEncoder(["a", "b"], embeddings=path, relu_on_pretrained=False)
    assert signed.table.tolist() == [[-1.0, 2.0, -3.0], [-1.0, -2.0, -0.5]]
    with pytest.raises(ValueError, match="'b' has no positive number.*relu_on_pretrained"):
        TaskEncoder(["a", "b"], embeddings=path)


@pytest.mark.parametrize("kind", KINDS)
def test_copies_and_states(kind):
    encoder = TaskEncoder(MT10, kind=kind)
    clone = copy.deepcopy(encoder)
    task = torch.arange(10)
    assert torch.equal(clone(task), encoder(task))
    other = TaskEncoder(MT10, kind=kind)
    assert not torch.equal(other(task), encoder(task))
    other.load_state_dict(encoder.state_dict())
    assert torch.equal(other(task), encoder(task))


@pytest.mark.parametrize("kind", KINDS)
def test_compiles(kind):
    encoder = TaskEncoder(MT10, kind=kind)
    task = torch.randint(10, (3, 4))
    compiled = torch.compile(encoder, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(task), encoder(task))


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ({"b": [1, 2, 3]}, "no row for task 'a'"),
        ({"a": [1, 2]}, "row of 'a' is not 3 numbers"),
        ({"a": [1, 2, "3"]}, "row of 'a' is not 3 numbers"),
        ({"a": [1, 2, True]}, "row of 'a' is not 3 numbers"),
        ({"a": "123"}, "row of 'a' is not 3 numbers"),
        ({"a": [1, 2, float("nan")]}, "row of 'a' is not finite"),
        ({"a": [1, 2, 1e300]}, "row of 'a' is not finite"),
        ({"a": [1, 2, 10**400]}, "row of 'a' is not finite"),
        ({"a": [0, 0, 0.0]}, "row of 'a' is all zeros"),
        ([1, 2], "got 3 and list"),
    ],
)
def test_bad_rows_name_task_and_file(rows, message, tmp_path):
    path = tmp_path / "bad.json"
    write(path, rows)
    with pytest.raises(ValueError, match="bad.json") as caught:
        read_embeddings(path, ["a"])
    assert message in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", "cannot be read"),
        (b"\xff\xfe", "cannot be read"),
        (b"[]", "missing"),
        (b'{"embeddings": {}}', "missing"),
        (b'{"meta": {"dim": 3}}', "missing"),
        (b'{"meta": {"dim": 0}, "embeddings": {}}', '"dim" must be at least 1'),
        (b'{"meta": {"dim": "3"}, "embeddings": {}}', '"dim" must be at least 1'),
    ],
)
def test_bad_files(content, message, tmp_path):
    path = tmp_path / "bad.json"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="bad.json") as caught:
        read_embeddings(path, ["a"])
    assert message in str(caught.value)


def test_errors(tmp_path):
    with pytest.raises(ValueError, match="none.json: cannot be read"):
        TaskEncoder(MT10, embeddings=str(tmp_path / "none.json"))
    with pytest.raises(ValueError, match=f"{PACKAGED.name}: no row for task 'goal_0'"):
        TaskEncoder(["goal_0"])
    with pytest.raises(ValueError, match="kind must be one of"):
        TaskEncoder(MT10, kind="one_hot")
    for option in ({"embeddings": "mine.json"}, {"relu_on_pretrained": False}):
        with pytest.raises(ValueError, match="kind 'learned' reads no embeddings"):
            TaskEncoder(MT10, kind="learned", **option)
    for names in ([], "reach-v3"):
        with pytest.raises(ValueError, match="task_names"):
            TaskEncoder(names)
    with pytest.raises(ValueError, match="code_dim must be at least 1, got 0"):
        TaskEncoder(MT10, code_dim=0)
    with pytest.raises(ValueError, match="hidden must be at least 1, got 0"):
        TaskEncoder(MT10, hidden=0)
