"""Columns of a shard: which to read and copy, and under which names."""

from collections import Counter
from dataclasses import dataclass, field

import pyarrow as pa

from pipelines.input.unreadable import ShardError
from pipelines.output.schema import output_schema


@dataclass(frozen=True)
class InputColumns:
    """Columns of a shard that hold texts or true labels, or are copied to the output."""

    text: str = "text"
    pair: str | None = None
    #: None: all except the texts.
    carry: tuple[str, ...] | None = None
    #: Columns of true labels, one for each question. They are read only if also carried.
    labels: tuple[str, ...] = ()
    #: The one of these that identifies rows; every shard must have it.
    id: str | None = None
    #: Columns that labelling adds, whose names no carried column may have.
    added: pa.Schema = field(default_factory=output_schema)
    #: Columns of formats without types, as found in all files of the run.
    fields: pa.Schema = field(default_factory=lambda: pa.schema([]))

    @property
    def texts(self) -> list[str]:
        """The text column, or both of a pair."""
        return [self.text] if self.pair is None else [self.text, self.pair]

    def read(self, schema: pa.Schema) -> list[str]:
        """Names of the columns that are read: texts, then those to copy, each once."""
        return list(dict.fromkeys([*self.texts, *self.carried(schema)]))

    def read_fields(self) -> pa.Schema:
        """The same for formats without types; a text column that no file has is a string."""
        known = {field.name: field for field in self.fields}
        known |= {name: pa.field(name, pa.string()) for name in self.texts}
        schema = pa.schema(list(known.values()))
        return pa.schema([schema.field(name) for name in self.read(schema)])

    def carried(self, schema: pa.Schema) -> dict[str, str]:
        """Input name -> output name of every column to copy.

        A column with the name of an output column is copied as `input_NAME`. Raises ShardError for
        missing columns, texts that are not strings, and names that still collide.
        """
        repeated = {name for name, times in Counter(schema.names).items() if times > 1}
        options = dict.fromkeys(self.carry or (), "--carry")
        options |= {} if self.id is None else {self.id: "--id-column"}
        options |= dict.fromkeys(self.labels, "--label-column")
        options |= dict(zip(self.texts, ("--text-column", "--pair-column"), strict=False))
        for name, option in options.items():
            if name not in schema.names:
                raise ShardError(
                    f"has no column '{name}'; its columns are {listed(schema.names)}; name "
                    f"another one with {option}"
                )
            if name in repeated:
                raise ShardError(
                    f"has more than one column '{name}'; rename one, or name another with {option}"
                )
        for name in self.texts:
            kind = schema.field(name).type
            values = kind.value_type if pa.types.is_dictionary(kind) else kind
            if values not in (pa.string(), pa.large_string(), pa.string_view()):
                raise ShardError(
                    f"column '{name}' is of type {kind}, expected string; cast it, or name another "
                    f"one with {options[name]}"
                )
        names = self.carry and tuple(dict.fromkeys(self.carry))
        if names is None:
            names = tuple(name for name in schema.names if name not in self.texts)
            if found := [name for name in names if name in repeated or "\0" in name]:
                raise ShardError(
                    f"columns with equal names, or with a NUL in them: {listed(found)}; choose "
                    "with --carry"
                )
        # SQL does not distinguish `Label` from `label`.
        added = {name.casefold() for name in self.added.names}
        ours = {name for name in names if name.casefold() in added}
        renamed = {name: f"input_{name}" if name in ours else name for name in names}
        if len(set(renamed.values())) < len(names):
            twice = next(n for n in names if list(renamed.values()).count(renamed[n]) > 1)
            raise ShardError(
                f"two carried columns would have the name '{renamed[twice]}'; choose with --carry"
            )
        return renamed


def listed(names: list[str]) -> str:
    """Names in a message, the first twenty of them."""
    if not names:
        return "none"
    return ", ".join(names[:20]) + (f" and {len(names) - 20} more" if len(names) > 20 else "")
