"""One task: train a model on one share of a data set; print a record as JSON.

Usage: train.py SHARE SHARES, in the environment's Python.
"""

import json
import socket
import sys
import time

began = time.time()

import numpy as np  # noqa: E402
import pandas as pd  # noqa: E402
from sklearn.datasets import make_classification  # noqa: E402
from sklearn.ensemble import RandomForestClassifier  # noqa: E402
from sklearn.model_selection import train_test_split  # noqa: E402

imported = time.time()

ROWS_PER_SHARE = 400
FEATURES = 12


def train(share: int, shares: int) -> float:
    """Accuracy, on the share's held-out rows, of a forest trained on the others."""
    x, y = make_classification(
        n_samples=ROWS_PER_SHARE * shares,
        n_features=FEATURES,
        n_informative=6,
        random_state=1,
    )
    rows = pd.DataFrame(x).assign(label=y).iloc[share::shares]
    features = rows.drop(columns="label").to_numpy(dtype=np.float32)
    parts = train_test_split(features, rows["label"].to_numpy(), random_state=share)
    model = RandomForestClassifier(n_estimators=10, random_state=share)
    model.fit(parts[0], parts[2])
    return float(model.score(parts[1], parts[3]))


def file_system_of(path: str) -> str:
    """Type of the file system that `path` lies on: where did the import come from?"""
    best, kind = "", "?"
    with open("/proc/self/mountinfo") as mounts:
        for line in mounts:
            left, right = line.split(" - ")
            point = left.split()[4].rstrip("/")
            if path.startswith(point + "/") and len(point) >= len(best):
                best, kind = point, right.split()[0]
    return kind


record = {
    "share": int(sys.argv[1]),
    "score": train(int(sys.argv[1]), int(sys.argv[2])),
    "node": socket.gethostname(),
    "import_seconds": imported - began,
    "numpy_file_system": file_system_of(np.__file__),
}
record["python_seconds"] = time.time() - began
json.dump(record, sys.stdout)
