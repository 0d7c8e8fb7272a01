from dataclasses import replace

import gymnasium
import mujoco
import numpy as np
import pytest

from envs.body import ANT, HALF_CHEETAH, HOPPER, HUMANOID, WALKER, Body, Layout, Physics, model

ROBOTS = {"HalfCheetah": HALF_CHEETAH, "Ant": ANT, "Walker2d": WALKER, "Hopper": HOPPER}
ROBOTS["Humanoid"] = HUMANOID
WHOLE = Layout(skip=0)


def actions(anatomy, steps, seed=0):
    rng = np.random.default_rng(seed)
    return rng.uniform(-1, 1, (steps, anatomy.num_actions)).astype(np.float32)


@pytest.mark.parametrize("name", ROBOTS)
def test_physics_and_starts_are_those_of_gymnasium(name):
    anatomy = ROBOTS[name]
    upstream = gymnasium.make(f"{name}-v5").unwrapped
    upstream.reset(seed=5)
    body = Body(anatomy, WHOLE)
    body.begin(np.random.Generator(np.random.PCG64(np.random.SeedSequence(5))))
    assert body.seconds == pytest.approx(upstream.dt)
    for action in [None, *actions(anatomy, 25)]:
        if action is not None:
            upstream.step(action.astype(np.float64) * anatomy.scale)
            body.move(action)
        assert np.array_equal(body.data.qpos, upstream.data.qpos)
        assert np.array_equal(body.data.qvel, upstream.data.qvel)
        assert np.array_equal(body.data.body("torso").xpos, upstream.data.body("torso").xpos)
    upstream.close()


@pytest.mark.parametrize(
    ("name", "seconds"),
    [("HalfCheetah", 0.05), ("Ant", 0.05), ("Walker2d", 0.008), ("Hopper", 0.008)]
    + [("Humanoid", 0.015)],
)
def test_table_of_robots(name, seconds):
    """Time steps, positions, velocities and actuators of the specification's section 1."""
    anatomy = ROBOTS[name]
    made = model(anatomy.file)
    sizes = (made.nq, made.nv, made.nu, made.nbody, made.ngeom)
    assert sizes == (
        anatomy.num_positions,
        anatomy.num_velocities,
        anatomy.num_actions,
        anatomy.num_bodies,
        anatomy.num_geoms,
    )
    assert Body(anatomy, WHOLE).seconds == pytest.approx(seconds)
    assert np.allclose(made.actuator_ctrlrange, [[-anatomy.scale, anatomy.scale]])


@pytest.mark.parametrize(
    ("anatomy", "layout", "width"),
    [
        (HALF_CHEETAH, Layout(1, torso=True), 20),
        (HALF_CHEETAH, Layout(1), 17),
        (ANT, Layout(2), 27),
        (ANT, Layout(0), 29),
        (ANT, Layout(2, torso=True), 30),
        (ANT, Layout(0, contacts=True), 113),
        (WALKER, Layout(1, clip=10.0), 17),
        (WALKER, Layout(1, velocity=False, clip=10.0), 8),
        (HOPPER, Layout(1, clip=10.0), 11),
        (HOPPER, Layout(1, clip=10.0, torso=True), 14),
        (HUMANOID, Layout(2, forces=True), 376),
    ],
)
def test_invariant_2_widths_and_order_of_observations(anatomy, layout, width):
    assert layout.width(anatomy) == width
    body = Body(anatomy, layout)
    body.begin(np.random.default_rng(0))
    data = body.data
    for action in actions(anatomy, 3):
        body.move(action)
        data.qvel[-1] = 70.0
        parts = [data.qpos[layout.skip :]]
        if layout.velocity:
            parts.append(data.qvel.clip(-layout.clip, layout.clip))
        if layout.torso:
            parts.append(data.body("torso").xpos)
        if layout.forces:
            parts += [data.cinert.ravel(), data.cvel.ravel(), data.qfrc_actuator]
            parts.append(np.zeros(6 * anatomy.num_bodies))
        if layout.contacts:
            parts.append(np.zeros(84))
        seen = body.observe()
        assert seen.shape == (width,) and np.array_equal(seen, np.concatenate(parts))


@pytest.mark.parametrize("layout", [Layout(1, torso=True), Layout(1)])
def test_invariant_2_only_the_torso_entry_moves_with_the_robot(layout):
    seen = []
    for shift in (0.0, 7.0):
        body = Body(HALF_CHEETAH, layout)
        body.begin(np.random.default_rng(3))
        body.data.qpos[0] += shift
        mujoco.mj_forward(body.model, body.data)
        body.move(actions(HALF_CHEETAH, 1)[0])
        seen.append(body.observe())
    moved = np.abs(seen[1] - seen[0]) > 1e-6
    assert np.flatnonzero(moved).tolist() == ([17] if layout.torso else [])


def test_invariant_9_actions_are_scaled_and_the_square_is_of_the_controls():
    for anatomy in (HUMANOID, ANT):
        body = Body(anatomy, WHOLE)
        body.begin(np.random.default_rng(0))
        action = actions(anatomy, 1)[0]
        square = body.move(action)
        control = action.astype(np.float64) * (0.4 if anatomy is HUMANOID else 1.0)
        assert np.array_equal(body.data.ctrl, control)
        assert square == pytest.approx((control**2).sum(), rel=1e-12)


def test_places_lag_one_simulator_step_and_are_copied():
    body = Body(HALF_CHEETAH, WHOLE)
    body.begin(np.random.default_rng(0))
    first = body.place
    assert first[0] == body.data.qpos[0]
    before = first.copy()
    body.move(actions(HALF_CHEETAH, 1)[0])
    assert np.array_equal(first, before)
    assert body.place[0] != body.data.qpos[0]
    x, y = body.drift()
    assert x == pytest.approx((body.place[0] - before[0]) / 0.05) and y == 0.0
    assert np.array_equal(body.place, body.data.body("torso").xpos)


def test_the_humanoid_is_followed_by_its_centre_of_mass():
    body = Body(HUMANOID, WHOLE)
    body.begin(np.random.default_rng(0))
    mass, places = body.model.body_mass, body.data.xipos
    centre = sum(m * place for m, place in zip(mass, places, strict=True)) / mass.sum()
    assert np.allclose(body.place, centre, atol=1e-12)


@pytest.mark.parametrize("name", ROBOTS)
def test_snapshot_is_exact(name):
    anatomy = ROBOTS[name]
    layout = Layout(1, torso=True, forces=name == "Humanoid")
    body, other = Body(anatomy, layout), Body(anatomy, layout)
    body.begin(np.random.default_rng(1))
    for moment in range(4):
        for action in actions(anatomy, 5, seed=moment):
            body.move(action)
        state = body.snapshot()
        rows = []
        for again in (body, other, body):
            again.begin(np.random.default_rng(9))
            again.restore(state)
            row = []
            for action in actions(anatomy, 6, seed=50 + moment):
                again.move(action)
                row.append(np.concatenate([again.observe(), again.drift(), [again.speed(0)]]))
            rows.append(np.stack(row))
        assert np.array_equal(rows[0], rows[1]) and np.array_equal(rows[0], rows[2])
        body.restore(state)


def test_contact_forces_are_zero_unless_asked_for():
    for asked in (False, True):
        body = Body(ANT, Layout(0, contacts=True), Physics(contact_forces=asked))
        body.begin(np.random.default_rng(0))
        largest = 0.0
        for action in actions(ANT, 30):
            body.move(action)
            force = body.data.cfrc_ext
            assert np.array_equal(body.observe()[29:], force.clip(-1, 1).ravel())
            assert body.contact() == pytest.approx((np.clip(force, -1, 1) ** 2).sum())
            assert body.impact() == pytest.approx((force**2).sum())
            largest = max(largest, body.contact())
        assert (largest > 1.0) == asked and (largest == 0.0) != asked


def test_time_step_and_feet_are_set_on_a_model_of_its_own():
    ids = [model(WALKER.file).geom(name).id for name in ("foot_geom", "foot_left_geom")]
    plain, legacy = Body(WALKER, WHOLE), Body(WALKER, WHOLE, Physics(legacy_feet=True))
    assert plain.model.geom_friction[ids, 0].tolist() == [1.9, 1.9]
    assert legacy.model.geom_friction[ids, 0].tolist() == [0.9, 1.9]
    slow = Body(replace(WALKER, timestep=0.004), WHOLE)
    assert slow.seconds == pytest.approx(0.016) and plain.seconds == pytest.approx(0.008)
    assert plain.model is Body(WALKER, WHOLE).model is not slow.model
    own = Body(WALKER, WHOLE, own=True)
    own.model.body_mass[:] = 0.0
    assert own.model is not plain.model and plain.model.body_mass.all() == own.model.body_mass.any()
    assert own.original["body_mass"][1:].all() and not plain.original


def test_a_simulation_that_explodes_is_noticed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # where MuJoCo writes its log
    body = Body(ANT, WHOLE)
    body.begin(np.random.default_rng(0))
    body.move(actions(ANT, 1)[0])
    assert not body.broken
    body.data.qvel[3] = 1e12
    body.move(actions(ANT, 1)[0])
    assert body.broken
    body.begin(np.random.default_rng(0))
    assert not body.broken


def test_what_is_seen_after_a_restore_is_the_restored_moment():
    body = Body(HALF_CHEETAH, Layout(1))
    body.begin(np.random.default_rng(1))
    for action in actions(HALF_CHEETAH, 5, seed=0):
        body.move(action)
    mujoco.mj_forward(body.model, body.data)  # a step leaves places of its last part's beginning
    state, places = body.snapshot(), body.data.geom_xpos.copy()
    body.begin(np.random.default_rng(2))
    body.restore(state)
    assert np.array_equal(body.data.geom_xpos, places)
