"""Evaluates checkpoints on datasets at precisions and with seeds, in many processes or on a Ray cluster.

    table = steadyhand.fleet.evaluate(["A", "B"], ["DATASET"], precisions=["f32", "bf16"], seeds=[0, 1], out="runs.parquet")
    table.report("runs.html")  # which checkpoint is better, by how much

The work is cut by episode. A row of the table is one episode of one dataset with one checkpoint, precision and seed; what
`out` holds already is not computed again, so an evaluation that was killed goes on where it was. A worker that is lost is
replaced, and its episode is tried again. Errors and hashes do not depend on where a row was computed on the reference
engine; on GPUs of one kind neither. Only times do.
"""

from ._run import evaluate
from ._table import Difference, Table

__all__ = ["Difference", "Table", "evaluate"]
