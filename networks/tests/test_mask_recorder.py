"""The recorder of masks: what it takes, once, and from whom."""

import types

import torch

from networks.mask_recorder import MaskRecorder


def test_matrices_are_taken_once_an_evaluation():
    matrices = [{"overlap/actor": torch.eye(3).double() * number} for number in (1, 2)]
    learner = types.SimpleNamespace(similarities=iter(matrices).__next__)
    recorder = MaskRecorder()
    for number in (1, 2):
        recorder.begin()
        assert recorder.summary() == {}
        for step in range(3):
            recorder.see(learner, None, step, torch.ones(3, dtype=torch.bool))
        (matrix,) = recorder.summary().values()
        assert matrix.dtype == torch.float32 and torch.equal(matrix, torch.eye(3) * number)


def test_a_learner_without_masks_is_told_of_once(caplog):
    recorder = MaskRecorder()
    for _ in range(2):
        recorder.begin()
        recorder.see(types.SimpleNamespace(), None, 0, torch.ones(1, dtype=torch.bool))
        assert recorder.summary() == {}
    assert caplog.text.count("SimpleNamespace has no masks") == 1
