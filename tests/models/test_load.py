import pytest


@pytest.mark.parametrize("family", ["sd1", "sd2", "sdxl"])
def test_families_are_told_apart_by_their_configs(family, request):
    assert request.getfixturevalue(family).family == family
