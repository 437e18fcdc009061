import pytest


@pytest.mark.parametrize("command", [("encode", "a cat", "--model"), ("models",), ("inspect",)])
def test_a_hub_out_of_reach_is_one_line(hub, cut_off, cli, command):
    cut_off()
    code, out, err = cli(*command, "hub:org/name")
    assert (code, out) == (2, "") and err.startswith("lab: hub:org/name: the hub is out of reach")
    assert len(err.splitlines()) == 1
