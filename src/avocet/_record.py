"""What every record is: a frozen dataclass that checks itself, and one line of JSON that says all of it."""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import re
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, TypeVar

from avocet.errors import RecordError

_RecordT = TypeVar("_RecordT", bound="Record")


class _NullIsNan:
    """For pydantic: null is read as nan."""

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> Any:
        from pydantic_core import core_schema

        return core_schema.no_info_before_validator_function(
            lambda value: math.nan if value is None else value, handler(source)
        )


FloatOrNan = Annotated[float, _NullIsNan()]
"""A number that is nan where there is none. JSON has no nan: `json_line` writes null, and fields of this type read it
back; for a field that is a plain float null is an error."""

_HALF_A_PAIR = re.compile("[\ud800-\udfff]")


def json_line(data: Mapping[str, Any]) -> str:
    """One line of JSON without the newline, of characters that UTF-8 can hold.

    null stands for nan. Names of files that are not UTF-8 keep their bytes as escapes, which are read back as they
    were. Raises `RecordError` for an infinite number, which JSON does not have.
    """
    try:
        line = json.dumps(_null_for_nan(data), ensure_ascii=False, allow_nan=False)
    except ValueError as error:
        raise RecordError(f"cannot be written as JSON: {error}; replace the infinite number: {data!r:.200}") from error
    return _HALF_A_PAIR.sub(lambda found: f"\\u{ord(found[0]):04x}", line)


def _null_for_nan(value: Any) -> Any:
    if isinstance(value, float):
        return None if math.isnan(value) else value
    if isinstance(value, Mapping):
        return {key: _null_for_nan(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_null_for_nan(part) for part in value]
    return value


@functools.cache
def _adapter(record_type: type[Any]) -> Any:
    # pydantic costs 0.1 s to import; only reading files from outside needs it.
    from pydantic import TypeAdapter

    return TypeAdapter(record_type)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Record:
    """Base of the records that are one JSON line each."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}
    """Unknown fields are errors, also in nested records."""

    def to_dict(self) -> dict[str, Any]:
        """A plain dictionary of JSON types."""
        return dataclasses.asdict(self)

    def to_json_line(self) -> str:
        """One line of JSON without the newline; see `json_line`."""
        return json_line(self.to_dict())

    @classmethod
    def from_dict(cls: type[_RecordT], data: Mapping[str, Any]) -> _RecordT:
        """Validate untrusted data. Raises `RecordError` naming each wrong field."""
        from pydantic import ValidationError

        try:
            record: _RecordT = _adapter(cls).validate_python(dict(data))  # type: ignore[arg-type]  # classes are hashable
        except ValidationError as error:
            problems = "; ".join(
                f"{'.'.join(str(part) for part in item['loc']) or cls.__name__}: {item['msg']}"
                for item in error.errors()
            )
            raise RecordError(f"not a valid {cls.__name__}: {problems}") from error
        return record

    @classmethod
    def from_json(cls: type[_RecordT], line: str) -> _RecordT:
        """Read one JSON line. Raises `RecordError` when it is no JSON object or breaks the record's rules."""
        try:
            data = json.loads(line)
        except json.JSONDecodeError as error:
            raise RecordError(f"not a valid {cls.__name__}: not JSON ({error})") from error
        if not isinstance(data, dict):
            raise RecordError(f"not a valid {cls.__name__}: expected a JSON object, got {type(data).__name__}")
        return cls.from_dict(data)
