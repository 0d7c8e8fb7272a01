import numpy as np
import pytest
import torch

from envs import tree_pictures
from envs.tree_pictures import OneHotPictures, PatternPictures


def look(pictures, numbers, ends, share, seed=0, count=16):
    shown = pictures.table(count)[torch.as_tensor(numbers)]
    rng = np.random.default_rng(seed)
    return pictures.look(shown, torch.as_tensor(ends), torch.as_tensor(share), rng)


def test_one_hot_and_its_cue():
    seen = look(OneHotPictures(), [3, 13, 12], [False, True, True], [1.0, 1.0, 0.0])
    assert seen.shape == (3, 17) and seen.dtype == torch.float32
    expected = torch.zeros(3, 17)
    expected[[0, 1, 2], [3, 13, 12]] = 254 / 255
    expected[1, 16] = 254 / 255  # at an end only
    assert torch.equal(seen, expected)
    assert 254 / 255 == pytest.approx(0.996078, abs=5e-7)


@pytest.mark.parametrize("pictures", [OneHotPictures(), PatternPictures()])
def test_the_cue_is_a_whole_number_and_kept_in_range(pictures):
    share = torch.tensor([2 / 3, -0.5, 1.3, 0.0])
    seen = look(pictures, [12] * 4, [True] * 4, share) * 255
    cue = seen[:, -1] if seen.shape[1] == 17 else seen.view(4, 12, 12)[:, 5, 5]
    assert cue.tolist() == [169, 0, 255, 0]  # 169.3, and 330 would not fit


def test_noise_of_one_hot_pictures():
    pictures = OneHotPictures(noise=20)
    seen = look(pictures, [3] * 2000, [False] * 1000 + [True] * 1000, [1.0] * 2000) * 255
    seen = seen.round()
    rest = torch.cat([seen[:, :3], seen[:, 4:16]], 1)
    assert rest.min() == 0 and rest.max() == 20 and rest.unique().numel() == 21
    assert float(rest.mean()) == pytest.approx(10, abs=0.2)
    assert seen[:, 3].min() == 234 and seen[:, 3].max() == 254
    assert seen[:1000, 16].max() == 20 and (seen[1000:, 16] == 234).all()
    again = look(pictures, [3] * 2000, [False] * 2000, [1.0] * 2000, seed=1) * 255
    assert not torch.equal(again[:1000].round(), seen[:1000])


def test_patterns_are_cells_of_three_levels_turned():
    table = PatternPictures(seed=4).table(200)
    assert table.shape == (200, 144) and table.min() == 0 and table.max() == 254
    assert torch.equal(table, PatternPictures(seed=4).table(200))
    assert not torch.equal(table, PatternPictures(seed=5).table(200))
    assert torch.equal(table, table.round()) and len(table.unique(dim=0)) == 200
    rng = np.random.default_rng(4)
    cells, degrees = rng.integers(3, size=(200, 4, 4)), rng.integers(359, size=200)
    assert degrees.max() <= 358
    straight = np.flatnonzero(degrees % 90 == 0)
    assert len(straight)
    for i in straight:
        image = np.kron(cells[i], np.full((3, 3), 127))
        turned = [np.rot90(image, k) for k in range(4)]
        assert sum(np.array_equal(table[i].view(12, 12), other) for other in turned) >= 1
    # Noise takes its room from the levels, so that nothing exceeds 254.
    assert PatternPictures(seed=4, noise=54).table(200).max() == 200


def test_looks_at_patterns_differ_by_noise_and_rotation():
    plain = look(PatternPictures(), [5] * 50, [False] * 50, [0.0] * 50)
    assert torch.equal(plain, (PatternPictures().table(16)[[5]] / 255).expand(50, 144))
    noisy = look(PatternPictures(noise=9), [5] * 50, [False] * 50, [0.0] * 50) * 255
    offset = noisy.round() - PatternPictures(noise=9).table(16)[5]
    assert offset.min() == 0 and offset.max() == 9
    turned = look(PatternPictures(rotation=30), [5] * 50, [False] * 50, [0.0] * 50)
    different = turned.unique(dim=0)
    assert 10 < len(different) <= 30 and (different == plain[0]).all(1).any()
    level = turned.mean(1) / plain[0].mean()
    assert level.min() > 0.8 and level.max() < 1.02  # corners leave, nothing comes in


def test_angles_of_patterns_and_of_looks(monkeypatch):
    turn, angles = tree_pictures._turn, []

    def spy(images, degrees):
        angles.append(set(degrees.tolist()))
        return turn(images, degrees)

    monkeypatch.setattr(tree_pictures, "_turn", spy)
    PatternPictures().table(5000)
    look(PatternPictures(rotation=7), [5] * 200, [False] * 200, [0.0] * 200)
    of_patterns, _, of_looks = angles
    assert of_patterns == set(range(359)) and of_looks == set(range(7))


def test_cue_of_patterns_is_their_middle_block():
    seen = look(PatternPictures(), [5, 5, 5], [True, True, False], [1.0, 0.0, 1.0]).view(3, 12, 12)
    middle = torch.zeros(12, 12, dtype=torch.bool)
    middle[3:9, 3:9] = True
    picture = PatternPictures().table(16)[5].view(12, 12) / 255
    for row, cue in ((0, 254 / 255), (1, 0.0)):
        assert (seen[row][middle] == torch.tensor(cue)).all()
        assert torch.equal(seen[row][~middle], picture[~middle])
    assert torch.equal(seen[2], picture)


@pytest.mark.parametrize(
    ("kind", "argument", "value"),
    [
        (OneHotPictures, "num_pictures", 0),
        (OneHotPictures, "noise", 255),
        (PatternPictures, "noise", -1),
        (PatternPictures, "rotation", 0),
        (PatternPictures, "seed", -1),
    ],
)
def test_bad_arguments_name_themselves(kind, argument, value):
    with pytest.raises(ValueError, match=argument):
        kind(**{argument: value})
