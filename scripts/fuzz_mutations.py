"""Files as they come back edited, cut, deep, or of another type."""

import json
import random
import struct
from io import BytesIO
from typing import Any

import yaml
from PIL import Image
from PIL.PngImagePlugin import PngInfo

DEEP = 5000
_RAW = {
    "@deep list@": "[" * DEEP + "]" * DEEP,
    "@deep object@": '{"a":' * DEEP + "1" + "}" * DEEP,
    "@nan@": "NaN",
    "@infinity@": "-Infinity",
    "@huge@": "1e999",
    "@digits@": "9" * 5000,
}
"""What JSON writers do not write, by what stands for it until the text is written."""

_VALUES: tuple[Any, ...] = (
    *_RAW, None, True, False, 0, -1, 1, 3, 1.5, 10**9, 10**30, 1e300, "", "x", "1", "nan", "\ud800", "\0", "../../x",
    "猫", "a" * 3000, [], [1], [[]], ["x", None], {}, {"a": 1}, [None] * 3,
)  # fmt: skip

_YAML_LINES = (
    "1: 2", "on: 2", "? [a]\n: b", "<<: x", "<<: {zz: 1}", "a: &a [*a]", "b: !!python/object:os.system x", "\tx: 1",
    "c: 2024-13-45", "d: !!int abc", "e: [", "- f", "g: 010", "%YAML 9", "---",
    "h: *nobody", "prompt: no", "seeds: .nan",
)  # fmt: skip


def mutate(data: bytes, suffix: str, chance: random.Random) -> bytes:
    """A file's bytes with something wrong, by its kind or blindly."""
    try:
        if chance.random() < 0.7:
            return _STRUCTURED.get(suffix, _text)(data, chance)
    except (ValueError, TypeError, KeyError, OSError, yaml.YAMLError):
        pass  # it has not the structure that its name says
    return _blindly(data, chance)


def _blindly(data: bytes, chance: random.Random) -> bytes:
    place, length = chance.randrange(len(data) + 1), chance.choice((1, 4, 64, 5000))
    noise = chance.randbytes(length)
    return chance.choice((
        data[:place], data[place:], b"",
        data[:place] + noise + data[place + length :], data[:place] + noise + data[place:],
        data + data, noise, bytes(len(data)), b"<!DOCTYPE html>" + data,
    ))  # fmt: skip


def _text(data: bytes, chance: random.Random) -> bytes:
    lines = data.decode().split("\n")
    place = chance.randrange(len(lines))
    odd = chance.choice((
        "", "x" * 3000, "\ufeff", "\0", "\u2028", "(" * 3000, "[a:b:" * 900, "<" * 500, "((a:1e400)", "\x1b[31mred",
        "a:nan", "{name", "[[]]", "AND AND", "<lora:x:1>", "a:-99999", "  ",
    ))  # fmt: skip
    how = chance.randrange(5)
    if how == 0:
        lines.insert(place, odd)
    elif how == 1:
        lines[place] = odd
    elif how == 2:
        del lines[place]
    elif how == 3:
        chance.shuffle(lines)
    else:
        lines[place] += odd
    end = chance.choice(("\n", "\r\n", "\r"))
    return end.join(lines).encode(chance.choice(("utf-8", "utf-8", "utf-16", "utf-8-sig")))


def _changed(value: Any, chance: random.Random) -> Any:
    """A JSON value with one thing in it removed, renamed or replaced."""
    places = list(_places(value))
    if not places or chance.random() < 0.08:
        return chance.choice(_VALUES)
    holder, key = chance.choice(places)
    how = chance.random()
    if how < 0.2:
        del holder[key]
    elif how < 0.3 and isinstance(holder, dict):
        holder[chance.choice(("", "x", f"{key}2", str(key).upper()))] = holder.pop(key)
    elif how < 0.4:
        holder[key] = [holder[key]]
    elif how < 0.5:
        holder[key] = str(holder[key])
    else:
        holder[key] = chance.choice(_VALUES)
    return value


def _places(value: Any) -> Any:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield value, key
            yield from _places(inner)
    elif isinstance(value, list):
        for key, inner in enumerate(value[:20]):
            yield value, key
            yield from _places(inner)


def _written(value: Any) -> str:
    text = json.dumps(value)
    for mark, raw in _RAW.items():
        text = text.replace(json.dumps(mark), raw)
    return text


def _json(data: bytes, chance: random.Random) -> bytes:
    return _written(_changed(json.loads(data), chance)).encode()


def _json_lines(data: bytes, chance: random.Random) -> bytes:
    lines = data.decode().splitlines()
    place = chance.randrange(len(lines))
    lines[place] = _written(_changed(json.loads(lines[place]), chance))
    return "\n".join(lines).encode()


def _yaml(data: bytes, chance: random.Random) -> bytes:
    if chance.random() < 0.3:
        lines = data.decode().splitlines()
        lines.insert(chance.randrange(len(lines) + 1), chance.choice(_YAML_LINES))
        return "\n".join(lines).encode()
    value = _changed(yaml.safe_load(data), chance)
    if isinstance(value, dict):  # a key a line, as people write
        return "".join(f"{_written(key)}: {_written(inner)}\n" for key, inner in value.items()).encode()
    return _written(value).encode()


def _safetensors(data: bytes, chance: random.Random) -> bytes:
    """Another header: shapes, types and offsets, or the metadata, in which texts may hold JSON."""
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    metadata = header.get("__metadata__", {})
    texts = [key for key, text in metadata.items() if text[:1] in "{["]
    if texts and chance.random() < 0.6:
        key = chance.choice(texts)
        metadata[key] = _written(_changed(json.loads(metadata[key]), chance))
    elif chance.random() < 0.3:
        names = [name for name in header if name != "__metadata__"]
        name = chance.choice(names)
        header[chance.choice(("x", f"{name}.x", name.upper(), name[1:]))] = header.pop(name)
    else:
        header = _changed(header, chance)
    text = _written(header).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + data[8 + length :]


def _png(data: bytes, chance: random.Random) -> bytes:
    """Another record in the text chunks, or another picture."""
    with Image.open(BytesIO(data)) as image:
        image.load()
        texts = dict(getattr(image, "text", {}))
        picture = image.convert("RGB")
    if texts and chance.random() < 0.8:
        key = chance.choice([key for key, text in texts.items() if text[:1] in "{["])
        texts[key] = _written(_changed(json.loads(texts[key]), chance))
    else:
        width, height = chance.choice(((1, 1), (16, 7), (300, 2)))
        picture = picture.resize((width, height)).convert(
            chance.choice(("RGB", "L", "P", "RGBA", "1", "I;16"))
        )
    info, file = PngInfo(), BytesIO()
    for key, text in texts.items():
        info.add_text(key, text)
    picture.save(file, "PNG", pnginfo=info)
    return file.getvalue()


_STRUCTURED = {
    ".json": _json, ".jsonl": _json_lines, ".yaml": _yaml, ".safetensors": _safetensors, ".png": _png,
}  # fmt: skip
