import pytest

from tests.hub.fetching import FILES


@pytest.fixture
def stored(hub):
    """The hub with one repository."""
    hub.put("org/name", FILES)
    return hub


@pytest.fixture
def silent(capfd):
    """Nothing is printed, by no library."""
    yield
    assert capfd.readouterr() == ("", "")
