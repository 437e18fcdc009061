"""The base of every config model: frozen, unknown keys refused, YAML in and out.

A config class defines each option once, as a field with its type, range, default and help text. The YAML
schema, the command-line flags and the Python keyword arguments all come from that one definition.
"""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePath
from typing import Annotated, Any, Self, TypeVar, get_args, get_origin

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    TypeAdapter,
    ValidationError,
    model_validator,
)
from pydantic.fields import FieldInfo
from pydantic_core import CoreSchema, core_schema

from lab.errors import InputError, did_you_mean
from lab.files import is_file, is_folder, is_there, read_text
from lab.strict_yaml import read_yaml
from lab.text import shortened


class OneOf:
    """Metadata of a type: a text that is a key of `table`, as the table is when a value is checked."""

    def __init__(self, table: Mapping[str, Any], what: str):
        self.table = table
        self.what = what

    def check(self, name: str) -> str:
        """Returns the name if the table has it.

        Raises:
            ValueError: it has not, with the nearest names.
        """
        if name not in self.table:
            raise ValueError(f"unknown {self.what} '{name}'{did_you_mean(name, self.table)}")
        return name

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_after_validator_function(self.check, handler(source))

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        return {**handler(schema), "enum": list(self.table)}


def one_of(table: Mapping[str, Any], what: str) -> OneOf:
    """Makes an option out of a table: `dialect: Annotated[str, one_of(DIALECTS, "dialect")] = "a1111"`.

    Values are checked when a config is built, so that an entry that was added later counts; the help text of the
    option lists the table's names.

    Args:
        table: What can be chosen, by name.
        what: What the names are names of, for the error.
    """
    return OneOf(table, what)


def at_home(path: Path) -> Path:
    """The path with the home folder for a leading `~`; a user that there is not stays as it is."""
    try:
        return path.expanduser()
    except RuntimeError:
        return path


def _existing_file(path: Path) -> Path:
    path = at_home(path)
    if is_folder(path):
        raise ValueError(f"{path} is a folder, and a file is wanted")
    if not is_file(path):
        raise ValueError(f"{path}: no such file")
    return path


def _existing_folder(path: Path) -> Path:
    path = at_home(path)
    if is_file(path):
        raise ValueError(f"{path} is a file, and a folder is wanted")
    if not is_folder(path):
        raise ValueError(f"{path}: no such folder")
    return path


def _existing_path(path: Path) -> Path:
    path = at_home(path)
    if not is_there(path):
        raise ValueError(f"{path}: no such file or folder")
    return path


NewPath = Annotated[Path, AfterValidator(at_home)]
"""A file or folder that need not be there yet; `~` is the home folder."""

ExistingFile = Annotated[Path, AfterValidator(_existing_file)]
"""A file that is there when the config is built; `~` is the home folder."""

ExistingFolder = Annotated[Path, AfterValidator(_existing_folder)]
"""A folder that is there when the config is built; `~` is the home folder."""

ExistingPath = Annotated[Path, AfterValidator(_existing_path)]
"""A file or folder that is there when the config is built; `~` is the home folder."""


class Config(BaseModel):
    """A frozen, validated set of options."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)

    @classmethod
    def __pydantic_init_subclass__(cls, **_: Any) -> None:
        """Puts the names of a table behind the help text of the option that chooses from it."""
        for name in cls.__annotations__.keys() & cls.model_fields.keys():
            field = cls.model_fields[name]
            names = [key for part in _metadata(field) for key in part.table]
            if names:
                field.description = f"{field.description or ''} [choices: {', '.join(names)}]".strip()

    @model_validator(mode="before")
    @classmethod
    def _shape(cls, settings: Any) -> Any:
        """Takes one value for a list of one, and the other way round."""
        if not isinstance(settings, Mapping):
            return settings
        fields, settings = cls.model_fields, {cls._field(key): value for key, value in settings.items()}
        return {
            key: _shaped(fields[key], value) if key in fields else value for key, value in settings.items()
        }

    @classmethod
    def _field(cls, key: Any) -> Any:
        """The field that a key means: `from` is `from_`, since Python keeps the word for itself."""
        return f"{key}_" if f"{key}_" in cls.model_fields else key

    @classmethod
    def build(cls, settings: Mapping[str, Any], where: str = "options") -> Self:
        """Validates `settings`; `where` names their origin in the error.

        Raises:
            InputError: an unknown key (with the nearest names) or a value out of range.
        """
        try:
            return cls(**settings)
        except ValidationError as error:
            raise InputError(f"{where}: {first_problem(cls, error)}") from None
        except UnicodeError:  # pydantic's texts are UTF-8
            raise InputError(f"{where}: {_HALF_CHARACTER}") from None

    @classmethod
    def given_with(cls, config: "Config | None", settings: Mapping[str, Any]) -> dict[str, Any]:
        """What was set in a config and by settings, which go on top: either may be all that a caller gives.

        Raises:
            InputError: the config is of another class.
        """
        if config is not None and not isinstance(config, cls):
            raise InputError(
                f"config: expected {cls.__name__}, not {type(config).__name__}; everything else is given by name"
            )
        return {**(config.given() if config else {}), **settings}

    @classmethod
    def read(cls, path: Path | None, over: Mapping[str, Any] | None = None) -> Self:
        """Reads a YAML file, then lays the settings of `over` on top; without a path, `over` alone counts.

        Raises:
            InputError: unreadable file, broken YAML, unknown key or bad value, with file and line.
        """
        over = dict(over or {})
        if path is None:
            return cls.build(over)
        settings, lines = _read_file(path)
        settings, lines = ({cls._field(key): each[key] for key in each} for each in (settings, lines))
        for key in settings:
            if key not in cls.model_fields:
                nearest = did_you_mean(str(key), cls.model_fields)
                raise InputError(f"{path}:{lines.get(key, 1)}: unknown key '{key}'{nearest}")
        try:
            return cls(**(settings | over))
        except ValidationError as error:
            key = str(next(iter(error.errors()[0]["loc"]), ""))
            where = f"{path}:{lines[key]}" if key in lines and key not in over else "options"
            raise InputError(f"{where}: {first_problem(cls, error)}") from None
        except UnicodeError:
            raise InputError(f"{path}: {_HALF_CHARACTER}") from None

    def given(self) -> dict[str, Any]:
        """The settings that were set by hand, without the defaults."""
        return {name: getattr(self, name) for name in self.model_fields_set}

    def to_yaml(self) -> str:
        """The whole config as YAML that `read` takes back."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def _metadata(field: Any) -> Iterator[OneOf]:
    """The tables from which a field, or any member of its type, chooses."""
    yield from (part for part in getattr(field, "metadata", ()) if isinstance(part, OneOf))
    waiting = [getattr(field, "annotation", field)]
    while waiting:
        parts = get_args(waiting.pop())
        yield from (part for part in parts if isinstance(part, OneOf))
        waiting += parts


def _read_file(path: Path) -> tuple[dict[str, Any], dict[str, int]]:
    """Returns the settings and the line on which each top-level key stands."""
    settings, lines = read_yaml(read_text(path, "the config file"), str(path))
    if settings is None:
        return {}, {}
    if not isinstance(settings, dict):
        raise InputError(f"{path}:1: expected 'key: value' lines, found {type(settings).__name__}")
    return settings, lines


def _shaped(field: FieldInfo, value: Any) -> Any:
    """One value where a list is wanted as a list of one, a list of one where one is wanted as the one, paths as texts
    where texts are wanted."""
    kinds = set(_kinds(field.annotation))
    if list in kinds and isinstance(value, (str, PurePath, Mapping)):
        value = [value]
    elif isinstance(value, list) and len(value) == 1 and not kinds & {list, tuple, dict, Any}:
        value = value[0]
    if str in kinds and Path not in kinds:
        if isinstance(value, PurePath):
            return str(value)
        if isinstance(value, list):
            return [str(one) if isinstance(one, PurePath) else one for one in value]
    return value


def _kinds(annotation: Any) -> Iterator[Any]:
    """The types in an annotation, with those inside of lists, unions and Annotated."""
    yield get_origin(annotation) or annotation
    for part in get_args(annotation):
        yield from _kinds(part)


Validated = TypeVar("Validated")


def validated(kind: type[Validated], value: Any, where: object) -> Validated:
    """A value that was read from a file as what it must be: a pydantic model, a dataclass, or a type such as list[int].

    Raises:
        InputError: it is something else; says the file and the key.
    """
    try:
        return TypeAdapter(kind).validate_python(value)
    except ValidationError as error:
        raise InputError(f"{where}: {first_problem(Config, error)}") from None


_HALF_CHARACTER = "a text holds half a character (a cut emoji, or bytes that are not UTF-8); write it again"


def first_problem(cls: type[BaseModel], error: ValidationError) -> str:
    """The first thing that is wrong, in a line without its origin."""
    problem = error.errors()[0]
    parts = (str(part) for part in problem["loc"])
    name = ".".join(
        part.removesuffix("_") for part in parts if not re.search(r"[\[-]|^str$", part)
    )  # a union's names its members
    if problem["type"] == "extra_forbidden":
        return f"unknown option '{name}'{did_you_mean(name, cls.model_fields)}"
    message = problem["msg"]
    if problem["type"] == "value_error":  # the lab's own words, which may begin with a file's name
        message = message.removeprefix("Value error, ")
    else:
        message = message[:1].lower() + message[1:]
    given = problem.get("input")
    if problem["type"] in ("list_type", "string_type"):
        if given is None:
            message = "is empty; give a value, or leave it out"
        elif isinstance(given, (int, float)):
            message += "; what is text stands in quotes"
    elif problem["type"] in ("model_type", "dataclass_type", "model_attributes_type"):
        message = f"expected an object with keys, not {type(given).__name__}"
    elif problem["type"] == "path_type":
        message = f"expected a path, not {type(given).__name__}"
    quoted = isinstance(given, (str, int, float)) and str(given) not in message
    shown = f" (given: {shortened(given) if isinstance(given, str) else given!r})" if quoted else ""
    return f"{name}: {message}{shown}" if name else message
