import pytest

from tests.hub_server import Hub


def test_a_model_s_megabytes_are_shown(hub: Hub, sd1_folder, cli):
    hub.put("org/name", sd1_folder)
    code, out, err = cli("models", "hub:org/name")
    assert code == 0 and "Stable Diffusion 1.x" in out
    assert "3/3 MB of org/name" in err and len(err.splitlines()) == 1


@pytest.mark.parametrize("command", [("encode", "a cat", "--model"), ("models",), ("inspect",)])
def test_a_hub_out_of_reach_is_one_line(hub, cut_off, cli, command):
    cut_off()
    code, out, err = cli(*command, "hub:org/name")
    assert (code, out) == (2, "") and err.startswith("lab: hub:org/name: the hub is out of reach")
    assert len(err.splitlines()) == 1
