import pytest

from tests.embeddings.files import TOKEN, torch_file, vectors
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


def test_an_embedding_on_the_hub_is_given_by_its_flag(hub, cli, sd1_folder):
    hub.put("someone/cat-toy", {"learned_embeds.bin": torch_file({TOKEN: vectors(1, 32)})})
    code, out, _ = cli("encode", "a <cat-toy>", "--model", sd1_folder, "--embedding", "hub:someone/cat-toy")
    assert code == 0 and "cat-toy" in out
