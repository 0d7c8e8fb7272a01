import copy
import json

import pytest

from envs.ct_graph import CTGraphSuite
from envs.ct_graph_files import read
from envs.tree_graph import TreeGraph
from envs.tree_labels import TreeLabels
from envs.tree_pictures import OneHotPictures, PatternPictures

NM = {
    "general_seed": 2,
    "graph_shape": {"depth": 2, "branching_factor": 2, "delay_prob": 0.0},
    "reward": {
        "high_reward_value": 1.0,
        "crash_reward_value": -0.01,
        "stochastic_sampling": False,
        "reward_std": 0.1,
        "min_static_reward_episodes": 30,
        "max_static_reward_episodes": 70,
        "reward_distribution": "needle_in_haystack",
    },
    "observations": {
        "MDP_decisions": True,
        "MDP_delays": True,
        "delay_states": [2, 8],
        "decision_points": [9, 11],
        "graph_ends": [12, 15],
    },
    "image_dataset": {
        "seed": 1,
        "1D": True,
        "nr_of_images": 16,
        "noise_on_images_on_read": 0,
        "small_rotation_on_read": 1,
    },
}
RENAMED_2021 = {
    "delay_prob": "wait_prob",
    "MDP_decisions": "MDP_decision_s",
    "MDP_delays": "MDP_wait_s",
    "delay_states": "wait_states",
    "decision_points": "decision_states",
}
RENAMED_V1 = {
    "depth": "d",
    "branching_factor": "b",
    "delay_prob": "p",
    "high_reward_value": "high_r",
    "crash_reward_value": "fail_r",
    "reward_std": "std_r",
    "MDP_decisions": "MDP_D",
    "MDP_delays": "MDP_W",
    "delay_states": "W_IDs",
    "decision_points": "D_IDs",
    "noise_on_images_on_read": "noise_on_read",
    "small_rotation_on_read": "rotation_on_read",
}
GRAPH = TreeGraph()
LABELS = TreeLabels(wait_span=(2, 8), decision_span=(9, 11), end_span=(12, 15))
PICTURES = OneHotPictures(num_pictures=16)


def renamed(tree, names):
    return {
        names.get(key, key): renamed(value, names) if isinstance(value, dict) else value
        for key, value in tree.items()
    }


def changed(**fields):
    """The first configuration with other values of some fields; None drops one."""
    tree = copy.deepcopy(NM)
    for group in tree.values():
        if isinstance(group, dict):
            for name in set(group) & set(fields):
                group[name] = fields[name]
                if fields[name] is None:
                    del group[name]
    return tree


@pytest.mark.parametrize("names", [{}, RENAMED_2021, RENAMED_V1])
def test_three_generations_of_names(names, tmp_path):
    tree = renamed(NM, names)
    if names is RENAMED_V1:
        del tree["reward"]["stochastic_sampling"]
        tree["reward"]["std_r"] = 0.0
    assert read(tree) == (GRAPH, LABELS, PICTURES)
    file = tmp_path / "graph.json"
    file.write_text(json.dumps(tree))
    suite = CTGraphSuite.from_json(file)
    assert suite.spec == CTGraphSuite().spec and suite.spec.observation_dim == 17
    assert suite.graph == GRAPH


@pytest.mark.parametrize(
    ("depth", "branching", "spans", "images", "width"),
    [
        (3, 2, ((2, 16), (17, 23), (24, 31)), 32, 33),
        (4, 2, ((2, 32), (33, 47), (48, 63)), 64, 65),
        (2, 3, ((2, 14), (15, 18), (19, 27)), 28, 29),
    ],
)
def test_the_other_published_files(depth, branching, spans, images, width):
    names = ("delay_states", "decision_points", "graph_ends")
    fields = dict(zip(names, map(list, spans), strict=True))
    tree = changed(depth=depth, branching_factor=branching, nr_of_images=images, **fields)
    suite = CTGraphSuite.from_json(tree)
    assert suite.spec.observation_dim == width and suite.spec.action_dim == branching + 1
    assert suite.spec == CTGraphSuite(TreeGraph(depth=depth, branching=branching)).spec


def test_reward_noise_needs_its_switch_in_the_first_versions_only():
    assert read(NM)[0].reward_std == 0.0
    assert read(changed(stochastic_sampling=True))[0].reward_std == 0.1
    assert read(renamed(changed(stochastic_sampling=None), RENAMED_V1))[0].reward_std == 0.1


def test_goals_never_change_within_a_run():
    """Whatever the static episodes say, a task is one goal."""
    suite = CTGraphSuite.from_json(changed(min_static_reward_episodes=1))
    (task,) = suite.tasks()
    with suite.vector([type(task)(task.name, 0, "train", (2,))]) as vector:
        vector.reset()
        for _ in range(5):
            td = vector.reset()
            for action in (0, 0, 2, 0, 1, 0):
                td["action"] = td["task_id"] * 0 + action
                vector.step(td)
                reward, td = td["next", "reward"].item(), vector.current()
            assert reward == 1.0


def test_every_field_arrives():
    tree = changed(
        delay_prob=0.25,
        high_reward_value=3,
        crash_reward_value=-1,
        reward_distribution="linear",
        MDP_decisions=False,
        nr_of_images=40,
        noise_on_images_on_read=5,
    )
    graph, labels, pictures = read(tree)
    assert graph == TreeGraph(delay=0.25, high_reward=3, crash_reward=-1, reward="linear")
    assert not labels.mdp_decisions and labels.mdp_waits
    assert pictures == OneHotPictures(num_pictures=40, noise=5)
    tree = changed(**{"1D": False, "seed": 9, "small_rotation_on_read": 4})
    assert read(tree)[2] == PatternPictures(num_pictures=16, rotation=4, seed=9)


def test_missing_double_and_bad_fields():
    with pytest.raises(ValueError, match="missing: 'delay_states' or 'wait_states' or 'W_IDs'"):
        read(changed(delay_states=None))
    tree = copy.deepcopy(NM)
    tree["graph_shape"]["d"] = 3
    with pytest.raises(ValueError, match=r"\['depth', 'd'\] mean the same"):
        read(tree)
    tree = copy.deepcopy(NM)
    tree["reward"]["depth"] = 3
    with pytest.raises(ValueError, match="'depth' is given twice"):
        read(tree)
    with pytest.raises(ValueError, match="delay"):
        read(changed(delay_prob=1.0))
    with pytest.raises(ValueError, match="field 'graph_ends' must be two whole numbers, got 24"):
        read(changed(graph_ends=24))
    with pytest.raises(ValueError, match="num_pictures"):
        CTGraphSuite.from_json(changed(nr_of_images=15))


def test_what_is_no_configuration(tmp_path):
    file = tmp_path / "graph.json"
    for text, said in (("depth: 2", "is no JSON"), ("[2, 2]", "JSON object, got list")):
        file.write_text(text)
        with pytest.raises(ValueError, match=f"graph.json .*{said}"):
            CTGraphSuite.from_json(file)


@pytest.mark.parametrize("names", [{}, RENAMED_2021, RENAMED_V1])
def test_fields_without_a_meaning_are_told(names, caplog):
    tree = renamed(changed(stochastic_sampling=None) if names is RENAMED_V1 else NM, names)
    read(tree)
    assert not caplog.records
    tree["reward"]["stochastic_samplng"] = True
    read(tree)
    assert "fields passed over: stochastic_samplng" in caplog.text
