from dataclasses import replace

import numpy as np
import pytest

from envs.body import ANT, HALF_CHEETAH, HOPPER, PARAMETERS, WALKER, Body, Layout, Physics
from envs.outfits import Element, Limp, Parameters

LAYOUT = Layout(skip=1)


def arrays(body):
    return {name: getattr(body.model, name).copy() for name in PARAMETERS}


@pytest.mark.parametrize(("anatomy", "width"), [(WALKER, 65), (HOPPER, 41)])
def test_invariant_6_factors_zeros_and_order(anatomy, width):
    body, outfit = Body(anatomy, LAYOUT, own=True), Parameters()
    assert outfit.width(anatomy) == width
    original = arrays(body)
    shapes = {name: array.shape for name, array in original.items()}
    bodies = anatomy.num_bodies
    assert shapes == {
        "body_mass": (bodies,),
        "body_inertia": (bodies, 3),
        "dof_damping": (anatomy.num_velocities,),
        "geom_friction": (bodies, 3),
    }
    exponents = np.random.default_rng(0).uniform(-3, 3, width)
    outfit.wear(body, exponents)
    worn, place = arrays(body), 0
    for name in PARAMETERS:
        base = 1.3 if name == "dof_damping" else 1.5
        for index in np.ndindex(shapes[name]):
            expected = original[name][index] * base ** exponents[place]
            assert worn[name][index] == pytest.approx(expected, rel=1e-12)
            place += 1
        zero = original[name] == 0
        assert zero.any() == (name != "geom_friction") and not worn[name][zero].any()
        factor = worn[name][~zero] / original[name][~zero]
        low, high = (0.455, 2.198) if name == "dof_damping" else (0.296, 3.376)
        assert low <= factor.min() < factor.max() <= high
    assert place == width


def test_invariant_6_a_then_b_then_a_restores_identical_arrays():
    body, outfit = Body(WALKER, LAYOUT, own=True), Parameters()
    a, b = np.random.default_rng(0).uniform(-3, 3, (2, 65))
    outfit.wear(body, a)
    first = arrays(body)
    outfit.wear(body, b)
    assert not np.array_equal(arrays(body)["body_mass"], first["body_mass"])
    outfit.wear(body, a)
    for name, array in arrays(body).items():
        assert np.array_equal(array, first[name])
    outfit.wear(body, np.zeros(65))
    for name, array in arrays(body).items():
        assert np.array_equal(array, body.original[name])
        assert np.array_equal(array, getattr(Body(WALKER, LAYOUT).model, name))  # the shared model


def test_some_arrays_alone():
    outfit = Parameters(("body_mass", "dof_damping", "geom_friction"))
    body = Body(WALKER, LAYOUT, own=True)
    assert outfit.width(WALKER) == 8 + 9 + 24
    outfit.wear(body, np.full(41, 2.0))
    assert np.array_equal(body.model.body_inertia, body.original["body_inertia"])
    assert np.allclose(body.model.dof_damping, 1.69 * body.original["dof_damping"])


def test_other_parameters_are_other_physics():
    ends = []
    for scale in (0.0, 2.0):
        body = Body(replace(HOPPER, timestep=0.004), LAYOUT, own=True)
        Parameters().wear(body, np.full(41, scale))
        body.begin(np.random.default_rng(0))
        for _ in range(20):
            body.move(np.full(3, 0.3, dtype=np.float32))
        ends.append(body.observe())
    assert np.abs(ends[0] - ends[1]).max() > 0.01


def test_constants_that_follow_are_refreshed_on_demand():
    for refresh in (False, True):
        body = Body(WALKER, LAYOUT, Physics(refresh_constants=refresh), own=True)
        before = body.model.body_subtreemass[1]
        exponents = np.zeros(65)
        exponents[:8] = np.log(2) / np.log(1.5)
        Parameters().wear(body, exponents)
        assert body.model.body_subtreemass[1] == pytest.approx(before * (1 + refresh))
        Parameters().wear(body, np.zeros(65))
        assert body.model.body_subtreemass[1] == pytest.approx(before)


@pytest.mark.parametrize(
    ("names", "index"), [(("body_mass", "body_inertia"), 3), (("dof_damping",), 8)]
)
def test_one_element(names, index):
    body = Body(HALF_CHEETAH, LAYOUT, own=True)
    Element(names, 2 + index % 3).wear(body, np.array([9.0]))  # put back by the next
    Element(names, index).wear(body, np.array([0.25, 0.0]))
    for name, array in arrays(body).items():
        factor = np.ones(array.shape)
        if name in names:
            factor[index] = 0.25
        assert np.array_equal(array, body.original[name] * factor)


def test_limp_legs_do_not_act_and_cost_nothing():
    legs = ((2, 3), (4, 5), (6, 7), (0, 1))
    body, outfit = Body(ANT, LAYOUT), Limp(legs)
    outfit.wear(body, np.array([0.0, 0.0, 1.0, 0.0]))
    body.begin(np.random.default_rng(0))
    assert body.move(np.full(8, 0.5, dtype=np.float32)) == 6 * 0.25
    assert body.data.ctrl.tolist() == [0.5] * 6 + [0.0] * 2
    names = [body.model.actuator(i).trnid[0] for i in range(8)]
    joints = [body.model.joint(i).name for i in names]
    for number, leg in enumerate(legs, 1):
        assert [joints[i] for i in leg] == [f"hip_{number}", f"ankle_{number}"]
    outfit.wear(body, np.zeros(4))
    assert body.move(np.full(8, 0.5, dtype=np.float32)) == 8 * 0.25
