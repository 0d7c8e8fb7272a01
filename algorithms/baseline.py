"""The linear feature baseline: a ridge regression of returns on functions of state and time.

Duan et al., "Benchmarking Deep Reinforcement Learning for Continuous Control", 2016, supplement.
"""

import torch
from torch import Tensor

ATTEMPTS = 5
"""How often a fit is tried."""


def features(observation: Tensor, mask: Tensor) -> Tensor:
    """Return [s, s^2, k, k^2, k^3, 1] with k = (t + 1) / 100, and zeros on the padding.

    Args:
        observation: [*, time, observation_dim].
        mask: [*, time] bool.

    Returns:
        [*, time, 2 observation_dim + 4], in double precision.
    """
    s, valid = observation.double(), mask.double().unsqueeze(-1)
    k = valid.cumsum(-2) / 100.0
    return torch.cat((s, s.square(), k, k.square(), k**3, torch.ones_like(k)), -1) * valid


def fit_baseline(observation: Tensor, returns: Tensor, mask: Tensor, ridge: float = 1e-5) -> Tensor:
    """Return w = (X^T X + ridge I)^(-1) X^T R of each task, X holding all steps of its episodes.

    The intercept is penalised too. Where rounding leaves no positive definite matrix, the ridge of
    that task grows by ten, at most four times. Values that are not finite give weights that are
    not finite, for the caller to refuse.

    Args:
        observation: [tasks, episodes, time, observation_dim].
        returns: [tasks, episodes, time].
        mask: [tasks, episodes, time] bool.
        ridge: what is added to the diagonal.

    Returns:
        [tasks, 2 observation_dim + 4], in double precision.

    Raises:
        RuntimeError: if a task's matrix of finite numbers stays singular.
    """
    x = features(observation, mask).flatten(1, 2)
    moments, target = x.mT @ x, x.mT @ returns.double().flatten(1, 2).unsqueeze(-1)
    eye = torch.eye(x.shape[-1], dtype=x.dtype, device=x.device)
    ridges = torch.full_like(moments[:, :1, :1], ridge)
    finite = moments.isfinite().all(-1).all(-1)
    for _ in range(ATTEMPTS):
        factor, info = torch.linalg.cholesky_ex(moments + ridges * eye)
        failed = (info > 0) & finite
        if not bool(failed.any()):
            weights = torch.cholesky_solve(target, factor).squeeze(-1)
            return weights.where(finite.unsqueeze(-1), torch.nan)
        ridges = ridges + 10.0 * failed[:, None, None]
    raise RuntimeError(
        f"the baselines of the tasks {failed.nonzero().flatten().tolist()} could not be fitted in "
        f"{ATTEMPTS} attempts, the last with a ridge of {float(ridges.max()) - 10.0:g}: "
        "are the observations very large?"
    )


def baseline_values(observation: Tensor, mask: Tensor, weights: Tensor) -> Tensor:
    """Return V = X w, zero on the padding, [tasks, episodes, time], of the observation's dtype.

    Args:
        observation: [tasks, episodes, time, observation_dim].
        mask: [tasks, episodes, time] bool.
        weights: [tasks, 2 observation_dim + 4], from `fit_baseline`.
    """
    values = features(observation, mask) @ weights[:, None, :, None]
    return values.squeeze(-1).to(observation.dtype)
