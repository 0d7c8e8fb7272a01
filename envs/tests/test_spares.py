from envs.spares import Spares


class Thing:
    def __init__(self, name, log):
        self.name, self.log = name, log

    def close(self):
        self.log.append(self.name)


def test_things_come_back_by_kind_and_the_longest_idle_go_first():
    closed = []
    spares = Spares(2)
    a, b, c = (Thing(name, closed) for name in "abc")
    assert spares.take("x") is None
    for kind, thing in (("x", a), ("y", b), ("x", c)):
        spares.put(kind, thing)
    assert len(spares) == 3 and not closed  # until it is trimmed
    spares.trim()
    assert closed == ["a"] and len(spares) == 2
    assert spares.take("z") is None
    assert spares.take("x") is c and spares.take("x") is None
    spares.put("x", c)
    spares.close()
    assert closed == ["a", "b", "c"] and len(spares) == 0


def test_the_one_put_back_last_is_taken_first():
    spares = Spares(5)
    first, second = Thing("first", []), Thing("second", [])
    spares.put("x", first)
    spares.put("x", second)
    assert spares.take("x") is second and spares.take("x") is first
