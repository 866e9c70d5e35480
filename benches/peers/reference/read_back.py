#!/usr/bin/env python3
"""Checks with pyarrow that files have the reference's schema and layout: read_back.py FILE...

Needs pyarrow alone.
"""

import sys

import pyarrow as pa
import pyarrow.parquet as pq

ROLLOUT = [
    ("total_reward", pa.float64()),
    ("advantage", pa.float64()),
    ("success", pa.bool_()),
    ("token_logprobs", pa.list_(pa.field("element", pa.float32()))),
    ("prompt_length", pa.int32()),
    ("completion_length", pa.int32()),
]
COMMIT = [
    ("tokens", pa.list_(pa.field("element", pa.int32()))),
    ("commitments", pa.string()),
    ("proof_version", pa.string()),
    ("model", pa.struct([("name", pa.string()), ("layer_index", pa.int32())])),
    ("signature", pa.string()),
    ("beacon", pa.string()),
    ("rollout", pa.struct(ROLLOUT)),
]
SCHEMA = pa.schema(
    [
        ("window_start", pa.int64()),
        ("block", pa.int64()),
        ("nonce", pa.int64()),
        ("block_hash", pa.string()),
        ("randomness", pa.string()),
        ("use_drand", pa.bool_()),
        ("rollout_group", pa.int64()),
        ("rollout_index", pa.int32()),
        ("total_in_group", pa.int32()),
        ("checkpoint_window", pa.int64()),
        ("commit", pa.struct(COMMIT)),
        ("timestamp", pa.float64()),
        ("challenge", pa.string()),
        ("hotkey", pa.string()),
        ("signature", pa.string()),
    ]
)
FOOTER = ["wallet", "window_start", "window_length", "inference_count", "timestamp"]


def check(path):
    """Fails with what differs."""
    file = pq.ParquetFile(path)
    schema = file.schema_arrow
    assert schema.remove_metadata() == SCHEMA, schema.to_string(show_schema_metadata=False)
    keys = [key.decode() for key in schema.metadata if key != b"ARROW:schema"]
    assert keys == FOOTER, keys
    metadata = file.metadata
    assert metadata.num_row_groups == 1, metadata.num_row_groups
    group = metadata.row_group(0)
    for at in range(metadata.num_columns):
        column = group.column(at)
        assert column.compression == "ZSTD", column.path_in_schema
        assert metadata.num_rows == 0 or column.is_stats_set, column.path_in_schema
    table = file.read()
    table.validate(full=True)
    rows = table.to_pylist()
    count = int(schema.metadata[b"inference_count"])
    assert len(rows) == count, (len(rows), count)
    print(f"{path}: {len(rows)} rows, as the reference writes them")


for name in sys.argv[1:]:
    check(name)
