"""YAML in which a value is what it looks like, and nothing is dropped in silence."""

import re
from collections.abc import Hashable
from typing import Any

import yaml

from lab.errors import InputError


class _Loader(yaml.SafeLoader):
    """YAML 1.1 as PyYAML reads it, without what turns a value into another one.

    Only true and false are booleans, so that `no` and `off` are texts. Only decimal numbers without leading zeros are
    whole numbers: 010 is not 8, 1:30 not 90 and 1_0 not 10, but texts. There are no dates.
    """

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012  # as PyYAML declares it

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        """Refuses a key that stands twice."""
        seen: dict[tuple[str, str], int] = {}
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and not key.tag.endswith(":merge"):
                if (key.tag, key.value) in seen:
                    problem = f"'{key.value}' stands twice, first on line {seen[key.tag, key.value]}"
                    raise yaml.constructor.ConstructorError(None, None, problem, key.start_mark)
                seen[key.tag, key.value] = key.start_mark.line + 1
        return super().construct_mapping(node, deep)

    def construct_sequence(self, node: yaml.SequenceNode, deep: bool = False) -> list[Any]:
        """Refuses `[cat:dog:0.5]` and `[cat|dog]`, which would lose the brackets that a prompt needs."""
        if node.flow_style and len(node.value) == 1:
            (item,) = node.value
            plain = isinstance(item, yaml.ScalarNode) and item.style is None
            if plain and re.search(r"\||:\s*[\d.]+\s*$", item.value):
                problem = f"is [{item.value}] a list, or prompt syntax? Put it in quotes"
                raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark)
        return super().construct_sequence(node, deep)


for _tag, _pattern, _first in (
    ("bool", r"^(?:true|True|TRUE|false|False|FALSE)$", "tTfF"),
    ("null", r"^(?:~|null|Null|NULL|)$", ["~", "n", "N", ""]),
    ("int", r"^[-+]?(?:0|[1-9][0-9]*)$", "-+0123456789"),
    ("float", r"^[-+]?(?:[0-9]+\.[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?$", "-+.0123456789"),
    ("float", r"^(?:[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$", "-+."),
    ("merge", r"^<<$", "<"),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(_pattern), list(_first))


def read_yaml(text: str, where: str) -> tuple[Any, dict[Any, int]]:
    """The value that a YAML text holds, and if it is a mapping the line of each key, from 1.

    Args:
        where: Names the file in errors.

    Raises:
        InputError: not valid YAML, a key twice, brackets of a prompt without quotes, or nested too deeply.
    """
    loader: _Loader | None = None
    try:
        loader = _Loader(text.removeprefix("\ufeff"))  # looks for characters that no YAML has
        node = loader.get_single_node()
        value = None if node is None else loader.construct_document(node)
        lines = {}
        if isinstance(node, yaml.MappingNode):
            lines = {
                loader.construct_object(key, deep=True): key.start_mark.line + 1 for key, _ in node.value
            }
        return value, lines
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise InputError(f"{where}{line}: not valid YAML: {problem}") from None
    except (ValueError, TypeError) as error:
        problem = str(error).partition(";")[0]  # behind it stands advice for whoever writes Python
        raise InputError(f"{where}: not valid YAML: {problem}") from None
    except RecursionError:
        raise InputError(f"{where}: not valid YAML: nested too deeply") from None
    finally:
        if loader is not None:
            loader.dispose()
