import numpy as np

from envs.arrays import Rules, block_size, fields, new_arrays, silence, told

PLAIN = Rules(4, 2, 10)
TELLING = Rules(4, 2, 10, specification_dim=3, sparse=True)


def test_entries_follow_the_rules():
    assert told(PLAIN) == {} and not any("task_changed" in name for name in fields(PLAIN))
    assert set(told(TELLING)) == {"task_id", "specification", "task_changed", "sparse_reward"}
    assert set(told(Rules(4, 2, 10, sparse=True))) == {"sparse_reward"}
    arrays = new_arrays(5, TELLING)
    assert arrays["next_task_id"].shape == (5,) and arrays["next_task_id"].dtype == np.int64
    assert arrays["next_specification"].shape == (5, 3)
    assert arrays["next_task_changed"].shape == arrays["next_sparse_reward"].shape == (5, 1)
    more = 5 * (8 + 3 * 4 + 1 + 4)
    assert (
        block_size(5, TELLING)
        == block_size(5, PLAIN) + more
        == sum(array.nbytes for array in arrays.values())
    )


def test_silence_is_of_changes_and_payments_alone():
    arrays = new_arrays(4, TELLING)
    for name in told(TELLING):
        arrays[f"next_{name}"][:] = 1
    silence(arrays, np.array([False, True, False, True]))
    silence(arrays, 0)
    assert arrays["next_task_changed"][:, 0].tolist() == [False, False, True, False]
    assert arrays["next_sparse_reward"][:, 0].tolist() == [0, 0, 1, 0]
    assert arrays["next_specification"].all() and arrays["next_task_id"].all()
    silence(new_arrays(4, PLAIN), slice(0, 2))
