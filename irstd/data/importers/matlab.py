"""Boxes from a MATLAB `groundTruth` object, as the Ground Truth Labeler saves it.

SciPy reads MATLAB's objects as opaque; their content lies in the file's subsystem, itself a MAT file without its header,
as the cells of a `FileWrapper__`. One cell is the object's struct; its `LabelData` has an entry a frame, with a field a
class that holds boxes [n, 4].
"""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np

from irstd.errors import InputError

HEADER = 128  # bytes, of which the last four are version and byte order


def read_ground_truth(path: Path, where: str) -> list[list[tuple[str, tuple[float, float, float, float]]]]:
    """[(class, box)] of each frame, boxes x, y, w, h as they are stored. `InputError` where it is no such file."""
    try:
        cells = _subsystem(path)
    except Exception as error:  # the reader raises whatever a damaged file leads it to
        said = " ".join(str(error).split())[:120]
        raise InputError(
            f"{where}: not readable as MATLAB labels ({type(error).__name__}: {said}): copy it again"
        ) from None
    found = [cell for cell in cells if cell.dtype.names and "LabelData" in cell.dtype.names and cell.size == 1]
    data = found[0].ravel()[0]["LabelData"] if len(found) == 1 else None
    if data is None or not data.dtype.names:
        raise InputError(f"{where}: has no groundTruth object with LabelData: give the labels that upstream publishes")
    frames = []
    for row in data.ravel():
        boxes = []
        for name in data.dtype.names:
            values = row[name]
            if name == "Time" or values.size == 0:
                continue
            if values.dtype.kind not in "fiu" or values.ndim != 2 or values.shape[1] != 4:
                raise InputError(f"{where}: {name} of frame {len(frames)} is no list of boxes: export boxes alone")
            boxes += [(name, tuple(map(float, box))) for box in values]
        frames.append(boxes)
    return frames


def _subsystem(path: Path) -> list[np.ndarray]:
    from scipy.io import loadmat
    from scipy.io.matlab._mio5 import MatFile5Reader

    space = loadmat(path)["__function_workspace__"].tobytes()
    # Its first 8 bytes are version, byte order and padding; then variables, as after a header.
    reader = MatFile5Reader(io.BytesIO(bytes(HEADER - 4) + space[:4] + space[8:]), struct_as_record=True)
    reader.initialize_read()
    reader.mat_stream.seek(HEADER)
    header, _ = reader.read_var_header()
    content = reader.read_var_array(header, process=False)
    return list(content[0, 0]["MCOS"][0]["arr"].ravel())
