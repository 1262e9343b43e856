"""Reading a `.pt2` file that torch.export.save wrote, without running anything that stands in it.

torch's own loader unpickles, evaluates the text of sizes and guards, and looks any name up in torch. Here tensors are
read from their raw bytes (or by torch's weights-only reader), sizes may hold nothing but arithmetic, guards are left
out, and every op must be one of ATen's.
"""

from __future__ import annotations

import ast
import io
import json
import re
import zipfile
from collections.abc import Callable, Iterator, Mapping
from math import prod
from pathlib import Path
from typing import Any

from .errors import ModelError

_LARGEST_JSON = 256 << 20
_TARGETS = re.compile(
    r"(torch\.ops\.(aten|prims)\.\w+(\.\w+)?|_operator\.(add|sub|mul|floordiv|mod|pow|neg|eq|ne|lt|le|gt|ge|and_|or_|"
    r"getitem|truediv)|torch\.sym_(int|float|max|min|ite|not|sqrt)|math\.(ceil|floor|trunc|sqrt))"
)
_SYMBOL = re.compile(r"[suz]\d+")
_FUNCTIONS = frozenset(
    "Add Mul Pow Integer Rational Max Min Mod PythonMod FloorDiv CeilDiv CleanDiv ModularIndexing IntTrueDiv "
    "FloatTrueDiv TruncToInt ToFloat CeilToInt FloorToInt PowByNatural Eq Ne Lt Le Gt Ge And Or Not Where "
    "Equality Unequality StrictLessThan LessThan StrictGreaterThan GreaterThan".split()
)
_LONGEST_SIZE, _LARGEST_POWER = 4000, 8  # characters, and exponent
_AGAIN = "save it again with torch.export.save of torch 2.9 or newer, or give the module: FILE.py:FACTORY"


def load(path: Path) -> Any:
    """The torch ExportedProgram of a file, without guards and without sample inputs. Raises: ModelError."""
    try:
        with zipfile.ZipFile(path) as archive:
            return _Archive(path, archive).program()
    except (OSError, zipfile.BadZipFile, NotImplementedError) as error:
        raise ModelError(f"{path} is not a .pt2 file of torch.export, or a broken one", found=str(error)) from error


class _Archive:
    def __init__(self, path: Path, archive: zipfile.ZipFile) -> None:
        self.path, self.archive = path, archive
        names = archive.namelist()
        self.files = {name.partition("/")[2]: name for name in names}

    def program(self) -> Any:
        models = [n for n in self.files if n.startswith("models/") and n.endswith(".json")]
        if len(models) != 1:
            raise self._broken(f"{len(models)} models; files: {', '.join(sorted(self.files)[:6])}", _AGAIN)
        name = Path(models[0]).stem
        described = self._json(models[0])
        described["guards_code"] = []
        _check(described, self.path)
        weights = self._tensors(f"data/weights/{name}_weights_config.json", "data/weights/")
        constants = self._tensors(f"data/constants/{name}_constants_config.json", "data/constants/")
        return self._deserialized(described, weights, constants)

    def _deserialized(self, described: dict[str, Any], weights: Any, constants: Any) -> Any:
        from torch._export.serde import schema, serialize

        try:
            program = serialize._dict_to_dataclass(schema.ExportedProgram, described)
            return serialize.ExportedProgramDeserializer().deserialize(program, weights, constants, None)
        except Exception as error:  # torch raises many kinds on what it did not write
            raise self._broken(f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0][:160]}") from error

    def _tensors(self, config: str, folder: str) -> dict[str, Any]:
        if config not in self.files:
            raise self._broken(f"no {config}", _AGAIN)
        entries = self._json(config).get("config")
        if not isinstance(entries, dict):
            raise self._broken(f"{config} lists no tensors")
        return {name: self._tensor(name, entry, folder) for name, entry in entries.items()}

    def _tensor(self, name: str, entry: Mapping[str, Any], folder: str) -> Any:
        import torch

        try:
            file = str(entry["path_name"])
            data = self._bytes(folder + file)
            if not re.fullmatch(r"(weight|tensor)_\d+", file):
                raise ModelError(f"{self.path} holds {name!r} as a pickled object, which is not opened", hint=_AGAIN)
            tensor = self._unpickled(name, data) if entry["use_pickle"] else _strided(data, entry["tensor_meta"])
        except (KeyError, TypeError, ValueError, RuntimeError, OverflowError) as error:
            raise self._broken(f"the tensor {name!r}: {error!r}") from error
        return torch.nn.Parameter(tensor, requires_grad=False) if entry.get("is_param") else tensor

    def _unpickled(self, name: str, data: bytes) -> Any:
        import torch

        try:
            tensor = torch.load(io.BytesIO(data), weights_only=True, map_location="cpu")
        except Exception as error:  # weights-only refusals come in several kinds
            raise ModelError(
                f"{self.path} holds {name!r} as a pickle of more than tensors, which could run any code",
                hint=_AGAIN,
            ) from error
        if not isinstance(tensor, torch.Tensor):
            raise ModelError(f"{self.path} holds {name!r} as a {type(tensor).__name__}, not a tensor", hint=_AGAIN)
        return tensor

    def _json(self, name: str) -> dict[str, Any]:
        try:
            found = json.loads(self._bytes(name, _LARGEST_JSON))
        except (ValueError, RecursionError) as error:
            raise self._broken(f"{name} is not JSON: {error}") from error
        if not isinstance(found, dict):
            raise self._broken(f"{name} is not an object")
        return found

    def _bytes(self, name: str, most: int | None = None) -> bytes:
        """A file of the archive, which must be stored as it is: a compressed one may grow without end."""
        if name not in self.files:
            raise self._broken(f"no {name}")
        info = self.archive.getinfo(self.files[name])
        if info.compress_type != zipfile.ZIP_STORED or info.file_size > self.path.stat().st_size:
            raise self._broken(f"{name} is compressed")
        if most is not None and info.file_size > most:
            raise self._broken(f"{name} has {info.file_size} bytes")
        return self.archive.read(info)

    def _broken(self, found: str, hint: str = "") -> ModelError:
        return ModelError(f"{self.path} is not a .pt2 file of torch.export, or a broken one", found=found, hint=hint)


def _strided(data: bytes, meta: Mapping[str, Any]) -> Any:
    """A tensor over raw bytes. Raises: ValueError where it reaches beyond them."""
    import torch
    from torch._export.serde.serialize import _SERIALIZE_TO_TORCH_DTYPE as kinds

    sizes, strides = [_int(s) for s in meta["sizes"]], [_int(s) for s in meta["strides"]]
    offset, kind = _int(meta["storage_offset"]), kinds[meta["dtype"]]
    last = offset + sum((n - 1) * s for n, s in zip(sizes, strides, strict=True)) if prod(sizes) else offset - 1
    if min([*sizes, *strides, offset, 0]) < 0 or (last + 1) * kind.itemsize > len(data):
        raise ValueError(f"shape {sizes} with strides {strides} needs more than its {len(data)} bytes")
    if not data:
        return torch.zeros(sizes, dtype=kind)
    flat = torch.frombuffer(bytearray(data), dtype=kind)
    return torch.as_strided(flat, sizes, strides, offset)


def _int(size: Mapping[str, Any]) -> int:
    value = size["as_int"]
    if type(value) is not int:
        raise TypeError(f"a size is {value!r}")
    return value


def _check(described: Any, path: Path) -> None:
    """Refuses ops and sizes that could do more than compute. Keeps of each node's metadata only its place.

    Raises: ModelError.
    """
    for holder in _objects(described):
        for key, refuse in _CHECKS.items():
            value = holder.get(key)
            if isinstance(value, str) and refuse(value):
                raise ModelError(f"{path} holds what is not run: {key} {value[:80]!r}",
                                 hint="only ATen ops and arithmetic on sizes are read")  # fmt: skip
        if isinstance(holder.get("metadata"), dict) and "target" in holder:
            kept = ("stack_trace", "nn_module_stack")
            holder["metadata"] = {k: v for k, v in holder["metadata"].items() if k in kept and isinstance(v, str)}


def _bad_target(target: str) -> bool:
    return not _TARGETS.fullmatch(target)


def _bad_size(text: str) -> bool:
    """Whether the text of a size is more than arithmetic on symbols and numbers of ordinary length."""
    if len(text) > _LONGEST_SIZE:
        return True
    try:
        return not _arithmetic(ast.parse(text, mode="eval").body)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return True


def _arithmetic(node: ast.expr) -> bool:
    if isinstance(node, ast.Constant):
        return isinstance(node.value, (bool, int, float)) and abs(node.value) < 2**64
    if isinstance(node, ast.Name):
        return bool(_SYMBOL.fullmatch(node.id)) or node.id == "int_oo"
    if isinstance(node, ast.UnaryOp):
        return _arithmetic(node.operand)
    if isinstance(node, ast.BinOp):
        power = not isinstance(node.op, ast.Pow) or _small(node.right)
        return power and not isinstance(node.op, ast.LShift) and _arithmetic(node.left) and _arithmetic(node.right)
    if isinstance(node, ast.Compare):
        return all(_arithmetic(n) for n in (node.left, *node.comparators))
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and _called(node.func.id, node)


def _called(name: str, node: ast.Call) -> bool:
    if name == "Symbol":
        symbol = node.args[0] if len(node.args) == 1 else None
        facts = all(isinstance(k.value, ast.Constant) and isinstance(k.value.value, bool) for k in node.keywords)
        return facts and isinstance(symbol, ast.Constant) and bool(_SYMBOL.fullmatch(str(symbol.value)))
    power = name not in ("Pow", "PowByNatural") or (len(node.args) == 2 and _small(node.args[1]))
    return power and name in _FUNCTIONS and not node.keywords and all(_arithmetic(a) for a in node.args)


def _small(node: ast.expr) -> bool:
    """Whether an exponent is a small number, -1 among them (a division)."""
    digits = re.fullmatch(r"(?:Integer\()?\(?-?(\d+)\)?\)?", ast.unparse(node))
    return digits is not None and int(digits[1]) <= _LARGEST_POWER


_CHECKS: Mapping[str, Callable[[str], bool]] = {"target": _bad_target, "expr_str": _bad_size}


def _objects(found: Any) -> Iterator[dict[str, Any]]:
    """Every JSON object within another."""
    todo = [found]
    while todo:
        item = todo.pop()
        if isinstance(item, dict):
            yield item
            todo += item.values()
        elif isinstance(item, list):
            todo += item
