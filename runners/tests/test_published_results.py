import pytest

from runners.config import ConfigError
from runners.published_results import chosen, label, origin, read_published


def test_every_entry_says_where_it_is_from():
    entries = read_published()
    assert len({entry["key"] for entry in entries}) == len(entries) > 100
    for entry in entries:
        assert 0.0 <= entry["value"] <= 1.0 and 0.0 <= entry.get("spread", 0.0) < 0.3
        assert entry["url"].startswith("https://") and entry["grade"] in ("P", "S")
        assert entry["statistic"] and entry["method"] and entry["source"]
        assert entry.get("goals") in (None, "random", "fixed")
        assert entry.get("reward_version") in (None, "v1", "v2")
        assert entry.get("split") in (None, "train", "test")
        assert entry["source"] in label(entry) and entry["url"] in origin(entry)
        if entry.get("spread"):
            assert entry.get("spread_kind") or entry["key"].endswith("/ars2025")


def test_figures_as_printed():
    values = {entry["key"]: entry["value"] for entry in read_published()}
    for key, value in {
        "MT10/softmod/mclean2025_v2": 0.849,
        "MT50/moore/mclean2025_v2": 0.720,
        "MT10/paco/mclean2025_v1": 0.262,
        "MT50/brc/nauman2025": 0.881,
        "MT10/mtmhsac/yang2020_random": 0.674,
        "MT50/softmod_deep/yang2020_fixed": 0.600,
        "MT10/care/liu2021": 0.84,
        "MT10/nash_mtl/navon2022": 0.91,
        "MT50/t3s/yu2023_random": 0.65,
        "MT10/dendrites/iyer2022": 0.875,
    }.items():
        assert values[key] == value


def test_conditions_of_the_first_version():
    """Episodes of its environments last 150 steps, which Soft Modularization's 200 never cut."""
    for key in ("yang2020_*", "yu2023_*", "liu2021", "navon2022", "sodhani2021"):
        for entry in chosen([f"*/{key}"]):
            assert (entry["horizon"], entry["reward_version"]) == (150, "v1"), entry["key"]
            assert entry["goals"] == ("random" if "_random" in entry["key"] else "fixed")


def test_one_goal_for_each_task_is_not_fifty():
    for entry in chosen(["MT10/*/iyer2022"]):
        assert (entry["goals"], entry["reward_version"]) == ("fixed", "v2")
        assert (entry["steps"], entry["seeds"]) == (15e6, 10) and "horizon" not in entry
        assert entry["spread"] == {"dendrites": 0.071, "mlp": 0.096}[entry["short"]]


def test_patterns():
    keys = {entry["key"] for entry in chosen(["mt10/care/*", "MT50/*/mclean2025_v1"])}
    assert keys == {
        "MT10/care/liu2021",
        *(f"MT50/{method}/mclean2025_v1" for method in ("softmod", "paco", "moore")),
    }
    assert chosen([]) == []
    with pytest.raises(ConfigError, match="--published=MT7.*--published=list"):
        chosen(["MT10/*", "MT7"])


def test_label_tells_the_conditions():
    (entry,) = chosen(["MT10/care/liu2021"])
    assert label(entry) == (
        "CARE 0.84 ± 0.051 standard error (Liu et al. 2021; mean of best evaluations, 10 seeds, "
        "fixed goals, v1 reward, horizon 150, v1 environments, 20M steps in all)"
    )
